//! Whether a request with session cookies comes from a page that may act for the shopper (CSRF), and whether a page may set them
//! (login CSRF).
//!
//! Browsers send the cookies of a host with requests of any page. Page scripts can forge neither `Sec-Fetch-Site` nor `Origin`
//! (Fetch standard, 4.6 and Fetch Metadata, 2.3). A page of the storefront's own host may act, one of the same site too unless its
//! `Origin` is a foreign one, and one of an origin that `[[tenants.origins]]` allows with `credentials`.

use http::{
    HeaderMap, HeaderName, Method,
    header::{ORIGIN, REFERER},
    request::Parts,
};
use url::Url;

use super::fields::single;
use crate::{
    config::AllowedOrigin,
    gateway::origin::{is_own_origin, origin},
    types::SiteId,
};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the fields of a browser say about the page of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// The page may act for the shopper.
    Trusted,
    /// It may not.
    Untrusted,
    /// The request has none of these fields: it comes from a server, or from a very old browser.
    Unknown,
}

/// Whether the cookies of a request may act for the shopper. A request without any of a browser's fields may only read.
pub(super) fn may_use_cookies(head: &Parts, origins: &[AllowedOrigin], site: &SiteId) -> bool {
    match page(head, origins, site) {
        Page::Trusted => true,
        Page::Untrusted => false,
        Page::Unknown => matches!(head.method, Method::GET | Method::HEAD),
    }
}

/// Whether the response to a request may set session cookies. A server that renders pages sends none of a browser's fields.
pub(super) fn may_set_cookies(head: &Parts, origins: &[AllowedOrigin], site: &SiteId) -> bool {
    page(head, origins, site) != Page::Untrusted
}

fn page(head: &Parts, origins: &[AllowedOrigin], site: &SiteId) -> Page {
    let headers = &head.headers;
    let fetch_site = text(headers, &FETCH_SITE);
    // A page of http:// is cross-site to the same host of https://.
    let may_be_own = fetch_site != Ok(Some("cross-site"));
    let is_allowed = |origin: &str| {
        let mut entries = origins.iter().filter(|entry| entry.allows(origin.as_bytes(), Some(site)));
        may_be_own && is_own_origin(head, origin) || entries.next().is_some_and(|entry| entry.credentials)
    };
    let of_origin = match (headers.contains_key(ORIGIN), origin(headers).and_then(|origin| origin.to_str().ok())) {
        (false, _) => Page::Unknown,
        (true, Some(origin)) if is_allowed(origin) => Page::Trusted,
        (true, _) => Page::Untrusted,
    };
    let of_page = match (of_origin, fetch_site) {
        (of_origin, Ok(None)) => of_origin,
        (Page::Untrusted, _) => Page::Untrusted,
        (_, Ok(Some("same-origin" | "same-site"))) | (Page::Trusted, Ok(Some("cross-site"))) => Page::Trusted,
        (_, Ok(Some(_)) | Err(())) => Page::Untrusted,
    };
    match (of_page, text(headers, &REFERER)) {
        (Page::Unknown, Ok(Some(referrer))) => match Url::parse(referrer) {
            Ok(url) if is_allowed(&url.origin().ascii_serialization()) => Page::Trusted,
            Ok(_) | Err(_) => Page::Untrusted,
        },
        (Page::Unknown, Err(())) => Page::Untrusted,
        (page, _) => page,
    }
}

/// The text of a field; `Err` if the field occurs twice or is unreadable.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, ()> {
    match single(headers, name) {
        Ok(None) => Ok(None),
        Ok(Some(value)) => value.to_str().map(Some).map_err(|_| ()),
        Err(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;

    fn entry(origin: &str, credentials: bool) -> AllowedOrigin {
        AllowedOrigin {
            pattern: origin.parse().unwrap(),
            sites: Vec::new(),
            credentials,
            max_age: Duration::from_secs(1),
            headers: Vec::new(),
            private_network: false,
        }
    }

    fn verdict(method: &str, fields: &[(&str, &str)]) -> (bool, bool) {
        let mut request = Request::builder().method(method).uri("/a").header("host", "www.shop.example");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let origins = [entry("https://app.shop.example", true), entry("https://blog.shop.example", false)];
        let site = "RefArch".parse().unwrap();
        (may_use_cookies(&head, &origins, &site), may_set_cookies(&head, &origins, &site))
    }

    #[test]
    fn only_trusted_pages_act_for_the_shopper() {
        let (own, app, blog) = (
            ("origin", "https://www.shop.example"),
            ("origin", "https://app.shop.example"),
            ("origin", "https://blog.shop.example"),
        );
        let fetch = |value| ("sec-fetch-site", value);
        for (fields, expected) in [
            (&[fetch("same-origin")][..], true),
            (&[fetch("same-origin"), own], true),
            (&[fetch("same-site")], true),
            (&[fetch("same-site"), app], true),
            (&[fetch("same-site"), blog], false),
            (&[fetch("same-site"), ("origin", "https://evil.shop.example")], false),
            (&[fetch("cross-site"), app], true),
            (&[fetch("cross-site")], false),
            (&[fetch("cross-site"), own], false),
            (&[fetch("cross-site"), ("origin", "http://www.shop.example")], false),
            (&[fetch("cross-site"), blog], false),
            (&[fetch("none")], false),
            (&[fetch("other")], false),
            (&[fetch("same-origin"), fetch("same-origin")], false),
            (&[own], true),
            (&[app], true),
            (&[blog], false),
            (&[("origin", "null")], false),
            (&[("origin", "null"), fetch("same-origin")], false),
            (&[own, app], false),
            (&[("referer", "https://www.shop.example/cart?a=b")], true),
            (&[("referer", "https://evil.example/")], false),
            (&[("referer", "no url")], false),
        ] {
            for method in ["GET", "POST"] {
                assert_eq!(verdict(method, fields), (expected, expected), "{method} {fields:?}");
            }
        }
    }

    #[test]
    fn request_without_fields_of_a_browser_reads_and_receives_cookies() {
        assert_eq!(verdict("GET", &[]), (true, true));
        assert_eq!(verdict("HEAD", &[]), (true, true));
        assert_eq!(verdict("POST", &[]), (false, true));
        assert_eq!(verdict("DELETE", &[]), (false, true));
    }
}
