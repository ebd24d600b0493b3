//! Whether a request on the loopback is meant for this machine.
//!
//! Owns what `Host` may say there. A page of anybody's can give its own name the address 127.0.0.1 once it is loaded (DNS
//! rebinding), and would then read this listener, from an operator's browser, as if it were its own. Such a name has a dot;
//! nobody else's loopback has one. Off the loopback any name may be the gateway's, and the network has to keep strangers
//! away.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header::HOST};

/// Whether a request that came in at this address may be answered.
pub(super) fn is_allowed(headers: &HeaderMap, reached_at: Option<SocketAddr>) -> bool {
    let on_loopback = reached_at.is_some_and(|address| address.ip().to_canonical().is_loopback());
    // Browsers always say it.
    let Some(host) = headers.get(HOST).filter(|_| on_loopback) else { return true };
    host.to_str().is_ok_and(is_local)
}

/// An address, `localhost` or a name without a dot, whatever the port.
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

    fn is_answered(host: &'static str, reached_at: &str) -> bool {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        is_allowed(&headers, Some(reached_at.parse().unwrap()))
    }

    #[test]
    fn host_check_on_loopback_allows_local_names_only() {
        for loopback in ["127.0.0.1:9090", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
            for own in
                ["127.0.0.1:9090", "127.0.0.1", "[::1]:9090", "[::1]", "localhost", "LOCALHOST.:80", "gateway:9090"]
            {
                assert!(is_answered(own, loopback), "{own} at {loopback}");
            }
            for strange in ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example"] {
                assert!(!is_answered(strange, loopback), "{strange} at {loopback}");
            }
        }
        assert!(is_answered("gateway-1.shop.example", "10.0.0.7:9090"));
        assert!(is_allowed(&HeaderMap::new(), Some("127.0.0.1:9090".parse().unwrap())));
    }
}
