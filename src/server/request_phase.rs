//! The request phase: reads a request, has the gateway decide it, and writes the gateway's own responses.
//!
//! A request either continues upstream or gets a local response here. The gateway module decides which, and composes the
//! response. This module reads the body only where the decision needs it.

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
    header_edits,
    http10::is_http10,
    request_limit::{BodyPermit, MAX_BUFFERED_BODY_BYTES, RequestLimitExceeded, RequestPermit},
    runtime::Runtime,
};
use crate::{
    config::Limits,
    correlation,
    gateway::{
        client_cert::PeerCertificate,
        cors::ResponseSource,
        decision::Decision,
        error::{GatewayError, RejectionReason, TooLargePart},
        headers::CORRELATION_ID,
        on_behalf_header::GUEST_USID,
        problem,
        request::{Request, RequiredBody},
        response::LocalResponse,
        validate,
    },
    observability::metrics::Metrics,
    shutdown::RequestTracker,
    time::external_wait,
};

/// Write timeout of responses that must not occupy the gateway.
const IMMEDIATE_WRITE_TIMEOUT: Duration = Duration::from_millis(1);
/// Limits for reading the rest of a rejected request's body, so that the client keeps its connection. A longer or slower body
/// closes the connection.
const BODY_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DRAINED_BODY_BYTES: usize = 64 * 1024;
/// Limits for the body of a request beyond the HTTP/2 connection's share of incomplete requests. Clients that send many small
/// requests at once are served; clients that keep many requests open are not.
const SMALL_BODY_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_SMALL_BODY_BYTES: usize = MAX_BUFFERED_BODY_BYTES - 16 * 1024;

/// The request phase, and the writer of local responses.
#[derive(Debug)]
pub(super) struct RequestPhase {
    metrics: Arc<Metrics>,
    in_flight: Arc<RequestTracker>,
}

impl RequestPhase {
    pub(super) fn new(metrics: Arc<Metrics>, in_flight: Arc<RequestTracker>) -> Self {
        Self { metrics, in_flight }
    }

    /// Decides a request and writes the local response, if any. Returns `Ok(true)` if the request got a local response.
    pub(super) async fn run(&self, session: &mut Session, context: &mut Box<RequestContext>) -> Result<bool> {
        let runtime = Arc::clone(&context.runtime);
        if let Err(error) = self.acquire_permits(session, context).await {
            return self.reject_without_waiting(session, context, &error).await;
        }
        let response = validate_raw_head(session)
            .and_then(|()| validate_scheme(session))
            .and_then(|()| runtime.gateway.respond_without_route(head(session)));
        let route = match response {
            Ok(Some(response)) => {
                drain_small_body(session).await;
                return Box::pin(self.respond(session, context, response)).await;
            }
            Ok(None) => runtime.gateway.route(head(session)),
            Err(error) => Err(error),
        };
        let route = match route {
            Ok(route) => context.route.insert(route),
            Err(error) => {
                if matches!(error, GatewayError::Ambiguous(_) | GatewayError::RequestInvalid(_)) {
                    // The following bytes on this connection may belong to another request.
                    session.set_keepalive(None);
                }
                return self.reject(session, context, &error).await;
            }
        };
        let body_limit = route.body_limit;
        if content_length(session).is_some_and(|length| length > body_limit) {
            return self.reject(session, context, &GatewayError::TooLarge(TooLargePart::Body)).await;
        }
        let required_body = route.required_body;
        context.is_body_buffered |= required_body == RequiredBody::Slas;
        let body = match required_body.max_bytes() {
            Some(max_bytes) => {
                let reading = Box::pin(read_body(session, &mut context.body_permit, max_bytes, &runtime));
                match external_wait::track(reading).await? {
                    Ok(body) => {
                        if let Some(route) = &mut context.route {
                            runtime.gateway.note_form(route, head(session), &body);
                        }
                        Some(body)
                    }
                    Err(error) => return self.reject(session, context, &error).await,
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
            // Pinned here, because passing a future by value doubles its size.
            let decision = pin!(runtime.gateway.handle(route, &request));
            correlation::scope(context.correlation_id.clone(), decision).await
        };
        match decision {
            Decision::Forward(forward) => {
                context.upstream = runtime.upstreams.get(&route.organization).map(Arc::clone);
                if let Some(error) = &forward.reported {
                    self.count_error(context, error, true);
                }
                context.forward = Some(forward);
                Ok(false)
            }
            Decision::Respond(response) => {
                drain_small_body(session).await;
                Box::pin(self.respond(session, context, response)).await
            }
        }
    }

    /// Counts a request against the limits before any other work.
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
        let limits = &runtime.limits;
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
        let peer = client.address.client;
        let named = runtime.client_addresses.client(peer, &session.req_header().headers);
        let address = if named == peer { Arc::clone(&client.address) } else { client.address.addresses.entry(named) };
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
            permit => context.body_permit = Some(permit?),
        }
        Ok(())
    }

