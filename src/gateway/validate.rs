//! Validates a request's head before anything else: sizes, method, target, `Host`, framing, `Connection` and credentials.
//!
//! A head that another server could read differently is rejected, even if the HTTP library accepts it (RFC 9112, 9.3.2 and 11;
//! OWASP request smuggling). Nothing is repaired.

use http::{
    HeaderMap, Method, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use memchr::{memchr, memchr_iter};

use super::{
    error::{GatewayError, TooLargePart},
    field_names::{eq_ignoring_separator, starts_with_ignoring_separator},
};
use crate::config::Limits;

/// Fields that a client may not nominate in `Connection`. Without one of them the request would have another identity,
/// meaning or framing. Any other nominated field is removed (RFC 9110, 7.6.1).
const PROTECTED_FIELDS: [&str; 13] = [
    "authorization",
    "host",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "correlation-id",
    "cookie",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "x-site-id",
    "x-slas-client-auth",
];
/// Prefixes of more such names: fields that the gateway reads, and Salesforce's own. `_` counts as `-`.
const PROTECTED_PREFIXES: [&str; 5] = ["x-on-behalf-of", "x-shopper-gateway-", "x-forwarded-", "sfdc-", "-sfdc-"];
/// Maximum options of `Connection`. The HTTP library rejects more.
const MAX_CONNECTION_OPTIONS: usize = 9;

/// Checks the received bytes for what the HTTP library repairs before [`check_head`] could see it.
///
/// # Errors
/// [`GatewayError::Ambiguous`] if a line does not end in CRLF, if the target has a fragment, or if the head has both
/// `Content-Length` and `Transfer-Encoding`. [`GatewayError::RequestInvalid`] if the target is not a path.
pub fn check_raw_head(head: &[u8]) -> Result<(), GatewayError> {
    let (mut has_target, mut has_length, mut has_coding) = (false, false, false);
    let mut begin = 0;
    for end in memchr_iter(b'\n', head).chain((!head.ends_with(b"\n")).then_some(head.len())) {
        let line = head.get(begin..end).unwrap_or_default();
        begin = end + 1;
        let Some(line) = line.strip_suffix(b"\r").filter(|line| memchr(b'\r', line).is_none()) else {
            return ambiguous("A line of the request's head does not end in carriage return and line feed.");
        };
        if !has_target {
            // Empty lines before the request line are ignored (RFC 9112, 2.2).
            has_target = !line.is_empty();
            if memchr(b'#', line).is_some() {
                return ambiguous("The request target has a fragment.");
            }
            let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or(b"/");
            if !target.starts_with(b"/") && !target.windows(3).any(|three| three == b"://") {
                return invalid("The request target is not a path.");
            }
            continue;
        }
        let name = memchr(b':', line).and_then(|colon| line.get(..colon)).unwrap_or(line);
        has_length |= name.eq_ignore_ascii_case(b"content-length");
        has_coding |= name.eq_ignore_ascii_case(b"transfer-encoding");
    }
    if has_length && has_coding {
        return ambiguous("The request has both Transfer-Encoding and Content-Length.");
    }
    Ok(())
}

/// Checks that the target names the scheme of the connection. In HTTP/2, a proxy that terminates TLS sends the scheme of its
/// own client (RFC 9113, 8.3.1), so both schemes are accepted.
///
/// # Errors
/// [`GatewayError::RequestInvalid`] if the target names another scheme.
pub fn check_scheme(scheme: Option<&str>, version: Version, is_tls: bool) -> Result<(), GatewayError> {
    let Some(scheme) = scheme else { return Ok(()) };
    let (is_http, is_https) = (scheme.eq_ignore_ascii_case("http"), scheme.eq_ignore_ascii_case("https"));
    let has_scheme_of_listener = if is_tls { is_https } else { is_http };
    if has_scheme_of_listener || version == Version::HTTP_2 && (is_http || is_https) {
        return Ok(());
    }
    invalid("The request target names another scheme than the listener's.")
}

/// Checks a parsed head.
///
/// # Errors
/// [`GatewayError::TooLarge`] if it exceeds a limit, [`GatewayError::Ambiguous`] if it has more than one reading,
/// [`GatewayError::CredentialsConflicting`] if it has two credentials, [`GatewayError::RequestInvalid`] if it is invalid
/// otherwise.
pub fn check_head(head: &Parts, limits: &Limits) -> Result<(), GatewayError> {
    check_sizes(head, limits)?;
    check_method(&head.method)?;
    check_target(&head.uri)?;
    check_host(head)?;
    check_framing(&head.headers)?;
    check_connection(&head.headers)?;
    if head.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(GatewayError::CredentialsConflicting);
    }
    Ok(())
}

fn check_sizes(head: &Parts, limits: &Limits) -> Result<(), GatewayError> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.max_uri_bytes {
        return Err(GatewayError::TooLarge(TooLargePart::Target));
    }
    // Each field as on the wire in HTTP/1.1: name, colon, space, value, line end.
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head.headers.len() > limits.max_headers || fields + target > limits.max_header_bytes {
        return Err(GatewayError::TooLarge(TooLargePart::Head));
    }
    Ok(())
}

