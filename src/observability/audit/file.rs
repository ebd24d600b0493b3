//! The audit log's file. Log rotation renames it and then sends SIGHUP, so the file can be reopened on request.
//!
//! If the path cannot be reopened, lines go to the file opened before, and no line is lost.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// An audit file, open for appending.
#[derive(Debug)]
pub(in crate::observability) struct AuditFile {
    path: PathBuf,
    file: File,
    is_stale: Arc<AtomicBool>,
}

/// Requests that an [`AuditFile`] be reopened.
#[derive(Debug, Clone, Default)]
pub(in crate::observability) struct ReopenFlag(Arc<AtomicBool>);

impl ReopenFlag {
    /// Requests the reopening. It takes effect before the next line is written.
    pub(in crate::observability) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl AuditFile {
    /// Opens the file, and creates it if it does not exist.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub(in crate::observability) fn open(path: &Path, reopen: &ReopenFlag) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: append_to(path)?, is_stale: Arc::clone(&reopen.0) })
    }
}

impl Write for AuditFile {
    /// Reopens the file if requested. If that fails, the line goes to the file opened before.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_stale.swap(false, Ordering::AcqRel) {
            match append_to(&self.path) {
                Ok(file) => self.file = file,
                Err(error) => {
                    tracing::error!(%error, "log.audit_file cannot be opened again; lines go to the file opened before")
                }
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn audit_file_after_rename_is_recreated_or_keeps_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, renamed) = (folder.path().join("logs/audit"), folder.path().join("renamed"));
        fs::create_dir(folder.path().join("logs")).unwrap();
        let reopen = ReopenFlag::default();
        let mut file = AuditFile::open(&path, &reopen).unwrap();
        file.write_all(b"1\n").unwrap();
        fs::rename(&path, &renamed).unwrap();
        file.write_all(b"2\n").unwrap();
        reopen.set();
        file.write_all(b"3\n").unwrap();
        assert_eq!(fs::read(&renamed).unwrap(), b"1\n2\n");
        assert_eq!(fs::read(&path).unwrap(), b"3\n");

        fs::rename(folder.path().join("logs"), folder.path().join("gone")).unwrap();
        reopen.set();
        file.write_all(b"4\n").unwrap();
        assert_eq!(fs::read(folder.path().join("gone/audit")).unwrap(), b"3\n4\n");
    }
}
