//! Sets up the log, the audit log and the export of traces, once per process.
//!
//! Some libraries log raw request heads and paths at their lower levels. This module caps them in code, so `RUST_LOG` cannot
//! enable those lines. Audit lines ignore the log level. They are always JSON, and go to a file of their own if one is
//! configured. [`log_level`] changes the level while the process runs. [`otlp`](crate::observability::otlp) exports spans if a
//! collector is configured.
//!
//! Logging never blocks: each destination has a `LogWriter`. Audit lines have their own writer with a larger queue, so other
//! lines cannot displace them.

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

/// Prefixes of targets that log request heads, paths or raw bytes below `WARN`.
const CAPPED_TARGETS: [&str; 9] =
    ["pingora", "h2", "hyper", "reqwest", "rustls", "moka", "redis", "tokio", "opentelemetry"];
/// Prefixes of targets that log an `ERROR` for each client that disconnects in the middle of a head. The access log has all
/// that operators need about requests.
const SILENT_TARGETS: [&str; 2] = ["pingora_proxy", "pingora_core::apps"];

/// A target whose `ERROR` lines are harmless: a pooled upstream connection was not free yet, so another one is opened. Its
/// `WARN` lines stay: they report a server that sends data without a request.
const HARMLESS_ERROR_TARGET: &str = "pingora_core::connectors";

/// Lines in the queue of standard error: some megabytes.
const LOG_QUEUE_CAPACITY: usize = 8 * 1024;
/// Lines in the queue of the audit log: minutes of a busy shop's logins, some megabytes.
const AUDIT_QUEUE_CAPACITY: usize = 16 * 1024;
/// Maximum wait for the last lines when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The logs and traces of the process. Dropping it writes the queued lines and spans, within a second each.
#[derive(Debug)]
pub struct Telemetry {
    writers: [Arc<LogWriter>; 2],
    dropped: IntCounterVec,
    exported: IntCounterVec,
    exporter: Option<TraceExporter>,
    reopen: ReopenFlag,
}

impl Telemetry {
    /// Reopens the audit log's file before its next line, because log rotation may have renamed it.
    pub fn reopen_audit_file(&self) {
        self.reopen.set();
    }

    /// Returns the counters of dropped log lines and of exported spans.
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

/// A failed set-up of logs or traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The audit log's file cannot be written.
    #[error("log.audit_file: {0}")]
    AuditFile(#[from] io::Error),
    /// A counter cannot be created. Tests exclude this.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The trace exporter cannot be created.
    #[error("traces.endpoint: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Starts the log on standard error, the audit log, the export of traces if configured, and the logging of panics. `colours`
/// applies to text logs. If the process has a log already, that log stays.
///
/// # Errors
/// [`TelemetryError`] if the audit log's file cannot be opened, or a writer, counter or exporter cannot be created.
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
            // The cap applies to all users of the `log` crate anyway. With it set here, they skip about twenty checks a
            // request.
            log::set_max_level(log::LevelFilter::Warn);
            log_level::install(handle, at_start);
        }
        Err(error) => tracing::debug!(%error, "log already set up by the process"),
    }
    panic_hook::install();
    Ok(Telemetry { writers: [writer, audit_writer], dropped, exported, exporter, reopen })
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Combines the layers of the log, the audit log and, with an exporter, the spans. Each layer has its own filter, and an unused
/// layer is absent: a layer without a filter would disable the caching of disabled callsites.
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

/// Returns whether the log may contain an event, regardless of the configured level.
fn may_be_logged(event: &Metadata<'_>) -> bool {
    let is_harmless = event.target() == HARMLESS_ERROR_TARGET && *event.level() == Level::ERROR;
    let is_silent = is_harmless || SILENT_TARGETS.iter().any(|silent| event.target().starts_with(silent));
    let is_capped = CAPPED_TARGETS.iter().any(|capped| event.target().starts_with(capped));
    // The log contains no spans. Without an exporter no layer enables them, so none is created.
    event.is_event() && event.target() != audit::TARGET && !is_silent && (*event.level() <= Level::WARN || !is_capped)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::observability::spans;

    /// Collects the written bytes.
    #[derive(Debug, Default, Clone)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn log_omits_busy_upstream_connections_and_keeps_unsolicited_data_warnings() {
        let written = Output::default();
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
    fn spans_without_collector_are_disabled_at_every_level() {
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
