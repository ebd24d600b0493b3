//! Error responses to input that never becomes a request.
//!
//! Pingora itself rejects malformed HTTP/1.1 heads and CONNECT, with an empty response, and closes the connection. This module
//! replaces that response by a problem document like every other error, with a correlation id that the access log has too.

use http::{HeaderName, HeaderValue, header::DATE};
use pingora::protocols::http::date::get_cached_date;

use crate::{
    correlation,
    gateway::{error::GatewayError, headers::CORRELATION_ID, problem},
    observability::metrics::Metrics,
    server::context,
};

/// The error that Pingora's own response stands for.
pub(super) fn error_for(library_response: &[u8]) -> GatewayError {
    let is_connect = library_response.get(9..12) == Some(b"405");
    let why = if is_connect { "Unsupported HTTP method." } else { "The request's head is not valid HTTP." };
    GatewayError::RequestInvalid(why.to_owned())
}

/// The whole response in HTTP/1.1, the last one of its connection. Counts and logs the error.
pub(super) fn response(refusal: &GatewayError, metrics: &Metrics) -> Vec<u8> {
    let reply = problem::response(refusal);
    let correlation_id = correlation::new();
    metrics.refusals.with_label_values(&[reply.code.unwrap_or_default()]).inc();
    context::record_early_error(reply.status, reply.code, &correlation_id, metrics);
    let status = reply.status.as_str();
    let reason = reply.status.canonical_reason().unwrap_or_default();
    let length = reply.body.len();
    let mut answer =
        format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nConnection: close\r\n").into_bytes();
    let mut field = |name: &HeaderName, value: &HeaderValue| {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    };
    for (name, value) in &reply.headers {
        field(name, value);
    }
    field(&DATE, &get_cached_date());
    field(&CORRELATION_ID, &correlation_id);
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&reply.body);
    answer
}
