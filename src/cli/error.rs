//! The error of a command that exits with code 1.

use tokio::runtime::{Builder, Runtime};

use crate::config::ConfigErrors;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The configuration is invalid.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// The command has already printed the reason.
    #[error("")]
    Reported,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl CommandError {
    pub(super) fn from_display(error: impl ToString) -> Self {
        Self::Other(error.to_string())
    }

    /// Converts an error into one that says first what failed.
    pub(super) fn context<E: ToString>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Other(format!("{what}: {}", error.to_string()))
    }
}

/// Starts a runtime with one worker thread.
///
/// # Errors
/// Returns [`CommandError::Other`] if the system has no thread or file descriptor left.
pub(super) fn start_runtime() -> Result<Runtime, CommandError> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(CommandError::context("the runtime cannot start"))
}
