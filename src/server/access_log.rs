//! The access log: the fields of a line, and which requests get one.
//!
//! A line has names from closed sets, numbers, the correlation id and the trace id. It never has a path, query, header, login or
//! token. Errors and slow requests always get a line. Other successes are sampled (`log.success_sample_rate`).

use std::{borrow::Cow, time::Duration};

use crate::{config::Log, time::random_fraction};

/// Decides which requests get a line.
#[derive(Debug, Clone, Copy)]
pub struct AccessLog {
    success_sample_rate: f64,
    slow: Duration,
}

/// The fields of one line.
#[derive(Debug, Default)]
pub(super) struct LogLine<'a> {
    pub(super) tenant: &'a str,
    pub(super) operation: Cow<'a, str>,
    /// Path template of the operation.
    pub(super) route: &'a str,
    pub(super) method: &'a str,
    pub(super) caller: &'a str,
    pub(super) status: u16,
    pub(super) source: &'static str,
    /// Error code, also if the error was only reported.
    pub(super) code: Option<&'static str>,
    /// Reason that the response does not disclose.
    pub(super) reason: Option<&'static str>,
    pub(super) report_only: bool,
    /// Pingora's name of the failure that aborted the response.
    pub(super) aborted: Option<&'a str>,
    /// Why no connection to the API could be made.
    pub(super) cause: Option<&'static str>,
    pub(super) total: Duration,
    pub(super) upstream: Option<Duration>,
    /// Time spent in the gateway itself.
    pub(super) gateway: Duration,
    pub(super) correlation_id: &'a str,
    /// Id of the exported trace.
    pub(super) trace_id: Option<String>,
}

impl AccessLog {
    /// The access log of the given settings.
    #[must_use]
    pub fn new(log: &Log) -> Self {
        Self { success_sample_rate: log.success_sample_rate, slow: log.slow }
    }

    /// Writes a line, unless it is a success that sampling leaves out.
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
    /// Writes the line without sampling.
    pub(super) fn write(&self) {
        // Rounded to microseconds: further digits are noise.
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
                aborted, cause, upstream_ms, gateway_ms, total_ms, correlation_id, trace_id, "request aborted"
            );
        } else {
            tracing::info!(
                target: "shopper_gateway::access", tenant, %operation, route, method, caller, status, source, code, reason, report_only,
                upstream_ms, gateway_ms, total_ms, correlation_id, trace_id, "request"
            );
        }
    }
}
