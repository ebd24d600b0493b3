//! A folder in which key sets outlive the process.
//!
//! Owns how files are written (whole or not at all) and what is refused: a folder or file that somebody else could
//! have changed. Refuses to know what is in them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use crate::config::{ensure_trusted, ensure_trusted_dir};

/// More than any kept key set has.
const LARGEST: u64 = 1024 * 1024;

/// A folder that only this gateway's user, or root, can change.
#[derive(Debug)]
pub struct Folder(PathBuf);

/// Why a folder or file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Others could have changed it, or it is none.
    #[error("{0}")]
    Unguarded(String),
    /// The operating system does not let us.
    #[error("{path}: {source}")]
    Failed {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Folder {
    /// This folder, made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(path, source)),
        }
        ensure_trusted_dir(path).map_err(FolderError::Unguarded)?;
        Ok(Self(path.to_owned()))
    }

    /// What stands in a file; `None` if it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FolderError> {
        ensure_trusted_dir(&self.0).map_err(FolderError::Unguarded)?;
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(&path, source)),
        };
        // The permissions of what was opened, not of a name that may point elsewhere by now.
        let metadata = file.metadata().map_err(|source| failed(&path, source))?;
        ensure_trusted(&path.display().to_string(), &metadata).map_err(FolderError::Unguarded)?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|source| failed(&path, source))?;
        if bytes.len() as u64 > LARGEST {
            return Err(failed(&path, ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(bytes))
    }

    /// Puts bytes in place of a file's: after a crash there is the old file or the new one, whole.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        ensure_trusted_dir(&self.0).map_err(FolderError::Unguarded)?;
        let beside = self.0.join(format!(".{name}.{}", process::id()));
        let put = || {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, self.0.join(name))?;
            File::open(&self.0)?.sync_all()
        };
        put().map_err(|source| {
            // What is left of it would be overwritten the next time.
            let _ = fs::remove_file(&beside);
            failed(&self.0.join(name), source)
        })
    }
}

fn failed(path: &Path, source: io::Error) -> FolderError {
    FolderError::Failed { path: path.display().to_string(), source }
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
    fn a_file_is_written_for_its_owner_alone_and_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("keys");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert!(folder.read("a").unwrap().is_none());
        for bytes in [b"first".as_slice(), b"second"] {
            folder.write("a", bytes).unwrap();
            assert_eq!(folder.read("a").unwrap().unwrap(), bytes);
        }
        assert_eq!(mode(&path.join("a")), 0o600);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_others_can_write_is_refused_with_the_reason() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        folder.write("a", b"genuine").unwrap();
        for forbidden in [0o777, 0o720, 0o702, 0o1777] {
            chmod(parent.path(), forbidden);
            for error in [
                Folder::open(parent.path()).unwrap_err(),
                folder.read("a").unwrap_err(),
                folder.write("a", b"new").unwrap_err(),
            ] {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
        chmod(parent.path(), 0o755);
        chmod(&parent.path().join("a"), 0o666);
        assert!(folder.read("a").unwrap_err().to_string().contains("(mode 0666)"));
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Folder::open(&file).unwrap_err().to_string().ends_with("is no folder"));
        assert!(Folder::open(&parent.path().join("missing/keys")).is_err());
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        folder.write("a", &vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(folder.read("a").is_err());
    }
}
