//! Files that the configuration names, and the secrets in them.
//!
//! Owns who may be able to read such a file. Refuses to show what is in it: errors name the key and
//! the file, never the content.

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

/// More than any secret has; a path to something else by mistake must not fill the memory.
const MAX_SECRET_SIZE: u64 = 64 * 1024;

/// What others may not do with a secret's file: anything. Its group may read, because Kubernetes
/// mounts secrets so, but not write.
const FORBIDDEN_MODE_BITS: u32 = 0o027;
/// Longest name of a file that is shown though there is no such file, bytes.
const MAX_SHOWN_NAME_LENGTH: usize = 200;
/// Where Docker mounts secrets.
const DOCKER_SECRETS_DIR: &str = "/run/secrets";

/// Where secrets and other files are found.
pub(super) struct Resolver<'a> {
    /// Relative paths start here.
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a BTreeMap<String, String>,
}

impl Resolver<'_> {
    /// The secret of this key.
    pub(super) fn secret(&self, path: &str, raw: file::Secret, diagnostics: &mut Diagnostics) -> Option<SecretString> {
        let found = match raw {
            file::Secret::Literal(secret) => {
                if !diagnostics.is_from_environment(path) {
                    diagnostics
                        .warn(path, "the secret stands in the file; write { file = \"…\" } or { env = \"NAME\" }");
                }
                decode_secret(path, secret.expose_secret().as_bytes(), "the value", diagnostics)
            }
            file::Secret::Reference(file::SecretRef { file: Some(file), env: None }) => {
                self.read_secret_file(path, &file, diagnostics)
            }
            file::Secret::Reference(file::SecretRef { file: None, env: Some(name) }) => {
                self.read_variable(path, &name, diagnostics)
            }
            // What was given was of the wrong kind, or misspelt, and has been reported.
            file::Secret::Reference(_) if diagnostics.has_errors(path) => return None,
            file::Secret::Reference(_) => Err("expected exactly one of file and env".to_owned()),
        };
        found.map_err(|message| diagnostics.error(path, message)).ok()
    }

    /// The file of this key, which must be readable, and should be writable by its owner alone.
    pub(super) fn readable_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::Public);
        let (_, metadata) = named.open().map_err(|message| diagnostics.error(path, message)).ok()?;
        if let Err(message) = ensure_owner_only_write(&named.shown, &metadata) {
            diagnostics.warn(path, message);
        }
        Some(named.file)
    }

    /// The file of this key, whose content decides whom the gateway trusts: readable, and writable by its owner alone.
    pub(super) fn trusted_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::Public);
        let checked = named.open().and_then(|(_, metadata)| ensure_owner_only_write(&named.shown, &metadata));
        checked.map_err(|message| diagnostics.error(path, message)).ok()?;
        Some(named.file)
    }

    /// The file of this key, which need not be there yet, but its folder.
    pub(super) fn writable_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.file_ref(file, Content::Public);
        let folder = named.file.parent().filter(|folder| folder.is_dir());
        if folder.is_none() || named.file.is_dir() {
            diagnostics.error(path, format!("{}: expected a file in a folder that exists", named.shown));
            return None;
        }
        Some(named.file)
    }

    /// The file of this key, which must be readable, and not by others.
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
                Err(format!("environment variable {shown} is not set; `env` takes a variable's name, not the secret"))
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
            return Err(format!("{shown} is too large for a secret"));
        }
        decode_secret(path, bytes.expose_secret(), shown, diagnostics)
    }
}

/// The secret in these bytes of `what`, with a warning of blanks that may be a mistake.
fn decode_secret(path: &str, bytes: &[u8], what: &str, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
    let SecretText { text, has_outer_whitespace } =
        secret_text::decode(bytes).map_err(|message| format!("{what} {message}"))?;
    if has_outer_whitespace {
        diagnostics.warn(path, format!("{what} begins or ends with a blank, which counts as part of the secret"));
    }
    if text.is_empty() { Err(format!("{what} is empty")) } else { Ok(SecretString::from(text)) }
}

/// What a file is for: how much of a name that is none may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Nothing secret, or lines that the gateway writes.
    Public,
    /// A private key. People paste the key itself, or its PEM.
    PrivateKey,
    /// A secret. People paste the secret itself.
    Secret,
}

/// A file as the configuration names it, and as errors may show it.
struct FileRef {
    file: PathBuf,
    /// Its whole path if there is such a file, or at least its folder; otherwise the name may be a secret.
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
            Ok((metadata, _)) if metadata.is_dir() => Err(format!("{shown} is a folder")),
            Ok((metadata, opened)) => Ok((opened, metadata)),
            // A name that is too long, or has a zero byte, is none.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::InvalidFilename
                        | ErrorKind::InvalidInput
                        | ErrorKind::NotADirectory
                ) =>
            {
                Err(format!("there is no file {shown}; a path belongs here, not what is in the file"))
            }
            Err(error) => Err(format!("{shown} cannot be read: {}", error.kind())),
        }
    }

    /// The permissions are those of the opened file, not of a name that may point elsewhere by now.
    fn open_private(&self) -> Result<File, String> {
        let shown = &self.shown;
        let (opened, metadata) = self.open()?;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & FORBIDDEN_MODE_BITS != 0 {
            return Err(format!("{shown} is open to others (mode {mode:04o}); {}", permission_hint(&self.file)));
        }
        Ok(opened)
    }
}

/// How a file is kept from others, where it is.
fn permission_hint(file: &Path) -> String {
    let own = geteuid().as_raw();
    if file.parent() == Some(Path::new(DOCKER_SECRETS_DIR)) {
        // A container cannot change it: Swarm mounts a file system of its own, Compose the host's file.
        return format!(
            "of a Docker secret that is the default, and nothing in the container can change it: in Swarm list it in the service \
             with `uid: \"{own}\"` and `mode: 0400`; Compose mounts the host's file as it is, so run `chown {own}` and `chmod 0400` \
             on that file (in Kubernetes set defaultMode: 0440 at the volume)"
        );
    }
    format!("run `chmod 0400 {}`; in Kubernetes set defaultMode: 0440 at the volume", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_for_a_file_open_to_others_can_be_followed_where_the_file_is() {
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
