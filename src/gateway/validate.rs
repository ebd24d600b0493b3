//! The first look at a request's head: only what has one reading in strict HTTP gets past.
//!
//! Owns the gate that stands before every other: method, target, `Host`, framing fields, credentials
//! and sizes. Knows nothing of operations or tokens. What the HTTP library lets through and another
//! server could read differently is refused here (RFC 9112, 9.3.2 and 11; OWASP request smuggling).

use http::{
    HeaderMap, Method, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
};

use memchr::{memchr, memchr_iter};

use super::{
    error::{GatewayError, TooLargePart},
    headers::{is_twin_of, starts_like},
};
use crate::config::Limits;

/// Fields that a sender may not nominate in `Connection`: dropping one of them on the next hop would change who the request
/// speaks for, what is done, or how it is framed. Any other nominated field is dropped, as RFC 9110, 7.6.1 has it.
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
/// How the names of more such fields begin: what the gateway reads, and Salesforce's own. `_` is read as `-`.
const PROTECTED_BEGINNINGS: [&str; 5] = ["x-on-behalf-of", "x-shopper-gateway-", "x-forwarded-", "sfdc-", "-sfdc-"];
/// Most options of `Connection`: the HTTP library refuses more.
const MAX_CONNECTION_OPTIONS: usize = 9;

/// Refuses a head whose bytes the HTTP library repairs in silence, so that [`admit`] would not see it:
/// line ends without carriage return, a target that is no path or has a fragment, and `Content-Length`
/// beside `Transfer-Encoding`, of which it keeps one.
///
/// # Errors
/// [`GatewayError::Ambiguous`], [`GatewayError::RequestInvalid`].
pub fn admit_bytes(head: &[u8]) -> Result<(), GatewayError> {
    let ambiguous = |why: &str| Err(GatewayError::Ambiguous(why.to_owned()));
    let (mut target_seen, mut length_seen, mut coding_seen) = (false, false, false);
    let mut begin = 0;
    for end in memchr_iter(b'\n', head).chain((!head.ends_with(b"\n")).then_some(head.len())) {
        let line = head.get(begin..end).unwrap_or_default();
        begin = end + 1;
        let Some(line) = line.strip_suffix(b"\r").filter(|line| memchr(b'\r', line).is_none()) else {
            return ambiguous("A line of the request's head does not end in carriage return and line feed.");
        };
        if !target_seen {
            // Empty lines before the request line are to be passed over (RFC 9112, 2.2).
            target_seen = !line.is_empty();
            if memchr(b'#', line).is_some() {
                return ambiguous("The request target has a fragment.");
            }
            let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or(b"/");
            if !target.starts_with(b"/") && !target.windows(3).any(|three| three == b"://") {
                return Err(GatewayError::RequestInvalid("The request target is not a path.".into()));
            }
            continue;
        }
        let name = memchr(b':', line).and_then(|colon| line.get(..colon)).unwrap_or(line);
        length_seen |= name.eq_ignore_ascii_case(b"content-length");
        coding_seen |= name.eq_ignore_ascii_case(b"transfer-encoding");
    }
    if length_seen && coding_seen {
        return ambiguous("The request has both Transfer-Encoding and Content-Length.");
    }
    Ok(())
}

/// Refuses a target that names another scheme than that of the connection it came by. In HTTP/2 a proxy in front may
/// have ended TLS, and says the scheme that its client used (RFC 9113, 8.3.1).
///
/// # Errors
/// [`GatewayError::RequestInvalid`].
pub fn admit_scheme(scheme: Option<&str>, version: Version, is_tls: bool) -> Result<(), GatewayError> {
    let Some(scheme) = scheme else { return Ok(()) };
    let (is_http, is_https) = (scheme.eq_ignore_ascii_case("http"), scheme.eq_ignore_ascii_case("https"));
    let of_listener = if is_tls { is_https } else { is_http };
    if of_listener || version == Version::HTTP_2 && (is_http || is_https) {
        return Ok(());
    }
    Err(GatewayError::RequestInvalid("The request target names another scheme than the listener's.".into()))
}

