//! The header fields of a forwarded request and of its response.
//!
//! This file removes what concerns one connection and sets what the gateway itself says. `client_fields` lists the fields of a
//! client that never reach Salesforce.

mod client_fields;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA},
};

use self::client_fields::is_never_from_clients;
pub(super) use self::client_fields::{is_twin_of, starts_like};
use super::{on_behalf_header::GUEST_USID, problem::ERROR_HEADER};
use crate::correlation;

/// The request's and the answer's field that ties both to a log line.
pub const CORRELATION_ID: HeaderName = correlation::HEADER;

/// Changes to a request's header before it goes upstream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Fields to take out.
    pub remove: Vec<HeaderName>,
    /// Fields to set, in place of whatever stands there.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// The edits of a client's header: strip what a client may not say, set what the gateway says.
#[must_use]
pub fn request_edits(headers: &HeaderMap, upstream_host: &HeaderValue, correlation_id: &HeaderValue) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for name in headers.keys() {
        if is_never_from_clients(name.as_str()) || is_hop_by_hop(name) || is_twin_of(name.as_str(), "correlation-id") {
            edits.remove.push(name.clone());
        }
    }
    edits.set.push((http::header::HOST, upstream_host.clone()));
    edits.set.push((CORRELATION_ID, correlation_id.clone()));
    edits.set.push((VIA, HeaderValue::from_static("1.1 shopper-gateway")));
    // HTTP/2 may split cookies over several fields; HTTP/1.1 servers expect one (RFC 9113, 8.2.3).
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        edits.set.push((COOKIE, joined));
    }
    edits
}

/// The fields of a request that concern the connection it came by (RFC 9110, 7.6.1), for those who send it on
/// without the proxy.
pub fn hop_by_hop_headers(headers: &HeaderMap) -> Vec<HeaderName> {
    let options = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let nominated = options.flat_map(|options| options.split(','));
    let nominated = nominated.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let always = [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];
    nominated.chain(always).collect()
}

/// The edits of Salesforce's answer: what concerned only the hop between, and the gateway's own names.
#[must_use]
pub fn response_edits(headers: &HeaderMap, correlation_id: &HeaderValue) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for value in headers.get_all(CONNECTION) {
        for option in value.to_str().unwrap_or_default().split(',') {
            let nominated = HeaderName::from_bytes(option.trim().as_bytes()).ok();
            // Framing belongs to the HTTP library; the connection options themselves are not fields.
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

/// Whether an answer says in one way only where it ends (RFC 9112, 6.3).
#[must_use]
pub fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let length =
        lengths.next().is_none_or(|length| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit));
    let coding = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    length && coding && lengths.next().is_none() && codings.next().is_none()
}

/// `TE` and `Trailer` concern this hop; trailers are dropped.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == TE || *name == TRAILER
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
    fn a_clients_claims_about_the_way_are_stripped_in_any_spelling() {
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
    fn every_spelling_of_another_method_is_stripped() {
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
    fn what_the_application_says_stays() {
        for name in ["authorization", "content-type", "accept", "sfdc_user_agent", "x-site-id", "x-custom", "if-match"]
        {
            assert!(edits(&[(name, "x")]).remove.is_empty(), "{name}");
        }
    }

    #[test]
    fn split_cookies_are_joined() {
        let set = edits(&[("cookie", "a=1"), ("cookie", "b=2")]).set;
        assert!(set.contains(&(COOKIE, HeaderValue::from_static("a=1; b=2"))));
    }

    #[test]
    fn fields_that_upstream_nominates_stay_on_its_hop() {
        let answer =
            headers(&[("connection", "close, X-Internal"), ("x-internal", "1"), ("x-shopper-gateway-error", "no")]);
        let edits = response_edits(&answer, &HeaderValue::from_static("id"));
        assert_eq!(edits.remove, [HeaderName::from_static("x-internal"), ERROR_HEADER]);
    }

    #[test]
    fn an_answer_has_one_length() {
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
