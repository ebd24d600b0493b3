//! The spans of a request: what a trace shows of its way through the gateway.
//!
//! Owns their names and attributes. Where no traces are exported nobody listens to their target, and making one is a look at a
//! flag. Attributes are names of closed sets, numbers and the correlation id: no path, no query, no header.

use tracing::{Span, field::Empty, info_span};

/// The target of spans that are exported; log lines have none of them.
pub const TARGET: &str = "shopper_gateway::trace";

/// A whole request.
#[must_use]
pub fn request(method: &str, correlation_id: &str) -> Span {
    info_span!(
        target: TARGET,
        "request",
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = Empty,
        http.response.status_code = Empty,
        organization = Empty,
        caller = Empty,
        refusal = Empty,
        correlation_id,
    )
}

/// Whether a token is what it says.
#[must_use]
pub fn verify(issuer: &'static str) -> Span {
    info_span!(target: TARGET, "verify", issuer, result = Empty)
}

/// The look for a token that is held already, and the wait for one that is not.
#[must_use]
pub fn cache(kind: &'static str) -> Span {
    info_span!(target: TARGET, "cache", kind, result = Empty)
}

/// One call to SLAS, Account Manager or, for the profile of a login, an API.
#[must_use]
pub fn exchange(service: &'static str, flow: &'static str) -> Span {
    info_span!(target: TARGET, "exchange", otel.kind = "client", service, flow, outcome = Empty)
}

/// Salesforce's part: from the request sent to the answer's head.
#[must_use]
pub fn upstream(request: &Span) -> Span {
    info_span!(
        target: TARGET,
        parent: request,
        "upstream",
        otel.kind = "client",
        http.response.status_code = Empty,
    )
}