/// Refuses a head that has more than one reading or is too large.
///
/// # Errors
/// [`GatewayError::RequestInvalid`], [`GatewayError::Ambiguous`], [`GatewayError::CredentialsConflicting`], [`GatewayError::TooLarge`].
pub fn admit(head: &Parts, limits: &Limits) -> Result<(), GatewayError> {
    sizes(head, limits)?;
    method(&head.method)?;
    target(&head.uri)?;
    host(head)?;
    framing(&head.headers)?;
    connection(&head.headers)?;
    if head.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(GatewayError::CredentialsConflicting);
    }
    Ok(())
}

fn sizes(head: &Parts, limits: &Limits) -> Result<(), GatewayError> {
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

fn method(method: &Method) -> Result<(), GatewayError> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            Ok(())
        }
        _ => Err(GatewayError::RequestInvalid("The method is none that an operation has.".into())),
    }
}

fn target(uri: &Uri) -> Result<(), GatewayError> {
    if !uri.path().starts_with('/') {
        return Err(GatewayError::RequestInvalid("The request target is not a path.".into()));
    }
    // The path's own rules are stricter; of a query, any other reader must see the same bytes.
    if uri.query().is_some_and(|query| !query.is_ascii()) {
        return Err(GatewayError::Ambiguous("The query has a character that must be escaped.".into()));
    }
    Ok(())
}

fn host(head: &Parts) -> Result<(), GatewayError> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(GatewayError::Ambiguous("The request has two Host fields.".into()));
    }
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let valid = match (field.map(http::HeaderValue::as_bytes), authority) {
        (Some(field), Some(authority)) => is_same_host(field, authority) && is_authority(field),
        (Some(named), None) | (None, Some(named)) => is_authority(named),
        (None, None) => head.version == Version::HTTP_10,
    };
    if valid { Ok(()) } else { Err(GatewayError::RequestInvalid("The request needs exactly one valid Host.".into())) }
}

/// Whether two authorities differ in nothing but the root's dot (RFC 1034, 3.1).
fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    // What stands before the port, and the port with its colon.
    let parts = |text: &[u8]| {
        let end = text.iter().rposition(|byte| *byte == b':').unwrap_or(text.len());
        let (host, port) = text.split_at(end);
        (host.strip_suffix(b".").unwrap_or(host).to_vec(), port.to_vec())
    };
    one == other || parts(one) == parts(other)
}

/// Host and optional port (RFC 9110, 7.2), nothing else.
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
    let host_valid =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    host_valid && port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn framing(headers: &HeaderMap) -> Result<(), GatewayError> {
    if headers.keys().any(|name| matches!(name.as_str(), "content_length" | "transfer_encoding")) {
        return Err(GatewayError::Ambiguous("The request has a field that some servers read as its framing.".into()));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(GatewayError::Ambiguous("The request has two Content-Length fields.".into()));
    }
    let digits = |value: &http::HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    if length.is_some_and(|length| !digits(length)) {
        return Err(GatewayError::Ambiguous("The request's Content-Length is not a plain number.".into()));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some() || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(GatewayError::Ambiguous("The request's Transfer-Encoding is not plain chunked.".into()));
    }
    if coding.is_some() && length.is_some() {
        return Err(GatewayError::Ambiguous("The request has both Transfer-Encoding and Content-Length.".into()));
    }
    Ok(())
}

fn connection(headers: &HeaderMap) -> Result<(), GatewayError> {
    let invalid = |problem: &str| Err(GatewayError::RequestInvalid(problem.into()));
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
                return invalid("An option of the Connection field is no token.");
            }
            let name = option.to_ascii_lowercase();
            let is_protected = PROTECTED_FIELDS.iter().any(|field| is_twin_of(&name, field))
                || PROTECTED_BEGINNINGS.iter().any(|beginning| starts_like(&name, beginning));
            if is_protected {
                return invalid("The Connection field nominates a field that must reach Salesforce or the gateway.");
            }
        }
    }
    Ok(())
}

