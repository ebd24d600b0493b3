//! Files of certificates, private keys and revocation lists, and the authorities of the system.
//!
//! A file that cannot be used is refused with what it is and what to do: people have keys with a passphrase, PKCS#12
//! containers and DER where PEM is expected. No error shows anything of a private key.
//!
//! [`Certificates`] is what a file holds, [`Validity`] when a certificate or list is good, [`SystemAuthorities`] what the
//! machine trusts.

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

/// Why a client's certificate and private key cannot be used together.
#[derive(Debug, thiserror::Error)]
pub enum KeyPairError {
    /// What is wrong with the certificate's file.
    #[error("{0}")]
    Certificate(FileError),
    /// What is wrong with the key's file, or that the key belongs to another certificate.
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
    /// Reads a chain, or authorities that are not checked yet.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be read, holds no certificate, or one that is not PEM.
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let sections = PemFile::read(file)?.sections(ExpectedContent::Certificate)?;
        let certificates = sections.into_iter().map(|(_, der)| CertificateDer::from(der)).collect();
        Ok(Self { file: file.to_owned(), certificates })
    }

    /// Reads the chain of a server's certificate, each of which has a validity that can be read.
    ///
    /// # Errors
    /// [`FileError`] as for [`Certificates::read`], and if one of them is not X.509.
    pub fn read_chain(file: &Path) -> Result<Self, FileError> {
        let read = Self::read(file)?;
        match read.certificates.iter().position(|certificate| Validity::of(certificate).is_none()) {
            Some(position) => {
                Err(read.error(format!("certificate {} is not an X.509 certificate; copy the file anew", position + 1)))
            }
            None => Ok(read),
        }
    }

    /// Reads authorities, each of which can be trusted.
    ///
    /// # Errors
    /// [`FileError`] as for [`Certificates::read`], and if one of them cannot be used.
    pub fn read_authorities(file: &Path) -> Result<Self, FileError> {
        let read = Self::read(file)?;
        read.roots()?;
        Ok(read)
    }

    /// The certificates as trusted authorities.
    ///
    /// # Errors
    /// [`FileError`] if one of them cannot be used.
    pub fn roots(&self) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for (position, certificate) in self.certificates.iter().enumerate() {
            add_root(&mut roots, certificate).map_err(|error| {
                let subject = validity::subject_name(certificate).map(|subject| format!(" ({subject})")).unwrap_or_default();
                let (number, count) = (position + 1, self.certificates.len());
                self.error(format!(
                    "certificate {number} of {count}{subject} cannot be used as an authority; take it out of the file, or \
                     get it anew: {error}"
                ))
            })?;
        }
        Ok(roots)
    }

    /// The file that they were read from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The certificates, DER, in the order of the file.
    #[must_use]
    pub fn as_slice(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The certificates as PEM with nothing around it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.certificates.iter().map(|certificate| to_pem("CERTIFICATE", certificate)).collect()
    }

    /// When a chain ends: with the first of its certificates, seconds since 1970. `None` if no certificate says.
    #[must_use]
    pub fn chain_expiry(&self) -> Option<i64> {
        self.validities().map(|validity| validity.not_after).min()
    }

    /// When the first of several authorities ends that has not ended yet, or the last of them if all have; seconds since 1970.
    /// An old authority beside its successor says nothing of either.
    #[must_use]
    pub fn authorities_expiry(&self, now: i64) -> Option<i64> {
        let ends: Vec<i64> = self.validities().map(|validity| validity.not_after).collect();
        ends.iter().copied().filter(|end| *end > now).min().or(ends.into_iter().max())
    }

    /// What an operator should know of their times, one sentence each; of several certificates in one.
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

/// Adds an authority to the trusted ones, if both the TLS library and the proxy library can read it.
///
/// # Errors
/// Why it cannot be used.
fn add_root(roots: &mut RootCertStore, certificate: &CertificateDer<'static>) -> Result<(), String> {
    X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    roots.add(certificate.clone()).map_err(|error| error.to_string())
}

/// Reads the chain of a client's certificate and its private key.
///
/// # Errors
/// [`KeyPairError`] if one of the files cannot be used, or they do not belong together.
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

/// A private key as PEM with nothing around it.
#[must_use]
pub fn private_key_to_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    to_pem(label, key.secret_der())
}

/// RFC 7468.
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
/// [`FileError`] if the file cannot be read, or holds no key that can be used without a passphrase.
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
