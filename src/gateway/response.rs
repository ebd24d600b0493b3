//! A response that the gateway makes itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};

/// A complete response. The server adds `Content-Length` and `correlation-id`.
#[derive(Debug, Clone)]
pub struct LocalResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The stable error code, if the response reports an error of the gateway.
    pub code: Option<&'static str>,
    /// The reason for logs and metrics. The client does not see it.
    pub reason: Option<&'static str>,
}

impl LocalResponse {
    /// A response with a JSON body.
    #[must_use]
    pub fn json(status: StatusCode, body: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { status, headers, body, code: None, reason: None }
    }

    /// A response without a body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), code: None, reason: None }
    }
}
