//! The edge: one short method for each phase of a request, in the order in which they run.
//!
//! Owns the connection to the client: it alone writes to it. Every decision is the gate's and comes as
//! a value. Refusals are written as ordinary answers, because the library's own error answers
//! would close the caller's connection and say nothing of use.

mod access;
mod connection;
mod context;
mod entrance;
mod listener;
mod places;
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
use tracing::Instrument;

use self::connection::HeadClock;
pub use self::{
    access::AccessLog,
    context::Context,
    entrance::Entrance,
    listener::{Reception, http2_options},
    upstream::{Unresolved, Upstream, UpstreamError},
    workers::Workers,
};
use crate::{
    gate::{
        Asked, Decision, Gate, admission,
        caller::certificate::PeerCertificate,
        forward::{self, CORRELATION_ID, HeaderEdits},
        operations::SecurityKind,
        refusal::{LargePart, Refusal},
        reply::Reply,
        slas,
    },
    in_flight::InFlight,
    metrics::Metrics,
    names::ByOrganization,
    salesforce::exchange,
    settings::Timeouts,
    waiting,
};

/// Largest body of a deprecated login that is read: it is one short JSON object.
const MAX_LOGIN_BODY_BYTES: usize = 16 * 1024;
/// How long a refused request's body is read and thrown away, so that the caller can read the answer.
const DRAIN_REFUSED: Duration = Duration::from_secs(2);

/// What serves a request from its beginning to its end, whatever is put in its place meanwhile.
#[derive(Debug)]
pub struct Serving {
    /// What decides.
    pub gate: Arc<Gate>,
    /// Where requests go, one for each of the gate's organizations.
    pub upstreams: ByOrganization<Arc<Upstream>>,
    /// Times.
    pub timeouts: Timeouts,
    /// Which requests get a line.
    pub log: AccessLog,
}

/// The proxy in front of every organization's API.
#[derive(Debug)]
pub struct Proxy {
    serving: Arc<ArcSwap<Serving>>,
    metrics: Arc<Metrics>,
    in_flight: Arc<InFlight>,
}

impl Proxy {
    /// A proxy that serves each request by what is in `serving` when it begins.
    #[must_use]
    pub fn new(serving: Arc<ArcSwap<Serving>>, in_flight: Arc<InFlight>) -> Self {
        let metrics = Arc::clone(&serving.load().gate.metrics);
        Self { serving, metrics, in_flight }
    }

