//! The log level, which operators can change while the process runs.
//!
//! The process has one log filter. The admin listener changes it through [`set`]. The caps on libraries apply at every level.

use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::is_log_filter;

static LEVEL: OnceLock<Level> = OnceLock::new();

struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    at_start: String,
    current: Mutex<String>,
}

/// A failed change of the log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// The text is no valid log level.
    #[error("expected off, error, warn, info, debug or trace, alone or as target=level, separated by commas")]
    Invalid,
    /// The gateway did not set up the log of this process.
    #[error("the gateway did not set up the log of this process")]
    NotInstalled,
}

/// Returns the current level and the level at the start. `None` if the gateway did not set up the log.
#[must_use]
pub fn current() -> Option<(String, &'static str)> {
    LEVEL.get().map(|level| (level.current.lock().clone(), level.at_start.as_str()))
}

/// Sets the level, or with `None` the level at the start, and returns it.
///
/// # Errors
/// [`LogLevelError::Invalid`] if the text is no log level, [`LogLevelError::NotInstalled`] if the gateway did not set up the log.
pub fn set(level: Option<&str>) -> Result<String, LogLevelError> {
    let log = LEVEL.get().ok_or(LogLevelError::NotInstalled)?;
    let level = level.unwrap_or(&log.at_start);
    let is_valid = level == log.at_start || is_log_filter(level);
    let filter = Some(level).filter(|_| is_valid).and_then(|level| EnvFilter::try_new(level).ok());
    let filter = filter.ok_or(LogLevelError::Invalid)?;
    let mut current = log.current.lock();
    log.filter.reload(filter).map_err(|_| LogLevelError::NotInstalled)?;
    level.clone_into(&mut current);
    Ok(level.to_owned())
}

/// Stores the filter that the log was set up with.
pub(super) fn install(filter: reload::Handle<EnvFilter, Registry>, at_start: String) {
    let level = Level { filter, current: Mutex::new(at_start.clone()), at_start };
    // The first call wins: the process has one log.
    let _ = LEVEL.set(level);
}
