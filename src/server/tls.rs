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
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificates::{Certificates, FileError, RevocationLists, read_private_key},
    config::{PartialTls, Tls},
    gateway::authn::client_cert::PeerCertificate,
    time::unix_now,
};

/// The key of all files together.
const TABLE: &str = "server.tls";
const CERTIFICATE: &str = "server.tls.certificate";
const PRIVATE_KEY: &str = "server.tls.private_key";
const CLIENT_CA: &str = "server.tls.client_ca";
const CLIENT_CRL: &str = "server.tls.client_crl";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct TlsFileError {
    /// The file's key, or that of all.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Certificate, key and client authorities of the public listener.
#[derive(Clone)]
pub struct ListenerTls {
    /// With sessions of its own that clients may resume: the library does not verify a resumed session's client
    /// certificate again, so none outlasts the authorities that it was verified by.
    acceptor: Arc<ArcSwap<Acceptor>>,
    expiry: TlsExpiry,
}

/// When the files end that were read, seconds since 1970; `None` where there is no such file, or where it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsExpiry {
    /// The first certificate of the chain.
    pub certificate: Option<i64>,
    /// The first authority of client certificates that has not ended yet.
    pub client_ca: Option<i64>,
    /// The first revocation list.
    pub client_crl: Option<i64>,
}

impl ListenerTls {
    /// Reads the files and checks that they fit together: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsFileError`].
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
            client_ca: clients.as_ref().and_then(|clients| clients.authorities.authorities_expiry(now())),
            client_crl: clients.as_ref().and_then(|clients| clients.lists.as_ref()?.next_update()),
        };
        Ok(Self { acceptor: Arc::new(ArcSwap::from_pointee(settings.build())), expiry })
    }

    /// Everything that is wrong with files of which some may be missing, and then everything doubtful.
    #[must_use]
    pub fn check(files: &PartialTls) -> (Vec<TlsFileError>, Vec<TlsFileError>) {
        let chain =
            files.certificate.as_deref().map(Certificates::read_chain).transpose().map_err(file_error(CERTIFICATE));
        let key = files.private_key.as_deref().map(read_private_key).transpose().map_err(file_error(PRIVATE_KEY));
        let clients = files.client_ca.as_deref().map(|file| ClientAuthorities::read(file, files.client_crl.as_deref()));
        let clients = clients.transpose();
        let messages = |key, messages: Vec<String>| {
            messages.into_iter().map(move |message| TlsFileError { key, message }).collect::<Vec<_>>()
        };
        let mut warnings = Vec::new();
        if let Ok(Some(chain)) = &chain {
            warnings.extend(messages(CERTIFICATE, chain.warnings(now())));
        }
        if let Ok(Some(clients)) = &clients {
            warnings.extend(messages(CLIENT_CA, clients.authorities.warnings(now())));
            let lists = clients.lists.iter().flat_map(|lists| lists.warnings(&clients.authorities, now()));
            warnings.extend(messages(CLIENT_CRL, lists.collect()));
        }
        let errors = match (chain, key) {
            (Ok(Some(chain)), Ok(Some(key))) => [certified_key(&chain, key).err(), None],
            (chain, key) => [chain.err(), key.err()],
        };
        let verifier = clients.and_then(|clients| {
            clients.as_ref().map_or(Ok(()), ClientAuthorities::check)?;
            client_verifier(clients.as_ref())
        });
        (errors.into_iter().flatten().chain(verifier.err()).collect(), warnings)
    }

    /// Uses what another one has read, from the next handshake on.
    pub fn replace_with(&self, other: &Self) {
        self.acceptor.store(other.acceptor.load_full());
    }

    /// When the files end that were read here.
    #[must_use]
    pub fn expiry(&self) -> TlsExpiry {
        self.expiry
    }

    /// What shakes hands at the moment.
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

/// Keeps the names of a client's certificate beside its connection, once the handshake has verified it.
struct ReadPeerCertificate;

#[async_trait]
impl TlsAccept for ReadPeerCertificate {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let certificate = PeerCertificate::read(tls.peer_certificate_der()?)?;
        Some(Arc::new(certificate))
    }
}

fn now() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}

/// Key and certificate, which must fit together.
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

/// The authorities of client certificates, and their revocation lists.
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

    /// Whether any of them can sign a certificate that would be taken.
    fn check(&self) -> Result<(), TlsFileError> {
        self.lists
            .as_ref()
            .map_or(Ok(()), |lists| lists.check_coverage(&self.authorities))
            .map_err(file_error(CLIENT_CRL))
    }

    /// Takes certificates of these authorities, and callers without one too. With revocation lists, a certificate that is
    /// revoked, or that no list covers, fails the handshake.
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
        let file_of_lists = |error: &VerifierBuilderError| TlsFileError {
            key: CLIENT_CRL,
            message: format!("a list cannot be used: {error}"),
        };
        let roots = self.authorities.roots().map_err(file_error(CLIENT_CA))?;
        // No hint at all: the names of the authorities are nobody's business who has no certificate.
        let verifier =
            WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().clear_root_hint_subjects();
        let lists = self.lists.iter().flat_map(|lists| lists.as_slice().iter().cloned());
        verifier.with_crls(lists).build().map(|verifier| verifier as _).map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(_) => file_of_lists(&error),
            _ => TlsFileError { key: CLIENT_CA, message: error.to_string() },
        })
    }
}

/// Asks for a client certificate of the configured authorities; for none without them.
fn client_verifier(clients: Option<&ClientAuthorities>) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    clients.map_or_else(|| Ok(Arc::new(NoClientAuth) as _), ClientAuthorities::verifier)
}

fn file_error(key: &'static str) -> impl Fn(FileError) -> TlsFileError {
    move |error| TlsFileError { key, message: error.to_string() }
}
