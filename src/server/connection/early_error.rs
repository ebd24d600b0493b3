//! Answers to what never became a request of ours.
//!
//! The library refuses by itself what is not HTTP/1.1, and CONNECT, and closes. Its answers say
//! nothing; these say the same as every other refusal, with a correlation id that stands in the log.

use http::{HeaderName, HeaderValue, header::DATE};
use pingora::protocols::http::date::get_cached_date;

use crate::{
    correlation,
    gateway::{error::GatewayError, headers::CORRELATION_ID, problem::LocalResponse},
    observability::metrics::Metrics,
    server::context,
};

/// What the library means by its own answer.
pub(super) fn error_for(library_response: &[u8]) -> GatewayError {
    let is_connect = library_response.get(9..12) == Some(b"405");
    let why = if is_connect {
        "The method is none that an operation has."
    } else {
        "The request's head is not HTTP as the standard writes it."
    };
    GatewayError::RequestInvalid(why.to_owned())
}

/// The whole answer that goes out, the connection's last.
pub(super) fn response(refusal: &GatewayError, metrics: &Metrics) -> Vec<u8> {
    let reply = LocalResponse::refusal(refusal);
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