    /// Rejects a request without waiting for the client: the response is lost if the client does not read it at once.
    async fn reject_without_waiting(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
        error: &GatewayError,
    ) -> Result<bool> {
        if session.as_downstream().as_http2().is_some() {
            session.set_write_timeout(Some(IMMEDIATE_WRITE_TIMEOUT));
        }
        Ok(Box::pin(self.respond(session, context, problem::response(error))).await.unwrap_or(true))
    }

    async fn reject(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
        error: &GatewayError,
    ) -> Result<bool> {
        drain_small_body(session).await;
        Box::pin(self.respond(session, context, problem::response(error))).await
    }

    /// Writes a local response.
    pub(super) async fn respond(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
        response: LocalResponse,
    ) -> Result<bool> {
        if let Some(code) = response.code {
            self.record_error(context, code, response.reason);
        }
        context.status = Some(response.status);
        // A response to HEAD has the length that GET's would have, and no body (RFC 9110, 9.3.2).
        let without_body = session.req_header().method == Method::HEAD || response.status == StatusCode::NO_CONTENT;
        let mut header = ResponseHeader::build(response.status, Some(response.headers.len() + 2))?;
        let mut last_name = None;
        for (name, value) in response.headers {
            last_name = name.or(last_name);
            if let Some(name) = last_name.clone() {
                header.append_header(name, value)?;
            }
        }
        if response.status != StatusCode::NO_CONTENT {
            header.insert_header(CONTENT_LENGTH, response.body.len())?;
        }
        header.insert_header(CORRELATION_ID, context.correlation_id.clone())?;
        // The upstream may have processed a failed request, so the client needs the USID to continue its guest session.
        if let Some(usid) = context.forward.as_ref().and_then(|forward| forward.credential.guest_usid()) {
            header.insert_header(GUEST_USID, usid)?;
        }
        if let Some(edits) = context.forward.as_ref().and_then(|forward| forward.storefront.as_deref()) {
            header_edits::set_cookies(&mut header, edits)?;
        }
        header_edits::edit_cors(session, &mut header, context, ResponseSource::Gateway)?;
        self.close_after_response_if_needed(session);
        external_wait::track(async {
            session.write_response_header(Box::new(header), without_body).await?;
            if !without_body {
                session.write_response_body(Some(response.body), true).await?;
            }
            Ok(true)
        })
        .await
    }

    /// Adds `Connection: close` if this response is the connection's last.
    pub(super) fn close_after_response_if_needed(&self, session: &mut Session) {
        let must_close = ConnectionState::of(session.as_downstream()).is_some_and(|client| client.must_close());
        if must_close || self.in_flight.is_draining() {
            session.set_keepalive(None);
        }
    }

