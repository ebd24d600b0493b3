//! The header fields that pages of other origins may send and read, and the fields of CORS themselves (Fetch standard, 3.2).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY},
    request::Parts,
};

use crate::config::AllowedOrigin;

/// Asks whether a page of a public network may call a private one (Private Network Access).
pub(super) const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
pub(super) const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The beginning of the names of all CORS fields.
const CORS_FIELDS: &str = "access-control-";
/// Request fields that every allowed page may send: those of Salesforce's SDKs and of PWA Kit, conditional requests, trace context,
/// and those that need no permission unless their value is unusual.
const REQUEST_FIELDS: [&str; 17] = [
    "_sfdc_client_auth",
    "accept",
    "accept-language",
    "authorization",
    "content-language",
    "content-type",
    "correlation-id",
    "if-match",
    "if-none-match",
    "sfdc_dwsid",
    "sfdc_refresh_token",
    "sfdc_user_agent",
    "traceparent",
    "tracestate",
    "x-grant-type",
    "x-pwakit-preview-parent",
    "x-site-id",
];
/// The beginning of the names of a merchant's own fields, as in SCAPI.
const MERCHANT_FIELDS: &str = "c_";
/// Maximum number of request fields that the gateway looks at. A request has at most 256 fields, and SDKs send about ten.
const MAX_REQUESTED_FIELDS: usize = 64;

/// Response fields that pages may read.
const EXPOSED_FIELDS: &str = "authorization, correlation-id, x-correlation-id, retry-after, etag, location, \
    sfdc_maintenance, sfdc_load, sfdc_load_status, \
    x-ratelimit-1m-limit, x-ratelimit-1m-remaining, x-ratelimit-1m-reset, \
    x-ratelimit-5m-limit, x-ratelimit-5m-remaining, x-ratelimit-5m-reset, \
    deprecation, sunset, link, www-authenticate, x-shopper-gateway-error";
/// Families of response fields that pages may read. `Access-Control-Expose-Headers` knows no prefixes, so a response names those
/// that it has.
const EXPOSED_FAMILIES: [&str; 2] = ["sfdc_load", "x-ratelimit-"];

