//! TLS of the public listener: the server certificate and the authorities of client certificates.
//!
//! The files are read and checked at the start and at each reload, before anything changes. New handshakes use the new files; open
//! connections stay as they are. TLS sessions from before a reload cannot be resumed. The files are read here, because Pingora
//! would read them later and panic over invalid ones.

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
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificates::{Certificates, FileError, RevocationLists, read_private_key},
    config::{CheckReport, Diagnostic, PartialTls, Tls},
    gateway::client_cert::PeerCertificate,
    time::unix_now_signed,
};

/// The key for faults of all files together.
const TABLE: &str = "server.tls";
const CERTIFICATE: &str = "server.tls.certificate";
const PRIVATE_KEY: &str = "server.tls.private_key";
const CLIENT_CA: &str = "server.tls.client_ca";
const CLIENT_CRL: &str = "server.tls.client_crl";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct TlsFileError {
    /// The key of the file, or `server.tls`.
    pub key: &'static str,
    /// The problem, and what to do.
    pub message: String,
}

/// The TLS configuration of the public listener. Clones share the current one.
#[derive(Clone)]
pub struct ListenerTls {
    /// Each acceptor has its own TLS sessions. rustls does not verify a resumed session's client certificate again, so no
    /// session may outlive the authorities that verified it.
    acceptor: Arc<ArcSwap<Acceptor>>,
    expiry: TlsExpiry,
}

/// Expiry of the files in seconds since 1970; `None` if a file is not configured or has no expiry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsExpiry {
    /// Earliest expiry in the certificate chain.
    pub certificate: Option<i64>,
    /// Earliest expiry among the client authorities that have not expired.
    pub client_ca: Option<i64>,
    /// Earliest next update of the revocation lists.
    pub client_crl: Option<i64>,
}

impl ListenerTls {
    /// Reads the files and checks that they fit together: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// Returns [`TlsFileError`] if a file cannot be used, or the files do not fit together.
    pub fn read(files: &Tls) -> Result<Self, TlsFileError> {
        let chain = Certificates::read_chain(&files.certificate).map_err(file_error(CERTIFICATE))?;
        let key = read_private_key(&files.private_key).map_err(file_error(PRIVATE_KEY))?;
        let shown = certified_key(&chain, key)?;
        let clients = files.client_ca.as_deref().map(|file| ClientAuthorities::read(file, files.client_crl.as_deref()));
        let clients = clients.transpose()?;
        let settings = TlsSettings::with_callbacks(Box::new(ReadPeerCertificate));
        let mut settings = settings.map_err(|error| TlsFileError { key: TABLE, message: error.to_string() })?;
        settings.set_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        settings.set_client_cert_verifier(client_verifier(clients.as_ref())?);
        settings.enable_h2();
        let expiry = TlsExpiry {
            certificate: chain.chain_expiry(),
            client_ca: clients.as_ref().and_then(|clients| clients.authorities.authorities_expiry(unix_now_signed())),
            client_crl: clients.as_ref().and_then(|clients| clients.lists.as_ref()?.next_update()),
        };
        Ok(Self { acceptor: Arc::new(ArcSwap::from_pointee(settings.build())), expiry })
    }

    /// All errors and warnings of the files. Files may be missing.
    #[must_use]
    pub fn check(files: &PartialTls) -> CheckReport {
        let now = unix_now_signed();
        let chain =
            files.certificate.as_deref().map(Certificates::read_chain).transpose().map_err(file_error(CERTIFICATE));
        let key = files.private_key.as_deref().map(read_private_key).transpose().map_err(file_error(PRIVATE_KEY));
        let clients = files.client_ca.as_deref().map(|file| ClientAuthorities::read(file, files.client_crl.as_deref()));
        let clients = clients.transpose();
        let mut warnings = Vec::new();
        let mut warn = |key, messages: Vec<String>| {
            warnings.extend(messages.into_iter().map(|message| Diagnostic::new(key, message)));
        };
        if let Ok(Some(chain)) = &chain {
            warn(CERTIFICATE, chain.warnings(now));
        }
        if let Ok(Some(ClientAuthorities { authorities, lists })) = &clients {
            warn(CLIENT_CA, authorities.warnings(now));
            warn(CLIENT_CRL, lists.iter().flat_map(|lists| lists.warnings(authorities, now)).collect());
        }
        let errors = match (chain, key) {
            (Ok(Some(chain)), Ok(Some(key))) => [certified_key(&chain, key).err(), None],
            (chain, key) => [chain.err(), key.err()],
        };
        let verifier = clients.and_then(|clients| {
            clients.as_ref().map_or(Ok(()), ClientAuthorities::check)?;
            client_verifier(clients.as_ref())
        });
        let errors = errors.into_iter().flatten().chain(verifier.err());
        CheckReport { errors: errors.map(|error| Diagnostic::new(error.key, error.message)).collect(), warnings }
    }

