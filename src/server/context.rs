//! State of one request: its route, times and outcome.
//!
//! The context records the request's metrics, span and access-log line. It holds no credential and no path: log lines have
//! names from closed sets, numbers and the correlation id.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, StatusCode, request::Parts};
use pingora::{Error, ErrorType};
use tracing::Span;

use super::{
    Runtime,
    access_log::LogLine,
    request_limit::{BodyPermit, RequestPermit},
    upstream::Upstream,
};
use crate::{
    connect_failure::ConnectFailure,
    correlation,
    gateway::{decision::Forward, error::GatewayError, headers::CORRELATION_ID, request::Route},
    observability::{
        metrics::{Metrics, RequestLabels},
        otlp, spans,
    },
};

/// Maximum length of a correlation id from a caller.
const MAX_CORRELATION_ID: usize = 128;
/// Label value for unknown.
const UNKNOWN: &str = "none";

/// State of one request.
#[derive(Debug)]
pub struct RequestContext {
    /// The runtime that serves the request to its end.
    pub(super) runtime: Arc<Runtime>,
    pub(super) route: Option<Route>,
    pub(super) forward: Option<Forward>,
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) correlation_id: HeaderValue,
    pub(super) body_bytes: usize,
    /// Whether the whole body was read before the request was sent upstream.
    pub(super) is_body_buffered: bool,
    /// Counts the request against its client's limit.
    pub(super) request_permit: Option<RequestPermit>,
    /// Counts the body, if the request has one.
    pub(super) body_permit: Option<BodyPermit>,
    /// Whether the response's body is dropped.
    pub(super) drops_response_body: bool,
    /// Retries because the API reported the request as not processed.
    pub(super) unprocessed_retries: u32,
    /// Whether the request was retried with another token.
    pub(super) has_retried_credential: bool,
    /// Whether the failure being reported only asks for that retry.
    pub(super) should_retry: bool,
    /// The error to respond with when Pingora reports a failure that the gateway caused.
    pub(super) error: Option<GatewayError>,
    pub(super) status: Option<StatusCode>,
    pub(super) code: Option<&'static str>,
    /// Reason in the log, beside the code.
    pub(super) reason: Option<&'static str>,
    pub(super) is_report_only: bool,
    pub(super) abort_cause: Option<String>,
    /// Why the last attempt could not connect to the API.
    pub(super) connect_failure: Option<ConnectFailure>,
    /// The request's span; disabled if no traces are exported.
    pub(super) span: Span,
    upstream_span: Span,
    started: Instant,
    /// Time spent in the gateway itself, without upstream, token requests and the client.
    gateway_time: Duration,
    sent_at: Option<Instant>,
    upstream_time: Option<Duration>,
}

