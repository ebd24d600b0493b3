//! Remembers credentials that Account Manager has accepted, on all replicas.
//!
//! A new replica recognises a caller's secret at once, however many guesses arrive. A shared store holds an encrypted,
//! keyed hash of the credentials for [`VERIFIED_TTL`]. A verified secret skips the guess limits only: Account Manager
//! still decides, and its rejection removes the entry.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use super::credentials::ClientCredentials;
use crate::{jwt::sha256, store::SessionStore};

/// How long credentials count as verified after the last successful exchange.
const VERIFIED_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Maximum number of verified credentials in a process.
const CAPACITY: u64 = 10_000;
/// Maximum number of concurrent reads of the store. Guesses cause them.
const MAX_CONCURRENT_READS: usize = 16;

/// The store, in a type that can be swapped.
#[derive(Debug)]
struct Shared(Arc<dyn SessionStore>);

/// Verified credentials.
#[derive(Debug)]
pub(super) struct VerifiedSecrets {
    /// By the keyed hash of the credentials.
    known: Cache<[u8; 32], ()>,
    shared: ArcSwapOption<Shared>,
    reads: Semaphore,
}

impl VerifiedSecrets {
    pub(super) fn new() -> Self {
        Self {
            known: Cache::new(CAPACITY),
            shared: ArcSwapOption::empty(),
            reads: Semaphore::new(MAX_CONCURRENT_READS),
        }
    }

    /// Uses a store that other replicas use too. A store of this process alone is not used, because it knows nothing
    /// more.
    pub(super) fn share(&self, store: &Arc<dyn SessionStore>) {
        self.shared.store(store.is_shared().then(|| Arc::new(Shared(Arc::clone(store)))));
    }

    /// Whether this process knows the credentials as verified.
    pub(super) fn is_known(&self, hash: &[u8; 32]) -> bool {
        self.known.contains_key(hash)
    }

    /// Whether another replica has verified the credentials. `false` while the store fails, or is read too often.
    pub(super) async fn is_shared(&self, hash: &[u8; 32], credentials: &ClientCredentials) -> bool {
        let (Some(shared), Ok(_read)) = (self.shared.load_full(), self.reads.try_acquire()) else { return false };
        let is_verified = shared
            .0
            .get_value(&name(credentials))
            .await
            .is_ok_and(|entry| entry.is_some_and(|entry| !entry.is_empty()));
        if is_verified {
            self.known.insert(*hash, ());
        }
        is_verified
    }

    /// Notes that Account Manager accepted the credentials.
    pub(super) fn accepted(&self, hash: &[u8; 32], credentials: &ClientCredentials) {
        self.known.insert(*hash, ());
        self.write(credentials, b"1", VERIFIED_TTL);
    }

    /// Notes that Account Manager rejected the credentials.
    pub(super) fn refused(&self, hash: &[u8; 32], credentials: &ClientCredentials) {
        if self.known.remove(hash).is_some() {
            self.write(credentials, b"", Duration::from_millis(1));
        }
    }

    /// Writes behind the request. A lost entry costs a guess permit.
    fn write(&self, credentials: &ClientCredentials, entry: &'static [u8], life: Duration) {
        let Some(shared) = self.shared.load_full() else { return };
        let name = name(credentials);
        tokio::spawn(async move {
            if let Err(error) = shared.0.put_value(&name, entry, life).await {
                tracing::debug!(%error, "failed to store verified credentials");
            }
        });
    }
}

/// The entry's name, which the store hashes with its own key.
fn name(credentials: &ClientCredentials) -> Vec<u8> {
    // No client id contains a colon.
    let credential = format!("{}:{}", credentials.client, credentials.secret.expose_secret());
    [b"proved-caller/".as_slice(), &sha256(credential)].concat()
}
