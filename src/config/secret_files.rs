//! Resolves the files and secrets that the configuration refers to, and checks their permissions.
//!
//! Errors contain the key and the path of a file, and never its content.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{ErrorKind, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    diagnostics::Diagnostics,
    file,
    permissions::ensure_owner_only_write,
    secret_text::{self, SecretText, redacted_name},
};

/// A larger file is no secret. The limit keeps a wrong path from exhausting the memory.
const MAX_SECRET_SIZE: u64 = 64 * 1024;

/// Other users must not have any access to a secret. The group may read it, because Kubernetes mounts secrets this way, but must
/// not write it.
const FORBIDDEN_MODE_BITS: u32 = 0o027;
/// A name of a missing file is shown in an error up to this length in bytes.
const MAX_SHOWN_NAME_LENGTH: usize = 200;
/// The directory where Docker mounts secrets.
const DOCKER_SECRETS_DIR: &str = "/run/secrets";

/// Resolves references to files, secrets and environment variables.
pub(super) struct Resolver<'a> {
    /// The directory at which relative paths start.
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a BTreeMap<String, String>,
}

impl Resolver<'_> {
    /// Returns the secret of a key.
    pub(super) fn secret(&self, path: &str, raw: file::Secret, diagnostics: &mut Diagnostics) -> Option<SecretString> {
        let found = match raw {
            file::Secret::Literal(secret) => {
                if !diagnostics.is_from_environment(path) {
                    diagnostics.warn(
                        path,
                        "the configuration file contains the secret; use { file = \"…\" } or { env = \"NAME\" }",
                    );
                }
                decode_secret(path, secret.expose_secret().as_bytes(), "the value", diagnostics)
            }
            file::Secret::Reference(file::SecretRef { file: Some(file), env: None }) => {
                self.read_secret_file(path, &file, diagnostics)
            }
            file::Secret::Reference(file::SecretRef { file: None, env: Some(name) }) => {
                self.read_variable(path, &name, diagnostics)
            }
            // A key of the wrong type or an unknown key has been reported already.
            file::Secret::Reference(_) if diagnostics.has_errors(path) => return None,
            file::Secret::Reference(_) => Err("expected exactly one of file and env".to_owned()),
        };
        found.map_err(|message| diagnostics.error(path, message)).ok()
    }

    /// Returns the path of a readable file. Adds a warning if other users can write it.
    pub(super) fn readable_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::Public);
        let (_, metadata) = named.open().map_err(|message| diagnostics.error(path, message)).ok()?;
        if let Err(message) = ensure_owner_only_write(&named.shown, &metadata) {
            diagnostics.warn(path, message);
        }
        Some(named.file)
    }

    /// Returns the path of a readable file of CA certificates. Adds an error if other users can write it.
    pub(super) fn trusted_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::Public);
        let checked = named.open().and_then(|(_, metadata)| ensure_owner_only_write(&named.shown, &metadata));
        checked.map_err(|message| diagnostics.error(path, message)).ok()?;
        Some(named.file)
    }

    /// Returns the path of a file that the gateway writes. The file may be missing, but not its directory.
    pub(super) fn writable_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::Public);
        let folder = named.file.parent().filter(|folder| folder.is_dir());
        if folder.is_none() || named.file.is_dir() {
            diagnostics.error(path, format!("{}: expected the path of a file in an existing directory", named.shown));
            return None;
        }
        Some(named.file)
    }

    /// Returns the path of a readable private key. Adds an error if other users have access to it.
    pub(super) fn private_key_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::PrivateKey);
        named.open_private().map_err(|message| diagnostics.error(path, message)).ok()?;
        Some(named.file)
    }

    fn file_ref(&self, file: &Path, content: Content) -> FileRef {
        FileRef::new(&file.to_string_lossy(), self.base_dir.join(file), content)
    }

    fn read_variable(&self, path: &str, name: &str, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
        let is_usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let shown = redacted_name(name, name.bytes().all(is_usual));
        match self.environment.get(name) {
            Some(text) => decode_secret(path, text.as_bytes(), &format!("environment variable {shown}"), diagnostics),
            None => {
                Err(format!("environment variable {shown} is not set; `env` is the name of a variable, not the secret"))
            }
        }
    }

    fn read_secret_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
        let named = self.file_ref(file, Content::Secret);
        let shown = &named.shown;
        let mut bytes = Vec::new();
        let read = named.open_private()?.take(MAX_SECRET_SIZE + 1).read_to_end(&mut bytes);
        let bytes = SecretSlice::from(bytes);
        let length = read.map_err(|error| format!("{shown} cannot be read: {}", error.kind()))?;
        if length as u64 > MAX_SECRET_SIZE {
            return Err(format!("{shown} is too large for a secret (more than 64 KiB)"));
        }
        decode_secret(path, bytes.expose_secret(), shown, diagnostics)
    }
}

