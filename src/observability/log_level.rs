//! The log's level while the process runs.
//!
//! Owns the one filter of the process's log and who may change it: the operators' listener, through [`set`]. What libraries
//! must never write stays capped whatever is set.

use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::is_log_level;

static LEVEL: OnceLock<Level> = OnceLock::new();

struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    at_start: String,
    now: Mutex<String>,
}

/// Why the level was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// It is none.
    #[error("expected off, error, warn, info, debug or trace, alone or as target=level, separated by commas")]
    Invalid,
    /// Somebody else set up this process's log.
    #[error("this process's log is not the gateway's")]
    NotInstalled,
}

/// The level now, and the one that the process began with.
#[must_use]
pub fn current() -> Option<(String, &'static str)> {
    LEVEL.get().map(|level| (level.now.lock().clone(), level.at_start.as_str()))
}

/// Changes the level until the process ends or somebody changes it again; nothing: back to that of the start.
///
/// # Errors
/// [`LogLevelError`].
pub fn set(wanted: Option<&str>) -> Result<String, LogLevelError> {
    let level = LEVEL.get().ok_or(LogLevelError::NotInstalled)?;
    let wanted = wanted.unwrap_or(&level.at_start);
    let known = wanted == level.at_start || is_log_level(wanted);
    let filter = Some(wanted).filter(|_| known).and_then(|wanted| EnvFilter::try_new(wanted).ok());
    let filter = filter.ok_or(LogLevelError::Invalid)?;
    let mut now = level.now.lock();
    level.filter.reload(filter).map_err(|_| LogLevelError::NotInstalled)?;
    wanted.clone_into(&mut now);
    Ok(wanted.to_owned())
}

/// Remembers the filter that the log was set up with.
pub(super) fn install(filter: reload::Handle<EnvFilter, Registry>, at_start: String) {
    let level = Level { filter, now: Mutex::new(at_start.clone()), at_start };
    // Set up once; whoever comes second has no log to change.
    let _ = LEVEL.set(level);
}
