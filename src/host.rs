//! Host names with the root's dot (RFC 1034, 3.1): `example.com.` is `example.com` without the search domains of DNS.
//!
//! The dot is for name resolution alone. A certificate's name, TLS's server name (RFC 6066, 3), `Host` and an issuer's name
//! have none.

use url::{Host, Url};

/// A name without the root's dot.
#[must_use]
pub fn without_root_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether the host of a URL is a name with the root's dot.
#[must_use]
pub fn has_root_dot(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Domain(name)) if name.ends_with('.'))
}

/// The same URL, its host without the root's dot.
#[must_use]
pub fn url_without_root_dot(url: &Url) -> Url {
    let mut plain = url.clone();
    if has_root_dot(url) {
        // A name that is a host with the dot is one without it; settings refuse a name of nothing but dots.
        let _ = plain.set_host(url.host_str().map(without_root_dot));
    }
    plain
}

/// Whether a name is this machine's own wherever it is asked for: `localhost` and the names below it (RFC 6761, 6.3).
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    let name = without_root_dot(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// The name that is looked up: as an absolute one, if it was written so. `localhost` stands in files of hosts, which know no
/// root's dot.
#[must_use]
pub fn lookup_name(plain: &str, is_absolute: bool) -> String {
    if is_absolute && !is_localhost(plain) { format!("{plain}.") } else { plain.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_dot_is_removed_from_names_and_not_from_addresses() {
        let plain = |text: &str| url_without_root_dot(&text.parse().unwrap()).to_string();
        assert_eq!(plain("https://localhost.:8443/"), "https://localhost:8443/");
        assert_eq!(plain("https://api.example.com./"), "https://api.example.com/");
        for same in ["https://api.example.com/", "http://127.0.0.1:9/", "https://[::1]/"] {
            assert_eq!(plain(same), same);
        }
        assert_eq!(lookup_name("a.example", true), "a.example.");
        assert_eq!(lookup_name("a.example", false), "a.example");
        assert_eq!(lookup_name("localhost", true), "localhost");
    }
}
