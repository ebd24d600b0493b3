//! Logs: where lines go and how they look.
//!
//! Owns the one set-up of the process's log. Libraries that print raw heads and paths at their lower
//! levels are capped here, in code: no `RUST_LOG` can switch them on. The audit log is no matter of levels: its lines
//! are written whatever the filter says, always as JSON, and to a file of their own if one is configured.

use std::{fs::OpenOptions, io};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    audit,
    settings::{Log, LogFormat},
};

/// Beginnings of targets that write request heads, paths or raw bytes below `WARN`.
const CAPPED_TARGETS: [&str; 8] = ["pingora", "h2", "hyper", "reqwest", "rustls", "moka", "redis", "tokio"];
/// Beginnings of targets that have a line at `ERROR` for whoever hangs up in the middle of a head. What the
/// operator should know of requests stands in our own lines.
const SILENT_TARGETS: [&str; 2] = ["pingora_proxy", "pingora_core::apps"];

/// Starts logging to standard error, and the audit log to its file. Does nothing if the process logs already.
///
/// # Errors
/// If the audit log's file cannot be written.
pub fn start(log: &Log) -> io::Result<()> {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&log.level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => lines.compact().boxed(),
    };
    let lines = lines.with_filter(filter).with_filter(filter::filter_fn(is_safe));
    let audit = match &log.audit_file {
        Some(file) => audit_lines(OpenOptions::new().append(true).create(true).open(file)?),
        None => audit_lines(io::stderr),
    };
    let subscriber = tracing_subscriber::registry().with(lines).with(audit);
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "logging was started before");
    }
    Ok(())
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
    event.target() != audit::TARGET && !is_silent && (*event.level() <= Level::WARN || !is_capped)
}
