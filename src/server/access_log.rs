//! The access log: one line a request, and for what never became one; and which requests get theirs.
//!
//! Owns the fields of a line. They are names of closed sets, numbers and the correlation id; no path, query, header, login or
//! token. Refusals, failures and what is slow always get their line; of other successes one in so many, if so configured. Where
//! a request's trace is exported, its line has the trace's id.

use std::{borrow::Cow, time::Duration};

use crate::{config::Log, time::random_fraction};

/// Decides which requests get a line.
#[derive(Debug, Clone, Copy)]
pub struct AccessLog {
    success_sample_rate: f64,
    slow: Duration,
}

/// What a line says of a request.
#[derive(Debug)]
pub(super) struct LogLine<'a> {
    pub(super) tenant: &'a str,
    pub(super) operation: Cow<'a, str>,
    /// The operation's path with its parameters' names.
    pub(super) route: &'a str,
    pub(super) method: &'a str,
    pub(super) caller: &'a str,
    pub(super) status: u16,
    pub(super) source: &'static str,
    /// Of the refusal, carried out or only reported.
    pub(super) code: Option<&'static str>,
    /// Why, where the caller is not told.
    pub(super) reason: Option<&'static str>,
    pub(super) report_only: bool,
    /// How it broke off, in the library's word.
    pub(super) aborted: Option<&'a str>,
    /// Why there was no connection to the API.
    pub(super) cause: Option<&'static str>,
    pub(super) total: Duration,
    pub(super) upstream: Option<Duration>,
    /// The gateway's own part.
    pub(super) gateway: Duration,
    pub(super) correlation_id: &'a str,
    /// Of the exported trace that it is part of.
    pub(super) trace_id: Option<String>,
}

impl AccessLog {
    /// The log that the settings ask for.
    #[must_use]
    pub fn new(log: &Log) -> Self {
        Self { success_sample_rate: log.success_sample_rate, slow: log.slow }
    }

    pub(super) fn write(&self, line: &LogLine<'_>) {
        let is_success = line.code.is_none() && line.aborted.is_none() && (200..400).contains(&line.status);
        if is_success
            && line.total < self.slow
            && self.success_sample_rate < 1.0
            && random_fraction() >= self.success_sample_rate
        {
            return;
        }
        line.write();
    }
}

impl LogLine<'_> {
    /// Writes it, whichever request it is of.
    pub(super) fn write(&self) {
        // In whole microseconds: more is noise of the clock and of binary fractions.
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let LogLine {
            tenant,
            operation,
            route,
            method,
            caller,
            status,
            source,
            code,
            reason,
            report_only,
            aborted,
            cause,
            ..
        } = self;
        let (total_ms, gateway_ms) = (milliseconds(self.total), milliseconds(self.gateway));
        let (upstream_ms, correlation_id) = (self.upstream.map(milliseconds), self.correlation_id);
        let trace_id = self.trace_id.as_deref();
        if aborted.is_some() {
            tracing::warn!(
                target: "shopper_gateway::access", tenant, %operation, route, method, caller, status, source, code, reason, report_only,
                aborted, cause, upstream_ms, gateway_ms, total_ms, correlation_id, trace_id, "request broke off"
            );
        } else {
            tracing::info!(
                target: "shopper_gateway::access", tenant, %operation, route, method, caller, status, source, code, reason, report_only,
                upstream_ms, gateway_ms, total_ms, correlation_id, trace_id, "request"
            );
        }
    }
}
