//! What is kept from a caller of SLAS's answers, and from caches.
//!
//! Owns that nobody learns from `passwordless/login` who is a shopper: known and unknown are answered
//! alike, by an empty 200 with the same fields, whatever SLAS said. And that no answer with a token is
//! stored on its way.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH},
};

use super::is_slas_own;
use crate::{
    gateway::{
        headers::{CORRELATION_ID, HeaderEdits},
        policy::Operation,
    },
    salesforce::slas::SHOPPER_UNKNOWN,
};

/// Fields that SLAS's answer to a known and to an unknown shopper may keep: they tell of the service.
const TELLS_NOTHING: [&str; 3] = ["date", "vary", "x-correlation-id"];
const TELLS_NOTHING_PREFIXES: [&str; 2] = ["x-ratelimit-", "access-control-"];

/// Changes to an answer of SLAS.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AnswerEdits {
    /// The status in place of SLAS's.
    pub status: Option<StatusCode>,
    /// Whether the body stays here.
    pub drops_body: bool,
    /// The edits of the header.
    pub header: HeaderEdits,
}

/// The changes to an answer, if it is one of SLAS that needs any.
#[must_use]
pub fn answer_edits(operation: &Operation, status: StatusCode, headers: &HeaderMap) -> Option<AnswerEdits> {
    if !is_slas_own(operation) {
        return None;
    }
    match (operation.id.as_str(), status) {
        ("authorizePasswordlessCustomer", StatusCode::OK | SHOPPER_UNKNOWN) => Some(alike(headers)),
        _ if gives_tokens(operation) => {
            let no_store = (CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Some(AnswerEdits {
                header: HeaderEdits { remove: Vec::new(), set: vec![no_store] },
                ..AnswerEdits::default()
            })
        }
        _ => None,
    }
}

/// Whether an operation of SLAS answers with tokens.
#[must_use]
pub(super) fn gives_tokens(operation: &Operation) -> bool {
    let gives = matches!(
        operation.id.as_str(),
        "getAccessToken"
            | "getPasswordLessAccessToken"
            | "getSessionBridgeAccessToken"
            | "getTrustedAgentAccessToken"
            | "getTrustedSystemAccessToken"
    );
    gives && is_slas_own(operation)
}

/// The empty 200 that says nothing, by the order of its fields neither: all are taken out, and those that
/// may stay set anew.
fn alike(headers: &HeaderMap) -> AnswerEdits {
    let remove: Vec<HeaderName> = headers.keys().cloned().collect();
    let mut kept: Vec<&HeaderName> = remove.iter().filter(|name| tells_nothing(name)).collect();
    kept.sort_unstable_by_key(|name| name.as_str());
    let mut set = vec![(CONTENT_LENGTH, HeaderValue::from_static("0"))];
    set.extend(kept.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))));
    AnswerEdits { status: Some(StatusCode::OK), drops_body: true, header: HeaderEdits { remove, set } }
}

fn tells_nothing(name: &HeaderName) -> bool {
    let text = name.as_str();
    *name == CORRELATION_ID
        || TELLS_NOTHING.contains(&text)
        || TELLS_NOTHING_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}
