//! The error for an unusable certificate or key file.

use std::path::PathBuf;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", .file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// The problem of the file, and what to do.
    pub message: String,
}
