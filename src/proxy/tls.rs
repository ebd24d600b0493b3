//! What the TLS listener shows and asks for: its files, read and checked before anything is changed, at the start and at
//! each reload. A handshake uses what is in force at its beginning; connections that are open stay as they are.
//!
//! The library would read the files itself, later, and panic over what it does not like.

use std::{any::Any, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::{
    listeners::{TlsAccept, tls::TlsSettings},
    protocols::tls::TlsRef,
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
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
#[derive(Debug, Clone)]
pub struct ListenerTls {
    shown: Arc<Shown>,
    /// When the first certificate of the chain ends, seconds since 1970.
    not_after: i64,
    clients: Arc<Clients>,
}

/// The certificate that is shown at the moment.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

/// Who may sign client certificates at the moment.
#[derive(Debug)]
struct Clients(ArcSwap<Arc<dyn ClientCertVerifier>>);

impl ListenerTls {
    /// Reads the files and checks that they fit together.
    ///
    /// # Errors
    /// [`TlsFileError`].
    pub fn read(files: &Tls) -> Result<Self, TlsFileError> {
        let shown = certified_key(&files.certificate, &files.private_key)?;
        let not_after = shown.cert.iter().map(|certificate| not_after(certificate, &files.certificate));
        let not_after = not_after.collect::<Result<Vec<_>, _>>()?.into_iter().min().unwrap_or_default();
        let shown = Shown(ArcSwap::from_pointee(shown));
        let clients = Clients(ArcSwap::from_pointee(client_verifier(files.client_ca.as_deref())?));
        Ok(Self { shown: Arc::new(shown), not_after, clients: Arc::new(clients) })
    }

    /// Uses what another one has read, from the next handshake on.
    pub fn take_over(&self, other: &Self) {
        self.shown.0.store(other.shown.0.load_full());
        self.clients.0.store(other.clients.0.load_full());
    }

    /// When the first certificate of the chain ends that was read here, seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The library's settings for one address: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsFileError::Setup`].
    pub fn settings(&self) -> Result<TlsSettings, TlsFileError> {
        let settings = TlsSettings::with_callbacks(Box::new(ReadCertificate));
        let mut settings = settings.map_err(|error| TlsFileError::Setup(error.to_string()))?;
        let (shown, clients): (Arc<Shown>, Arc<Clients>) = (Arc::clone(&self.shown), Arc::clone(&self.clients));
        settings.set_cert_resolver(shown);
        settings.set_client_cert_verifier(clients);
        settings.enable_h2();
        Ok(settings)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Each question goes to the verifier in force.
impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.0.load().offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.load().client_auth_mandatory()
    }

    /// No hint at all: the names of the authorities are nobody's business who has no certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.load().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().supported_verify_schemes()
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
