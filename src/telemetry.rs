//! Logs: where lines go and how they look.
//!
//! Owns the one set-up of the process's log. Libraries that print raw heads and paths at their lower
//! levels are capped here, in code: no `RUST_LOG` can switch them on. The audit log is no matter of levels: its lines
//! are written whatever the filter says, always as JSON, and to a file of their own if one is configured.
//!
//! Whoever logs never waits for who reads: lines go through a [`Sink`] each. Audit lines have one of their own, with more
//! room, so that no flood of other lines displaces them.

mod panics;
mod sink;

use std::{
    fs::OpenOptions,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::IntCounterVec;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use self::sink::Sink;
use crate::{
    audit, metrics,
    settings::{Log, LogFormat},
};

/// Beginnings of targets that write request heads, paths or raw bytes below `WARN`.
const CAPPED_TARGETS: [&str; 8] = ["pingora", "h2", "hyper", "reqwest", "rustls", "moka", "redis", "tokio"];
/// Beginnings of targets that have a line at `ERROR` for whoever hangs up in the middle of a head. What the
/// operator should know of requests stands in our own lines.
const SILENT_TARGETS: [&str; 2] = ["pingora_proxy", "pingora_core::apps"];
/// Lines that may wait for who reads standard error: some megabytes.
const WAITING_LINES: usize = 8 * 1024;
/// Audit lines that may wait: minutes of a busy shop's logins, some megabytes.
const WAITING_AUDIT_LINES: usize = 16 * 1024;
/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of a process. When it is dropped, what waits is written, as far as that takes no longer than a second.
#[derive(Debug)]
pub struct Logs {
    sinks: [Arc<Sink>; 2],
    lost: IntCounterVec,
}

impl Logs {
    /// Lines that were lost because nobody took them in time.
    #[must_use]
    pub fn lost(&self) -> IntCounterVec {
        self.lost.clone()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_LINES;
        for sink in &self.sinks {
            sink.flush(deadline);
        }
    }
}

/// Starts logging to standard error, and the audit log to its file; panics are logged too.
///
/// # Errors
/// If the audit log's file cannot be written, or the operating system gives no thread.
pub fn start(log: &Log) -> io::Result<Logs> {
    let lost = metrics::log_lines_lost().map_err(io::Error::other)?;
    let [lines_lost, audit_lost] = ["log", "audit"].map(|name| lost.with_label_values(&[name]));
    let sink = Arc::new(Sink::new("log", io::stderr(), WAITING_LINES, lines_lost)?);
    let audit_sink = match &log.audit_file {
        Some(file) => {
            let file = OpenOptions::new().append(true).create(true).open(file)?;
            Sink::new("audit", file, WAITING_AUDIT_LINES, audit_lost)?
        }
        None => Sink::new("audit", io::stderr(), WAITING_AUDIT_LINES, audit_lost)?,
    };
    let audit_sink = Arc::new(audit_sink);
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&log.level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(Arc::clone(&sink)).with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => lines.compact().boxed(),
    };
    let lines = lines.with_filter(filter).with_filter(filter::filter_fn(is_safe));
    let subscriber = tracing_subscriber::registry().with(lines).with(audit_lines(Arc::clone(&audit_sink)));
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "logging was started before");
    }
    panics::log();
    Ok(Logs { sinks: [sink, audit_sink], lost })
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
