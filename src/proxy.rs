//! The edge: one short method for each phase of a request, in the order in which they run.
//!
//! Owns the connection to the client: it alone writes to it. Every decision is the gate's and comes as
//! a value. Refusals are written as ordinary answers, because the library's own error answers
//! would close the caller's connection and say nothing of use.

mod connection;
mod context;
mod entrance;
mod listener;
mod places;
pub mod tls;
mod upstream;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{
    Method, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, EXPECT},
    request::Parts,
    uri::PathAndQuery,
};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    proxy::{FailToProxy, ProxyHttp, Session},
    upstreams::peer::{HttpPeer, Peer as _},
};

use self::connection::HeadClock;
pub use self::{
    context::Context,
    entrance::Entrance,
    listener::{Reception, http2_options},
    upstream::{Unresolved, Upstream, UpstreamError},
};
use crate::{
    gate::{
        Asked, Decision, Gate, Route, admission,
        caller::certificate::PeerCertificate,
        forward::{self, CORRELATION_ID, HeaderEdits},
        operations::SecurityKind,
        refusal::{LargePart, Refusal},
        reply::Reply,
    },
    in_flight::InFlight,
    metrics::Metrics,
    names::OrganizationId,
    salesforce::exchange,
    settings::Timeouts,
};

/// Largest body of a deprecated login that is read: it is one short JSON object.
const MAX_LOGIN_BODY_BYTES: usize = 16 * 1024;
/// How long a refused request's body is read and thrown away, so that the caller can read the answer.
const DRAIN_REFUSED: Duration = Duration::from_secs(2);

/// The proxy in front of every organization's API.
#[derive(Debug)]
pub struct Proxy {
    gate: Arc<Gate>,
    upstreams: HashMap<OrganizationId, Arc<Upstream>>,
    timeouts: Timeouts,
    metrics: Arc<Metrics>,
    in_flight: Arc<InFlight>,
}

impl Proxy {
    /// A proxy that asks `gate` and sends to `upstreams`, one for each of the gate's organizations.
    #[must_use]
    pub fn new(
        gate: Arc<Gate>,
        upstreams: HashMap<OrganizationId, Arc<Upstream>>,
        timeouts: Timeouts,
        in_flight: Arc<InFlight>,
    ) -> Self {
        let metrics = Arc::clone(&gate.metrics);
        Self { gate, upstreams, timeouts, metrics, in_flight }
    }

    /// Decides a request and answers it if it stays here. `Ok(true)` when it has been answered.
    async fn admit(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let route = match admit_bytes(session).and_then(|()| self.gate.route(head(session))) {
            Ok(route) => context.route.insert(route),
            Err(refusal) => {
                if matches!(refusal, Refusal::Ambiguous(_) | Refusal::RequestInvalid(_)) {
                    // Whatever follows on this connection may be the rest of something else.
                    session.set_keepalive(None);
                }
                return self.refuse(session, context, &refusal).await;
            }
        };
        let body_limit = route.body_limit;
        if declared_length(session).is_some_and(|length| length > body_limit) {
            return self.refuse(session, context, &Refusal::TooLarge(LargePart::Body)).await;
        }
        let body = if context.route.as_ref().is_some_and(Route::wants_body) {
            match self.read_body(session).await? {
                Ok(body) => Some(body),
                Err(refusal) => return self.refuse(session, context, &refusal).await,
            }
        } else {
            None
        };
        let Some(route) = &context.route else { return Ok(false) };
        let digest = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let certificate = digest.and_then(|digest| digest.extension.get::<PeerCertificate>());
        let address = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let asked =
            Asked { head: head(session), body, correlation_id: context.correlation_text(), certificate, address };
        let decision = self.gate.decide(route, &asked).await;
        match decision {
            Decision::Forward(decided) => {
                context.upstream = self.upstreams.get(&route.organization).map(Arc::clone);
                if let Some(refusal) = &decided.reported {
                    self.count_refusal(context, refusal, true);
                }
                context.forward = Some(decided);
                Ok(false)
            }
            Decision::Answer(reply) => {
                context.exchanged();
                self.answer(session, context, reply).await
            }
        }
    }

    /// Reads the whole body of a request that the gateway answers itself.
    async fn read_body(&self, session: &mut Session) -> Result<Result<Bytes, Refusal>> {
        if session.req_header().headers.contains_key(EXPECT) {
            session.as_downstream_mut().write_continue_response().await?;
        }
        let mut body = BytesMut::new();
        let read = async {
            while let Some(chunk) = session.as_downstream_mut().read_request_body().await? {
                if body.len() + chunk.len() > MAX_LOGIN_BODY_BYTES {
                    return Ok(Err(Refusal::TooLarge(LargePart::Body)));
                }
                body.extend_from_slice(&chunk);
            }
            Ok::<_, Box<Error>>(Ok(()))
        };
        match tokio::time::timeout(self.timeouts.client_body, read).await {
            Ok(Ok(result)) => Ok(result.map(|()| body.freeze())),
            Ok(Err(_)) => {
                session.set_keepalive(None);
                Ok(Err(Refusal::RequestInvalid("The request's body broke off or is not HTTP.".into())))
            }
            Err(_) => Ok(Err(Refusal::RequestInvalid("The request's body did not arrive in time.".into()))),
        }
    }

