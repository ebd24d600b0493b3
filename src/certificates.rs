//! Reads PEM files of certificates, private keys and revocation lists, and the system's certificate authorities.
//!
//! The error for an unusable file says what the file contains and what to do: operators often have encrypted keys, PKCS#12
//! containers, or DER instead of PEM. No error shows any part of a private key.

mod file_error;
mod pem_file;
mod revocation;
mod system_authorities;
mod validity;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::SectionKind},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use self::pem_file::{ExpectedContent, PemFile};
pub use self::{
    file_error::FileError,
    revocation::RevocationLists,
    system_authorities::SystemAuthorities,
    validity::{Validity, ValidityWarning},
};

/// Why a client certificate and its private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyPairError {
    /// The certificate file is unusable.
    #[error("{0}")]
    Certificate(FileError),
    /// The key file is unusable, or the key belongs to another certificate.
    #[error("{0}")]
    PrivateKey(FileError),
}

/// The certificates of one PEM file, at least one.
#[derive(Clone)]
pub struct Certificates {
    file: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
}

impl Certificates {
    /// Reads the certificates of a file without checking each.
    ///
    /// # Errors
    /// Returns [`FileError`] if the file cannot be read, has no certificate, or has one that is not PEM.
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let sections = PemFile::read(file)?.sections(ExpectedContent::Certificate)?;
        let certificates = sections.into_iter().map(|(_, der)| CertificateDer::from(der)).collect();
        Ok(Self { file: file.to_owned(), certificates })
    }

    /// Reads a certificate chain and checks that each certificate is X.509.
    ///
    /// # Errors
    /// Returns [`FileError`] as [`Certificates::read`] does, and if a certificate is not X.509.
    pub fn read_chain(file: &Path) -> Result<Self, FileError> {
        let read = Self::read(file)?;
        match read.certificates.iter().position(|certificate| Validity::of(certificate).is_none()) {
            Some(position) => {
                Err(read
                    .error(format!("certificate {} is not an X.509 certificate; copy the file again", position + 1)))
            }
            None => Ok(read),
        }
    }

    /// Reads certificate authorities and checks that each can be used.
    ///
    /// # Errors
    /// Returns [`FileError`] as [`Certificates::read`] does, and if an authority cannot be used.
    pub fn read_authorities(file: &Path) -> Result<Self, FileError> {
        let read = Self::read(file)?;
        read.roots()?;
        Ok(read)
    }

    /// The certificates as trusted roots.
    ///
    /// # Errors
    /// Returns [`FileError`] if a certificate cannot be used as an authority.
    pub fn roots(&self) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for (position, certificate) in self.certificates.iter().enumerate() {
            add_root(&mut roots, certificate).map_err(|error| {
                let subject = validity::subject_name(certificate).map(|subject| format!(" ({subject})")).unwrap_or_default();
                let (number, count) = (position + 1, self.certificates.len());
                self.error(format!(
                    "certificate {number} of {count}{subject} cannot be used as an authority; take it out of the file, or \
                     get a new copy: {error}"
                ))
            })?;
        }
        Ok(roots)
    }

    /// The file that the certificates were read from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The certificates in DER, in the order of the file.
    #[must_use]
    pub fn as_slice(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The certificates as PEM, without surrounding text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.certificates.iter().map(|certificate| to_pem("CERTIFICATE", certificate)).collect()
    }

    /// Expiry of a chain: the earliest of its certificates, in seconds since 1970. `None` if no certificate has an expiry.
    #[must_use]
    pub fn chain_expiry(&self) -> Option<i64> {
        self.validities().map(|validity| validity.not_after).min()
    }

    /// Earliest expiry among authorities that have not expired, or else the latest expiry, in seconds since 1970. An expired
    /// authority beside its successor is no problem.
    #[must_use]
    pub fn authorities_expiry(&self, now: i64) -> Option<i64> {
        let ends: Vec<i64> = self.validities().map(|validity| validity.not_after).collect();
        ends.iter().copied().filter(|end| *end > now).min().or(ends.into_iter().max())
    }

    /// Warnings about the certificates' validity. Several certificates share one warning.
    #[must_use]
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let shown = self.file.display();
        let warnings = self.certificates.iter().filter_map(|der| Some((der, Validity::of(der)?.warning(now)?)));
        let warnings: Vec<_> = warnings.collect();
        let count = self.certificates.len();
        match warnings.as_slice() {
            [] => Vec::new(),
            [(der, warning)] => {
                let subject = validity::subject_name(der).map(|subject| format!(" of {subject}")).unwrap_or_default();
                vec![format!("{shown}: the certificate{subject} {warning}")]
            }
            [(der, warning), others @ ..] => {
                let subject = validity::subject_name(der).map(|subject| format!(" of {subject}")).unwrap_or_default();
                vec![format!(
                    "{shown}: the certificate{subject} {warning}; {} more of the {count} certificates have expired, are \
                     not valid yet or expire within 30 days",
                    others.len()
                )]
            }
        }
    }

    fn validities(&self) -> impl Iterator<Item = Validity> {
        self.certificates.iter().filter_map(Validity::of)
    }

    fn error(&self, message: String) -> FileError {
        FileError { file: self.file.clone(), message }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Adds an authority to the roots if both rustls and Pingora can read it.
///
/// # Errors
/// Returns why the authority cannot be used.
fn add_root(roots: &mut RootCertStore, certificate: &CertificateDer<'static>) -> Result<(), String> {
    X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    roots.add(certificate.clone()).map_err(|error| error.to_string())
}

/// Reads a client certificate chain and its private key.
///
/// # Errors
/// Returns [`KeyPairError`] if a file cannot be used, or the key belongs to another certificate.
pub fn read_client_pair(
    certificate: &Path,
    private_key: &Path,
) -> Result<(Certificates, PrivateKeyDer<'static>), KeyPairError> {
    let chain = Certificates::read_chain(certificate).map_err(KeyPairError::Certificate)?;
    let key = read_private_key(private_key).map_err(KeyPairError::PrivateKey)?;
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    match config.with_client_auth_cert(chain.as_slice().to_vec(), key.clone_key()) {
        Ok(_) => Ok((chain, key)),
        Err(_) => Err(KeyPairError::PrivateKey(FileError {
            file: private_key.to_owned(),
            message: format!("the key does not belong to the certificate in {}", certificate.display()),
        })),
    }
}

/// A private key as PEM, without surrounding text.
#[must_use]
pub fn private_key_to_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    to_pem(label, key.secret_der())
}

/// Encodes DER as PEM (RFC 7468).
fn to_pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (position, character) in text.chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + &format!("\n-----END {label}-----\n")
}

/// Reads the first private key of a PEM file.
///
/// # Errors
/// Returns [`FileError`] if the file cannot be read, or has no usable key without a passphrase.
pub fn read_private_key(file: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let sections = PemFile::read(file)?.sections(ExpectedContent::PrivateKey)?;
    let first = sections.into_iter().next();
    let key = first.and_then(|(kind, der)| match kind {
        SectionKind::PrivateKey => Some(PrivateKeyDer::Pkcs8(der.into())),
        SectionKind::RsaPrivateKey => Some(PrivateKeyDer::Pkcs1(der.into())),
        SectionKind::EcPrivateKey => Some(PrivateKeyDer::Sec1(der.into())),
        _ => None,
    });
    key.ok_or_else(|| FileError { file: file.to_owned(), message: "the file has no private key".to_owned() })
}
