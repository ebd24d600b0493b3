//! The public HTTP server: implements the phases of Pingora's [`ProxyHttp`], in the order in which they run.
//!
//! Only this module writes to clients. The gateway module returns every decision as a value, and the modules below do the work
//! of a phase. Errors are written as ordinary
//! responses: Pingora's own error responses have no error code and close the connection.

mod access_log;
mod address_usage;
mod connection;
mod connection_limit;
mod context;
mod error;
mod header_edits;
mod http10;
mod keep_alive;
mod listener;
mod request_limit;
mod request_phase;
mod retry;
mod runtime;
pub mod tls;
mod upstream;
mod workers;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version, header::CONTENT_LENGTH};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    proxy::{FailToProxy, ProxyHttp, Session},
    upstreams::peer::{HttpPeer, Peer as _},
};
use tracing::Instrument;

pub use self::{
    access_log::AccessLog,
    context::RequestContext,
    keep_alive::ConnectionServer,
    listener::{Acceptor, http2_options},
    runtime::Runtime,
    upstream::{UnresolvedHost, Upstream, UpstreamError},
    workers::Workers,
};
use self::{
    connection::ConnectionState,
    http10::{Http10, is_http10},
    request_phase::RequestPhase,
};
use crate::{
    connect_failure::ConnectFailure,
    gateway::{
        cors::ResponseSource,
        error::{GatewayError, TooLargePart},
        headers::is_framed_once,
        problem,
    },
    observability::metrics::Metrics,
    salesforce::error::is_token_rejection,
    shutdown::RequestTracker,
    time::external_wait,
};

/// The proxy in front of every organization's API.
#[derive(Debug)]
pub struct Proxy {
    runtime: Arc<ArcSwap<Runtime>>,
    metrics: Arc<Metrics>,
    in_flight: Arc<RequestTracker>,
    request_phase: RequestPhase,
    http10: Http10,
}

impl Proxy {
    /// Creates a proxy. Each request uses the runtime that is current when the request starts.
    #[must_use]
    pub fn new(runtime: Arc<ArcSwap<Runtime>>, metrics: Arc<Metrics>, in_flight: Arc<RequestTracker>) -> Self {
        let request_phase = RequestPhase::new(Arc::clone(&metrics), Arc::clone(&in_flight));
        Self { runtime, metrics, in_flight, request_phase, http10: Http10::new() }
    }
}

