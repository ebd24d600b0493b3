//! Logs: where lines go and how they look.
//!
//! Owns the one set-up of the process's log. Libraries that print raw heads and paths at their lower
//! levels are capped here, in code: no `RUST_LOG` can switch them on.

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::settings::{Log, LogFormat};

/// Beginnings of targets that write request heads, paths or raw bytes below `WARN`.
const CAPPED_TARGETS: [&str; 8] = ["pingora", "h2", "hyper", "reqwest", "rustls", "moka", "redis", "tokio"];
/// Beginnings of targets that have a line at `ERROR` for whoever hangs up in the middle of a head. What the
/// operator should know of requests stands in our own lines.
const SILENT_TARGETS: [&str; 2] = ["pingora_proxy", "pingora_core::apps"];

/// Starts logging to standard error. Does nothing if the process logs already.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&log.level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines =
        fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => lines.compact().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines.with_filter(filter::filter_fn(is_safe)));
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "logging was started before");
    }
}

/// Whether an event may be written at all, whatever the configured level.
fn is_safe(event: &Metadata<'_>) -> bool {
    if SILENT_TARGETS.iter().any(|silent| event.target().starts_with(silent)) {
        return false;
    }
    *event.level() <= Level::WARN || !CAPPED_TARGETS.iter().any(|capped| event.target().starts_with(capped))
}