/// A byte of a token (RFC 9110, 5.6.2).
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

    fn refused(fields: &[(&str, &str)]) -> bool {
        admit(&head(fields), &limits()).is_err()
    }

    #[test]
    fn host_and_authority_may_differ_in_the_roots_dot() {
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
    fn exactly_one_valid_host() {
        for host in ["shop.example", "shop.example:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b.example"] {
            assert!(!refused(&[("host", host)]), "{host}");
        }
        for host in ["", "a,b", "a b", "a/b", "a:", "a:x", "a:99999", "a:+1", "[::1", "[x]", "u@a", "a:80:80", "é"] {
            assert!(refused(&[("host", host)]), "{host}");
        }
        assert!(refused(&[]));
        assert!(refused(&[("host", "a"), ("host", "a")]));
    }

    #[test]
    fn one_framing() {
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
            assert!(refused(&[&[("host", "a")], fields].concat()), "{fields:?}");
        }
        assert!(!refused(&[("host", "a"), ("content-length", "5")]));
        assert!(!refused(&[("host", "a"), ("transfer-encoding", "Chunked")]));
    }

    #[test]
    fn what_the_library_repairs_is_refused() {
        for good in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\nX: a#b\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Content-Length: 5\r\n\r\n",
        ] {
            assert_eq!(admit_bytes(good.as_bytes()), Ok(()), "{good:?}");
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
            assert!(matches!(admit_bytes(bad.as_bytes()), Err(GatewayError::Ambiguous(_))), "{bad:?}");
        }
        for target in ["*", "a", "a:80", "?a", "a/b:/c"] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(matches!(admit_bytes(head.as_bytes()), Err(GatewayError::RequestInvalid(_))), "{target}");
        }
        assert_eq!(admit_bytes(b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
    }

    #[test]
    fn what_must_arrive_cannot_be_nominated_away() {
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
            assert!(refused(&[("host", "a"), ("connection", option)]), "{option}");
        }
        for option in ["close", "keep-alive", "Keep-Alive, TE", "X-Mine, x_yours", "a,,b,", "", "a,b,c,d,e,f,g,h,i"] {
            assert!(!refused(&[("host", "a"), ("connection", option)]), "{option}");
        }
    }

    #[test]
    fn sizes_are_limited() {
        let many: Vec<(&str, &str)> =
            std::iter::once(("host", "a")).chain(std::iter::repeat_n(("x", "y"), 10)).collect();
        assert_eq!(admit(&head(&many), &limits()), Err(GatewayError::TooLarge(TooLargePart::Head)));
        let long = "v".repeat(1024);
        assert_eq!(
            admit(&head(&[("host", "a"), ("x", &long)]), &limits()),
            Err(GatewayError::TooLarge(TooLargePart::Head))
        );
        let (mut target, ()) = Request::builder().uri(format!("/{}", "a".repeat(100))).body(()).unwrap().into_parts();
        target.headers.insert(HOST, http::HeaderValue::from_static("a"));
        assert_eq!(admit(&target, &limits()), Err(GatewayError::TooLarge(TooLargePart::Target)));
    }

    #[test]
    fn target_names_the_scheme_of_its_listener() {
        for (scheme, version, is_tls, admitted) in [
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
            assert_eq!(admit_scheme(scheme, version, is_tls).is_ok(), admitted, "{scheme:?} {version:?} {is_tls}");
        }
    }

    #[test]
    fn one_credential() {
        assert_eq!(
            admit(&head(&[("host", "a"), ("authorization", "Bearer a"), ("authorization", "Bearer a")]), &limits()),
            Err(GatewayError::CredentialsConflicting)
        );
    }
}
