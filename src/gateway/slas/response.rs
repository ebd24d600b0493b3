//! Edits of SLAS's responses.
//!
//! `passwordless/login` does not reveal whether an account exists: known and unknown shoppers get the same empty 200 with the same
//! fields, whatever SLAS responds. No cache may store a response with a token.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH},
};

use crate::{
    gateway::{
        headers::{CORRELATION_ID, HeaderEdits},
        policy::Operation,
    },
    salesforce::slas::SHOPPER_UNKNOWN,
};

/// Fields that do not reveal whether a shopper exists: they describe the service.
const SAFE_HEADERS: [&str; 3] = ["date", "vary", "x-correlation-id"];
const SAFE_HEADER_PREFIXES: [&str; 2] = ["x-ratelimit-", "access-control-"];

/// Edits of a response of SLAS.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResponseEdits {
    /// The status to send instead of SLAS's.
    pub status: Option<StatusCode>,
    /// Whether the gateway drops the body.
    pub drops_body: bool,
    /// The edits of the header fields.
    pub header: HeaderEdits,
}

/// Returns the edits of a response, if it is one of SLAS that needs any.
#[must_use]
pub fn response_edits(operation: &Operation, status: StatusCode, headers: &HeaderMap) -> Option<ResponseEdits> {
    if !operation.is_checked_by_slas() {
        return None;
    }
    match (operation.id.as_str(), status) {
        ("authorizePasswordlessCustomer", StatusCode::OK | SHOPPER_UNKNOWN) => Some(uniform(headers)),
        _ if issues_tokens(operation) || operation.id == "finishWebauthnAuthentication" => {
            let no_store = (CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Some(ResponseEdits {
                header: HeaderEdits { remove: Vec::new(), set: vec![no_store] },
                ..ResponseEdits::default()
            })
        }
        _ => None,
    }
}

/// Whether the operation issues tokens.
#[must_use]
pub(super) fn issues_tokens(operation: &Operation) -> bool {
    let issues = matches!(
        operation.id.as_str(),
        "getAccessToken"
            | "getPasswordLessAccessToken"
            | "getSessionBridgeAccessToken"
            | "getTrustedAgentAccessToken"
            | "getTrustedSystemAccessToken"
    );
    issues && operation.is_checked_by_slas()
}

/// Returns the edits for an empty 200 that reveals nothing. The gateway removes all fields and sets the safe ones again in a fixed
/// order, because the order could reveal something too.
fn uniform(headers: &HeaderMap) -> ResponseEdits {
    let remove: Vec<HeaderName> = headers.keys().cloned().collect();
    let mut kept: Vec<&HeaderName> = remove.iter().filter(|name| is_safe(name)).collect();
    kept.sort_unstable_by_key(|name| name.as_str());
    let mut set = vec![(CONTENT_LENGTH, HeaderValue::from_static("0"))];
    set.extend(kept.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))));
    ResponseEdits { status: Some(StatusCode::OK), drops_body: true, header: HeaderEdits { remove, set } }
}

fn is_safe(name: &HeaderName) -> bool {
    let text = name.as_str();
    *name == CORRELATION_ID
        || SAFE_HEADERS.contains(&text)
        || SAFE_HEADER_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}
