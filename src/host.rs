//! Host names with a root dot (RFC 1034, 3.1): `example.com.` is `example.com`, looked up without search domains.
//!
//! Only name resolution uses the dot. Certificates, the TLS server name (RFC 6066, 3), `Host` and issuers have no dot.

use url::{Host, Url};

/// A name without its root dot.
#[must_use]
pub fn without_root_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether the host of a URL is a name with a root dot.
#[must_use]
pub fn has_root_dot(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Domain(name)) if name.ends_with('.'))
}

/// The URL without the root dot of its host.
#[must_use]
pub fn url_without_root_dot(url: &Url) -> Url {
    let mut plain = url.clone();
    if has_root_dot(url) {
        // A valid host with the dot is valid without it. The configuration rejects hosts of dots only.
        let _ = plain.set_host(url.host_str().map(without_root_dot));
    }
    plain
}

/// Whether a name always means this machine: `localhost` and names below it (RFC 6761, 6.3).
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    let name = without_root_dot(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// The name to look up. An absolute name keeps its root dot, except `localhost`: hosts files have no root dots.
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
