//! The authorities that this machine trusts, as OpenSSL finds them: `SSL_CERT_FILE`, `SSL_CERT_DIR`, or the places of
//! the distribution.

use std::{env, fmt, path::Path};

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::add_root;

/// What a machine without ca-certificates is told.
const NONE: &str = "this machine has no certificate authorities: install ca-certificates, or set SSL_CERT_FILE to a PEM file \
                    of authorities";

/// The authorities of this machine, as far as they can be used.
#[derive(Clone)]
pub struct SystemAuthorities {
    certificates: Vec<CertificateDer<'static>>,
    /// Why some cannot be read or used.
    flaws: Vec<String>,
}

impl SystemAuthorities {
    /// Reads them anew.
    #[must_use]
    pub fn read() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut flaws: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let mut roots = RootCertStore::empty();
        let (usable, unusable): (Vec<_>, Vec<_>) =
            found.certs.into_iter().partition(|certificate| add_root(&mut roots, certificate).is_ok());
        if !unusable.is_empty() {
            flaws.push(format!("{} of the system's authorities cannot be used, and are left out", unusable.len()));
        }
        Self { certificates: usable, flaws }
    }

    /// Those that can be used.
    #[must_use]
    pub fn as_slice(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Why there is none, and what to do; `None` if there are some.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.certificates.is_empty().then(|| match self.flaws.first() {
            Some(flaw) => format!("{NONE} ({flaw})"),
            None => NONE.to_owned(),
        })
    }

    /// Why some cannot be read or used.
    #[must_use]
    pub fn flaws(&self) -> &[String] {
        &self.flaws
    }

    /// Whether the proxy library can read them by itself. It panics over what it cannot read or use, and takes
    /// `SSL_CERT_DIR` for one folder, not for a list.
    #[must_use]
    pub fn are_flawless(&self) -> bool {
        let folder = env::var_os("SSL_CERT_DIR");
        self.flaws.is_empty() && folder.is_none_or(|folder| Path::new(&folder).is_dir())
    }
}

impl fmt::Debug for SystemAuthorities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.certificates.len();
        formatter.debug_struct("SystemAuthorities").field("count", &count).field("flaws", &self.flaws).finish()
    }
}
