//! Logs: where lines go and how they look.
//!
//! Owns the one set-up of the process's log. Libraries that print raw heads and paths at their lower
//! levels are capped here, in code: no `RUST_LOG` can switch them on. The audit log is no matter of levels: its lines
//! are written whatever the filter says, always as JSON, and to a file of their own if one is configured. The level can be
//! changed while the process runs ([`level`]); spans go to a collector if one is configured ([`traces`]).

pub mod level;
pub mod traces;

use std::{fs::OpenOptions, io};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use self::traces::Exporter;
use crate::{
    audit,
    settings::{Log, LogFormat, Traces},
};

/// Beginnings of targets that write request heads, paths or raw bytes below `WARN`.
const CAPPED_TARGETS: [&str; 9] =
    ["pingora", "h2", "hyper", "reqwest", "rustls", "moka", "redis", "tokio", "opentelemetry"];
/// Beginnings of targets that have a line at `ERROR` for whoever hangs up in the middle of a head. What the
/// operator should know of requests stands in our own lines.
const SILENT_TARGETS: [&str; 2] = ["pingora_proxy", "pingora_core::apps"];

/// Why the log or the traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The audit log's file cannot be written.
    #[error("log.audit_file: {0}")]
    AuditFile(#[from] io::Error),
    /// The exporter of traces cannot be made.
    #[error("traces.endpoint: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Starts logging to standard error, the audit log to its file, and the export of traces where one is configured. Does
/// nothing to the log if the process logs already.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(log: &Log, traces: &Traces) -> Result<Option<Exporter>, TelemetryError> {
    let from_environment = EnvFilter::try_from_default_env().ok().zip(std::env::var(EnvFilter::DEFAULT_ENV).ok());
    let (filter, at_start) = match from_environment {
        Some((filter, text)) => (filter, text),
        None => (EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info")), log.level.clone()),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => lines.compact().boxed(),
    };
    let lines = guarded(lines, filter);
    let audit = match &log.audit_file {
        Some(file) => audit_lines(OpenOptions::new().append(true).create(true).open(file)?),
        None => audit_lines(io::stderr),
    };
    let exporter = traces.endpoint.as_ref().map(|endpoint| Exporter::new(endpoint, traces)).transpose()?;
    let exported = exporter.as_ref().map(Exporter::layer);
    let subscriber = tracing_subscriber::registry().with(lines).with(audit).with(exported);
    match subscriber.try_init() {
        Ok(()) => level::keep(handle, at_start),
        Err(error) => tracing::debug!(%error, "logging was started before"),
    }
    Ok(exporter)
}

/// The ordinary lines, at the level that is set and never beyond what is safe.
fn guarded<S>(
    lines: Box<dyn Layer<S> + Send + Sync>,
    filter: reload::Layer<EnvFilter, S>,
) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    lines.with_filter(filter).with_filter(filter::filter_fn(is_safe))
}

fn audit_lines<S, W>(writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines =
        fmt::layer().with_writer(writer).json().flatten_event(true).with_current_span(false).with_span_list(false);
    lines.with_filter(filter::filter_fn(|event| event.target() == audit::TARGET)).boxed()
}

/// Whether an event may be written among the ordinary lines at all, whatever the configured level.
fn is_safe(event: &Metadata<'_>) -> bool {
    let is_silent = SILENT_TARGETS.iter().any(|silent| event.target().starts_with(silent));
    let is_capped = CAPPED_TARGETS.iter().any(|capped| event.target().starts_with(capped));
    // Lines name no spans: where no traces are exported, nobody asks for any, and none is made.
    event.is_event() && event.target() != audit::TARGET && !is_silent && (*event.level() <= Level::WARN || !is_capped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans;

    #[test]
    fn without_a_collector_no_span_is_made_at_any_level() {
        let (filter, _handle) = reload::Layer::new(EnvFilter::new("trace"));
        let lines = guarded(fmt::layer().with_writer(io::sink).boxed(), filter);
        let subscriber = tracing_subscriber::registry().with(lines).with(audit_lines(io::sink));
        tracing::subscriber::with_default(subscriber, || {
            assert!(spans::request("GET", "id").is_disabled());
            assert!(spans::verify("slas").is_disabled() && spans::exchange("slas", "login").is_disabled());
        });
    }
}
