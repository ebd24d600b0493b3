//! Logs: where lines go and how they look.
//!
//! Owns the one set-up of the process's log. Libraries that print raw heads and paths at their lower
//! levels are capped here, in code: no `RUST_LOG` can switch them on. The audit log is no matter of levels: its lines
//! are written whatever the filter says, always as JSON, and to a file of their own if one is configured. The level can be
//! changed while the process runs ([`level`]); spans go to a collector if one is configured ([`traces`]).
//!
//! Whoever logs never waits for who reads: lines go through a `LogWriter` each. Audit lines have one of their own, with more
//! room, so that no flood of other lines displaces them.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::IntCounterVec;
use tracing::{Dispatch, Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::observability::{
    audit::file::{AuditFile, ReopenFlag},
    log_level,
    log_writer::LogWriter,
    otlp::TraceExporter,
    panic_hook,
};
use crate::{
    config::{Log, LogFormat, Traces},
    observability::{audit, metrics},
};

/// Beginnings of targets that write request heads, paths or raw bytes below `WARN`.
const CAPPED_TARGETS: [&str; 9] =
    ["pingora", "h2", "hyper", "reqwest", "rustls", "moka", "redis", "tokio", "opentelemetry"];
/// Beginnings of targets that have a line at `ERROR` for whoever hangs up in the middle of a head. What the
/// operator should know of requests stands in our own lines.
const SILENT_TARGETS: [&str; 2] = ["pingora_proxy", "pingora_core::apps"];

/// The target that says at `ERROR` what is no failure: that a connection to upstream was not free yet, so that another is
/// made. At `WARN` it tells of a server that speaks without being asked, which operators should know.
const HARMLESS_ERROR_TARGET: &str = "pingora_core::connectors";

/// Lines that may wait for who reads standard error: some megabytes.
const LOG_QUEUE_CAPACITY: usize = 8 * 1024;
/// Audit lines that may wait: minutes of a busy shop's logins, some megabytes.
const AUDIT_QUEUE_CAPACITY: usize = 16 * 1024;
/// How long the end of the process waits for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The logs and traces of a process. When this is dropped, what waits is written, as far as that takes no longer than a
/// second each.
#[derive(Debug)]
pub struct Telemetry {
    writers: [Arc<LogWriter>; 2],
    dropped: IntCounterVec,
    exported: IntCounterVec,
    exporter: Option<TraceExporter>,
    reopen: ReopenFlag,
}

impl Telemetry {
    /// Opens the audit log's file anew before its next line, because log rotation may have renamed it.
    pub fn reopen_audit_file(&self) {
        self.reopen.set();
    }

    /// What is counted here: lines that were lost because nobody took them in time, and spans by what became of them.
    #[must_use]
    pub fn counters(&self) -> [IntCounterVec; 2] {
        [self.dropped.clone(), self.exported.clone()]
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(exporter) = self.exporter.take() {
            exporter.shutdown();
        }
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        for writer in &self.writers {
            writer.flush(deadline);
        }
    }
}

/// Why the log or the traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The audit log's file cannot be written.
    #[error("log.audit_file: {0}")]
    AuditFile(#[from] io::Error),
    /// A counter cannot be made, which the tests exclude.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The exporter of traces cannot be made.
    #[error("traces.endpoint: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Starts logging to standard error, as text with colours if they are wanted, the audit log to its file, and the export of
/// traces where one is configured; panics are logged too. Does nothing to the log if the process logs already.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(log: &Log, traces: &Traces, colours: bool) -> Result<Telemetry, TelemetryError> {
    let dropped = metrics::log_lines_dropped()?;
    let [log_dropped, audit_dropped] = ["log", "audit"].map(|name| dropped.with_label_values(&[name]));
    let writer = Arc::new(LogWriter::new("log", io::stderr(), LOG_QUEUE_CAPACITY, log_dropped)?);
    let reopen = ReopenFlag::default();
    let audit_writer = match &log.audit_file {
        Some(file) => LogWriter::new("audit", AuditFile::open(file, &reopen)?, AUDIT_QUEUE_CAPACITY, audit_dropped)?,
        None => LogWriter::new("audit", io::stderr(), AUDIT_QUEUE_CAPACITY, audit_dropped)?,
    };
    let audit_writer = Arc::new(audit_writer);
    let from_environment = EnvFilter::try_from_default_env().ok().zip(std::env::var(EnvFilter::DEFAULT_ENV).ok());
    let (filter, at_start) = match from_environment {
        Some((filter, text)) => (filter, text),
        None => (EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info")), log.level.clone()),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(Arc::clone(&writer)).with_ansi(colours);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => lines.compact().boxed(),
    };
    let audit = audit_layer(Arc::clone(&audit_writer));
    let exported = metrics::spans_exported()?;
    let exporter = traces.endpoint.as_ref().map(|endpoint| TraceExporter::new(endpoint, traces, exported.clone()));
    let exporter = exporter.transpose()?;
    match dispatch(lines, filter, audit, exporter.as_ref()).try_init() {
        Ok(()) => {
            // Whatever speaks through that crate is capped below. Told so here, it does not even ask, which it would
            // some twenty times a request.
            log::set_max_level(log::LevelFilter::Warn);
            log_level::install(handle, at_start);
        }
        Err(error) => tracing::debug!(%error, "logging was started before"),
    }
    panic_hook::install();
    Ok(Telemetry { writers: [writer, audit_writer], dropped, exported, exporter, reopen })
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The ordinary lines at the level that is set and never beyond what is safe, the audit log, and spans where somebody wants
/// them. Each layer has a filter of its own, and a layer that is not wanted is not there at all: one without a filter would
/// make every line that nobody writes be asked about each time that it is not written.
fn dispatch(
    lines: AnyLayer,
    filter: reload::Layer<EnvFilter, Registry>,
    audit: AnyLayer,
    exporter: Option<&TraceExporter>,
) -> Dispatch {
    let lines = lines.with_filter(filter).with_filter(filter::filter_fn(may_be_logged)).boxed();
    let layers: Vec<AnyLayer> =
        [lines, audit].into_iter().chain(exporter.map(|exporter| exporter.layer().boxed())).collect();
    Dispatch::new(tracing_subscriber::registry().with(layers))
}

fn audit_layer<W>(writer: W) -> AnyLayer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines =
        fmt::layer().with_writer(writer).json().flatten_event(true).with_current_span(false).with_span_list(false);
    lines.with_filter(filter::filter_fn(|event| event.target() == audit::TARGET)).boxed()
}

/// Whether an event may be written among the ordinary lines at all, whatever the configured level.
fn may_be_logged(event: &Metadata<'_>) -> bool {
    let is_harmless = event.target() == HARMLESS_ERROR_TARGET && *event.level() == Level::ERROR;
    let is_silent = is_harmless || SILENT_TARGETS.iter().any(|silent| event.target().starts_with(silent));
    let is_capped = CAPPED_TARGETS.iter().any(|capped| event.target().starts_with(capped));
    // Lines name no spans: where no traces are exported, nobody asks for any, and none is made.
    event.is_event() && event.target() != audit::TARGET && !is_silent && (*event.level() <= Level::WARN || !is_capped)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::observability::spans;

    /// What is written, for whoever looks.
    #[derive(Debug, Default, Clone)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_connection_that_was_not_free_is_no_error_and_one_that_speaks_unasked_is_told() {
        let written = Written::default();
        let writer = written.clone();
        let (filter, _handle) = reload::Layer::new(EnvFilter::new("trace"));
        let lines = fmt::layer().with_writer(move || writer.clone()).boxed();
        tracing::dispatcher::with_default(&dispatch(lines, filter, audit_layer(io::sink), None), || {
            tracing::error!(target: "pingora_core::connectors", "not free");
            tracing::warn!(target: "pingora_core::connectors", "speaks unasked");
            tracing::error!(target: "pingora_core::listeners", "another's");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("not free") && text.contains("speaks unasked") && text.contains("another's"), "{text}");
    }

    #[test]
    fn without_a_collector_no_span_is_made_at_any_level_nor_even_asked_about() {
        for level in ["info", "trace"] {
            let (filter, _handle) = reload::Layer::new(EnvFilter::new(level));
            let lines = fmt::layer().with_writer(io::sink).boxed();
            let dispatch = dispatch(lines, filter, audit_layer(io::sink), None);
            tracing::dispatcher::with_default(&dispatch, || {
                for span in [spans::request("GET", "id"), spans::verify("slas"), spans::exchange("slas", "login")] {
                    assert!(span.is_disabled());
                    assert!(dispatch.register_callsite(span.metadata().unwrap()).is_never(), "at {level}");
                }
            });
        }
    }
}
