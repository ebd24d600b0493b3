//! What the TLS listener shows and asks for: its files, read and checked once, at the start.
//!
//! The library would read them itself, later, and panic over what it does not like.

use std::{any::Any, path::Path, sync::Arc};

use async_trait::async_trait;
use pingora::{
    listeners::{TlsAccept, tls::TlsSettings},
    protocols::tls::TlsRef,
};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{gate::caller::certificate::PeerCertificate, settings::Tls};

/// Why a file cannot be used. Each text begins with the key of the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// Not readable, or without what is wanted in PEM.
    #[error("{key}: {path}: {reason}")]
    File {
        /// The file's key.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not fit, or the key is of no supported kind.
    #[error("server.tls: certificate and private_key do not fit together: {0}")]
    Mismatch(rustls::Error),
    /// The listener cannot be set up, or `main` has not installed a provider first.
    #[error("server.tls: {0}")]
    Setup(String),
}

/// Certificate, key and client authorities of the public listener.
#[derive(Debug)]
pub struct ListenerTls {
    shown: Arc<SingleCertAndKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl ListenerTls {
    /// Reads the files and checks that they fit together.
    ///
    /// # Errors
    /// [`TlsFileError`].
    pub fn read(files: &Tls) -> Result<Self, TlsFileError> {
        let shown = certified_key(&files.certificate, &files.private_key)?;
        let clients = files.client_ca.as_deref().map(client_verifier).transpose()?;
        Ok(Self { shown: Arc::new(SingleCertAndKey::from(shown)), clients })
    }

    /// The library's settings for one address: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsFileError::Setup`].
    pub fn settings(&self) -> Result<TlsSettings, TlsFileError> {
        // Its paths are unused beside a resolver.
        let settings = match &self.clients {
            Some(_) => TlsSettings::with_callbacks(Box::new(ReadCertificate)),
            None => TlsSettings::intermediate("", ""),
        };
        let mut settings = settings.map_err(|error| TlsFileError::Setup(error.to_string()))?;
        let shown: Arc<SingleCertAndKey> = Arc::clone(&self.shown);
        settings.set_cert_resolver(shown);
        settings.enable_h2();
        if let Some(verifier) = &self.clients {
            settings.set_client_cert_verifier(Arc::clone(verifier));
        }
        Ok(settings)
    }
}

/// Keeps the names of a client's certificate beside its connection, once the handshake has verified it.
struct ReadCertificate;

#[async_trait]
impl TlsAccept for ReadCertificate {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let certificate = PeerCertificate::read(tls.peer_certificate_der()?)?;
        Some(Arc::new(certificate))
    }
}

fn certified_key(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsFileError> {
    let provider = CryptoProvider::get_default();
    let provider = provider.ok_or_else(|| TlsFileError::Setup("no cryptography provider is installed".to_owned()))?;
    let chain = certificates("server.tls.certificate", certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| unusable("server.tls.private_key", private_key, &error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(TlsFileError::Mismatch)
}

/// Asks for a client certificate of these authorities, and takes callers without one too.
fn client_verifier(authorities: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    const KEY: &str = "server.tls.client_ca";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, authorities)? {
        roots.add(certificate).map_err(|error| unusable(KEY, authorities, &error))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| unusable(KEY, authorities, &error))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let chain = CertificateDer::pem_file_iter(path).map_err(|error| unusable(key, path, &error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(key, path, &error))?;
    if chain.is_empty() {
        return Err(unusable(key, path, &"the file has no certificate"));
    }
    Ok(chain)
}

fn unusable(key: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsFileError {
    TlsFileError::File { key, path: path.display().to_string(), reason: reason.to_string() }
}
