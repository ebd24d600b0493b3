//! The changes to the header of a forwarded request and of its response.
//!
//! This file removes hop-by-hop fields and sets the gateway's own. `client_fields` lists the fields that a client may not send.

mod client_fields;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA},
};

use self::client_fields::is_forbidden;
use super::{
    cookies::{CookieEdit, without_session_cookies},
    field_names::eq_ignoring_separator,
    on_behalf_header::GUEST_USID,
    problem::ERROR_HEADER,
};
use crate::correlation;

/// The field of a request and its response that identifies their log line.
pub const CORRELATION_ID: HeaderName = correlation::HEADER;

/// Changes to a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Fields to remove.
    pub remove: Vec<HeaderName>,
    /// Fields to set. They replace fields of the same name.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// The changes to a client's header: removes what a client may not send, sets the gateway's own fields.
#[must_use]
pub fn request_edits(headers: &HeaderMap, upstream_host: &HeaderValue, correlation_id: &HeaderValue) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for name in headers.keys() {
        if is_forbidden(name.as_str())
            || matches!(*name, TE | TRAILER)
            || eq_ignoring_separator(name.as_str(), "correlation-id")
        {
            edits.remove.push(name.clone());
        }
    }
    edits.set.push((http::header::HOST, upstream_host.clone()));
    edits.set.push((CORRELATION_ID, correlation_id.clone()));
    edits.set.push((VIA, HeaderValue::from_static("1.1 shopper-gateway")));
    // HTTP/2 may split cookies into several fields. HTTP/1.1 servers expect one (RFC 9113, 8.2.3).
    match without_session_cookies(headers, false) {
        CookieEdit::Keep => {}
        CookieEdit::Remove => edits.remove.push(COOKIE),
        CookieEdit::Set(rest) => edits.set.push((COOKIE, rest)),
    }
    edits
}

/// The hop-by-hop fields of a request (RFC 9110, 7.6.1), for a request that the gateway sends without the proxy.
pub fn hop_by_hop_headers(headers: &HeaderMap) -> Vec<HeaderName> {
    let options = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let nominated = options.flat_map(|options| options.split(','));
    let nominated = nominated.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let always = [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];
    nominated.chain(always).collect()
}

/// The changes to Salesforce's response: removes hop-by-hop fields, and fields that only the gateway may set.
#[must_use]
pub fn response_edits(headers: &HeaderMap, correlation_id: &HeaderValue) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for value in headers.get_all(CONNECTION) {
        for option in value.to_str().unwrap_or_default().split(',') {
            let nominated = HeaderName::from_bytes(option.trim().as_bytes()).ok();
            // The HTTP library removes the framing. `close` and `keep-alive` are not names of fields.
            if let Some(name) = nominated.filter(|name| headers.contains_key(name) && !is_framing(name)) {
                edits.remove.push(name);
            }
        }
    }
    for name in [ERROR_HEADER, GUEST_USID, TRAILER, UPGRADE, HeaderName::from_static("keep-alive")] {
        if headers.contains_key(&name) {
            edits.remove.push(name);
        }
    }
    edits.set.push((CORRELATION_ID, correlation_id.clone()));
    edits
}

/// Whether a response says which caches may store it (RFC 9111, 5.2.2).
#[must_use]
pub fn has_cache_scope(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(CACHE_CONTROL).iter().filter_map(|field| field.to_str().ok());
    let directives = fields.flat_map(|field| field.split(',')).filter_map(|directive| directive.split('=').next());
    let mut names = directives.map(|name| name.trim().to_ascii_lowercase());
    names.any(|name| matches!(name.as_str(), "public" | "private" | "no-store" | "s-maxage"))
}

/// Whether a response states its length in one way (RFC 9112, 6.3).
#[must_use]
pub fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let length =
        lengths.next().is_none_or(|length| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit));
    let coding = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    length && coding && lengths.next().is_none() && codings.next().is_none()
}

fn is_framing(name: &HeaderName) -> bool {
    matches!(name.as_str(), "transfer-encoding" | "content-length" | "connection" | "keep-alive" | "close")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn edits(fields: &[(&str, &str)]) -> HeaderEdits {
        request_edits(&headers(fields), &HeaderValue::from_static("api"), &HeaderValue::from_static("id"))
    }

    #[test]
    fn forbidden_field_in_any_spelling_is_removed() {
        for name in [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded_Host",
            "forwarded",
            "X-Real-IP",
            "x_real_ip",
            "X-Original-URL",
            "X-Rewrite-Url",
            "x_http_method_override",
            "X-On-Behalf-Of",
            "x_on_behalf_of",
            "x-on-behalf-of-idp",
            "X-On-Behalf-Of-Usid",
            "X-Shopper-Gateway-Error",
            "x_shopper_gateway_x",
            "TE",
            "Trailer",
            "correlation_id",
            "X-SLAS-Client-Auth",
            "x_slas_client_auth",
            "_sfdc_client_auth",
            "-sfdc-client-auth",
            "_SFDC-Client_Auth",
        ] {
            let removed = edits(&[(name, "x")]).remove;
            assert_eq!(removed, [HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap()], "{name}");
        }
    }

    #[test]
    fn method_override_in_any_spelling_is_removed() {
        for name in [
            "x-http-method-override",
            "X_HTTP_Method_Override",
            "x-http-method",
            "x-method-override",
            "x-dw-http-method-override",
            "X_DW-HTTP_METHOD-Override",
            "http-method-override",
            "method-override",
            "x-vendor-method_override",
            "x-http-verb",
            "x-rest-method",
            "x-tunneled-method",
        ] {
            assert_eq!(edits(&[(name, "DELETE")]).remove.len(), 1, "{name}");
        }
        for name in ["access-control-request-method", "x-shipping-method", "x-payment-method-id", "x-method"] {
            assert!(edits(&[(name, "x")]).remove.is_empty(), "{name}");
        }
    }

    #[test]
    fn field_of_the_application_is_kept() {
        for name in ["authorization", "content-type", "accept", "sfdc_user_agent", "x-site-id", "x-custom", "if-match"]
        {
            assert!(edits(&[(name, "x")]).remove.is_empty(), "{name}");
        }
    }

    #[test]
    fn cookies_in_two_fields_are_joined() {
        let set = edits(&[("cookie", "a=1"), ("cookie", "b=2")]).set;
        assert!(set.contains(&(COOKIE, HeaderValue::from_static("a=1; b=2"))));
    }

    #[test]
    fn field_that_upstream_nominates_is_removed() {
        let response =
            headers(&[("connection", "close, X-Internal"), ("x-internal", "1"), ("x-shopper-gateway-error", "no")]);
        let edits = response_edits(&response, &HeaderValue::from_static("id"));
        assert_eq!(edits.remove, [HeaderName::from_static("x-internal"), ERROR_HEADER]);
    }

    #[test]
    fn response_with_ambiguous_length_is_not_framed_once() {
        for fields in [&[][..], &[("content-length", "2")], &[("transfer-encoding", "Chunked")]] {
            assert!(is_framed_once(&headers(fields)), "{fields:?}");
        }
        for fields in [
            &[("content-length", "2"), ("content-length", "2")][..],
            &[("content-length", "2, 2")],
            &[("content-length", "+2")],
            &[("content-length", "")],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(!is_framed_once(&headers(fields)), "{fields:?}");
        }
    }
}
