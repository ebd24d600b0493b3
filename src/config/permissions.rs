//! Checks that other users cannot change files and directories.
//!
//! Key sets and CA certificates are public. But a user who can replace them can forge tokens and certificates. The gateway only
//! reports wrong permissions and does not correct them.

use std::{
    fs::Metadata,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::process::geteuid;

/// Write permission of the group or of other users.
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// Checks that a directory exists, belongs to root or the gateway's user, and is writable by its owner only.
///
/// # Errors
/// A message if the directory fails the check.
pub fn ensure_trusted_dir(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let metadata = match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Err(format!("{shown} is not a directory")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(format!("{shown} does not exist")),
        Err(error) => return Err(format!("{shown} cannot be read: {}", error.kind())),
    };
    ensure_trusted(&shown.to_string(), &metadata)
}

/// Checks that an open file or directory belongs to root or the gateway's user, and is writable by its owner only.
///
/// # Errors
/// A message if it fails the check.
pub fn ensure_trusted(shown: &str, metadata: &Metadata) -> Result<(), String> {
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(format!(
            "{shown} belongs to user {owner}, which could insert keys; run `chown {own} {shown}` or set another directory"
        ));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_OR_OTHERS_WRITE != 0 {
        return Err(format!(
            "other users can write {shown} (mode {mode:04o}) and insert keys; run `chmod go-w {shown}`, or set a new directory \
             below it, which the gateway creates with mode 0700"
        ));
    }
    Ok(())
}

/// Checks that an open file is writable by its owner only. Any owner is accepted, because mounted files often belong to
/// another user.
///
/// # Errors
/// A message if the file fails the check.
pub(super) fn ensure_owner_only_write(shown: &str, metadata: &Metadata) -> Result<(), String> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_OR_OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(format!("other users can write {shown} (mode {mode:04o}) and replace its content; run `chmod go-w {shown}`"))
}
