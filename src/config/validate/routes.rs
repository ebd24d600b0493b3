//! Validates `[[routes]]`.
//!
//! Conflicts with other routes and with Salesforce's operations are not checked here: the policy table does that.

use http::Method;

use super::table::Table;
use crate::config::{PartialRoute, Route, file};

const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

pub(super) fn routes(raw: Vec<file::Route>, root: &mut Table<'_>) -> Vec<PartialRoute> {
    raw.into_iter()
        .enumerate()
        .map(|(position, raw)| route(raw, &mut root.table(&format!("routes[{position}]"))))
        .collect()
}

fn route(raw: file::Route, table: &mut Table<'_>) -> PartialRoute {
    let name = raw.name.filter(|name| is_operation_name(name));
    if name.is_none() {
        table.error("name", "expected {api}.{operation}, e.g. loyalty.getPoints");
    }
    let method = METHODS.into_iter().find(|method| raw.method.as_deref() == Some(method.as_str()));
    if method.is_none() {
        table.error("method", "expected GET, HEAD, POST, PUT, PATCH or DELETE");
    }
    let path = raw.path.unwrap_or_default();
    if let Some(message) = path_error(&path) {
        let example = "/custom/loyalty/v1/organizations/{organizationId}/points/{id}";
        table.error("path", format!("{message}; expected e.g. {example}"));
    }
    let scopes = table.scopes("scopes", raw.scopes.unwrap_or_default());
    let complete = || Some(Route { name: name.clone()?, method: method?, path, security: raw.security?, scopes });
    PartialRoute { complete: complete().filter(|_| table.is_valid()), name }
}

/// Whether a name has the form of Salesforce's operation names: `{api}.{operation}`.
fn is_operation_name(name: &str) -> bool {
    let Some((api, operation)) = name.split_once('.') else { return false };
    let api_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let operation_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=60).contains(&api.len())
        && (1..=100).contains(&operation.len())
        && api.bytes().all(api_byte)
        && operation.bytes().all(operation_byte)
}

/// Why a text is no valid path template.
fn path_error(path: &str) -> Option<&'static str> {
    let Some(rest) = path.strip_prefix('/') else { return Some("must begin with /") };
    let segments: Vec<&str> = rest.split('/').collect();
    let literal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let mut parameters: Vec<&str> = Vec::new();
    for segment in segments {
        if let Some(parameter) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            if parameter.is_empty() || !parameter.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Some("a parameter is {name}, with letters, digits and underscores");
            }
            if parameters.contains(&parameter) {
                return Some("a parameter occurs twice");
            }
            parameters.push(parameter);
        } else if matches!(segment, "" | "." | "..") {
            return Some("must not have empty or dot segments");
        } else if !segment.bytes().all(literal) {
            return Some("a segment is a {parameter}, or has letters, digits and -._~");
        }
    }
    if !parameters.contains(&"organizationId") {
        return Some("must contain {organizationId} as a segment");
    }
    RESERVED_PATHS.iter().find_map(|(prefix, message)| may_match(path, prefix).then_some(*message))
}

/// Path prefixes at which only SLAS operations are served, each with the error for a template that matches there.
const RESERVED_PATHS: [(&[&str], &str); 2] = [
    (&["shopper", "auth"], "must not match paths below /shopper/auth, which belong to SLAS, not even with a parameter"),
    (
        &["mobify", "slas", "private"],
        "must not match paths below /mobify/slas/private, which belong to SLAS, not even with a parameter",
    ),
];

/// Whether a template can match paths below a prefix: with a literal in any case, or with a parameter. `{organizationId}` never
/// matches, because no organization id is one of these words.
fn may_match(path: &str, prefix: &[&str]) -> bool {
    let mut segments = path.split('/').skip(1);
    prefix.iter().all(|word| {
        segments.next().is_some_and(|segment| {
            segment.eq_ignore_ascii_case(word) || (segment.starts_with('{') && segment != "{organizationId}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_name_without_two_valid_parts_is_rejected() {
        for name in ["loyalty.getPoints", "shopper-baskets-v2.createBasket", "a.b_c-D"] {
            assert!(is_operation_name(name), "{name}");
        }
        for name in ["", "loyalty", ".x", "x.", "a.b.c", "Loyalty.x", "a.b*", "a b.c"] {
            assert!(!is_operation_name(name), "{name}");
        }
    }

    #[test]
    fn path_template_that_is_ambiguous_or_below_slas_is_rejected() {
        assert_eq!(path_error("/custom/loyalty/v1/organizations/{organizationId}/points/{id}"), None);
        assert_eq!(path_error("/{organizationId}"), None);
        for path in [
            "/shopper/{organizationId}",
            "/shopper/loyalty/{organizationId}",
            "/{organizationId}/{a}/{b}",
            "/mobify/{organizationId}",
            "/mobify/slas/{organizationId}/private",
            "/mobify/proxy/api/{organizationId}",
        ] {
            assert_eq!(path_error(path), None, "{path}");
        }
        for path in [
            "",
            "/",
            "custom/{organizationId}",
            "/custom",
            "//{organizationId}",
            "/../{organizationId}",
            "/{organizationId}/",
            "/x{organizationId}",
            "/{organizationId}/{}",
            "/{organizationId}/{organizationId}",
            "/{organizationId}/a%2Fb",
            "/{organizationId}?x",
            "/{organizationId}/a;b",
            "/{organizationId}/{a/b}",
            "/{organizationId}/\u{e9}",
            "/shopper/auth/{organizationId}",
            "/Shopper/AUTH/v1/organizations/{organizationId}/oauth2/token",
            "/{family}/{api}/v1/organizations/{organizationId}/oauth2/{what}",
            "/shopper/{api}/v1/organizations/{organizationId}",
            "/{family}/auth/v1/organizations/{organizationId}",
            "/mobify/slas/private/{organizationId}",
            "/Mobify/SLAS/Private/shopper/auth/v1/organizations/{organizationId}/oauth2/token",
            "/mobify/{service}/private/custom/{organizationId}",
            "/{a}/{b}/{c}/{organizationId}",
        ] {
            assert!(path_error(path).is_some(), "{path}");
        }
    }
}