    async fn refuse(&self, session: &mut Session, context: &mut Context, refusal: &Refusal) -> Result<bool> {
        self.answer(session, context, Reply::refusal(refusal)).await
    }

    /// Writes an answer of the gateway's own.
    async fn answer(&self, session: &mut Session, context: &mut Context, reply: Reply) -> Result<bool> {
        if let Some(code) = reply.code {
            self.metrics.refusals.with_label_values(&[code]).inc();
            context.code = Some(code);
        }
        context.status = Some(reply.status);
        // HEAD's answer says how long GET's would be, and has no body (RFC 9110, 9.3.2).
        let without_body = session.req_header().method == Method::HEAD || reply.status == StatusCode::NO_CONTENT;
        let mut header = ResponseHeader::build(reply.status, Some(reply.headers.len() + 2))?;
        let mut last_name = None;
        for (name, value) in reply.headers {
            last_name = name.or(last_name);
            if let Some(name) = last_name.clone() {
                header.append_header(name, value)?;
            }
        }
        if reply.status != StatusCode::NO_CONTENT {
            header.insert_header(CONTENT_LENGTH, reply.body.len())?;
        }
        header.insert_header(CORRELATION_ID, context.correlation_id.clone())?;
        // Let the caller send the rest of a refused body, for a moment, and keep its connection.
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(false);
        session.as_downstream_mut().set_total_drain_timeout(Some(DRAIN_REFUSED));
        self.close_if_draining(session);
        session.write_response_header(Box::new(header), without_body).await?;
        if !without_body {
            session.write_response_body(Some(reply.body), true).await?;
        }
        Ok(true)
    }

    fn count_refusal(&self, context: &mut Context, refusal: &Refusal, reported: bool) {
        let code = crate::gate::reply::code(refusal);
        self.metrics.refusals.with_label_values(&[code]).inc();
        context.code = Some(code);
        context.reported = reported;
    }

    fn close_if_draining(&self, session: &mut Session) {
        if self.in_flight.is_draining() {
            session.set_keepalive(None);
        }
    }

    /// Whether a body that is not all here yet has had its time, and that of its bytes at the least rate.
    fn body_takes_too_long(&self, context: &Context) -> bool {
        let seconds = context.body_bytes / self.gate.limits.body_rate;
        context.elapsed() > self.timeouts.client_body + Duration::from_secs(seconds as u64)
    }

    /// After a 401 on a token that the gateway put in: whether there is another one, and the request may be sent again
    /// with it, which is once, and only while all that was read of its body is still held.
    async fn replace_credential(&self, session: &Session, context: &mut Context) -> bool {
        let (Some(route), Some(forward)) = (&context.route, &mut context.forward) else { return false };
        if context.replayed || !forward.credential.is_injected() || session.as_downstream().retry_buffer_truncated() {
            return false;
        }
        let Some(credential) = self.gate.replacement(route, &forward.credential).await else { return false };
        forward.credential = credential;
        context.replayed = true;
        context.may_replay = true;
        true
    }

    /// How long the API may take to begin its answer.
    fn answer_within(&self, context: &Context) -> Duration {
        let operation = context.route.as_ref().and_then(|route| route.operation.as_ref());
        let is_admin = operation.is_some_and(|operation| {
            !operation.security.is_empty()
                && operation.security.iter().all(|security| security.kind == SecurityKind::System)
        });
        if is_admin { self.timeouts.upstream_admin } else { self.timeouts.upstream }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        self.in_flight.enter();
        Context::new()
    }

