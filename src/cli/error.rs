//! The error of a command that exits with code 1.

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
}
