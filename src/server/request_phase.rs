//! What becomes of a request before any of it goes upstream: read as far as the gate wants it, and answered if it stays.
//!
//! Owns the gateway's own answers as they are written to the client. What they say, and which request stays, is the gate's.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, EXPECT},
    request::Parts,
};
use pingora::{Error, Result, http::ResponseHeader, proxy::Session};

use super::{
    connection::ConnectionState,
    context::RequestContext,
    http10::is_http10,
    request_limit::{BodyPermit, MAX_BUFFERED_BODY_BYTES, RequestLimitExceeded, RequestPermit},
    runtime::Runtime,
};
use crate::{
    config::Limits,
    correlation,
    gateway::{
        Decision, Request,
        authn::{client_cert::PeerCertificate, on_behalf_header::GUEST_USID},
        error::{GatewayError, RejectionReason, TooLargePart},
        headers::CORRELATION_ID,
        problem::{self, LocalResponse},
        slas, validate,
    },
    observability::metrics::Metrics,
    shutdown::RequestTracker,
    time::external_wait,
};

/// Largest body of a deprecated login that is read: it is one short JSON object.
const MAX_LOGIN_BODY_BYTES: usize = 16 * 1024;
/// How long a client may take to take an answer that nobody waits for.
const IMMEDIATE_WRITE_TIMEOUT: Duration = Duration::from_millis(1);
/// How long the rest of a body is waited for that nobody wants, and how long it may be, so that the caller keeps its
/// connection. After any other one the answer closes it.
const BODY_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DRAINED_BODY_BYTES: usize = 64 * 1024;
/// How soon the body of a further incomplete request of an HTTP/2 connection must be there, and how large it may be. A
/// client that sends many small requests together is served; one that keeps them open is not.
const SMALL_BODY_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_SMALL_BODY_BYTES: usize = MAX_BUFFERED_BODY_BYTES - 16 * 1024;

/// The phase of a request before any of it goes upstream, and the gateway's own answers.
#[derive(Debug)]
pub(super) struct RequestPhase {
    metrics: Arc<Metrics>,
    in_flight: Arc<RequestTracker>,
}

impl RequestPhase {
    pub(super) fn new(metrics: Arc<Metrics>, in_flight: Arc<RequestTracker>) -> Self {
        Self { metrics, in_flight }
    }

    /// Decides a request and answers it if it stays here. `Ok(true)` when it has been answered.
    pub(super) async fn run(&self, session: &mut Session, context: &mut Box<RequestContext>) -> Result<bool> {
        let runtime = Arc::clone(&context.runtime);
        if let Err(refusal) = self.acquire_permits(session, context).await {
            return self.reject_without_waiting(session, context, &refusal).await;
        }
        let route = match validate_raw_head(session)
            .and_then(|()| validate_scheme(session))
            .and_then(|()| runtime.gate.route(head(session)))
        {
            Ok(route) => context.route.insert(route),
            Err(refusal) => {
                if matches!(refusal, GatewayError::Ambiguous(_) | GatewayError::RequestInvalid(_)) {
                    // Whatever follows on this connection may be the rest of something else.
                    session.set_keepalive(None);
                }
                return self.reject(session, context, &refusal).await;
            }
        };
        let body_limit = route.body_limit;
        if content_length(session).is_some_and(|length| length > body_limit) {
            return self.reject(session, context, &GatewayError::TooLarge(TooLargePart::Body)).await;
        }
        let wanted = context.route.as_ref().and_then(|route| {
            if route.wants_body() {
                return Some(MAX_LOGIN_BODY_BYTES);
            }
            let holds_form = runtime.gate.holds_form(route, head(session));
            context.is_body_buffered |= holds_form;
            holds_form.then_some(slas::MAX_FORM_BYTES)
        });
        let body = match wanted {
            Some(most) => {
                let reading = Box::pin(read_body(session, &mut context.body_permit, most, &runtime));
                match external_wait::track(reading).await? {
                    Ok(body) => Some(body),
                    Err(refusal) => return self.reject(session, context, &refusal).await,
                }
            }
            None => None,
        };
        let body_follows = !session.as_downstream_mut().is_body_empty();
        let Some(route) = &context.route else { return Ok(false) };
        let digest = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let certificate = digest.and_then(|digest| digest.extension.get::<PeerCertificate>());
        let address = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let request = Request {
            head: head(session),
            body_follows: body.is_none() && body_follows,
            body,
            correlation_id: context.correlation_text(),
            certificate,
            address,
        };
        let decision = {
            // Pinned here, because whoever is given a future by value has room for it twice.
            let decided = pin!(runtime.gate.decide(route, &request));
            correlation::scope(context.correlation_id.clone(), decided).await
        };
        match decision {
            Decision::Forward(decided) => {
                context.upstream = runtime.upstreams.get(&route.organization).map(Arc::clone);
                if let Some(refusal) = &decided.reported {
                    self.count_error(context, refusal, true);
                }
                context.forward = Some(decided);
                Ok(false)
            }
            Decision::Answer(reply) => {
                drain_small_body(session).await;
                Box::pin(self.respond(session, context, reply)).await
            }
        }
    }