    fn count_error(&self, context: &mut Box<RequestContext>, error: &GatewayError, reported: bool) {
        self.record_error(context, problem::code(error), error.reason());
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

/// Reads a small body into the retry buffer, and returns whether it arrived in time. It can still be sent upstream.
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

/// Reads the whole body of a request, at most `max_bytes` bytes. Pingora's retry buffer holds it, so it can still be sent upstream.
async fn read_body(
    session: &mut Session,
    permit: &mut Option<BodyPermit>,
    max_bytes: usize,
    runtime: &Runtime,
) -> Result<Result<Bytes, GatewayError>> {
    session.enable_retry_buffering();
    if session.req_header().headers.contains_key(EXPECT) && !is_http10(session) {
        session.as_downstream_mut().write_continue_response().await?;
    }
    let read = async {
        while session.as_downstream_mut().read_request_body().await?.is_some() {
            let arrived = session.as_downstream().body_bytes_read();
            if arrived > max_bytes {
                return Ok(Err(GatewayError::TooLarge(TooLargePart::Body)));
            }
            if let Some(Err(error)) = permit.as_mut().map(|permit| permit.record_arrived(arrived, &runtime.limits)) {
                return Ok(Err(error));
            }
        }
        Ok::<_, Box<Error>>(Ok(()))
    };
    match tokio::time::timeout(runtime.timeouts.held_body, read).await {
        Ok(Ok(result)) => {
            if let Some(permit) = permit.as_mut().filter(|_| result.is_ok()) {
                permit.mark_complete();
            }
            Ok(result.map(|()| session.as_downstream().get_retry_buffer().unwrap_or_default()))
        }
        Ok(Err(_)) => {
            session.set_keepalive(None);
            let is_malformed =
                ConnectionState::of(session.as_downstream()).is_some_and(|client| client.is_body_malformed());
            let incomplete =
                || GatewayError::RequestInvalid("The request's body ended early or is not valid HTTP.".into());
            Ok(Err(if is_malformed { malformed_body_error() } else { incomplete() }))
        }
        Err(_) => {
            session.set_keepalive(None);
            Ok(Err(GatewayError::RequestInvalid("The request's body did not arrive in time.".into())))
        }
    }
}

/// Discards the rest of a short HTTP/1.1 body before the response, so that the connection can be kept. A client that waits for
/// a 100 (Continue) sends no body.
async fn drain_small_body(session: &mut Session) {
    let awaits_continue = session.req_header().headers.contains_key(EXPECT);
    let is_long = content_length(session).is_some_and(|length| length > MAX_DRAINED_BODY_BYTES);
    if awaits_continue || is_long || session.get_keepalive().is_none() || session.as_downstream().as_http1().is_none() {
        return;
    }
    let read = async {
        // After a failure the response closes the connection.
        while let Ok(Some(_)) = session.as_downstream_mut().read_request_body().await {
            if session.as_downstream().body_bytes_read() > MAX_DRAINED_BODY_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_DRAIN_TIMEOUT, read).await;
}

/// Rejects HTTP/1.1 heads with faults that Pingora repairs silently. In HTTP/2, Pingora only removes a fragment from the path.
fn validate_raw_head(session: &Session) -> Result<(), GatewayError> {
    let Some(connection) = session.as_downstream().as_http1() else { return Ok(()) };
    validate::check_raw_head(&connection.get_headers_raw_bytes())?;
    let client = ConnectionState::of(session.as_downstream());
    if client.is_some_and(|client| client.is_request_line_irregular()) {
        return Err(GatewayError::Ambiguous(
            "The request line must be method, target and version, separated by one space.".into(),
        ));
    }
    if client.is_some_and(|client| client.is_body_malformed()) { Err(malformed_body_error()) } else { Ok(()) }
}

/// Rejects an absolute URI whose scheme differs from the connection's, because upstream servers would read it as another
/// resource (RFC 9112, 3.2.2).
fn validate_scheme(session: &Session) -> Result<(), GatewayError> {
    let head = session.req_header();
    let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    // Pingora keeps the scheme in the URI for HTTP/2 only.
    let target = std::str::from_utf8(head.raw_path()).unwrap_or_default();
    let scheme = target.split_once("://").filter(|_| !target.starts_with('/')).map(|(scheme, _)| scheme);
    validate::check_scheme(head.uri.scheme_str().or(scheme), head.version, is_tls)
}

/// The error for a body that violates chunked encoding (RFC 9112, 7.1).
pub(super) fn malformed_body_error() -> GatewayError {
    GatewayError::RequestInvalid("The request's body has invalid chunked encoding.".into())
}

/// The head of the request.
fn head(session: &Session) -> &Parts {
    session.req_header()
}

fn content_length(session: &Session) -> Option<usize> {
    session.req_header().headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