/// Whether a request is a preflight.
pub(super) fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ORIGIN)
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The method that a preflight asks for.
pub(super) fn requested_method(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The request fields that a preflight asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestedFields {
    /// Those that the page may send, as a list; `None` if there are none.
    pub(super) allowed: Option<HeaderValue>,
    /// Whether it may send all of them.
    pub(super) is_complete: bool,
}

impl RequestedFields {
    /// Reads the fields that a preflight asks for.
    pub(super) fn read(headers: &HeaderMap, entry: &AllowedOrigin) -> Self {
        let lists = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let names = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let mut requested = names.filter(|name| !name.is_empty());
        let mut allowed: Vec<HeaderName> = Vec::new();
        let mut is_complete = true;
        for name in requested.by_ref().take(MAX_REQUESTED_FIELDS) {
            match HeaderName::from_bytes(name) {
                Ok(name) if may_send(&name, entry) => allowed.push(name),
                Ok(_) | Err(_) => is_complete = false,
            }
        }
        is_complete &= requested.next().is_none();
        let list = allowed.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
        Self { allowed: HeaderValue::from_str(&list).ok().filter(|list| !list.is_empty()), is_complete }
    }
}

/// Whether a page may send a request field.
fn may_send(name: &HeaderName, entry: &AllowedOrigin) -> bool {
    let text = name.as_str();
    REQUEST_FIELDS.contains(&text)
        || text.strip_prefix(MERCHANT_FIELDS).is_some_and(|own| !own.is_empty())
        || entry.headers.contains(name)
}

/// The names of the response fields that pages may read.
pub(super) fn exposed(response: &HeaderMap) -> HeaderValue {
    let is_of_family = |name: &&str| EXPOSED_FAMILIES.iter().any(|family| name.starts_with(family));
    let is_new = |name: &&str| !EXPOSED_FIELDS.split(", ").any(|listed| listed == *name);
    let more: Vec<&str> = response.keys().map(HeaderName::as_str).filter(is_of_family).filter(is_new).collect();
    let list = HeaderValue::from_static(EXPOSED_FIELDS);
    if more.is_empty() {
        return list;
    }
    HeaderValue::from_str(&format!("{EXPOSED_FIELDS}, {}", more.join(", "))).unwrap_or(list)
}

/// The CORS fields of a response of Salesforce.
pub(super) fn cors_fields(response: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    response.keys().filter(|name| name.as_str().starts_with(CORS_FIELDS))
}

/// `Vary` of a response that depends on the fields of a list. `None` if the response says so already.
pub(super) fn vary(response: &HeaderMap, list: &'static str) -> Option<HeaderValue> {
    let present: Vec<&[u8]> = response.get_all(VARY).iter().map(HeaderValue::as_bytes).collect();
    if present.is_empty() {
        return Some(HeaderValue::from_static(list));
    }
    let names = || present.iter().flat_map(|list| list.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    if names().any(|name| name == b"*") {
        return None;
    }
    let is_missing = |wanted: &&str| !names().any(|name| name.eq_ignore_ascii_case(wanted.as_bytes()));
    let missing: Vec<&str> = list.split(", ").filter(is_missing).collect();
    if missing.is_empty() {
        return None;
    }
    let lists = present.iter().copied().filter(|list| !list.trim_ascii().is_empty());
    let joined: Vec<&[u8]> = lists.chain(missing.iter().map(|name| name.as_bytes())).collect();
    HeaderValue::from_bytes(&joined.join(&b", "[..])).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;

    fn head(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/a");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn fields(names: &[(&'static str, &str)]) -> HeaderMap {
        let fields = names.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        fields.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn entry(headers: &[&str]) -> AllowedOrigin {
        AllowedOrigin {
            pattern: "https://www.shop.example".parse().unwrap(),
            sites: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(1),
            headers: headers.iter().map(|name| name.parse().unwrap()).collect(),
            private_network: false,
        }
    }

    #[test]
    fn preflight_has_origin_method_and_requested_method() {
        let (origin, requested) = (("origin", "https://a.example"), ("access-control-request-method", "PUT"));
        assert!(is_preflight(&head("OPTIONS", &[origin, requested])));
        for other in [head("GET", &[origin, requested]), head("OPTIONS", &[origin]), head("OPTIONS", &[requested])] {
            assert!(!is_preflight(&other), "{other:?}");
        }
    }

    #[test]
    fn requested_fields_are_those_asked_for_and_allowed() {
        let read = |lists: &[&str], own: &[&str]| {
            let lists: Vec<_> = lists.iter().map(|list| ("access-control-request-headers", *list)).collect();
            let RequestedFields { allowed, is_complete } = RequestedFields::read(&fields(&lists), &entry(own));
            (allowed.map(|allowed| allowed.to_str().unwrap().to_owned()).unwrap_or_default(), is_complete)
        };
        for (lists, own, allowed, is_complete) in [
            (&[][..], &[][..], "", true),
            (&["authorization,content-type"], &[], "authorization, content-type", true),
            (&["Authorization , SFDC_USER_AGENT"], &[], "authorization, sfdc_user_agent", true),
            (&["authorization", "correlation-id"], &[], "authorization, correlation-id", true),
            (&["c_loyalty,C_Loyalty"], &[], "c_loyalty, c_loyalty", true),
            (&["x-experiment"], &["x-experiment"], "x-experiment", true),
            (&["authorization,x-experiment"], &[], "authorization", false),
            (&["x-on-behalf-of,x-forwarded-for"], &[], "", false),
            (&["c_"], &[], "", false),
            (&["*"], &[], "", false),
            (&["authorization,a b"], &[], "authorization", false),
            (&[",, authorization,"], &[], "authorization", true),
        ] {
            assert_eq!(read(lists, own), (allowed.to_owned(), is_complete), "{lists:?}");
        }
        let many = vec!["c_a"; MAX_REQUESTED_FIELDS + 1].join(",");
        let (allowed, is_complete) = read(&[&many], &[]);
        assert!(!is_complete);
        assert_eq!(allowed.split(", ").count(), MAX_REQUESTED_FIELDS);
    }

    #[test]
    fn fields_of_rate_limits_and_load_are_exposed_by_name() {
        assert_eq!(exposed(&fields(&[("x-ratelimit-1m-limit", "1"), ("x-other", "a")])), EXPOSED_FIELDS);
        let more = exposed(&fields(&[("x-ratelimit-1h-limit", "1"), ("sfdc_load_of_site", "1")]));
        let more: Vec<&str> = more.to_str().unwrap().split(", ").collect();
        assert!(more.contains(&"x-ratelimit-1h-limit") && more.contains(&"sfdc_load_of_site"), "{more:?}");
        assert!(more.contains(&"authorization"), "{more:?}");
    }

    #[test]
    fn vary_keeps_what_the_response_says() {
        let vary = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            vary(&fields(&lines), "Origin, X").map(|vary| vary.to_str().unwrap().to_owned())
        };
        assert_eq!(vary(&[]).as_deref(), Some("Origin, X"));
        assert_eq!(vary(&["Accept-Encoding"]).as_deref(), Some("Accept-Encoding, Origin, X"));
        assert_eq!(vary(&["Accept", "x"]).as_deref(), Some("Accept, x, Origin"));
        assert_eq!(vary(&[""]).as_deref(), Some("Origin, X"));
        assert_eq!(vary(&["X, ORIGIN"]), None);
        assert_eq!(vary(&["*"]), None);
    }
}
