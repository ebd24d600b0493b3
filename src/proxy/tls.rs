//! The files of the TLS listener, read and checked.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// Not readable, or not PEM of the wanted kind.
    #[error("{path}: {reason}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not fit, or the key is of no supported kind.
    #[error("certificate and private_key do not fit together: {0}")]
    Mismatch(#[from] rustls::Error),
    /// `main` installs a provider first; without one there is no TLS.
    #[error("no cryptography provider is installed")]
    NoProvider,
}

/// The listener's certificate chain and key.
///
/// # Errors
/// [`TlsFileError`].
pub fn certified_key(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsFileError> {
    let provider = CryptoProvider::get_default().ok_or(TlsFileError::NoProvider)?;
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(|error| pem(private_key, &error))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}

/// Asks for a client certificate of these authorities, and takes callers without one too.
///
/// # Errors
/// [`TlsFileError`].
pub fn client_verifier(authorities: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| pem(authorities, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let chain = CertificateDer::pem_file_iter(path).map_err(|error| pem(path, &error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| pem(path, &error))?;
    if chain.is_empty() {
        return Err(pem(path, &"the file has no certificate"));
    }
    Ok(chain)
}

fn pem(path: &Path, reason: &dyn std::fmt::Display) -> TlsFileError {
    TlsFileError::Pem { path: path.display().to_string(), reason: reason.to_string() }
}
