//! What is known of one request while it passes: its route, its times and how it ended.
//!
//! Owns the request's line in the log and its metrics. Holds no credential and no path: what is
//! logged are names from closed sets, numbers and the correlation id.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode, request::Parts};
use uuid::Uuid;

use super::{Serving, upstream::Upstream};
use crate::{
    gate::{Forward, Route, refusal::Refusal},
    metrics::Metrics,
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
    /// The answer's body stays here.
    pub(super) drops_answer: bool,
    /// Whether it has been sent a second time, with another token.
    pub(super) replayed: bool,
    /// Whether the failure that is about to be reported is nothing but the wish for that.
    pub(super) may_replay: bool,
    /// The refusal to answer with when the library reports a failure that we caused.
    pub(super) failure: Option<Refusal>,
    pub(super) status: Option<StatusCode>,
    pub(super) code: Option<&'static str>,
    pub(super) reported: bool,
    pub(super) broken: Option<String>,
    began: Instant,
    decided_after: Option<Duration>,
    sent_at: Option<Instant>,
    upstream_took: Option<Duration>,
}

impl Context {
    pub(super) fn new(serving: Arc<Serving>) -> Self {
        Self {
            serving,
            route: None,
            forward: None,
            upstream: None,
            correlation_id: HeaderValue::from_static(NONE),
            body_bytes: 0,
            is_held: false,
            drops_answer: false,
            replayed: false,
            may_replay: false,
            failure: None,
            status: None,
            code: None,
            reported: false,
            broken: None,
            began: Instant::now(),
            decided_after: None,
            sent_at: None,
            upstream_took: None,
        }
    }

    /// Takes over the caller's correlation id if it is a plain one, or makes one.
    pub(super) fn correlate(&mut self, received: Option<&HeaderValue>) {
        self.began = Instant::now();
        let plain = |value: &&HeaderValue| {
            (1..=MAX_CORRELATION_ID).contains(&value.len())
                && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
        };
        self.correlation_id = match received.filter(plain) {
            Some(value) => value.clone(),
            None => new_correlation_id(),
        };
    }

    pub(super) fn correlation_text(&self) -> &str {
        self.correlation_id.to_str().unwrap_or(NONE)
    }

    /// Since the request's head arrived.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The gateway answered by itself, perhaps after asking SLAS: that time is not its own.
    pub(super) fn exchanged(&mut self) {
        let asked_others = self.is_held || self.route.as_ref().is_some_and(Route::is_deprecated);
        if !asked_others {
            self.decided_after = Some(self.began.elapsed());
        }
    }

    pub(super) fn sent_upstream(&mut self) {
        let now = Instant::now();
        self.decided_after.get_or_insert(now - self.began);
        self.sent_at = Some(now);
    }

    pub(super) fn answered_upstream(&mut self, metrics: &Metrics) {
        if let Some(sent_at) = self.sent_at {
            let took = sent_at.elapsed();
            self.upstream_took = Some(took);
            metrics.upstream_duration.observe(took.as_secs_f64());
        }
    }

    /// The request in words that may stand in a log: no path, no query, no header.
    pub(super) fn summary(&self) -> String {
        format!("{} {}", self.operation_label(), self.correlation_text())
    }

    /// Counts the request and writes its line.
    pub(super) fn record(&self, head: &Parts, metrics: &Metrics) {
        let total = self.began.elapsed();
        let status = self.status.map_or(0, |status| status.as_u16());
        let status_text = self.status.as_ref().map_or(NONE, StatusCode::as_str);
        let source = if self.upstream_took.is_some() { "upstream" } else { "gateway" };
        let tenant = self.route.as_ref().map_or(NONE, |route| route.organization.as_str());
        let caller = self.forward.as_ref().map_or(NONE, |forward| forward.credential.caller_label());
        let api =
            self.route.as_ref().and_then(|route| route.operation.as_ref()).map_or(NONE, |operation| &operation.api);
        metrics.requests.with_label_values(&[tenant, api, &self.operation_label(), caller, status_text, source]).inc();
        metrics.request_duration.observe(total.as_secs_f64());
        if let Some(own) = self.decided_after {
            metrics.overhead.observe(own.as_secs_f64());
        }
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let operation = self.operation_label();
        let (upstream_ms, total_ms) = (self.upstream_took.map(milliseconds), milliseconds(total));
        let (code, reported, broken) = (self.code, self.reported, self.broken.as_deref());
        let correlation_id = self.correlation_text();
        // The method is a closed set by now, or the request was refused for it.
        let method = if head.method.as_str().len() <= 7 { head.method.as_str() } else { NONE };
        if broken.is_some() {
            tracing::warn!(
                target: "shopper_gateway::access", tenant, %operation, method, caller, status, source, code, reported, broken,
                upstream_ms, total_ms, correlation_id, "request broke off"
            );
        } else {
            tracing::info!(
                target: "shopper_gateway::access", tenant, %operation, method, caller, status, source, code, reported,
                upstream_ms, total_ms, correlation_id, "request"
            );
        }
    }

    fn operation_label(&self) -> Cow<'_, str> {
        match self.route.as_ref().and_then(|route| route.operation.as_ref()) {
            Some(operation) => Cow::Borrowed(&operation.name),
            None => Cow::Borrowed(NONE),
        }
    }
}

/// A correlation id for what came without one.
pub(super) fn new_correlation_id() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut text)).unwrap_or(HeaderValue::from_static(NONE))
}

/// Counts what was answered without becoming a request, and writes its line.
pub(super) fn record_unread(status: &str, code: &'static str, correlation_id: &HeaderValue, metrics: &Metrics) {
    metrics.requests.with_label_values(&[NONE, NONE, NONE, NONE, status, "gateway"]).inc();
    let correlation_id = correlation_id.to_str().unwrap_or(NONE);
    tracing::info!(target: "shopper_gateway::access", status, code, correlation_id, "no request");
}