fn check_method(method: &Method) -> Result<(), GatewayError> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            Ok(())
        }
        _ => invalid("Unsupported HTTP method."),
    }
}

fn check_target(uri: &Uri) -> Result<(), GatewayError> {
    if !uri.path().starts_with('/') {
        return invalid("The request target is not a path.");
    }
    // `path` has stricter rules for the path. Every reader of the query must see the same bytes.
    if uri.query().is_some_and(|query| !query.is_ascii()) {
        return ambiguous("The query has a character that must be escaped.");
    }
    Ok(())
}

fn check_host(head: &Parts) -> Result<(), GatewayError> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return ambiguous("The request has two Host fields.");
    }
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let is_valid = match (field.map(http::HeaderValue::as_bytes), authority) {
        (Some(field), Some(authority)) => is_same_host(field, authority) && is_authority(field),
        (Some(named), None) | (None, Some(named)) => is_authority(named),
        (None, None) => head.version == Version::HTTP_10,
    };
    if is_valid { Ok(()) } else { invalid("The request needs exactly one valid Host.") }
}

/// Whether two authorities are the same, except for the dot of the root (RFC 1034, 3.1).
fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    let parts = |text: &[u8]| {
        let end = text.iter().rposition(|byte| *byte == b':').unwrap_or(text.len());
        let (host, port) = text.split_at(end);
        (host.strip_suffix(b".").unwrap_or(host).to_vec(), port.to_vec())
    };
    one == other || parts(one) == parts(other)
}

/// Whether the text is a host with an optional port (RFC 9110, 7.2).
fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => ("v6", Some(port)),
                None if rest.is_empty() => ("v6", None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_valid_host =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_valid_host
        && port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_framing(headers: &HeaderMap) -> Result<(), GatewayError> {
    if headers.keys().any(|name| matches!(name.as_str(), "content_length" | "transfer_encoding")) {
        return ambiguous("The request has a field that some servers read as Content-Length or Transfer-Encoding.");
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return ambiguous("The request has two Content-Length fields.");
    }
    let is_number = |value: &http::HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    if length.is_some_and(|length| !is_number(length)) {
        return ambiguous("The request's Content-Length is not a plain number.");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some() || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return ambiguous("The request's Transfer-Encoding is not plain chunked.");
    }
    if coding.is_some() && length.is_some() {
        return ambiguous("The request has both Transfer-Encoding and Content-Length.");
    }
    Ok(())
}

fn check_connection(headers: &HeaderMap) -> Result<(), GatewayError> {
    let mut count = 0;
    for value in headers.get_all(CONNECTION) {
        let options =
            value.to_str().map_err(|_| GatewayError::RequestInvalid("The Connection field is not text.".into()))?;
        for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            count += 1;
            if count > MAX_CONNECTION_OPTIONS {
                return invalid("The Connection field has too many options.");
            }
            if !option.bytes().all(is_token_byte) {
                return invalid("An option of the Connection field is not a token.");
            }
            let name = option.to_ascii_lowercase();
            let is_protected = PROTECTED_FIELDS.iter().any(|field| eq_ignoring_separator(&name, field))
                || PROTECTED_PREFIXES.iter().any(|prefix| starts_with_ignoring_separator(&name, prefix));
            if is_protected {
                return invalid("The Connection field nominates a field that must reach Salesforce or the gateway.");
            }
        }
    }
    Ok(())
}

fn ambiguous(problem: &str) -> Result<(), GatewayError> {
    Err(GatewayError::Ambiguous(problem.to_owned()))
}

fn invalid(problem: &str) -> Result<(), GatewayError> {
    Err(GatewayError::RequestInvalid(problem.to_owned()))
}

