//! A directory of key sets that outlive the process.
//!
//! A file is written whole or not at all. A directory or file that another user could have changed is rejected, because that
//! user could plant a key.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use crate::config::{ensure_trusted, ensure_trusted_dir};

/// Maximum bytes of a file. Every persisted key set is smaller.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A directory that only this process's user, or root, can change.
#[derive(Debug)]
pub struct CacheDirectory(PathBuf);

/// An error of a directory or one of its files.
#[derive(Debug, thiserror::Error)]
pub enum CacheDirectoryError {
    /// Another user could have changed it, or it is not a directory.
    #[error("{0}")]
    Untrusted(String),
    /// The operating system reported an error.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// The operating system's error.
        source: io::Error,
    },
}

impl CacheDirectory {
    /// Opens a directory. Creates it with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// [`CacheDirectoryError::Untrusted`] if another user can change it, [`CacheDirectoryError::Io`] if it cannot be created.
    pub fn open(path: &Path) -> Result<Self, CacheDirectoryError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(io_error(path, source)),
        }
        ensure_trusted_dir(path).map_err(CacheDirectoryError::Untrusted)?;
        Ok(Self(path.to_owned()))
    }

    /// The contents of a file. `None` if it does not exist.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CacheDirectoryError> {
        ensure_trusted_dir(&self.0).map_err(CacheDirectoryError::Untrusted)?;
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error(&path, source)),
        };
        // The permissions of the opened file: by now the name may refer to another one.
        let metadata = file.metadata().map_err(|source| io_error(&path, source))?;
        ensure_trusted(&path.display().to_string(), &metadata).map_err(CacheDirectoryError::Untrusted)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|source| io_error(&path, source))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io_error(&path, ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(bytes))
    }

    /// Replaces a file. After a crash the old or the new contents are there, complete.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CacheDirectoryError> {
        ensure_trusted_dir(&self.0).map_err(CacheDirectoryError::Untrusted)?;
        let temporary = self.0.join(format!(".{name}.{}", process::id()));
        let replace = || {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, self.0.join(name))?;
            File::open(&self.0)?.sync_all()
        };
        replace().map_err(|source| {
            // A failure here is harmless: the next write removes the file.
            let _ = fs::remove_file(&temporary);
            io_error(&self.0.join(name), source)
        })
    }
}

fn io_error(path: &Path, source: io::Error) -> CacheDirectoryError {
    CacheDirectoryError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn file_is_written_for_its_owner_only_and_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("keys");
        let store = CacheDirectory::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert!(store.read("a").unwrap().is_none());
        for bytes in [b"first".as_slice(), b"second"] {
            store.write("a", bytes).unwrap();
            assert_eq!(store.read("a").unwrap().unwrap(), bytes);
        }
        assert_eq!(mode(&path.join("a")), 0o600);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn path_that_others_can_write_is_rejected_with_the_reason() {
        let parent = tempfile::tempdir().unwrap();
        let store = CacheDirectory::open(parent.path()).unwrap();
        store.write("a", b"genuine").unwrap();
        for forbidden in [0o777, 0o720, 0o702, 0o1777] {
            chmod(parent.path(), forbidden);
            for error in [
                CacheDirectory::open(parent.path()).unwrap_err(),
                store.read("a").unwrap_err(),
                store.write("a", b"new").unwrap_err(),
            ] {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
        chmod(parent.path(), 0o755);
        chmod(&parent.path().join("a"), 0o666);
        assert!(store.read("a").unwrap_err().to_string().contains("(mode 0666)"));
    }

    #[test]
    fn path_that_is_no_directory_is_rejected() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(CacheDirectory::open(&file).unwrap_err().to_string().ends_with("is not a directory"));
        assert!(CacheDirectory::open(&parent.path().join("missing/keys")).is_err());
    }

    #[test]
    fn oversized_file_is_rejected() {
        let parent = tempfile::tempdir().unwrap();
        let store = CacheDirectory::open(parent.path()).unwrap();
        store.write("a", &vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(store.read("a").is_err());
    }
}