    /// Counts a request before anything is done for it.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`] if its client has too many, [`GatewayError::Overloaded`] if all together have, or its
    /// HTTP/2 connection has too many that are incomplete.
    async fn acquire_permits(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
    ) -> Result<(), GatewayError> {
        let runtime = Arc::clone(&context.runtime);
        let limits = &runtime.gate.limits;
        if self.in_flight.count() > limits.requests {
            return Err(GatewayError::Overloaded);
        }
        let Some(client) = ConnectionState::of(session.as_downstream()) else { return Ok(()) };
        let is_http2 = session.as_downstream().as_http2().is_some();
        if is_http2 && !client.is_proxy {
            context.request_permit = Some(RequestPermit::acquire(&client.address, limits)?);
        }
        let client = Arc::clone(client);
        if session.as_downstream_mut().is_body_done() {
            return Ok(());
        }
        let address = if client.is_proxy {
            let named = runtime.gate.bounds.client(client.address.client, &session.req_header().headers);
            client.address.addresses.entry(named)
        } else {
            Arc::clone(&client.address)
        };
        let connection = (is_http2 && !client.is_proxy).then_some(client);
        match BodyPermit::acquire(Arc::clone(&address), connection, limits) {
            Err(RequestLimitExceeded::Connection) => {
                let mut body = BodyPermit::acquire(address, None, limits)?;
                if !external_wait::track(Box::pin(read_small_body(session, &mut body, limits))).await {
                    return Err(RequestLimitExceeded::Connection.into());
                }
                body.mark_complete();
                context.is_body_buffered = true;
                context.body_permit = Some(body);
            }
            taken => context.body_permit = Some(taken?),
        }
        Ok(())
    }

    /// Refuses a request for which nothing is done any more: its answer is written if the client takes it now, and the
    /// request does not stay for it.
    async fn reject_without_waiting(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
        refusal: &GatewayError,
    ) -> Result<bool> {
        if session.as_downstream().as_http2().is_some() {
            session.set_write_timeout(Some(IMMEDIATE_WRITE_TIMEOUT));
        }
        Ok(Box::pin(self.respond(session, context, LocalResponse::refusal(refusal))).await.unwrap_or(true))
    }

    async fn reject(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
        refusal: &GatewayError,
    ) -> Result<bool> {
        drain_small_body(session).await;
        Box::pin(self.respond(session, context, LocalResponse::refusal(refusal))).await
    }

