//! [`OriginPattern`]: the web origins that an entry of `[[tenants.origins]]` allows.
//!
//! A browser sends the ASCII serialization of a page's origin (HTML, "Origin"): lower case, international names in punycode, no
//! default port, no slash at the end. Matching compares bytes and repairs nothing. So a pattern that no browser can match is an
//! error: it would allow nothing, and its author would not learn why.
//!
//! `null` is the origin of sandboxed frames, local files and redirects across origins, which anyone can produce. No pattern
//! matches it.

use std::{fmt, str::FromStr};

use url::{Host, Url};

use crate::host::is_localhost;

/// Maximum length of a label of a host name, bytes (RFC 1035, 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// The origins that an entry allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {
    text: String,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// One origin: `https://www.shop.example`.
    Exact,
    /// One label below a host: `https://*.shop.example`.
    Subdomain {
        /// Scheme and `://`.
        prefix: &'static str,
        /// Everything after `*`: `.shop.example`, with the port if there is one.
        suffix: String,
    },
    /// Any port of this machine: `http://localhost:*`.
    AnyPort {
        /// Everything before the port: `http://localhost`.
        prefix: String,
    },
}

/// Why a text is no pattern of origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrigin {
    /// `*`.
    #[error(
        "* would allow every page of the web; name each origin, or the subdomains of one host: https://*.shop.example"
    )]
    Everything,
    /// `null`.
    #[error(
        "null is the origin of sandboxed frames and local files, which anyone can produce; name the origin of the page"
    )]
    Null,
    /// A text that is no URL with a host.
    #[error("not an origin; expected scheme, host and optional port, e.g. https://www.shop.example")]
    Form,
    /// Another scheme than `http` and `https`.
    #[error("expected a page on the web: https://… (http://… for a loopback)")]
    Scheme,
    /// A user or password.
    #[error("must not have a user or password; an origin is scheme, host and optional port")]
    UserInfo,
    /// A path, query or fragment, or a slash at the end.
    #[error("must not have a path, query or fragment; an origin ends with its host or port, without a slash")]
    Path,
    /// An upper-case letter.
    #[error("must be in lower case, as browsers send it; this spelling matches no page")]
    UpperCase,
    /// A name that is not ASCII.
    #[error("must have its host in punycode (xn--…), as browsers send it; this spelling matches no page")]
    NotPunycode,
    /// The default port of the scheme.
    #[error("must not have the default port of its scheme, because browsers omit it; remove the port")]
    DefaultPort,
    /// A port that is no number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535, without leading zeros")]
    Port,
    /// A host that browsers write in another way.
    #[error("the host is not spelled as browsers send it; open the page and copy the value of location.origin")]
    Host,
    /// A dot at the end of the host.
    #[error("must not have a dot at the end of the host; pages at that host are another origin")]
    RootDot,
    /// `*` elsewhere than in the first label or in the port, or more than one.
    #[error(
        "* is possible once, as the first label of the host (https://*.shop.example) or as a port of this machine (http://localhost:*)"
    )]
    WildcardPlace,
    /// Any port of another machine.
    #[error("any port is possible for this machine only (http://localhost:*); name the port")]
    PortWildcard,
    /// Any host below a top-level domain.
    #[error(
        "* below a top-level domain would allow pages of anyone; name a host that is yours: https://*.shop.example"
    )]
    TopLevelWildcard,
}

impl OriginPattern {
    /// Whether the pattern matches the value of a request's `Origin`.
    #[must_use]
    pub fn matches(&self, origin: &[u8]) -> bool {
        match &self.form {
            Form::Exact => origin == self.text.as_bytes(),
            Form::Subdomain { prefix, suffix } => origin
                .strip_prefix(prefix.as_bytes())
                .and_then(|rest| rest.strip_suffix(suffix.as_bytes()))
                .is_some_and(is_label),
            Form::AnyPort { prefix } => origin.strip_prefix(prefix.as_bytes()).is_some_and(|rest| match rest {
                [] => true,
                [b':', port @ ..] => parse_port(port).is_some(),
                _ => false,
            }),
        }
    }