impl RequestContext {
    /// Creates the context of a request whose head has just arrived.
    pub(super) fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            route: None,
            forward: None,
            upstream: None,
            correlation_id: HeaderValue::from_static(UNKNOWN),
            body_bytes: 0,
            is_body_buffered: false,
            request_permit: None,
            body_permit: None,
            drops_response_body: false,
            unprocessed_retries: 0,
            has_retried_credential: false,
            should_retry: false,
            error: None,
            status: None,
            code: None,
            reason: None,
            is_report_only: false,
            abort_cause: None,
            connect_failure: None,
            span: Span::none(),
            upstream_span: Span::none(),
            started: Instant::now(),
            gateway_time: Duration::ZERO,
            sent_at: None,
            upstream_time: None,
        }
    }

    /// Sets the correlation id and joins the caller's trace.
    pub(super) fn start(&mut self, head: &Parts) {
        self.correlate(head.headers.get(CORRELATION_ID));
        self.span = spans::request(method(head), self.correlation_text());
        otlp::continue_trace(&self.span, &head.headers);
    }

    /// Uses the caller's correlation id if it is valid, or else a new one.
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
        self.correlation_id.to_str().unwrap_or(UNKNOWN)
    }

    /// The API that the request is sent to.
    ///
    /// # Errors
    /// Returns an error if the request is not forwarded.
    pub(super) fn upstream(&self) -> pingora::Result<&Arc<Upstream>> {
        self.upstream.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no upstream"))
    }

    /// How long the API may take until the first byte of its response.
    pub(super) fn response_timeout(&self) -> Duration {
        let operation = self.route.as_ref().and_then(|route| route.operation.as_ref());
        let is_admin = operation.is_some_and(|operation| {
            !operation.security.is_empty() && operation.security.iter().all(|security| security.kind.is_system())
        });
        let timeouts = &self.runtime.timeouts;
        if is_admin { timeouts.upstream_admin } else { timeouts.upstream }
    }

    /// Whether an incomplete body is slower than `timeouts.client_body` plus the time of its bytes at the minimum rate.
    pub(super) fn is_body_too_slow(&self) -> bool {
        let Runtime { limits, timeouts, .. } = &*self.runtime;
        let seconds = self.body_bytes / limits.min_body_rate;
        self.started.elapsed() > timeouts.client_body + Duration::from_secs(seconds as u64)
    }

    /// Counts and logs that no connection to the API could be made.
    pub(super) fn record_connect_failure(&mut self, cause: ConnectFailure, metrics: &Metrics) {
        self.connect_failure = Some(cause);
        metrics.connect_failures.with_label_values(&["api", cause.label()]).inc();
        if let Some(upstream) = &self.upstream {
            upstream.log_failure(cause);
        }
    }

    /// Records the end of the request phase. External waits do not count as the gateway's own time.
    pub(super) fn record_request_phase(&mut self, waited: Duration) {
        self.gateway_time += self.started.elapsed().saturating_sub(waited);
    }

    /// Records that the request is sent upstream, after header edits that began at `started`. Returns the headers that propagate
    /// the trace.
    pub(super) fn record_request_sent(&mut self, started: Instant) -> Vec<(HeaderName, HeaderValue)> {
        self.upstream_span = spans::upstream(&self.span);
        let context = otlp::trace_headers(&self.upstream_span);
        let now = Instant::now();
        self.gateway_time += now - started;
        self.sent_at = Some(now);
        context
    }

    /// Records the body bytes so far, and whether the body is complete.
    ///
    /// # Errors
    /// Returns an error if the memory limit for bodies is reached, and sets [`RequestContext::error`] to the response.
    pub(super) fn record_body(&mut self, end: bool) -> pingora::Result<()> {
        let Some(permit) = &mut self.body_permit else { return Ok(()) };
        if let Err(error) = permit.record_arrived(self.body_bytes, &self.runtime.limits) {
            self.error = Some(error);
            return Error::e_explain(ErrorType::Custom("too many bodies"), "the memory limit for bodies is reached");
        }
        if end {
            permit.mark_complete();
        }
        Ok(())
    }

    /// Records that the body is sent. The time that the client took for it does not count as upstream time.
    pub(super) fn record_body_sent(&mut self) {
        if self.body_bytes > 0 && self.sent_at.is_some() {
            self.sent_at = Some(Instant::now());
        }
    }

    /// Records that the response's head arrived at `since`, and that its edits are done.
    pub(super) fn record_response(&mut self, since: Instant, metrics: &Metrics) {
        if let Some(sent_at) = self.sent_at.take() {
            let took = since.saturating_duration_since(sent_at);
            self.upstream_time = Some(took);
            metrics.upstream_duration.observe(took.as_secs_f64());
        }
        if let Some(status) = self.status {
            self.upstream_span.record("http.response.status_code", status.as_u16());
        }
        self.upstream_span = Span::none();
        self.gateway_time += since.elapsed();
    }

    /// A description for Pingora's log, without path, query and headers.
    pub(super) fn summary(&self) -> String {
        format!("{} {}", self.operation_label(), self.correlation_text())
    }

    /// Records the metrics, ends the span and writes the access-log line.
    pub(super) fn finish(&self, head: &Parts, metrics: &Metrics) {
        let total = self.started.elapsed();
        // For a request without a response: upstream has taken this long so far.
        let unanswered = self.sent_at.map(|sent_at| sent_at.elapsed());
        if let Some(waited) = unanswered {
            metrics.upstream_duration.observe(waited.as_secs_f64());
        }
        let status = self.status.map_or(0, |status| status.as_u16());
        let status_text = self.status.as_ref().map_or(UNKNOWN, StatusCode::as_str);
        let source = if self.upstream_time.is_some() { "upstream" } else { "gateway" };
        let tenant = self.route.as_ref().map_or(UNKNOWN, |route| route.organization.as_str());
        let caller = self.forward.as_ref().map_or(UNKNOWN, |forward| forward.credential.caller_label());
        let operation = self.route.as_ref().and_then(|route| route.operation.as_ref());
        let api = operation.map_or(UNKNOWN, |operation| &operation.api);
        let operation_label = self.operation_label();
        let labels = RequestLabels { tenant, api, operation: &operation_label, caller, status: status_text, source };
        metrics.requests.count(labels);
        metrics.request_duration.observe(total.as_secs_f64());
        metrics.overhead.observe(self.gateway_time.as_secs_f64());
        let line = LogLine {
            tenant,
            operation: self.operation_label(),
            route: operation.map_or(UNKNOWN, |operation| &operation.template),
            method: method(head),
            caller,
            status,
            source,
            code: self.code,
            reason: self.reason,
            report_only: self.is_report_only,
            aborted: self.abort_cause.as_deref(),
            cause: self.connect_failure.map(ConnectFailure::label),
            total,
            upstream: self.upstream_time.or(unanswered),
            gateway: self.gateway_time,
            correlation_id: self.correlation_text(),
            trace_id: otlp::sampled_trace_id(&self.span),
        };
        self.end_span(&line);
        self.runtime.log.write(&line);
    }

    fn end_span(&self, line: &LogLine<'_>) {
        if self.span.is_disabled() {
            return;
        }
        otlp::rename_span(&self.span, &line.operation);
        self.span.record("http.route", line.route);
        self.span.record("http.response.status_code", line.status);
        self.span.record("organization", line.tenant);
        self.span.record("caller", line.caller);
        self.span.record("refusal", line.code);
        if line.status >= 500 || line.aborted.is_some() {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    fn operation_label(&self) -> Cow<'_, str> {
        match self.route.as_ref().and_then(|route| route.operation.as_ref()) {
            Some(operation) => Cow::Borrowed(&operation.name),
            None => Cow::Borrowed(UNKNOWN),
        }
    }
}

/// The method for labels. Validated methods are a closed set; before validation, a method may be any text.
fn method(head: &Parts) -> &str {
    if head.method.as_str().len() <= 7 { head.method.as_str() } else { UNKNOWN }
}

/// Counts and logs a response to input that never became a request.
pub(super) fn record_early_error(
    status: StatusCode,
    code: Option<&'static str>,
    correlation_id: &HeaderValue,
    metrics: &Metrics,
) {
    let labels = RequestLabels {
        tenant: UNKNOWN,
        api: UNKNOWN,
        operation: UNKNOWN,
        caller: UNKNOWN,
        status: status.as_str(),
        source: "gateway",
    };
    metrics.requests.count(labels);
    let line = LogLine {
        tenant: UNKNOWN,
        operation: Cow::Borrowed(UNKNOWN),
        route: UNKNOWN,
        method: UNKNOWN,
        caller: UNKNOWN,
        status: status.as_u16(),
        source: "gateway",
        code,
        correlation_id: correlation_id.to_str().unwrap_or(UNKNOWN),
        ..LogLine::default()
    };
    line.write();
}