    /// Uses the files of `other` from the next handshake on.
    pub fn replace_with(&self, other: &Self) {
        self.acceptor.store(other.acceptor.load_full());
    }

    /// Expiry of the files that this value was read from.
    #[must_use]
    pub fn expiry(&self) -> TlsExpiry {
        self.expiry
    }

    /// The acceptor for new connections.
    #[must_use]
    pub fn acceptor(&self) -> Arc<Acceptor> {
        self.acceptor.load_full()
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ListenerTls").field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

/// Stores the names of a verified client certificate with its connection.
struct ReadPeerCertificate;

#[async_trait]
impl TlsAccept for ReadPeerCertificate {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let certificate = PeerCertificate::parse(tls.peer_certificate_der()?)?;
        Some(Arc::new(certificate))
    }
}

/// Combines certificate and private key.
fn certified_key(chain: &Certificates, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, TlsFileError> {
    let failed = |message| TlsFileError { key: TABLE, message };
    // `main` installs one first.
    let provider = CryptoProvider::get_default();
    let provider = provider.ok_or_else(|| failed("no cryptography provider is installed".to_owned()))?;
    let fits = |certificate: &CertificateDer<'static>| {
        CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), provider).is_ok()
    };
    let own = chain.as_slice().iter().skip(1).position(fits);
    CertifiedKey::from_der(chain.as_slice().to_vec(), key.clone_key(), provider).map_err(|error| {
        let hint = match own {
            Some(position) => format!(
                "; the key is that of certificate {} in the file: the server's own certificate must be the first",
                position + 2
            ),
            None => String::new(),
        };
        failed(format!("certificate and private_key do not fit together: {error}{hint}"))
    })
}

/// Authorities and revocation lists of client certificates.
struct ClientAuthorities {
    authorities: Certificates,
    lists: Option<RevocationLists>,
}

impl ClientAuthorities {
    fn read(authorities: &Path, lists: Option<&Path>) -> Result<Self, TlsFileError> {
        let authorities = Certificates::read_authorities(authorities).map_err(file_error(CLIENT_CA))?;
        let lists = lists.map(RevocationLists::read).transpose().map_err(file_error(CLIENT_CRL))?;
        Ok(Self { authorities, lists })
    }

    /// Checks that at least one authority can verify certificates.
    fn check(&self) -> Result<(), TlsFileError> {
        self.lists
            .as_ref()
            .map_or(Ok(()), |lists| lists.check_coverage(&self.authorities))
            .map_err(file_error(CLIENT_CRL))
    }

    /// Accepts certificates of these authorities, and clients without a certificate. With revocation lists, a revoked certificate
    /// fails the handshake, and so does a certificate that no list covers.
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
        let file_of_lists = |error: &VerifierBuilderError| TlsFileError {
            key: CLIENT_CRL,
            message: format!("a revocation list cannot be used: {error}"),
        };
        let roots = self.authorities.roots().map_err(file_error(CLIENT_CA))?;
        // No hints: clients without a certificate need not know the authorities.
        let verifier =
            WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().clear_root_hint_subjects();
        let lists = self.lists.iter().flat_map(|lists| lists.as_slice().iter().cloned());
        verifier.with_crls(lists).build().map(|verifier| verifier as _).map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(_) => file_of_lists(&error),
            _ => TlsFileError { key: CLIENT_CA, message: error.to_string() },
        })
    }
}

/// The verifier of client certificates. Without configured authorities, the handshake requests none.
fn client_verifier(clients: Option<&ClientAuthorities>) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    clients.map_or_else(|| Ok(Arc::new(NoClientAuth) as _), ClientAuthorities::verifier)
}

fn file_error(key: &'static str) -> impl Fn(FileError) -> TlsFileError {
    move |error| TlsFileError { key, message: error.to_string() }
}