/// Closes an HTTP/1.1 connection whose client may still be sending a body. Without this, Pingora resets the connection, and the
/// client loses the response.
async fn close_gracefully(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    if downstream.as_http1().is_some() && !downstream.is_body_done() {
        external_wait::track(downstream.shutdown()).await;
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    /// Boxed, because Pingora moves the context about ten times per request.
    type CTX = Box<RequestContext>;

    fn new_ctx(&self) -> Box<RequestContext> {
        self.in_flight.enter();
        Box::new(RequestContext::new(self.runtime.load_full()))
    }

    /// Installs no module of Pingora. HTTP/1.0 has one of its own, and compression is negotiated between Salesforce and the client.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut Box<RequestContext>) -> Result<()> {
        if let Some(deadline) = ConnectionState::head_deadline(session.as_downstream()) {
            deadline.complete_head();
        }
        context.start(session.req_header());
        // Pingora has switched keep-alive off where the framing is doubtful; that stays.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(context.runtime.timeouts.idle.as_secs().max(1)));
        }
        // A client that closes its half of the connection may still read the response (RFC 9112, 9.6).
        session.as_downstream_mut().set_abort_on_close(false);
        if is_http10(session) {
            self.http10.apply(session);
        }
        session.set_read_timeout(Some(context.runtime.timeouts.client_body));
        session.set_write_timeout(Some(context.runtime.timeouts.client_write));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Box<RequestContext>) -> Result<bool> {
        let span = context.span.clone();
        let (has_response, waited) = {
            // Pinned here, because passing a future by value doubles its size.
            let phase = pin!(self.request_phase.run(session, context).instrument(span));
            external_wait::measure(phase).await
        };
        context.record_request_phase(waited);
        has_response
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        context.body_bytes += body.as_ref().map_or(0, Bytes::len);
        if context.route.as_ref().is_some_and(|route| context.body_bytes > route.body_limit) {
            context.error = Some(GatewayError::TooLarge(TooLargePart::Body));
            return Error::e_explain(
                ErrorType::Custom("body too large"),
                "the body is larger than the operation allows",
            );
        }
        if !end && context.is_body_too_slow() {
            context.error = Some(GatewayError::RequestInvalid("The request's body did not arrive in time.".into()));
            return Error::e_explain(ErrorType::Custom("body too slow"), "the body arrives too slowly");
        }
        context.record_body(end)?;
        if !end {
            return Ok(());
        }
        if body.as_ref().is_some_and(Bytes::is_empty) {
            // An HTTP/2 body may end in an empty frame. Pingora would write it to an HTTP/1.1 upstream as a last chunk, followed by
            // its own last chunk, which the upstream would read as the start of the next request.
            *body = None;
        }
        context.record_body_sent();
        if let (Some(route), Some(forward)) = (&context.route, &mut context.forward)
            && let Err(error) = context.runtime.gateway.body_complete(route, forward).await
        {
            context.error = Some(error);
            let explanation = "the organization's concurrency limit is reached";
            return Error::e_explain(ErrorType::Custom("overloaded"), explanation);
        }
        Ok(())
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Box<RequestContext>) -> Result<Box<HttpPeer>> {
        // A retry sends the body from its start.
        context.body_bytes = 0;
        match context.upstream()?.peer(context.response_timeout()).await {
            Ok(peer) => Ok(peer),
            Err(UnresolvedHost) => {
                context.error = Some(GatewayError::UpstreamUnavailable);
                context.record_connect_failure(ConnectFailure::Unresolved, &self.metrics);
                Error::e_explain(ErrorType::ConnectError, "host name not resolved")
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        let began = Instant::now();
        // This attempt has a connection, so the failure of an earlier one no longer counts.
        context.connect_failure = None;
        header_edits::edit_request(session, request, context)?;
        let trace_headers = context.record_request_sent(began);
        if !trace_headers.is_empty() {
            // The caller's `tracestate` belongs to its `traceparent`, which the headers below replace together (W3C Trace Context, 3.3).
            request.remove_header("tracestate");
        }
        for (name, value) in trace_headers {
            request.insert_header(name, value)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        let began = Instant::now();
        if is_token_rejection(response.status) && retry::refresh_credential(session, context).await {
            return Error::e_explain(ErrorType::Custom("token rejected"), "retrying with another token");
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Error::e_explain(
                ErrorType::InvalidHTTPHeader,
                "the API switched protocols without an Upgrade request",
            );
        }
        if !is_framed_once(&response.headers) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the API's response has more than one length");
        }
        header_edits::edit_response(response, &context.correlation_id)?;
        if response.status.is_informational() {
            return Ok(());
        }
        if let (Some(route), Some(forward)) = (&context.route, &mut context.forward) {
            let received = Some((response.status, &response.headers));
            context.runtime.gateway.response_received(route, forward, received).await;
        }
        header_edits::edit_final_response(response, context)?;
        header_edits::edit_cors(session, response, context, ResponseSource::Upstream)?;
        context.status = Some(response.status);
        context.record_response(began, &self.metrics);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Box<RequestContext>,
    ) -> Result<Option<Duration>> {
        if context.drops_response_body {
            *body = None;
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _context: &mut Box<RequestContext>,
    ) -> Result<()> {
        // The version is the gateway's, not the API's (RFC 9110, 6.2).
        response.set_version(Version::HTTP_11);
        if is_http10(session) && !response.headers.contains_key(CONTENT_LENGTH) {
            // Without chunked encoding, the response ends when the connection closes (RFC 9112, 6.3).
            session.set_keepalive(None);
        }
        self.request_phase.close_after_response_if_needed(session);
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Box<RequestContext>,
        client_reused: bool,
    ) -> Box<Error> {
        retry::decide(&mut error, session, context, client_reused);
        error
    }

    /// Retries with the API's next address. No byte of the request has been sent, so any method may be retried.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        context: &mut Box<RequestContext>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(cause) = error::connect_failure(&error) {
            context.record_connect_failure(cause, &self.metrics);
        }
        let address = peer.address().as_inet().copied();
        if let (Some(upstream), Some(address)) = (&context.upstream, address) {
            error.set_retry(upstream.mark_unreachable(address));
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Box<RequestContext>,
    ) -> FailToProxy {
        let written = session.response_written().is_some();
        let is_malformed =
            ConnectionState::of(session.as_downstream()).is_some_and(|client| client.is_body_malformed());
        let failure = if is_malformed { Some(request_phase::malformed_body_error()) } else { context.error.take() };
        let response_error = failure.or_else(|| error::gateway_error(error));
        context.abort_cause = Some(error.etype().as_str().to_owned());
        // A client that disconnects does not get its login attempt back.
        if *error.esource() != ErrorSource::Downstream
            && let (Some(route), Some(forward)) = (&context.route, &mut context.forward)
        {
            context.runtime.gateway.response_received(route, forward, None).await;
        }
        if written {
            self.metrics.response_aborts.with_label_values(&[error::abort_side(error)]).inc();
        }
        let code = match response_error {
            Some(response_error) if !written => {
                session.set_keepalive(None);
                let response = problem::response(&response_error);
                let status = response.status.as_u16();
                match self.request_phase.respond(session, context, response).await {
                    Ok(_) => {
                        close_gracefully(session).await;
                        status
                    }
                    Err(_) => 0,
                }
            }
            _ => 0,
        };
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Box<RequestContext>) {
        if let (Some(route), Some(line)) =
            (&context.route, context.forward.as_ref().and_then(|forward| forward.audit.as_ref()))
        {
            line.write(route, context.correlation_text(), context.code, context.status);
        }
        context.finish(session.req_header(), &self.metrics);
        // Last, so that a drain also waits for the audit and log lines.
        self.in_flight.leave();
    }

    /// Suppresses Pingora's error lines: the access log has failures without path, query and headers.
    fn suppress_error_log(&self, _session: &Session, _context: &Box<RequestContext>, _error: &Error) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, context: &Box<RequestContext>) -> String {
        context.summary()
    }
}
