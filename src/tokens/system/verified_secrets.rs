//! Remembers credentials that Account Manager has accepted, beyond the process that presented them.
//!
//! A new replica recognises a caller's secret at once, however many guesses arrive. A shared store holds an encrypted, keyed
//! hash of the credentials for [`PROVED_FOR`]. A verified secret skips the guess limits and nothing else: Account Manager
//! still decides, and its refusal removes the entry.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use super::credentials::ClientCredentials;
use crate::{jwt::sha256, store::SessionStore};

/// How long the store remembers a proof after the last exchange that succeeded.
const PROVED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most proofs that a process remembers.
const CAPACITY: u64 = 10_000;
/// Most reads of the store at a time: guesses cause them.
const READS: usize = 16;

/// The store, as something that can be swapped.
#[derive(Debug)]
struct Shared(Arc<dyn SessionStore>);

/// Proved credentials.
#[derive(Debug)]
pub(super) struct VerifiedSecrets {
    /// By the keyed hash of the credentials.
    known: Cache<[u8; 32], ()>,
    shared: ArcSwapOption<Shared>,
    reads: Semaphore,
}

impl VerifiedSecrets {
    pub(super) fn new() -> Self {
        Self { known: Cache::new(CAPACITY), shared: ArcSwapOption::empty(), reads: Semaphore::new(READS) }
    }

    /// Uses a store that other gateways use as well; one of this process alone remembers nothing that is not known here.
    pub(super) fn share(&self, store: &Arc<dyn SessionStore>) {
        self.shared.store(store.is_shared().then(|| Arc::new(Shared(Arc::clone(store)))));
    }

    /// Whether this process knows a proof.
    pub(super) fn is_known(&self, hash: &[u8; 32]) -> bool {
        self.known.contains_key(hash)
    }

    /// Whether another process has left a proof. While the store fails, or too many ask, there is none.
    pub(super) async fn is_shared(&self, hash: &[u8; 32], credentials: &ClientCredentials) -> bool {
        let (Some(shared), Ok(_read)) = (self.shared.load_full(), self.reads.try_acquire()) else { return false };
        let is_proved = shared
            .0
            .get_value(&name(credentials))
            .await
            .is_ok_and(|proof| proof.is_some_and(|proof| !proof.is_empty()));
        if is_proved {
            self.known.insert(*hash, ());
        }
        is_proved
    }

    /// Account Manager accepted the credentials.
    pub(super) fn accepted(&self, hash: &[u8; 32], credentials: &ClientCredentials) {
        self.known.insert(*hash, ());
        self.write(credentials, b"1", PROVED_FOR);
    }

    /// Account Manager refused the credentials.
    pub(super) fn refused(&self, hash: &[u8; 32], credentials: &ClientCredentials) {
        if self.known.remove(hash).is_some() {
            self.write(credentials, b"", Duration::from_millis(1));
        }
    }

    /// Writes behind the request: a proof that is lost costs a permit.
    fn write(&self, credentials: &ClientCredentials, proof: &'static [u8], life: Duration) {
        let Some(shared) = self.shared.load_full() else { return };
        let name = name(credentials);
        tokio::spawn(async move {
            if let Err(error) = shared.0.put_value(&name, proof, life).await {
                tracing::debug!(%error, "proof of a caller's credentials not written");
            }
        });
    }
}

/// The proof's name, which the store hashes with its own key.
fn name(credentials: &ClientCredentials) -> Vec<u8> {
    // No client id holds a colon.
    let credential = format!("{}:{}", credentials.client, credentials.secret.expose_secret());
    [b"proved-caller/".as_slice(), &sha256(credential)].concat()
}
