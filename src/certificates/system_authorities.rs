//! The certificate authorities of this machine, found as OpenSSL does: `SSL_CERT_FILE`, `SSL_CERT_DIR`, or the distribution's
//! paths.

use std::{env, fmt, path::Path};

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::add_root;

/// The error for a machine without ca-certificates.
const NO_AUTHORITIES: &str = "this machine has no certificate authorities: install ca-certificates, or set SSL_CERT_FILE to a PEM file \
                    of authorities";

/// The usable authorities of this machine.
#[derive(Clone)]
pub struct SystemAuthorities {
    certificates: Vec<CertificateDer<'static>>,
    /// Why some authorities cannot be read or used.
    load_errors: Vec<String>,
}

impl SystemAuthorities {
    /// Reads the authorities.
    #[must_use]
    pub fn read() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut load_errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let mut roots = RootCertStore::empty();
        let (usable, unusable): (Vec<_>, Vec<_>) =
            found.certs.into_iter().partition(|certificate| add_root(&mut roots, certificate).is_ok());
        if !unusable.is_empty() {
            load_errors.push(format!("{} of the system's authorities cannot be used and are ignored", unusable.len()));
        }
        Self { certificates: usable, load_errors }
    }

    /// The usable authorities.
    #[must_use]
    pub fn as_slice(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Why the machine has no authorities, and what to do; `None` if it has some.
    #[must_use]
    pub fn unavailable_reason(&self) -> Option<String> {
        self.certificates.is_empty().then(|| match self.load_errors.first() {
            Some(error) => format!("{NO_AUTHORITIES} ({error})"),
            None => NO_AUTHORITIES.to_owned(),
        })
    }

    /// Why some authorities cannot be read or used.
    #[must_use]
    pub fn load_errors(&self) -> &[String] {
        &self.load_errors
    }

    /// Whether Pingora can read the authorities itself. It panics over unreadable or unusable ones, and takes `SSL_CERT_DIR` as one
    /// directory, not as a list.
    #[must_use]
    pub fn is_readable_by_proxy_library(&self) -> bool {
        let folder = env::var_os("SSL_CERT_DIR");
        self.load_errors.is_empty() && folder.is_none_or(|folder| Path::new(&folder).is_dir())
    }
}

impl fmt::Debug for SystemAuthorities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.certificates.len();
        formatter
            .debug_struct("SystemAuthorities")
            .field("count", &count)
            .field("load_errors", &self.load_errors)
            .finish()
    }
}
