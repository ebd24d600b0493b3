//! Protects the admin listener on a loopback address against DNS rebinding.
//!
//! A web page can point its own host name at 127.0.0.1 after loading, and could then read this listener from an operator's
//! browser. On the loopback, `Host` must therefore be an address or a name without a dot: a page's host name has a dot. On other
//! addresses any name is accepted, and the network has to keep strangers away.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header::HOST};

/// Whether a request to this local address may be served.
pub(super) fn is_allowed(headers: &HeaderMap, reached_at: Option<SocketAddr>) -> bool {
    let on_loopback = reached_at.is_some_and(|address| address.ip().to_canonical().is_loopback());
    // Browsers always send `Host`.
    let Some(host) = headers.get(HOST).filter(|_| on_loopback) else { return true };
    host.to_str().is_ok_and(is_local)
}

/// Whether the host is an address, `localhost` or a name without a dot, with any port.
fn is_local(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    !name.contains('.') || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn is_served(host: &'static str, reached_at: &str) -> bool {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        is_allowed(&headers, Some(reached_at.parse().unwrap()))
    }

    #[test]
    fn host_check_on_loopback_allows_local_names_only() {
        for loopback in ["127.0.0.1:9090", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
            for own in
                ["127.0.0.1:9090", "127.0.0.1", "[::1]:9090", "[::1]", "localhost", "LOCALHOST.:80", "gateway:9090"]
            {
                assert!(is_served(own, loopback), "{own} at {loopback}");
            }
            for strange in ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example"] {
                assert!(!is_served(strange, loopback), "{strange} at {loopback}");
            }
        }
        assert!(is_served("gateway-1.shop.example", "10.0.0.7:9090"));
        assert!(is_allowed(&HeaderMap::new(), Some("127.0.0.1:9090".parse().unwrap())));
    }
}