    /// The pattern as in the file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pages of the origin come over an unencrypted connection from another machine.
    #[must_use]
    pub fn is_insecure(&self) -> bool {
        let of_this_machine = match &self.form {
            Form::AnyPort { .. } => true,
            Form::Exact => Url::parse(&self.text).is_ok_and(|url| is_this_machine(&url)),
            Form::Subdomain { .. } => self.parent_domain().is_some_and(is_localhost),
        };
        self.text.starts_with("http://") && !of_this_machine
    }

    /// The domain whose subdomains a wildcard matches: `shop.example` of `https://*.shop.example`.
    #[must_use]
    pub fn parent_domain(&self) -> Option<&str> {
        let Form::Subdomain { suffix, .. } = &self.form else { return None };
        let domain = suffix.strip_prefix('.')?;
        Some(domain.split_once(':').map_or(domain, |(domain, _)| domain))
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for OriginPattern {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let form = form(text)?;
        Ok(Self { text: text.to_owned(), form })
    }
}

fn form(text: &str) -> Result<Form, InvalidOrigin> {
    match text {
        "*" => return Err(InvalidOrigin::Everything),
        "null" => return Err(InvalidOrigin::Null),
        _ => {}
    }
    let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin::Form)?;
    if authority.contains(['/', '?', '#', '\\']) {
        return Err(InvalidOrigin::Path);
    }
    if authority.contains('@') {
        return Err(InvalidOrigin::UserInfo);
    }
    if !text.is_ascii() {
        return Err(InvalidOrigin::NotPunycode);
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(InvalidOrigin::UpperCase);
    }
    let (prefix, default_port) = match scheme {
        "https" => ("https://", 443),
        "http" => ("http://", 80),
        _ => return Err(InvalidOrigin::Scheme),
    };
    let (host, port) = split_port(authority);
    if host.ends_with('.') {
        return Err(InvalidOrigin::RootDot);
    }
    let any_port = port == Some("*");
    match port.filter(|_| !any_port).map(|port| parse_port(port.as_bytes()).ok_or(port)) {
        Some(Ok(port)) if port == default_port => return Err(InvalidOrigin::DefaultPort),
        Some(Err(port)) if port.contains('*') => return Err(InvalidOrigin::WildcardPlace),
        Some(Err(_)) => return Err(InvalidOrigin::Port),
        Some(Ok(_)) | None => {}
    }
    let parent = host.strip_prefix("*.");
    if parent.unwrap_or(host).contains('*') || any_port && parent.is_some() {
        return Err(InvalidOrigin::WildcardPlace);
    }
    let example = match parent {
        Some(parent) => format!("{prefix}a.{parent}"),
        None => format!("{prefix}{host}"),
    };
    let url = canonical(&example)?;
    if any_port {
        return match is_this_machine(&url) {
            true => Ok(Form::AnyPort { prefix: example }),
            false => Err(InvalidOrigin::PortWildcard),
        };
    }
    let Some(parent) = parent else { return Ok(Form::Exact) };
    if !matches!(url.host(), Some(Host::Domain(_))) {
        return Err(InvalidOrigin::WildcardPlace);
    }
    if !parent.contains('.') && !is_localhost(parent) {
        return Err(InvalidOrigin::TopLevelWildcard);
    }
    let suffix = authority.strip_prefix('*').unwrap_or(authority).to_owned();
    Ok(Form::Subdomain { prefix, suffix })
}

/// Parses an origin without a port, if it is spelled as a browser would.
fn canonical(origin: &str) -> Result<Url, InvalidOrigin> {
    let url = Url::parse(origin).map_err(|_| InvalidOrigin::Form)?;
    let has_bad_label = match url.host() {
        Some(Host::Domain(name)) => name.split('.').any(|label| !is_label(label.as_bytes())),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => false,
        None => return Err(InvalidOrigin::Form),
    };
    if has_bad_label || url.origin().ascii_serialization() != origin {
        return Err(InvalidOrigin::Host);
    }
    Ok(url)
}

