//! Why a file of certificates or keys cannot be used.

use std::path::PathBuf;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", .file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, and what to do.
    pub message: String,
}
