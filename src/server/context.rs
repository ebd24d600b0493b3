//! What is known of one request while it passes: its route, its times and how it ended.
//!
//! Owns the request's metrics and its span, and what its line in the log says. Holds no credential and no path: what is
//! logged are names from closed sets, numbers and the correlation id.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, StatusCode, request::Parts};
use pingora::{Error, ErrorType};
use tracing::Span;

use super::{
    Serving,
    access::Line,
    incoming::{IncomingBody, RequestPermit},
    upstream::Upstream,
};
use crate::{
    connect_failure::ConnectFailure,
    correlation,
    gateway::{Forward, Route, error::GatewayError, headers::CORRELATION_ID},
    observability::{
        metrics::{Metrics, RequestLabels},
        otlp, spans,
    },
};

/// Longest correlation id that is taken over from a caller.
const MAX_CORRELATION_ID: usize = 128;
/// Label of what is not known.
const NONE: &str = "none";

/// One request on its way.
#[derive(Debug)]
pub struct Context {
    /// By what it is served, to its end.
    pub(super) serving: Arc<Serving>,
    pub(super) route: Option<Route>,
    pub(super) forward: Option<Forward>,
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) correlation_id: HeaderValue,
    pub(super) body_bytes: usize,
    /// The whole body was read before the request went upstream.
    pub(super) is_held: bool,
    /// Counts it among the requests of its client.
    pub(super) request_permit: Option<RequestPermit>,
    /// Counts its body, if one is to come.
    pub(super) incoming: Option<IncomingBody>,
    /// The answer's body stays here.
    pub(super) drops_answer: bool,
    /// How often the API has said that it had not processed the request.
    pub(super) unprocessed: u32,
    /// Whether it has been sent a second time, with another token.
    pub(super) replayed: bool,
    /// Whether the failure that is about to be reported is nothing but the wish for that.
    pub(super) may_replay: bool,
    /// The refusal to answer with when the library reports a failure that we caused.
    pub(super) failure: Option<GatewayError>,
    pub(super) status: Option<StatusCode>,
    pub(super) code: Option<&'static str>,
    /// What the log says beside the code.
    pub(super) reason: Option<&'static str>,
    pub(super) reported: bool,
    pub(super) broken: Option<String>,
    /// Why the last attempt got no connection to the API.
    pub(super) connect_failure: Option<ConnectFailure>,
    /// What a trace shows of it; nothing where none are exported.
    pub(super) span: Span,
    upstream_span: Span,
    began: Instant,
    /// The gateway's own part so far: without upstream, exchanges and the client.
    own: Duration,
    sent_at: Option<Instant>,
    upstream_took: Option<Duration>,
}

impl Context {
    /// Of a request whose head has just arrived.
    pub(super) fn new(serving: Arc<Serving>) -> Self {
        Self {
            serving,
            route: None,
            forward: None,
            upstream: None,
            correlation_id: HeaderValue::from_static(NONE),
            body_bytes: 0,
            is_held: false,
            request_permit: None,
            incoming: None,
            drops_answer: false,
            unprocessed: 0,
            replayed: false,
            may_replay: false,
            failure: None,
            status: None,
            code: None,
            reason: None,
            reported: false,
            broken: None,
            connect_failure: None,
            span: Span::none(),
            upstream_span: Span::none(),
            began: Instant::now(),
            own: Duration::ZERO,
            sent_at: None,
            upstream_took: None,
        }
    }

    /// The head is there: names the request, and makes it part of the caller's trace.
    pub(super) fn begin(&mut self, head: &Parts) {
        self.correlate(head.headers.get(CORRELATION_ID));
        self.span = spans::request(method(head), self.correlation_text());
        otlp::continue_trace(&self.span, &head.headers);
    }

    /// Takes over the caller's correlation id if it is a plain one, or makes one.
    fn correlate(&mut self, received: Option<&HeaderValue>) {
        let plain = |value: &&HeaderValue| {
            (1..=MAX_CORRELATION_ID).contains(&value.len())
                && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
        };
        self.correlation_id = match received.filter(plain) {
            Some(value) => value.clone(),
            None => correlation::new(),
        };
    }

    pub(super) fn correlation_text(&self) -> &str {
        self.correlation_id.to_str().unwrap_or(NONE)
    }

    /// Since the request's head arrived.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// It has been decided, and answered if it stays here. What it waited for others is not the gateway's own time.
    pub(super) fn admitted(&mut self, waited: Duration) {
        self.own += self.began.elapsed().saturating_sub(waited);
    }

    /// It goes upstream now, after the edits that began then. Gives the fields that carry the trace on.
    pub(super) fn sent_upstream(&mut self, began: Instant) -> Vec<(HeaderName, HeaderValue)> {
        self.upstream_span = spans::upstream(&self.span);
        let context = otlp::trace_headers(&self.upstream_span);
        let now = Instant::now();
        self.own += now - began;
        self.sent_at = Some(now);
        context
    }