/// Whether a byte may be in a token (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::config::AddressLimits;

    fn limits() -> Limits {
        Limits {
            body: 1024,
            min_body_rate: 1024,
            max_header_bytes: 1024,
            max_headers: 10,
            max_uri_bytes: 100,
            connections: 10,
            requests: 10,
            incomplete_requests: 10,
            held_bodies: 1024,
            per_address: AddressLimits::default(),
            max_concurrent_requests: 1,
            queue_timeout: Duration::ZERO,
            networks: Vec::new(),
        }
    }

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/a").body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        request.into_parts().0
    }

    fn is_rejected(fields: &[(&str, &str)]) -> bool {
        check_head(&head(fields), &limits()).is_err()
    }

    #[test]
    fn host_field_with_dot_of_the_root_equals_authority() {
        for (one, other, same) in [
            ("shop.example", "shop.example.", true),
            ("shop.example.:443", "shop.example:443", true),
            ("[::1]:80", "[::1]:80", true),
            ("shop.example", "shop.example..", false),
            ("shop.example", "other.example.", false),
            ("shop.example:80", "shop.example.:81", false),
            ("[::1]", "[::2]", false),
        ] {
            assert_eq!(is_same_host(one.as_bytes(), other.as_bytes()), same, "{one} {other}");
        }
    }

    #[test]
    fn head_without_exactly_one_valid_host_is_rejected() {
        for host in ["shop.example", "shop.example:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b.example"] {
            assert!(!is_rejected(&[("host", host)]), "{host}");
        }
        for host in ["", "a,b", "a b", "a/b", "a:", "a:x", "a:99999", "a:+1", "[::1", "[x]", "u@a", "a:80:80", "é"] {
            assert!(is_rejected(&[("host", host)]), "{host}");
        }
        assert!(is_rejected(&[]));
        assert!(is_rejected(&[("host", "a"), ("host", "a")]));
    }

    #[test]
    fn head_with_ambiguous_framing_is_rejected() {
        for fields in [
            &[("content-length", "5, 5")][..],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "0x5")],
            &[("content-length", "5"), ("content-length", "5")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "identity")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &[("content-length", "5"), ("content_length", "5")],
            &[("transfer_encoding", "chunked")],
        ] {
            assert!(is_rejected(&[&[("host", "a")], fields].concat()), "{fields:?}");
        }
        assert!(!is_rejected(&[("host", "a"), ("content-length", "5")]));
        assert!(!is_rejected(&[("host", "a"), ("transfer-encoding", "Chunked")]));
    }

    #[test]
    fn raw_head_that_the_library_repairs_is_rejected() {
        for good in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\nX: a#b\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Content-Length: 5\r\n\r\n",
        ] {
            assert_eq!(check_raw_head(good.as_bytes()), Ok(()), "{good:?}");
        }
        for bad in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
            "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding:x\r\ncontent-LENGTH:\r\n\r\n",
        ] {
            assert!(matches!(check_raw_head(bad.as_bytes()), Err(GatewayError::Ambiguous(_))), "{bad:?}");
        }
        for target in ["*", "a", "a:80", "?a", "a/b:/c"] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(matches!(check_raw_head(head.as_bytes()), Err(GatewayError::RequestInvalid(_))), "{target}");
        }
        assert_eq!(check_raw_head(b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
    }

    #[test]
    fn connection_option_that_names_a_protected_field_is_rejected() {
        for option in [
            "Authorization",
            "close, authorization",
            "X-On-Behalf-Of",
            "x_on-behalf_of_idp",
            "x_shopper_gateway_a",
            "Host",
            "correlation-id",
            "correlation_id",
            "Content_Type",
            "If-Match",
            "X-SLAS-Client_Auth",
            "_sfdc_client_auth",
            "sfdc_dwsid",
            "sfdc_refresh_token",
            "X-Forwarded-For",
            "a,b,c,d,e,f,g,h,i,j",
            "\"x-a\"",
            "a b",
            ":authority",
        ] {
            assert!(is_rejected(&[("host", "a"), ("connection", option)]), "{option}");
        }
        for option in ["close", "keep-alive", "Keep-Alive, TE", "X-Mine, x_yours", "a,,b,", "", "a,b,c,d,e,f,g,h,i"] {
            assert!(!is_rejected(&[("host", "a"), ("connection", option)]), "{option}");
        }
    }

    #[test]
    fn head_over_a_size_limit_is_rejected() {
        let many: Vec<(&str, &str)> =
            std::iter::once(("host", "a")).chain(std::iter::repeat_n(("x", "y"), 10)).collect();
        assert_eq!(check_head(&head(&many), &limits()), Err(GatewayError::TooLarge(TooLargePart::Head)));
        let long = "v".repeat(1024);
        assert_eq!(
            check_head(&head(&[("host", "a"), ("x", &long)]), &limits()),
            Err(GatewayError::TooLarge(TooLargePart::Head))
        );
        let (mut target, ()) = Request::builder().uri(format!("/{}", "a".repeat(100))).body(()).unwrap().into_parts();
        target.headers.insert(HOST, http::HeaderValue::from_static("a"));
        assert_eq!(check_head(&target, &limits()), Err(GatewayError::TooLarge(TooLargePart::Target)));
    }

    #[test]
    fn target_with_another_scheme_than_the_listener_is_rejected() {
        for (scheme, version, is_tls, is_accepted) in [
            (None, Version::HTTP_11, false, true),
            (Some("http"), Version::HTTP_11, false, true),
            (Some("HTTP"), Version::HTTP_10, false, true),
            (Some("https"), Version::HTTP_11, true, true),
            (Some("https"), Version::HTTP_11, false, false),
            (Some("http"), Version::HTTP_11, true, false),
            (Some("ftp"), Version::HTTP_11, false, false),
            (Some(""), Version::HTTP_11, false, false),
            (Some("https"), Version::HTTP_2, false, true),
            (Some("http"), Version::HTTP_2, true, true),
            (Some("ws"), Version::HTTP_2, true, false),
        ] {
            assert_eq!(check_scheme(scheme, version, is_tls).is_ok(), is_accepted, "{scheme:?} {version:?} {is_tls}");
        }
    }

    #[test]
    fn head_with_two_credentials_is_rejected() {
        assert_eq!(
            check_head(
                &head(&[("host", "a"), ("authorization", "Bearer a"), ("authorization", "Bearer a")]),
                &limits()
            ),
            Err(GatewayError::CredentialsConflicting)
        );
    }
}
