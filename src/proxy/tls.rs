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
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_cert::{Certificate, der::Decode};

use crate::{
    gate::caller::certificate::PeerCertificate,
    settings::{Tls, TlsDraft},
};

/// The key of all files together.
const TABLE: &str = "server.tls";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TlsFileError {
    /// The file's key, or that of all.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
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
        let Chain { certificates, not_after } = Chain::read(&files.certificate)?;
        let shown = certified_key(certificates, private_key(&files.private_key)?)?;
        let settings = TlsSettings::with_callbacks(Box::new(ReadCertificate));
        let mut settings = settings.map_err(|error| TlsFileError { key: TABLE, problem: error.to_string() })?;
        settings.set_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        settings.set_client_cert_verifier(client_verifier(files.client_ca.as_deref(), files.client_crl.as_deref())?);
        settings.enable_h2();
        Ok(Self { in_force: Arc::new(ArcSwap::from_pointee(settings.build())), not_after })
    }

    /// Everything that is wrong with files of which some may be missing.
    #[must_use]
    pub fn check(files: &TlsDraft) -> Vec<TlsFileError> {
        let chain = files.certificate.as_deref().map(Chain::read).transpose();
        let key = files.private_key.as_deref().map(private_key).transpose();
        let authorities = client_verifier(files.client_ca.as_deref(), files.client_crl.as_deref());
        let errors = match (chain, key) {
            (Ok(Some(chain)), Ok(Some(key))) => [certified_key(chain.certificates, key).err(), None],
            (chain, key) => [chain.err(), key.err()],
        };
        errors.into_iter().flatten().chain(authorities.err()).collect()
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

/// What is shown to clients.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    /// When the first of them ends, seconds since 1970.
    not_after: i64,
}

impl Chain {
    fn read(path: &Path) -> Result<Self, TlsFileError> {
        let certificates = certificates("server.tls.certificate", path)?;
        let ends = certificates.iter().map(|certificate| not_after(certificate, path));
        let not_after = ends.collect::<Result<Vec<_>, _>>()?.into_iter().min().unwrap_or_default();
        Ok(Self { certificates, not_after })
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable("server.tls.private_key", path, &error))
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsFileError> {
    let failed = |problem| TlsFileError { key: TABLE, problem };
    // `main` installs one first.
    let provider = CryptoProvider::get_default();
    let provider = provider.ok_or_else(|| failed("no cryptography provider is installed".to_owned()))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| failed(format!("certificate and private_key do not fit together: {error}")))
}

/// Seconds since 1970.
fn not_after(certificate: &CertificateDer<'_>, path: &Path) -> Result<i64, TlsFileError> {
    let parsed = Certificate::from_der(certificate);
    let parsed = parsed.map_err(|error| unusable("server.tls.certificate", path, &error))?;
    let end = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    Ok(i64::try_from(end).unwrap_or(i64::MAX))
}

/// Asks for a client certificate of these authorities, and takes callers without one too; asks for none without them. With
/// revocation lists, a certificate that is revoked, or that no list covers, fails the handshake.
fn client_verifier(
    authorities: Option<&Path>,
    revoked: Option<&Path>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    const KEY: &str = "server.tls.client_ca";
    const LISTS: &str = "server.tls.client_crl";
    let Some(authorities) = authorities else { return Ok(Arc::new(NoClientAuth)) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, authorities)? {
        roots.add(certificate).map_err(|error| unusable(KEY, authorities, &error))?;
    }
    // No hint at all: the names of the authorities are nobody's business who has no certificate.
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().clear_root_hint_subjects();
    let Some(revoked) = revoked else {
        return verifier.build().map(|verifier| verifier as _).map_err(|error| unusable(KEY, authorities, &error));
    };
    let lists =
        CertificateRevocationListDer::pem_file_iter(revoked).map_err(|error| unusable(LISTS, revoked, &error))?;
    let lists = lists.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(LISTS, revoked, &error))?;
    if lists.is_empty() {
        return Err(unusable(LISTS, revoked, &"the file has no revocation list"));
    }
    verifier.with_crls(lists).build().map(|verifier| verifier as _).map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(_) => unusable(LISTS, revoked, &error),
        _ => unusable(KEY, authorities, &error),
    })
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
    TlsFileError { key, problem: format!("{}: {reason}", path.display()) }
}
