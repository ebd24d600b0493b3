//! Responses to HTTP/1.0 clients, which support neither chunked encoding nor informational responses (RFC 9112, 6.1; RFC 9110,
//! 15.2).

use std::{any::Any, fmt};

use async_trait::async_trait;
use http::{
    Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use pingora::{
    Result,
    http::ResponseHeader,
    modules::http::{HttpModule, HttpModuleBuilder, HttpModules, Module},
    proxy::Session,
};

/// Whether a request uses HTTP/1.0.
pub(super) fn is_http10(session: &Session) -> bool {
    session.req_header().version == Version::HTTP_10
}

/// Adapts the responses to HTTP/1.0 requests.
pub(super) struct Http10(HttpModules);

impl Http10 {
    pub(super) fn new() -> Self {
        let mut modules = HttpModules::new();
        modules.add_module(Box::new(RemoveChunkedEncodingBuilder));
        Self(modules)
    }

    /// Removes chunked encoding and informational responses from the request's response.
    pub(super) fn apply(&self, session: &mut Session) {
        session.as_downstream_mut().set_ignore_info_resp(true);
        session.downstream_modules_ctx = self.0.build_ctx();
    }
}

impl fmt::Debug for Http10 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Http10")
    }
}

struct RemoveChunkedEncodingBuilder;

impl HttpModuleBuilder for RemoveChunkedEncodingBuilder {
    fn init(&self) -> Module {
        Box::new(RemoveChunkedEncoding)
    }
}

/// Reverts Pingora's choice of chunked encoding for responses without a length. Only a module runs after that choice.
struct RemoveChunkedEncoding;

#[async_trait]
impl HttpModule for RemoveChunkedEncoding {
    async fn response_header_filter(&mut self, response: &mut ResponseHeader, _end: bool) -> Result<()> {
        if !response.headers.contains_key(CONTENT_LENGTH) {
            response.remove_header(&TRANSFER_ENCODING);
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