    /// A part of the body has arrived, or its end.
    ///
    /// # Errors
    /// If no memory is left for it; then [`Context::failure`] says what to answer.
    pub(super) fn note_body(&mut self, end: bool) -> pingora::Result<()> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        if let Err(refusal) = incoming.hold(self.body_bytes, &self.serving.gate.limits) {
            self.failure = Some(refusal);
            return Error::e_explain(ErrorType::Custom("too many bodies"), "no memory is left for the body");
        }
        if end {
            incoming.complete();
        }
        Ok(())
    }

    /// The request's body is sent as well: the time that its client took for it is not upstream's.
    pub(super) fn body_sent_upstream(&mut self) {
        if self.body_bytes > 0 && self.sent_at.is_some() {
            self.sent_at = Some(Instant::now());
        }
    }

    /// The answer's head is there, and has been edited since then.
    pub(super) fn answered_upstream(&mut self, since: Instant, metrics: &Metrics) {
        if let Some(sent_at) = self.sent_at.take() {
            let took = since.saturating_duration_since(sent_at);
            self.upstream_took = Some(took);
            metrics.upstream_duration.observe(took.as_secs_f64());
        }
        if let Some(status) = self.status {
            self.upstream_span.record("http.response.status_code", status.as_u16());
        }
        self.upstream_span = Span::none();
        self.own += since.elapsed();
    }

    /// The request in words that may stand in a log: no path, no query, no header.
    pub(super) fn summary(&self) -> String {
        format!("{} {}", self.operation_label(), self.correlation_text())
    }

    /// Counts the request, ends its span and writes its line.
    pub(super) fn record(&self, head: &Parts, metrics: &Metrics) {
        let total = self.began.elapsed();
        // Nobody waits any more for what was sent and not answered: upstream took at least so long.
        let in_vain = self.sent_at.map(|sent_at| sent_at.elapsed());
        if let Some(waited) = in_vain {
            metrics.upstream_duration.observe(waited.as_secs_f64());
        }
        let status = self.status.map_or(0, |status| status.as_u16());
        let status_text = self.status.as_ref().map_or(NONE, StatusCode::as_str);
        let source = if self.upstream_took.is_some() { "upstream" } else { "gateway" };
        let tenant = self.route.as_ref().map_or(NONE, |route| route.organization.as_str());
        let caller = self.forward.as_ref().map_or(NONE, |forward| forward.credential.caller_label());
        let operation = self.route.as_ref().and_then(|route| route.operation.as_ref());
        let api = operation.map_or(NONE, |operation| &operation.api);
        let operation_label = self.operation_label();
        let labels = RequestLabels { tenant, api, operation: &operation_label, caller, status: status_text, source };
        metrics.requests.count(labels);
        metrics.request_duration.observe(total.as_secs_f64());
        metrics.overhead.observe(self.own.as_secs_f64());
        let line = Line {
            tenant,
            operation: self.operation_label(),
            route: operation.map_or(NONE, |operation| &operation.template),
            method: method(head),
            caller,
            status,
            source,
            code: self.code,
            reason: self.reason,
            reported: self.reported,
            broken: self.broken.as_deref(),
            cause: self.connect_failure.map(ConnectFailure::label),
            total,
            upstream: self.upstream_took.or(in_vain),
            own: self.own,
            correlation_id: self.correlation_text(),
            trace_id: otlp::sampled_trace_id(&self.span),
        };
        self.end_span(&line);
        self.serving.log.write(&line);
    }

    fn end_span(&self, line: &Line<'_>) {
        if self.span.is_disabled() {
            return;
        }
        otlp::rename_span(&self.span, &line.operation);
        self.span.record("http.route", line.route);
        self.span.record("http.response.status_code", line.status);
        self.span.record("organization", line.tenant);
        self.span.record("caller", line.caller);
        self.span.record("refusal", line.code);
        if line.status >= 500 || line.broken.is_some() {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    fn operation_label(&self) -> Cow<'_, str> {
        match self.route.as_ref().and_then(|route| route.operation.as_ref()) {
            Some(operation) => Cow::Borrowed(&operation.name),
            None => Cow::Borrowed(NONE),
        }
    }
}

/// The method is a closed set once the request is admitted; before, it may be anything.
fn method(head: &Parts) -> &str {
    if head.method.as_str().len() <= 7 { head.method.as_str() } else { NONE }
}

/// Counts what was answered without becoming a request, and writes its line.
pub(super) fn record_unread(
    status: StatusCode,
    code: Option<&'static str>,
    correlation_id: &HeaderValue,
    metrics: &Metrics,
) {
    let (tenant, operation, caller, source) = (NONE, NONE, NONE, "gateway");
    metrics.requests.count(RequestLabels { tenant, api: NONE, operation, caller, status: status.as_str(), source });
    let line = Line {
        tenant,
        operation: Cow::Borrowed(operation),
        route: NONE,
        method: NONE,
        caller,
        status: status.as_u16(),
        source,
        code,
        reason: None,
        reported: false,
        broken: None,
        cause: None,
        total: Duration::ZERO,
        upstream: None,
        own: Duration::ZERO,
        correlation_id: correlation_id.to_str().unwrap_or(NONE),
        trace_id: None,
    };
    line.write();
}