    /// Decides a request and answers it if it stays here. `Ok(true)` when it has been answered.
    async fn admit(&self, session: &mut Session, context: &mut Box<Context>) -> Result<bool> {
        let serving = Arc::clone(&context.serving);
        let route = match admit_bytes(session).and_then(|()| serving.gate.route(head(session))) {
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
        let wanted = context.route.as_ref().and_then(|route| {
            if route.wants_body() {
                return Some(MAX_LOGIN_BODY_BYTES);
            }
            context.is_held = serving.gate.holds_form(route, head(session));
            context.is_held.then_some(slas::MAX_FORM_BYTES)
        });
        let body = match wanted {
            Some(most) => {
                let reading = Box::pin(self.read_body(session, most, serving.timeouts.client_body));
                match waiting::on_others(reading).await? {
                    Ok(body) => Some(body),
                    Err(refusal) => return self.refuse(session, context, &refusal).await,
                }
            }
            None => None,
        };
        let body_follows = !session.as_downstream_mut().is_body_empty();
        let Some(route) = &context.route else { return Ok(false) };
        let digest = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let certificate = digest.and_then(|digest| digest.extension.get::<PeerCertificate>());
        let address = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let asked = Asked {
            head: head(session),
            body_follows: body.is_none() && body_follows,
            body,
            correlation_id: context.correlation_text(),
            certificate,
            address,
        };
        let decision = serving.gate.decide(route, &asked).await;
        match decision {
            Decision::Forward(decided) => {
                context.upstream = serving.upstreams.get(&route.organization).map(Arc::clone);
                if let Some(refusal) = &decided.reported {
                    self.count_refusal(context, refusal, true);
                }
                context.forward = Some(decided);
                Ok(false)
            }
            Decision::Answer(reply) => Box::pin(self.answer(session, context, reply)).await,
        }
    }

    /// Reads the whole body of a request, `most` bytes of it at most. It can still be sent upstream.
    async fn read_body(&self, session: &mut Session, most: usize, within: Duration) -> Result<Result<Bytes, Refusal>> {
        // Without it what is read now would be missing upstream.
        session.enable_retry_buffering();
        if session.req_header().headers.contains_key(EXPECT) {
            session.as_downstream_mut().write_continue_response().await?;
        }
        let mut body = BytesMut::new();
        let read = async {
            while let Some(chunk) = session.as_downstream_mut().read_request_body().await? {
                if body.len() + chunk.len() > most {
                    return Ok(Err(Refusal::TooLarge(LargePart::Body)));
                }
                body.extend_from_slice(&chunk);
            }
            Ok::<_, Box<Error>>(Ok(()))
        };
        match tokio::time::timeout(within, read).await {
            Ok(Ok(result)) => Ok(result.map(|()| body.freeze())),
            Ok(Err(_)) => {
                session.set_keepalive(None);
                Ok(Err(Refusal::RequestInvalid("The request's body broke off or is not HTTP.".into())))
            }
            Err(_) => Ok(Err(Refusal::RequestInvalid("The request's body did not arrive in time.".into()))),
        }
    }

    async fn refuse(&self, session: &mut Session, context: &mut Box<Context>, refusal: &Refusal) -> Result<bool> {
        Box::pin(self.answer(session, context, Reply::refusal(refusal))).await
    }

    /// Writes an answer of the gateway's own.
    async fn answer(&self, session: &mut Session, context: &mut Box<Context>, reply: Reply) -> Result<bool> {
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
        waiting::on_others(async {
            session.write_response_header(Box::new(header), without_body).await?;
            if !without_body {
                session.write_response_body(Some(reply.body), true).await?;
            }
            Ok(true)
        })
        .await
    }

    fn count_refusal(&self, context: &mut Box<Context>, refusal: &Refusal, reported: bool) {
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
        let Serving { gate, timeouts, .. } = &*context.serving;
        let seconds = context.body_bytes / gate.limits.body_rate;
        context.elapsed() > timeouts.client_body + Duration::from_secs(seconds as u64)
    }

    /// After a 401 on a token that the gateway put in: whether there is another one, and the request may be sent again
    /// with it, which is once, and only while all that was read of its body is still held.
    async fn replace_credential(&self, session: &Session, context: &mut Box<Context>) -> bool {
        let (Some(route), Some(forward)) = (&context.route, &mut context.forward) else { return false };
        if context.replayed || !forward.credential.is_injected() || session.as_downstream().retry_buffer_truncated() {
            return false;
        }
        let Some(credential) = context.serving.gate.replacement(route, &forward.credential).await else { return false };
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
        let timeouts = &context.serving.timeouts;
        if is_admin { timeouts.upstream_admin } else { timeouts.upstream }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    /// In a box: the library moves it some ten times a request.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        self.in_flight.enter();
        Box::new(Context::new(self.serving.load_full()))
    }

    /// No module of the library is used; compression is Salesforce's and the client's affair.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<()> {
        if let Some(clock) = HeadClock::of(session.as_downstream()) {
            clock.head_arrived();
        }
        context.begin(session.req_header());
        // Only where the library keeps the connection at all: it has switched that off where framing is doubtful.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(context.serving.timeouts.idle.as_secs().max(1)));
        }
        session.set_read_timeout(Some(context.serving.timeouts.client_body));
        session.set_write_timeout(Some(context.serving.timeouts.client_write));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<bool> {
        let span = context.span.clone();
        let (answered, waited) = {
            // Pinned here, because whoever is given a future by value has room for it twice.
            let admitted = pin!(self.admit(session, context).instrument(span));
            waiting::measured(admitted).await
        };
        context.admitted(waited);
        answered
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<Context>,
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
        if end && let (Some(route), Some(forward)) = (&context.route, &mut context.forward) {
            let seated = context.serving.gate.has_body(route, forward).await;
            if let Err(refusal) = seated {
                context.failure = Some(refusal);
                return Error::e_explain(ErrorType::Custom("overloaded"), "no seat is left for the request");
            }
        }
        Ok(())
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Box<Context>) -> Result<Box<HttpPeer>> {
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
        context: &mut Box<Context>,
    ) -> Result<()> {
        let began = Instant::now();
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
            if let Some((field, proof)) = credential.client_proof() {
                request.insert_header(field, proof)?;
            }
        }
        if context.is_held {
            // The body is here already: nobody waits for a 100 (Continue).
            request.remove_header(&EXPECT);
        }
        let of_logout = context.forward.as_ref().and_then(|forward| forward.logout.as_ref()?.target.as_deref());
        let own_target = of_logout.or(context.route.as_ref().and_then(|route| route.upstream_target.as_deref()));
        // A server that is no proxy is sent the path alone (RFC 9112, 3.2.1), also where we were named in full.
        let head = session.req_header();
        let in_full = !head.raw_path().starts_with(b"/");
        let path = head.uri.path_and_query().filter(|_| in_full).map(PathAndQuery::as_str);
        if let Some(target) = own_target.or(path) {
            request.set_raw_path(target.as_bytes())?;
        }
        for (name, value) in context.sent_upstream(began) {
            request.insert_header(name, value)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<Context>,
    ) -> Result<()> {
        let began = Instant::now();
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
            context.serving.gate.heed(route, forward, response.status, &response.headers);
        }
        let operation = context.route.as_ref().and_then(|route| route.operation.as_deref());
        if let Some(edits) =
            operation.and_then(|operation| slas::answer_edits(operation, response.status, &response.headers))
        {
            context.drops_answer = edits.drops_body;
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
            if let Some(authorization) = forward.credential.handed_over() {
                // The caller's own to keep, and nobody else's: no cache on the way may store it.
                response.insert_header(AUTHORIZATION, authorization)?;
                response.insert_header(CACHE_CONTROL, "no-store")?;
            }
            if let Some(logout) = &forward.logout
                && !response.status.is_client_error()
                && !response.status.is_server_error()
            {
                context.serving.gate.follow_logout(logout).await;
            }
        }
        context.status = Some(response.status);
        context.answered_upstream(began, &self.metrics);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if context.drops_answer {
            *body = None;
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        _response: &mut ResponseHeader,
        _context: &mut Box<Context>,
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
        context: &mut Box<Context>,
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
        context: &mut Box<Context>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let address = peer.address().as_inet().copied();
        if let (Some(upstream), Some(address)) = (&context.upstream, address) {
            error.set_retry(upstream.avoid(address));
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Box<Context>) -> FailToProxy {
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

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Box<Context>) {
        if let (Some(route), Some(login)) =
            (&context.route, context.forward.as_ref().and_then(|forward| forward.login.as_ref()))
        {
            let gate = &context.serving.gate;
            gate.tell_login(route, context.correlation_text(), login, context.code, context.status);
        }
        context.record(session.req_header(), &self.metrics);
        // Last, so that a drain waits for what is told of the request as well.
        self.in_flight.leave();
    }

    /// Our own line tells of failures, without path, query and header.
    fn suppress_error_log(&self, _session: &Session, _context: &Box<Context>, _error: &Error) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, context: &Box<Context>) -> String {
        context.summary()
    }
}

/// The request's head, as the gate takes it.
fn head(session: &Session) -> &Parts {
    session.req_header()
}

/// Refuses what the library has repaired before anybody sees the head. In HTTP/2 that is
/// a fragment of the path alone, which is gone by then.
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
