//! Error responses to input that never becomes a request.
//!
//! Pingora itself rejects malformed HTTP/1.1 heads and CONNECT, with an empty response, and closes the connection. This module
//! replaces that response by a problem document like every other error, with a correlation id that the access log has too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, header::DATE};
use pingora::protocols::http::date::get_cached_date;
use tokio::io::AsyncWrite;

use super::read_ahead::ClientStream;
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

/// The last response of its connection, in HTTP/1.1.
pub(super) struct EarlyResponse {
    bytes: Vec<u8>,
    written: usize,
}

impl EarlyResponse {
    /// Composes the response. Counts and logs the error.
    pub(super) fn new(error: &GatewayError, metrics: &Metrics) -> Self {
        let response = problem::response(error);
        let correlation_id = correlation::new();
        metrics.refusals.with_label_values(&[response.code.unwrap_or_default()]).inc();
        context::record_early_error(response.status, response.code, &correlation_id, metrics);
        let status = response.status.as_str();
        let reason = response.status.canonical_reason().unwrap_or_default();
        let length = response.body.len();
        let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nConnection: close\r\n");
        let mut bytes = head.into_bytes();
        let mut field = |name: &HeaderName, value: &HeaderValue| {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        };
        for (name, value) in &response.headers {
            field(name, value);
        }
        field(&DATE, &get_cached_date());
        field(&CORRELATION_ID, &correlation_id);
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&response.body);
        Self { bytes, written: 0 }
    }

    /// Writes the rest of the response.
    pub(super) fn poll_write(&mut self, io: &mut ClientStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *io).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}
