//! Folders and files that only this gateway's own user, or root, may change.
//!
//! Owns what "guarded" means: public keys are no secret, but who can change them can be any shopper. Refuses to repair
//! permissions: an operator should know of them. `ensure_owner_only_write` asks less: any owner, but nobody else may write.

use std::{
    fs::Metadata,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::process::geteuid;

/// What nobody but the owner may do: write.
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// Whether a folder is there and guarded.
///
/// # Errors
/// What is wrong, and what to do about it.
pub fn ensure_trusted_dir(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let metadata = match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Err(format!("{shown} is no folder")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(format!("there is no folder {shown}")),
        Err(error) => return Err(format!("{shown} cannot be read: {}", error.kind())),
    };
    ensure_trusted(&shown.to_string(), &metadata)
}

/// Whether an opened file or folder is guarded.
///
/// # Errors
/// What is wrong, and what to do about it.
pub fn ensure_trusted(shown: &str, metadata: &Metadata) -> Result<(), String> {
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(format!(
            "{shown} belongs to user {owner}, who could plant keys in it; run `chown {own} {shown}`, or name another folder"
        ));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_OR_OTHERS_WRITE != 0 {
        return Err(format!(
            "{shown} can be written by others (mode {mode:04o}), who could plant keys in it; run `chmod go-w {shown}`, or \
             name a folder in it that is not there yet: the gateway makes it with mode 0700"
        ));
    }
    Ok(())
}

/// Whether only the owner of an opened file may change it. Its owner may be anyone: a mounted file often belongs to another
/// user.
///
/// # Errors
/// What is wrong, and what to do about it.
pub(super) fn ensure_owner_only_write(shown: &str, metadata: &Metadata) -> Result<(), String> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_OR_OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(format!(
        "{shown} can be written by others (mode {mode:04o}), who could put another in its place; run `chmod go-w {shown}`"
    ))
}