    /// No module of the library is used; compression is Salesforce's and the client's affair.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        if let Some(clock) = HeadClock::of(session.as_downstream()) {
            clock.head_arrived();
        }
        context.correlate(session.req_header().headers.get(CORRELATION_ID));
        // Only where the library keeps the connection at all: it has switched that off where framing is doubtful.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(self.timeouts.idle.as_secs().max(1)));
        }
        session.set_read_timeout(Some(self.timeouts.client_body));
        session.set_write_timeout(Some(self.timeouts.client_write));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        self.admit(session, context).await
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.body_bytes += body.as_ref().map_or(0, Bytes::len);
        if context.route.as_ref().is_some_and(|route| context.body_bytes > route.body_limit) {
            context.failure = Some(Refusal::TooLarge(LargePart::Body));
            return Error::e_explain(
                ErrorType::Custom("body too large"),
                "the body is larger than the operation allows",
            );
        }
        if !end && self.body_takes_too_long(context) {
            context.failure = Some(Refusal::RequestInvalid("The request's body did not arrive in time.".into()));
            return Error::e_explain(ErrorType::Custom("body too slow"), "the body arrives too slowly");
        }
        Ok(())
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        // A replay sends the body from its beginning.
        context.body_bytes = 0;
        let upstream =
            context.upstream.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no upstream"))?;
        upstream.peer(self.answer_within(context)).await.map_err(|Unresolved| {
            context.failure = Some(Refusal::UpstreamUnavailable);
            Error::explain(ErrorType::ConnectError, "host name not resolved")
        })
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        let upstream =
            context.upstream.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no upstream"))?;
        let edits =
            forward::request_edits(&session.req_header().headers, upstream.authority(), &context.correlation_id);
        for name in edits.remove {
            request.remove_header(&name);
        }
        for (name, value) in edits.set {
            request.insert_header(name, value)?;
        }
        if let Some(credential) = context.forward.as_ref().map(|forward| &forward.credential) {
            if credential.is_left_behind() {
                request.remove_header(&AUTHORIZATION);
            }
            if let Some(authorization) = credential.authorization() {
                request.insert_header(AUTHORIZATION, authorization)?;
            }
        }
        let own_target = context.route.as_ref().and_then(|route| route.upstream_target.as_deref());
        // A server that is no proxy is sent the path alone (RFC 9112, 3.2.1), also where we were named in full.
        let head = session.req_header();
        let in_full = !head.raw_path().starts_with(b"/");
        let path = head.uri.path_and_query().filter(|_| in_full).map(PathAndQuery::as_str);
        if let Some(target) = own_target.or(path) {
            request.set_raw_path(target.as_bytes())?;
        }
        context.sent_upstream();
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if exchange::refuses_token(response.status) && self.replace_credential(session, context).await {
            return Error::e_explain(ErrorType::Custom("token refused"), "once more, with another token");
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the API switched protocols unasked");
        }
        if !forward::is_framed_once(&response.headers) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the API's answer has more than one length");
        }
        let HeaderEdits { remove, set } = forward::response_edits(&response.headers, &context.correlation_id);
        for name in remove {
            response.remove_header(&name);
        }
        for (name, value) in set {
            response.insert_header(name, value)?;
        }
        if response.status.is_informational() {
            return Ok(());
        }
        if let (Some(route), Some(forward)) = (&context.route, &mut context.forward) {
            self.gate.heed(route, forward, response.status, &response.headers);
        }
        if let Some(forward) = &context.forward {
            if let Some(authorization) = forward.credential.handed_over() {
                // The caller's own to keep, and nobody else's: no cache on the way may store it.
                response.insert_header(AUTHORIZATION, authorization)?;
                response.insert_header(CACHE_CONTROL, "no-store")?;
            }
            if let Some(logout) = &forward.logout
                && !response.status.is_client_error()
                && !response.status.is_server_error()
            {
                self.gate.follow_logout(logout).await;
            }
        }
        context.status = Some(response.status);
        context.answered_upstream(&self.metrics);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        _response: &mut ResponseHeader,
        _context: &mut Context,
    ) -> Result<()> {
        self.close_if_draining(session);
        Ok(())
    }

    /// An API that refused a token has done nothing with the request, so it may have it again, whatever it is. Anything
    /// else is sent again only where the library holds that for safe: never a POST.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let held = !session.as_downstream().retry_buffer_truncated();
        if std::mem::take(&mut context.may_replay) {
            error.set_retry(held);
        } else if held && session.req_header().method.is_idempotent() {
            error.retry.decide_reuse(client_reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    /// Nothing of the request has been sent, so the API's next address may have it, whatever it is.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let address = peer.address().as_inet().copied();
        if let (Some(upstream), Some(address)) = (&context.upstream, address) {
            error.set_retry(upstream.avoid(address));
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let written = session.response_written().is_some();
        let refusal = context.failure.take().or_else(|| refusal_of(error));
        context.broken = Some(error.etype().as_str().to_owned());
        let code = match refusal {
            Some(refusal) if !written => {
                session.set_keepalive(None);
                let reply = Reply::refusal(&refusal);
                let status = reply.status.as_u16();
                match self.answer(session, context, reply).await {
                    Ok(_) => status,
                    Err(_) => 0,
                }
            }
            _ => 0,
        };
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        self.in_flight.leave();
        context.record(session.req_header(), &self.metrics);
    }

    /// Our own line tells of failures, without path, query and header.
    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, context: &Context) -> String {
        context.summary()
    }
}

/// The request's head, as the gate takes it.
fn head(session: &Session) -> &Parts {
    session.req_header()
}

/// Refuses what the library has repaired before anybody sees the head. HTTP/2 frames leave nothing to repair.
fn admit_bytes(session: &Session) -> Result<(), Refusal> {
    match session.as_downstream().as_http1() {
        Some(connection) => admission::admit_bytes(&connection.get_headers_raw_bytes()),
        None => Ok(()),
    }
}

fn declared_length(session: &Session) -> Option<usize> {
    session.req_header().headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a failure between here and the API means for the caller; `None` if the caller is gone.
fn refusal_of(error: &Error) -> Option<Refusal> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => None,
        (ErrorSource::Downstream, _) => Some(Refusal::RequestInvalid("The request broke off or is not HTTP.".into())),
        (
            _,
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
        ) => Some(Refusal::UpstreamTimeout),
        _ => Some(Refusal::UpstreamUnavailable),
    }
}
