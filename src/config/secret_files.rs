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

use nix::unistd::geteuid;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    diagnostics::Diagnostics,
    file,
    permissions::write_protected,
    secret_text::{self, SecretText, shown_name},
};

/// More than any secret has; a path to something else by mistake must not fill the memory.
const LARGEST: u64 = 64 * 1024;

/// What others may not do with a secret's file: anything. Its group may read, because Kubernetes
/// mounts secrets so, but not write.
const FORBIDDEN: u32 = 0o027;
/// Longest name of a file that is shown though there is no such file, bytes.
const LONGEST_NAME: usize = 200;
/// Where Docker mounts secrets.
const DOCKER_SECRETS: &str = "/run/secrets";

/// Where secrets and other files are found.
pub(super) struct Surroundings<'a> {
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    pub(super) environment: &'a BTreeMap<String, String>,
}

impl Surroundings<'_> {
    /// The secret of this key.
    pub(super) fn secret(&self, path: &str, raw: file::Secret, diagnostics: &mut Diagnostics) -> Option<SecretString> {
        let found = match raw {
            file::Secret::Literal(secret) => {
                if !diagnostics.is_from_environment(path) {
                    diagnostics
                        .warn(path, "the secret stands in the file; write { file = \"…\" } or { env = \"NAME\" }");
                }
                text_of(path, secret.expose_secret().as_bytes(), "the value", diagnostics)
            }
            file::Secret::Elsewhere(file::Elsewhere { file: Some(file), env: None }) => {
                self.in_file(path, &file, diagnostics)
            }
            file::Secret::Elsewhere(file::Elsewhere { file: None, env: Some(name) }) => {
                self.in_variable(path, &name, diagnostics)
            }
            // What was given was of the wrong kind, or misspelt, and has been reported.
            file::Secret::Elsewhere(_) if diagnostics.has_errors(path) => return None,
            file::Secret::Elsewhere(_) => Err("expected exactly one of file and env".to_owned()),
        };
        found.map_err(|message| diagnostics.error(path, message)).ok()
    }

    /// The file of this key, which must be readable, and should be writable by its owner alone.
    pub(super) fn readable(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.named(file, Holds::Public);
        let (_, metadata) = named.open().map_err(|message| diagnostics.error(path, message)).ok()?;
        if let Err(message) = write_protected(&named.shown, &metadata) {
            diagnostics.warn(path, message);
        }
        Some(named.file)
    }

    /// The file of this key, whose content decides whom the gateway trusts: readable, and writable by its owner alone.
    pub(super) fn trusted(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.named(file, Holds::Public);
        let guarded = named.open().and_then(|(_, metadata)| write_protected(&named.shown, &metadata));
        guarded.map_err(|message| diagnostics.error(path, message)).ok()?;
        Some(named.file)
    }

    /// The file of this key, which need not be there yet, but its folder.
    pub(super) fn writable(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.named(file, Holds::Public);
        let folder = named.file.parent().filter(|folder| folder.is_dir());
        if folder.is_none() || named.file.is_dir() {
            diagnostics.error(path, format!("{}: expected a file in a folder that exists", named.shown));
            return None;
        }
        Some(named.file)
    }

    /// The file of this key, which must be readable, and not by others.
    pub(super) fn private(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Option<PathBuf> {
        let named = self.named(file, Holds::Key);
        named.open_private().map_err(|message| diagnostics.error(path, message)).ok()?;
        Some(named.file)
    }

    fn named(&self, file: &Path, holds: Holds) -> NamedFile {
        NamedFile::new(&file.to_string_lossy(), self.folder.join(file), holds)
    }

    fn in_variable(&self, path: &str, name: &str, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
        let is_usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let shown = shown_name(name, name.bytes().all(is_usual));
        match self.environment.get(name) {
            Some(text) => text_of(path, text.as_bytes(), &format!("environment variable {shown}"), diagnostics),
            None => {
                Err(format!("environment variable {shown} is not set; `env` takes a variable's name, not the secret"))
            }
        }
    }

    fn in_file(&self, path: &str, file: &Path, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
        let named = self.named(file, Holds::Secret);
        let shown = &named.shown;
        let mut bytes = Vec::new();
        let read = named.open_private()?.take(LARGEST + 1).read_to_end(&mut bytes);
        let bytes = SecretSlice::from(bytes);
        let length = read.map_err(|error| format!("{shown} cannot be read: {}", error.kind()))?;
        if length as u64 > LARGEST {
            return Err(format!("{shown} is too large for a secret"));
        }
        text_of(path, bytes.expose_secret(), shown, diagnostics)
    }
}

/// The secret in these bytes of `what`, with a warning of blanks that may be a mistake.
fn text_of(path: &str, bytes: &[u8], what: &str, diagnostics: &mut Diagnostics) -> Result<SecretString, String> {
    let SecretText { text, has_blanks } = secret_text::read(bytes).map_err(|message| format!("{what} {message}"))?;
    if has_blanks {
        diagnostics.warn(path, format!("{what} begins or ends with a blank, which counts as part of the secret"));
    }
    if text.is_empty() { Err(format!("{what} is empty")) } else { Ok(SecretString::from(text)) }
}

/// What a file is for: how much of a name that is none may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing secret, or lines that the gateway writes.
    Public,
    /// A private key. People paste the key itself, or its PEM.
    Key,
    /// A secret. People paste the secret itself.
    Secret,
}

/// A file as the configuration names it, and as errors may show it.
struct NamedFile {
    file: PathBuf,
    /// Its whole path if there is such a file, or at least its folder; otherwise the name may be a secret.
    shown: String,
}

impl NamedFile {
    fn new(name: &str, file: PathBuf, holds: Holds) -> Self {
        let is_there = file.symlink_metadata().is_ok();
        let is_in_folder = name.contains('/') && file.parent().is_some_and(Path::is_dir);
        let is_name = match holds {
            Holds::Public => name.len() <= LONGEST_NAME,
            Holds::Key => is_in_folder || (!name.contains('/') && name.len() <= LONGEST_NAME && name.contains('.')),
            Holds::Secret => is_in_folder,
        };
        let is_shown = !name.contains(char::is_control) && (is_there || is_name);
        let shown = if is_shown { file.display().to_string() } else { shown_name(name, false) };
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
        if metadata.is_file() && mode & FORBIDDEN != 0 {
            return Err(format!("{shown} is open to others (mode {mode:04o}); {}", narrowed(&self.file)));
        }
        Ok(opened)
    }
}

/// How a file is kept from others, where it is.
fn narrowed(file: &Path) -> String {
    let own = geteuid();
    if file.parent() == Some(Path::new(DOCKER_SECRETS)) {
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
        let docker = narrowed(Path::new("/run/secrets/slas"));
        assert!(docker.contains("mode: 0400") && docker.contains("Compose") && docker.contains("uid"), "{docker}");
        assert!(!docker.contains("run `chmod 0400 /run"), "{docker}");
        assert!(
            narrowed(Path::new("/run/secrets/shopper-gateway/slas")).starts_with("run `chmod"),
            "as Kubernetes mounts it"
        );
        let elsewhere = narrowed(Path::new("/etc/shopper-gateway/slas"));
        assert!(elsewhere.starts_with("run `chmod 0400 /etc/shopper-gateway/slas`"), "{elsewhere}");
        assert!(elsewhere.contains("defaultMode: 0440") && !elsewhere.contains("Docker"), "{elsewhere}");
    }
}
