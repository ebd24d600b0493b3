//! The failure of a command, as it ends with exit code 1.

use crate::config::ConfigErrors;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The configuration is wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// In words that have been said already.
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
