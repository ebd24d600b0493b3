//! Constructors of the spans of a request.
//!
//! Without an exporter the spans are disabled, and a constructor costs one check of a flag. Attributes are names of closed sets,
//! numbers and the correlation id. They never contain a path, a query or a header.

use tracing::{Span, field::Empty, info_span};

/// The target of exported spans. No log line uses it.
pub const TARGET: &str = "shopper_gateway::trace";

/// Creates the span of a whole request.
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

/// Creates the span of a token verification.
#[must_use]
pub fn verify(issuer: &'static str) -> Span {
    info_span!(target: TARGET, "verify", issuer, result = Empty)
}

/// Creates the span of a lookup of a held token, including the wait for a new one.
#[must_use]
pub fn cache(kind: &'static str) -> Span {
    info_span!(target: TARGET, "cache", kind, result = Empty)
}

/// Creates the span of one call to SLAS, Account Manager or, for the profile of a login, an API.
#[must_use]
pub fn exchange(service: &'static str, flow: &'static str) -> Span {
    info_span!(target: TARGET, "exchange", otel.kind = "client", service, flow, outcome = Empty)
}

/// Creates the span of the upstream request: from the request sent to the head of the response.
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
