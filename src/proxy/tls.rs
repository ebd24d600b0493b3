//! What the TLS listener shows and asks for: its files, read and checked before anything is changed, at the start and at
//! each reload. A handshake uses what is in force at its beginning; connections that are open stay as they are. What was
//! agreed with a client before a reload is not resumed after it.
//!
//! The library would read the files itself, later, and panic over what it does not like.

use std::{any::Any, fmt, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::{
    listeners::{
        TlsAccept,
        tls::{Acceptor, TlsSettings},
    },
    protocols::tls::TlsRef,
};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_cert::{Certificate, der::Decode};

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
#[derive(Clone)]
pub struct ListenerTls {
    /// With sessions of its own that clients may resume: the library does not verify a resumed session's client
    /// certificate again, so none outlasts the authorities that it was verified by.
    in_force: Arc<ArcSwap<Acceptor>>,
    /// When the first certificate of the chain ends, seconds since 1970.
    not_after: i64,
}

impl ListenerTls {
    /// Reads the files and checks that they fit together: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsFileError`].
    pub fn read(files: &Tls) -> Result<Self, TlsFileError> {
        let shown = certified_key(&files.certificate, &files.private_key)?;
        let not_after = shown.cert.iter().map(|certificate| not_after(certificate, &files.certificate));
        let not_after = not_after.collect::<Result<Vec<_>, _>>()?.into_iter().min().unwrap_or_default();
        let settings = TlsSettings::with_callbacks(Box::new(ReadCertificate));
        let mut settings = settings.map_err(|error| TlsFileError::Setup(error.to_string()))?;
        settings.set_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        settings.set_client_cert_verifier(client_verifier(files.client_ca.as_deref())?);
        settings.enable_h2();
        Ok(Self { in_force: Arc::new(ArcSwap::from_pointee(settings.build())), not_after })
    }

    /// Uses what another one has read, from the next handshake on.
    pub fn take_over(&self, other: &Self) {
        self.in_force.store(other.in_force.load_full());
    }

    /// When the first certificate of the chain ends that was read here, seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// What shakes hands at the moment.
    #[must_use]
    pub fn acceptor(&self) -> Arc<Acceptor> {
        self.in_force.load_full()
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ListenerTls").field("not_after", &self.not_after).finish_non_exhaustive()
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

/// Seconds since 1970.
fn not_after(certificate: &CertificateDer<'_>, path: &Path) -> Result<i64, TlsFileError> {
    let parsed = Certificate::from_der(certificate);
    let parsed = parsed.map_err(|error| unusable("server.tls.certificate", path, &error))?;
    let end = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    Ok(i64::try_from(end).unwrap_or(i64::MAX))
}

/// Asks for a client certificate of these authorities, and takes callers without one too; asks for none without them.
fn client_verifier(authorities: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    const KEY: &str = "server.tls.client_ca";
    let Some(authorities) = authorities else { return Ok(Arc::new(NoClientAuth)) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, authorities)? {
        roots.add(certificate).map_err(|error| unusable(KEY, authorities, &error))?;
    }
    // No hint at all: the names of the authorities are nobody's business who has no certificate.
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().clear_root_hint_subjects();
    let verifier = verifier.build();
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

fn unusable(key: &'static str, path: &Path, reason: &dyn fmt::Display) -> TlsFileError {
    TlsFileError::File { key, path: path.display().to_string(), reason: reason.to_string() }
}
