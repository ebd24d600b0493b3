//! The origin of the page that sends a request.

use http::{
    HeaderMap, HeaderValue,
    header::{HOST, ORIGIN},
    request::Parts,
};

/// The origin of the page that sends a request. `None` if there is none, or more than one.
pub(super) fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(ORIGIN).iter();
    let origin = values.next()?;
    values.next().is_none().then_some(origin)
}

/// Whether an origin is that of the host that the request is for. The scheme may differ, because TLS may end at a proxy in front.
pub(super) fn is_own_origin(head: &Parts, origin: &str) -> bool {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| head.uri.authority().map(|authority| authority.as_str()));
    let (Some(host), Some((scheme, page))) = (host, origin.split_once("://")) else { return false };
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    host.strip_suffix(default_port).unwrap_or(host).eq_ignore_ascii_case(page)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn page_of_the_same_host_is_of_the_own_origin() {
        for (host, page, own) in [
            ("shop.example", "https://shop.example", true),
            ("Shop.example:443", "https://shop.example", true),
            ("shop.example:80", "http://shop.example", true),
            ("127.0.0.1:8080", "http://127.0.0.1:8080", true),
            ("shop.example", "https://shop.example:8443", false),
            ("shop.example:443", "http://shop.example", false),
            ("shop.example", "https://www.shop.example", false),
            ("shop.example", "null", false),
        ] {
            let head = Request::builder().uri("/a").header("host", host).body(()).unwrap().into_parts().0;
            assert_eq!(is_own_origin(&head, page), own, "{host} {page:?}");
        }
    }

    #[test]
    fn two_origins_are_no_origin() {
        let mut headers = HeaderMap::new();
        assert_eq!(origin(&headers), None);
        headers.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        assert_eq!(origin(&headers).unwrap(), "https://a.example");
        headers.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        assert_eq!(origin(&headers), None);
    }
}