/// Whether a URL's host is this machine: `localhost` and names below it, 127.0.0.0/8, `::1`.
fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_localhost(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Splits host and port. The colons of an IPv6 address are in brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Parses a port as browsers write it.
fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.first().is_none_or(|first| *first == b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether bytes are one label of a host name in a canonical origin.
fn is_label(label: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.iter().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> OriginPattern {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn exact_pattern_matches_its_own_spelling_only() {
        for text in [
            "https://www.shop.example",
            "https://www.shop.example:8443",
            "http://localhost:3000",
            "http://127.0.0.1",
            "https://[::1]:8080",
            "https://xn--mnchen-3ya.example",
            "https://a_b.shop.example",
        ] {
            assert!(pattern(text).matches(text.as_bytes()), "{text}");
        }
        let shop = pattern("https://www.shop.example");
        for other in [
            "",
            "null",
            "*",
            "http://www.shop.example",
            "HTTPS://www.shop.example",
            "https://WWW.shop.example",
            "https://www.shop.example:443",
            "https://www.shop.example:8443",
            "https://www.shop.example/",
            "https://www.shop.example.",
            "https://www.shop.example.evil.example",
            "https://evil.example#https://www.shop.example",
            "https://evilwww.shop.example",
            "https://www.shop.example@evil.example",
            "https://www.shop.example https://evil.example",
            " https://www.shop.example",
            "https://wwwxshop.example",
            "https://shop.example",
        ] {
            assert!(!shop.matches(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn subdomain_pattern_matches_one_label_only() {
        let shops = pattern("https://*.shop.example");
        for origin in ["https://www.shop.example", "https://a.shop.example", "https://xn--mnchen-3ya.shop.example"] {
            assert!(shops.matches(origin.as_bytes()), "{origin}");
        }
        for origin in [
            "https://shop.example",
            "https://.shop.example",
            "https://a.b.shop.example",
            "https://evil.example/.shop.example",
            "https://evil.example?.shop.example",
            "https://evil.example#.shop.example",
            "https://evil.example:1.shop.example",
            "https://user@www.shop.example",
            "https://evil.example\\.shop.example",
            "https://WWW.shop.example",
            "https://www.shop.example:8443",
            "https://www.shop.example.evil.example",
            "https://wwwshop.example",
            "https://*.shop.example",
            "https://%61.shop.example",
            "https://\u{e9}.shop.example",
            "http://www.shop.example",
            "null",
        ] {
            assert!(!shops.matches(origin.as_bytes()), "{origin}");
        }
        assert!(!shops.matches(format!("https://{}.shop.example", "a".repeat(64)).as_bytes()));
        let with_port = pattern("https://*.shop.example:8443");
        assert!(with_port.matches(b"https://www.shop.example:8443") && !with_port.matches(b"https://www.shop.example"));
        assert!(pattern("http://*.localhost").matches(b"http://shop.localhost"));
    }

    #[test]
    fn port_pattern_matches_any_port_of_this_machine() {
        let local = pattern("http://localhost:*");
        for origin in ["http://localhost", "http://localhost:1", "http://localhost:3000", "http://localhost:65535"] {
            assert!(local.matches(origin.as_bytes()), "{origin}");
        }
        for origin in [
            "https://localhost:3000",
            "http://localhost:",
            "http://localhost:0",
            "http://localhost:080",
            "http://localhost:65536",
            "http://localhost:*",
            "http://localhost:3000/",
            "http://localhost.evil.example:3000",
            "http://localhostx:3000",
            "http://localhost:3000@evil.example",
            "http://127.0.0.1:3000",
            "http://a.localhost:3000",
        ] {
            assert!(!local.matches(origin.as_bytes()), "{origin}");
        }
        for text in ["http://127.0.0.1:*", "http://[::1]:*", "https://localhost:*", "http://shop.localhost:*"] {
            let origin = text.replace('*', "5173");
            assert!(pattern(text).matches(origin.as_bytes()), "{text}");
        }
    }

    #[test]
    fn text_that_no_browser_sends_is_rejected_with_its_fault() {
        for (text, fault) in [
            ("*", InvalidOrigin::Everything),
            ("null", InvalidOrigin::Null),
            ("", InvalidOrigin::Form),
            ("www.shop.example", InvalidOrigin::Form),
            ("https://", InvalidOrigin::Form),
            ("https://www shop.example", InvalidOrigin::Form),
            ("https:///", InvalidOrigin::Path),
            ("file://", InvalidOrigin::Scheme),
            ("ftp://shop.example", InvalidOrigin::Scheme),
            ("*://shop.example", InvalidOrigin::Scheme),
            ("https://user:secret@shop.example", InvalidOrigin::UserInfo),
            ("https://shop.example/", InvalidOrigin::Path),
            ("https://shop.example/de", InvalidOrigin::Path),
            ("https://shop.example?a", InvalidOrigin::Path),
            ("https://shop.example#a", InvalidOrigin::Path),
            ("https://*.shop.example/*", InvalidOrigin::Path),
            ("https://Shop.example", InvalidOrigin::UpperCase),
            ("HTTPS://shop.example", InvalidOrigin::UpperCase),
            ("https://m\u{fc}nchen.example", InvalidOrigin::NotPunycode),
            ("https://shop.example:443", InvalidOrigin::DefaultPort),
            ("http://localhost:80", InvalidOrigin::DefaultPort),
            ("https://*.shop.example:443", InvalidOrigin::DefaultPort),
            ("https://shop.example:", InvalidOrigin::Port),
            ("https://shop.example:0", InvalidOrigin::Port),
            ("https://shop.example:08443", InvalidOrigin::Port),
            ("https://shop.example:65536", InvalidOrigin::Port),
            ("https://shop.example:a", InvalidOrigin::Port),
            ("https://shop.example.", InvalidOrigin::RootDot),
            ("https://*.shop.example.", InvalidOrigin::RootDot),
            ("https://shop..example", InvalidOrigin::Host),
            ("https://.shop.example", InvalidOrigin::Host),
            ("http://127.1", InvalidOrigin::Host),
            ("http://0x7f000001:*", InvalidOrigin::Host),
            ("http://[0:0:0:0:0:0:0:1]", InvalidOrigin::Host),
            ("https://%73hop.example", InvalidOrigin::Host),
            ("https://*", InvalidOrigin::WildcardPlace),
            ("https://*shop.example", InvalidOrigin::WildcardPlace),
            ("https://www.*.example", InvalidOrigin::WildcardPlace),
            ("https://*.*.shop.example", InvalidOrigin::WildcardPlace),
            ("https://www-*.shop.example", InvalidOrigin::WildcardPlace),
            ("http://localhost:3*", InvalidOrigin::WildcardPlace),
            ("http://*.localhost:*", InvalidOrigin::WildcardPlace),
            ("https://shop.example:*", InvalidOrigin::PortWildcard),
            ("http://10.0.0.1:*", InvalidOrigin::PortWildcard),
            ("https://*.example", InvalidOrigin::TopLevelWildcard),
        ] {
            assert_eq!(text.parse::<OriginPattern>(), Err(fault), "{text}");
        }
    }

    #[test]
    fn http_of_another_machine_is_insecure() {
        for (text, insecure) in [
            ("http://www.shop.example", true),
            ("http://*.shop.example", true),
            ("http://10.0.0.1:3000", true),
            ("https://www.shop.example", false),
            ("http://localhost:3000", false),
            ("http://localhost:*", false),
            ("http://*.localhost", false),
            ("http://127.0.0.1:3000", false),
        ] {
            assert_eq!(pattern(text).is_insecure(), insecure, "{text}");
        }
        assert_eq!(pattern("https://*.shop.example:8443").parent_domain(), Some("shop.example"));
        assert_eq!(pattern("https://www.shop.example").parent_domain(), None);
    }

    proptest! {
        #[test]
        fn accepted_pattern_matches_canonical_origins_below_its_host_only(
            text in "(https?://)?(\\*\\.)?[a-z0-9.*\\[\\]:@/-]{0,20}(:[0-9*]{0,5})?",
            origin in "https?://[a-z0-9.:@/\\\\-]{0,24}",
        ) {
            let Ok(pattern) = text.parse::<OriginPattern>() else { return Ok(()) };
            let example = text.replacen("*.", "a.", 1).replacen(":*", ":5173", 1);
            prop_assert!(pattern.matches(example.as_bytes()), "{} does not match {}", text, example);
            prop_assert!(!pattern.matches(b"null"));
            if pattern.matches(origin.as_bytes()) {
                let url = Url::parse(&origin).unwrap();
                prop_assert_eq!(url.origin().ascii_serialization(), origin);
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,40}", origin in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(pattern) = text.parse::<OriginPattern>() {
                let _ = pattern.matches(&origin);
            }
        }
    }
}