    /// Writes an answer of the gateway's own.
    pub(super) async fn respond(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
        reply: LocalResponse,
    ) -> Result<bool> {
        if let Some(code) = reply.code {
            self.record_error(context, code, reply.reason);
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
        // What failed on the way may have been done: the guest is there to be continued.
        if let Some(usid) = context.forward.as_ref().and_then(|forward| forward.credential.guest_usid()) {
            header.insert_header(GUEST_USID, usid)?;
        }
        self.close_after_response_if_needed(session);
        external_wait::track(async {
            session.write_response_header(Box::new(header), without_body).await?;
            if !without_body {
                session.write_response_body(Some(reply.body), true).await?;
            }
            Ok(true)
        })
        .await
    }

    /// Says in the answer that it is the connection's last, where it is.
    pub(super) fn close_after_response_if_needed(&self, session: &mut Session) {
        let must_close = ConnectionState::of(session.as_downstream()).is_some_and(|client| client.must_close());
        if must_close || self.in_flight.is_draining() {
            session.set_keepalive(None);
        }
    }

    fn count_error(&self, context: &mut Box<RequestContext>, refusal: &GatewayError, reported: bool) {
        self.record_error(context, problem::code(refusal), refusal.reason());
        context.is_report_only = reported;
    }

    fn record_error(&self, context: &mut Box<RequestContext>, code: &'static str, reason: Option<&'static str>) {
        self.metrics.refusals.with_label_values(&[code]).inc();
        if let Some(reason) = reason.filter(|reason| RejectionReason::ALL.map(RejectionReason::as_str).contains(reason))
        {
            self.metrics.caller_rejections.with_label_values(&[reason]).inc();
        }
        context.code = Some(code);
        context.reason = reason;
    }
}

/// Whether the rest of a small body arrives within a moment. It can still be sent upstream.
async fn read_small_body(session: &mut Session, body: &mut BodyPermit, limits: &Limits) -> bool {
    session.enable_retry_buffering();
    let mut arrived = 0;
    let reading = async {
        while arrived <= MAX_SMALL_BODY_BYTES {
            match session.as_downstream_mut().read_request_body().await {
                Ok(Some(chunk)) => arrived += chunk.len(),
                Ok(None) => return true,
                Err(_) => return false,
            }
            if body.record_arrived(arrived, limits).is_err() {
                return false;
            }
        }
        false
    };
    tokio::time::timeout(SMALL_BODY_TIMEOUT, reading).await.unwrap_or(false)
}

/// Reads the whole body of a request, `most` bytes of it at most. It can still be sent upstream: the library holds it
/// for that, and until it is whole nobody else does.
async fn read_body(
    session: &mut Session,
    incoming: &mut Option<BodyPermit>,
    most: usize,
    runtime: &Runtime,
) -> Result<Result<Bytes, GatewayError>> {
    session.enable_retry_buffering();
    if session.req_header().headers.contains_key(EXPECT) && !is_http10(session) {
        session.as_downstream_mut().write_continue_response().await?;
    }
    let read = async {
        while session.as_downstream_mut().read_request_body().await?.is_some() {
            let arrived = session.as_downstream().body_bytes_read();
            if arrived > most {
                return Ok(Err(GatewayError::TooLarge(TooLargePart::Body)));
            }
            if let Some(Err(refusal)) =
                incoming.as_mut().map(|incoming| incoming.record_arrived(arrived, &runtime.gate.limits))
            {
                return Ok(Err(refusal));
            }
        }
        Ok::<_, Box<Error>>(Ok(()))
    };
    match tokio::time::timeout(runtime.timeouts.held_body, read).await {
        Ok(Ok(result)) => {
            if let Some(incoming) = incoming.as_mut().filter(|_| result.is_ok()) {
                incoming.mark_complete();
            }
            Ok(result.map(|()| session.as_downstream().get_retry_buffer().unwrap_or_default()))
        }
        Ok(Err(_)) => {
            session.set_keepalive(None);
            let is_malformed =
                ConnectionState::of(session.as_downstream()).is_some_and(|client| client.is_body_malformed());
            let broke_off = || GatewayError::RequestInvalid("The request's body broke off or is not HTTP.".into());
            Ok(Err(if is_malformed { malformed_body_error() } else { broke_off() }))
        }
        Err(_) => {
            session.set_keepalive(None);
            Ok(Err(GatewayError::RequestInvalid("The request's body did not arrive in time.".into())))
        }
    }
}

/// Reads and drops the rest of a short body before a request of HTTP/1.1 is answered, so that the connection can be kept. A
/// client that waits for a 100 (Continue) sends no body.
async fn drain_small_body(session: &mut Session) {
    let waits = session.req_header().headers.contains_key(EXPECT);
    let is_long = content_length(session).is_some_and(|length| length > MAX_DRAINED_BODY_BYTES);
    if waits || is_long || session.get_keepalive().is_none() || session.as_downstream().as_http1().is_none() {
        return;
    }
    let read = async {
        // After a failure the answer says that it is the connection's last.
        while let Ok(Some(_)) = session.as_downstream_mut().read_request_body().await {
            if session.as_downstream().body_bytes_read() > MAX_DRAINED_BODY_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_DRAIN_TIMEOUT, read).await;
}

/// Refuses what the library has repaired before anybody sees the head. In HTTP/2 that is
/// a fragment of the path alone, which is gone by then.
fn validate_raw_head(session: &Session) -> Result<(), GatewayError> {
    let Some(connection) = session.as_downstream().as_http1() else { return Ok(()) };
    validate::admit_bytes(&connection.get_headers_raw_bytes())?;
    let client = ConnectionState::of(session.as_downstream());
    if client.is_some_and(|client| client.is_request_line_irregular()) {
        return Err(GatewayError::Ambiguous(
            "The request line is not a method, a target and a version with one space between them.".into(),
        ));
    }
    if client.is_some_and(|client| client.is_body_malformed()) { Err(malformed_body_error()) } else { Ok(()) }
}

/// Refuses a target in full of another scheme than the one the request came by: whoever reads it takes it for another
/// resource (RFC 9112, 3.2.2).
fn validate_scheme(session: &Session) -> Result<(), GatewayError> {
    let head = session.req_header();
    let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    // The library keeps the scheme of HTTP/2 alone in the URI.
    let target = std::str::from_utf8(head.raw_path()).unwrap_or_default();
    let in_full = target.split_once("://").filter(|_| !target.starts_with('/')).map(|(scheme, _)| scheme);
    validate::admit_scheme(head.uri.scheme_str().or(in_full), head.version, is_tls)
}

/// A body that is not chunked as RFC 9112, 7.1 writes it.
pub(super) fn malformed_body_error() -> GatewayError {
    GatewayError::RequestInvalid("The request's body is not chunked as HTTP writes it.".into())
}

/// The request's head, as the gate takes it.
fn head(session: &Session) -> &Parts {
    session.req_header()
}

fn content_length(session: &Session) -> Option<usize> {
    session.req_header().headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