/// Decodes a secret from the bytes of `what`. Adds a warning for whitespace at the beginning or end.
fn decode_secret(path: &str, bytes: &[u8], what: &str, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
    let SecretText { text, has_outer_whitespace } =
        secret_text::decode(bytes).map_err(|message| format!("{what} {message}"))?;
    if has_outer_whitespace {
        diagnostics.warn(
            path,
            format!(
                "{what} begins or ends with whitespace, which is part of the secret; remove it unless it is intended"
            ),
        );
    }
    if text.is_empty() { Err(format!("{what} is empty")) } else { Ok(SecretString::from(text)) }
}

/// The content of a file, which decides whether an error may show the name of a missing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Public content, or a log.
    Public,
    /// A private key. An operator may paste its PEM text instead of a path.
    PrivateKey,
    /// A secret. An operator may paste the secret instead of a path.
    Secret,
}

/// A file that the configuration refers to.
struct FileRef {
    file: PathBuf,
    /// The path as errors show it: redacted if neither the file nor its directory exists, because it may be a secret.
    shown: String,
}

impl FileRef {
    fn new(name: &str, file: PathBuf, content: Content) -> Self {
        let exists = file.symlink_metadata().is_ok();
        let has_existing_dir = name.contains('/') && file.parent().is_some_and(Path::is_dir);
        let is_plausible_name = match content {
            Content::Public => name.len() <= MAX_SHOWN_NAME_LENGTH,
            Content::PrivateKey => {
                has_existing_dir || (!name.contains('/') && name.len() <= MAX_SHOWN_NAME_LENGTH && name.contains('.'))
            }
            Content::Secret => has_existing_dir,
        };
        let is_safe_to_show = !name.contains(char::is_control) && (exists || is_plausible_name);
        let shown = if is_safe_to_show { file.display().to_string() } else { redacted_name(name, false) };
        Self { file, shown }
    }

    fn open(&self) -> Result<(File, Metadata), String> {
        let shown = &self.shown;
        let opened = File::open(&self.file).and_then(|opened| Ok((opened.metadata()?, opened)));
        match opened {
            Ok((metadata, _)) if metadata.is_dir() => Err(format!("{shown} is a directory")),
            Ok((metadata, opened)) => Ok((opened, metadata)),
            // A name that is too long or contains a zero byte cannot exist.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::InvalidFilename
                        | ErrorKind::InvalidInput
                        | ErrorKind::NotADirectory
                ) =>
            {
                Err(format!("file {shown} does not exist; expected the path of a file, not its content"))
            }
            Err(error) => Err(format!("{shown} cannot be read: {}", error.kind())),
        }
    }

    /// Opens the file and checks its permissions. The check uses the open file, because the path may be replaced meanwhile.
    fn open_private(&self) -> Result<File, String> {
        let shown = &self.shown;
        let (opened, metadata) = self.open()?;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & FORBIDDEN_MODE_BITS != 0 {
            return Err(format!(
                "other users have access to {shown} (mode {mode:04o}); {}",
                permission_hint(&self.file)
            ));
        }
        Ok(opened)
    }
}

/// How to restrict the permissions of a file in its environment.
fn permission_hint(file: &Path) -> String {
    let own = geteuid().as_raw();
    if file.parent() == Some(Path::new(DOCKER_SECRETS_DIR)) {
        // Swarm mounts a file system of its own, Compose the file of the host.
        return format!(
            "Docker mounts secrets with this mode, and a container cannot change it; in Swarm, set `uid: \"{own}\"` and \
             `mode: 0400` for the secret in the service; with Compose, run `chown {own}` and `chmod 0400` on the file of the host; \
             in Kubernetes, set `defaultMode: 0440` at the volume"
        );
    }
    format!("run `chmod 0400 {}`; in Kubernetes, set `defaultMode: 0440` at the volume", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_hint_fits_the_environment_of_the_file() {
        let docker = permission_hint(Path::new("/run/secrets/slas"));
        assert!(docker.contains("mode: 0400") && docker.contains("Compose") && docker.contains("uid"), "{docker}");
        assert!(!docker.contains("run `chmod 0400 /run"), "{docker}");
        assert!(
            permission_hint(Path::new("/run/secrets/shopper-gateway/slas")).starts_with("run `chmod"),
            "as Kubernetes mounts it"
        );
        let elsewhere = permission_hint(Path::new("/etc/shopper-gateway/slas"));
        assert!(elsewhere.starts_with("run `chmod 0400 /etc/shopper-gateway/slas`"), "{elsewhere}");
        assert!(elsewhere.contains("defaultMode: 0440") && !elsewhere.contains("Docker"), "{elsewhere}");
    }
}
