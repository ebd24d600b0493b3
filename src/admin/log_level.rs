//! `/log-level`: shows and changes the log level while the gateway runs.
//!
//! The admin listener requires no credentials, so a web page could send requests to it from an operator's browser. This endpoint
//! rejects browsers: their cross-origin requests carry `Origin`, or have no JSON `Content-Type` without a preflight, which is never
//! allowed. The audit log records each change.

use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_TYPE, ORIGIN},
};
use pingora::protocols::http::ServerSession;
use serde::{Deserialize, Serialize};

use super::response::{json_response, respond};
use crate::observability::{
    audit::{AuditContext, AuditLog, AuditRecord, Event},
    log_level::{self, LogLevelError},
};

/// Maximum size of a request body.
const MAX_BODY_BYTES: usize = 1024;

/// Body of a change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelRequest {
    /// The level; `null` restores the level of the start. The field is required, so that a typing error does not reset the level.
    #[serde(deserialize_with = "Option::deserialize")]
    level: Option<String>,
}

#[derive(Serialize)]
struct LevelResponse<'a> {
    level: &'a str,
    at_start: &'a str,
}

/// Shows the level for `GET` and changes it for `PUT`.
pub(super) async fn handle(session: &mut ServerSession, audit: &AuditLog) -> Response<Vec<u8>> {
    match session.req_header().method {
        Method::GET => return current_level(),
        Method::PUT => {}
        _ => return respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"only GET and PUT\n".to_vec()),
    }
    let (result, changed) = set_level(session).await;
    let from = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
    // Operators are not authenticated here; only their address is known.
    let who = from.map_or_else(|| "operator".to_owned(), |from| format!("operator at {from}"));
    let record = AuditRecord { event: Some(Event::Admin), actor: Some(who), ..AuditRecord::default() };
    let operation = changed.map_or_else(|| "log-level".to_owned(), |level| format!("log-level={level}"));
    let word = if result.is_ok() { "ok" } else { "refused" };
    let context = AuditContext { organization: "none", site: None, operation: &operation, correlation_id: "none" };
    audit.write(&record, context, word);
    match result {
        Ok(()) => current_level(),
        Err((status, message)) => respond(status, "text/plain", message.as_bytes().to_vec()),
    }
}

fn current_level() -> Response<Vec<u8>> {
    match log_level::current() {
        Some((level, at_start)) => json_response(StatusCode::OK, &LevelResponse { level: &level, at_start }),
        None => respond(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            b"the log level cannot be changed in this process\n".to_vec(),
        ),
    }
}

type ChangeResult = Result<(), (StatusCode, &'static str)>;

async fn set_level(session: &mut ServerSession) -> (ChangeResult, Option<String>) {
    if let Err(refused) = check_not_browser(&session.req_header().headers) {
        return (Err(refused), None);
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = session.read_request_body().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY_BYTES {
            return (Err((StatusCode::PAYLOAD_TOO_LARGE, "too large\n")), None);
        }
    }
    let Ok(request) = serde_json::from_slice::<LevelRequest>(&body) else {
        return (
            Err((
                StatusCode::BAD_REQUEST,
                "expected e.g. {\"level\": \"debug\"}; null restores the level of the start\n",
            )),
            None,
        );
    };
    match log_level::set(request.level.as_deref()) {
        Ok(level) => {
            tracing::warn!(level, "log level changed");
            (Ok(()), Some(level))
        }
        Err(LogLevelError::Invalid) => (
            Err((
                StatusCode::BAD_REQUEST,
                "level: expected off, error, warn, info, debug or trace, alone or as target=level, separated by commas\n",
            )),
            None,
        ),
        Err(LogLevelError::NotInstalled) => {
            (Err((StatusCode::SERVICE_UNAVAILABLE, "the log level cannot be changed in this process\n")), None)
        }
    }
}

/// Rejects requests that a browser may have sent for a web page.
fn check_not_browser(headers: &HeaderMap) -> ChangeResult {
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err((StatusCode::FORBIDDEN, "requests from browsers are not allowed\n"));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json\n"))
    }
}
