//! The public HTTP server: implements the phases of Pingora's [`ProxyHttp`], in the order in which they run.
//!
//! Only this module writes to clients. The gateway module returns every decision as a value. Errors are written as ordinary
//! responses: Pingora's own error responses have no error code and close the connection.

mod access_log;
mod address_usage;
mod connection;
mod connection_limit;
mod context;
mod error;
mod http10;
mod keep_alive;
mod listener;
mod request_limit;
mod request_phase;
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
use http::{
    Method, StatusCode, Version,
    header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
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
    correlation,
    gateway::{
        error::{GatewayError, TooLargePart},
        headers::{self, HeaderEdits},
        on_behalf_header::GUEST_USID,
        problem, slas,
    },
    observability::metrics::Metrics,
    salesforce::error::is_token_rejection,
    shutdown::RequestTracker,
    time::external_wait,
};

/// Maximum retries of a request that the API reported as not processed.
const MAX_UNPROCESSED_RETRIES: u32 = 2;

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

    /// Whether an incomplete body is slower than `timeouts.client_body` plus the time of its bytes at the minimum rate.
    fn is_body_too_slow(&self, context: &RequestContext) -> bool {
        let Runtime { limits, timeouts, .. } = &*context.runtime;
        let seconds = context.body_bytes / limits.min_body_rate;
        context.elapsed() > timeouts.client_body + Duration::from_secs(seconds as u64)
    }

    /// After a 401 for a token that the gateway injected: gets another token, and returns whether the request is retried with it.
    /// A request is retried once, and only while its whole body is buffered.
    async fn refresh_credential(&self, session: &Session, context: &mut Box<RequestContext>) -> bool {
        let (Some(route), Some(forward)) = (&context.route, &mut context.forward) else { return false };
        if context.has_retried_credential
            || !forward.credential.is_injected()
            || session.as_downstream().retry_buffer_truncated()
        {
            return false;
        }
        let replaced = context.runtime.gateway.retry_after_401(route, &forward.credential);
        let Some(credential) = correlation::scope(context.correlation_id.clone(), replaced).await else { return false };
        forward.credential = credential;
        context.has_retried_credential = true;
        context.should_retry = true;
        true
    }

    /// Counts and logs that no connection to the request's API could be made.
    fn record_connect_failure(&self, context: &mut RequestContext, cause: ConnectFailure) {
        context.connect_failure = Some(cause);
        self.metrics.connect_failures.with_label_values(&["api", cause.label()]).inc();
        if let Some(upstream) = &context.upstream {
            upstream.log_failure(cause);
        }
    }

    /// How long the API may take until the first byte of its response.
    fn response_timeout(&self, context: &RequestContext) -> Duration {
        let operation = context.route.as_ref().and_then(|route| route.operation.as_ref());
        let is_admin = operation.is_some_and(|operation| {
            !operation.security.is_empty() && operation.security.iter().all(|security| security.kind.is_system())
        });
        let timeouts = &context.runtime.timeouts;
        if is_admin { timeouts.upstream_admin } else { timeouts.upstream }
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

/// Whether a request without content must have `Content-Length: 0` (RFC 9110, 8.6). Some servers answer 411 without it.
fn requires_content_length(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
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
        let (answered, waited) = {
            // Pinned here, because passing a future by value doubles its size.
            let admitted = pin!(self.request_phase.run(session, context).instrument(span));
            external_wait::measure(admitted).await
        };
        context.record_request_phase(waited);
        answered
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
        if !end && self.is_body_too_slow(context) {
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
        if let (Some(route), Some(forward)) = (&context.route, &mut context.forward) {
            let seated = context.runtime.gateway.body_complete(route, forward).await;
            if let Err(refusal) = seated {
                context.error = Some(refusal);
                return Error::e_explain(
                    ErrorType::Custom("overloaded"),
                    "the organization's concurrency limit is reached",
                );
            }
        }
        Ok(())
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Box<RequestContext>) -> Result<Box<HttpPeer>> {
        // A retry sends the body from its start.
        context.body_bytes = 0;
        let upstream =
            context.upstream.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no upstream"))?;
        match upstream.peer(self.response_timeout(context)).await {
            Ok(peer) => Ok(peer),
            Err(UnresolvedHost) => {
                context.error = Some(GatewayError::UpstreamUnavailable);
                self.record_connect_failure(context, ConnectFailure::Unresolved);
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
        let upstream =
            context.upstream.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no upstream"))?;
        // This attempt has a connection, so the failure of an earlier one no longer counts.
        context.connect_failure = None;
        let edits =
            headers::request_edits(&session.req_header().headers, upstream.authority(), &context.correlation_id);
        for name in edits.remove {
            request.remove_header(&name);
        }
        for (name, value) in edits.set {
            request.insert_header(name, value)?;
        }
        if let Some(credential) = context.forward.as_ref().map(|forward| &forward.credential) {
            if credential.strips_authorization() {
                request.remove_header(&AUTHORIZATION);
            }
            if let Some(authorization) = credential.authorization() {
                request.insert_header(AUTHORIZATION, authorization)?;
            }
            if let Some((field, proof)) = credential.slas_client_field() {
                request.insert_header(field, proof)?;
            }
        }
        if context.is_body_buffered || is_http10(session) {
            // The body is buffered, or the client is HTTP/1.0: no client waits for a 100 (Continue) (RFC 9110, 10.1.1).
            request.remove_header(&EXPECT);
        }
        if session.as_downstream_mut().is_body_empty() && requires_content_length(&request.method) {
            request.insert_header(CONTENT_LENGTH, 0)?;
        }
        let of_logout = context.forward.as_ref().and_then(|forward| forward.logout.as_ref()?.target.as_deref());
        let own_target = of_logout.or(context.route.as_ref().and_then(|route| route.upstream_target.as_deref()));
        // An origin server gets the path only (RFC 9112, 3.2.1), even if the client sent an absolute URI.
        let head = session.req_header();
        let in_full = !head.raw_path().starts_with(b"/");
        let path = head.uri.path_and_query().filter(|_| in_full).map(PathAndQuery::as_str);
        if let Some(target) = own_target.or(path) {
            request.set_raw_path(target.as_bytes())?;
        }
        let carried = context.record_request_sent(began);
        if !carried.is_empty() {
            // It belongs to the caller's `traceparent`. The headers below restore it together with the new `traceparent` (W3C Trace Context, 3.3).
            request.remove_header("tracestate");
        }
        for (name, value) in carried {
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
        if is_token_rejection(response.status) && self.refresh_credential(session, context).await {
            return Error::e_explain(ErrorType::Custom("token rejected"), "retrying with another token");
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Error::e_explain(
                ErrorType::InvalidHTTPHeader,
                "the API switched protocols without an Upgrade request",
            );
        }
        if !headers::is_framed_once(&response.headers) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the API's response has more than one length");
        }
        let HeaderEdits { remove, set } = headers::response_edits(&response.headers, &context.correlation_id);
        for name in remove {
            response.remove_header(&name);
        }
        for (name, value) in set {
            response.insert_header(name, value)?;
        }
        if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
            // Responses without content must not have framing headers (RFC 9110, 8.6; RFC 9112, 6.1).
            response.remove_header(&CONTENT_LENGTH);
            response.remove_header(&TRANSFER_ENCODING);
        }
        if response.status.is_informational() {
            response.remove_header(&CONNECTION);
            return Ok(());
        }
        if let (Some(route), Some(forward)) = (&context.route, &mut context.forward) {
            let received = Some((response.status, &response.headers));
            context.runtime.gateway.response_received(route, forward, received).await;
        }
        let operation = context.route.as_ref().and_then(|route| route.operation.as_deref());
        if let Some(edits) =
            operation.and_then(|operation| slas::response_edits(operation, response.status, &response.headers))
        {
            context.drops_response_body = edits.drops_body;
            if let Some(status) = edits.status {
                response.set_status(status)?;
                response.set_reason_phrase(None)?;
            }
            for name in edits.header.remove {
                response.remove_header(&name);
            }
            for (name, value) in edits.header.set {
                response.insert_header(name, value)?;
            }
        }
        if let Some(forward) = &context.forward {
            if let Some(authorization) = forward.credential.response_authorization() {
                // The token is for this caller only, so no cache may store the response.
                response.insert_header(AUTHORIZATION, authorization)?;
                response.insert_header(CACHE_CONTROL, "no-store")?;
            }
            if let Some(usid) = forward.credential.guest_usid() {
                // The USID continues the guest session, so no cache may return it to another client.
                response.insert_header(GUEST_USID, usid)?;
                response.insert_header(CACHE_CONTROL, "no-store")?;
            }
        }
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

    /// Decides whether a failed request is retried. An API that rejected the token, or refused the request unread, has not
    /// processed it, so any method may be retried. All other failures are retried for idempotent methods only.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Box<RequestContext>,
        client_reused: bool,
    ) -> Box<Error> {
        let held = !session.as_downstream().retry_buffer_truncated();
        if std::mem::take(&mut context.should_retry) {
            error.set_retry(held);
        } else if error::is_unprocessed(&error) {
            context.unprocessed_retries += 1;
            error.set_retry(held && context.unprocessed_retries <= MAX_UNPROCESSED_RETRIES);
        } else if held && session.req_header().method.is_idempotent() {
            error.retry.decide_reuse(client_reused);
        } else {
            error.set_retry(false);
        }
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
            self.record_connect_failure(context, cause);
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
        let refusal = failure.or_else(|| error::gateway_error(error));
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
        let code = match refusal {
            Some(refusal) if !written => {
                session.set_keepalive(None);
                let reply = problem::response(&refusal);
                let status = reply.status.as_u16();
                match self.request_phase.respond(session, context, reply).await {
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
