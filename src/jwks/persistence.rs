//! Where key sets outlive a process and meet those of other replicas: the session store, and a folder.
//!
//! Owns what is kept of a set, and what is taken back: only the set of this tenant and this issuer's address, not older than
//! `keys.max_age`, and as old as it was. In Redis it is sealed like a session; in a folder it is the folder's
//! permissions that keep others from planting a key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::{Algorithm, jwk::Jwk};
use serde::{Deserialize, Serialize};

use super::{
    file_store::Folder,
    issuer::Issuer,
    key_set::{KeySet, ReadAt},
};
use crate::store::SessionStore;

/// The format of what is kept.
const FORMAT: u32 = 1;

/// Where key sets are kept, and for how long.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// Shared by replicas, if it is.
    pub store: Arc<dyn SessionStore>,
    /// On this machine.
    pub folder: Option<Arc<Folder>>,
    /// The age from which no key of a set verifies anything.
    pub max_age: Duration,
}

/// The place of one issuer's key set.
#[derive(Debug)]
pub(super) struct Shelf {
    keeping: Keeping,
    issuer: &'static str,
    tenant: String,
    address: String,
    algorithm: Algorithm,
    store_fails: AtomicBool,
    folder_fails: AtomicBool,
}

/// A kept set.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    issuer: String,
    tenant: String,
    address: String,
    /// Milliseconds since 1970.
    read_at: u64,
    keys: Vec<Jwk>,
}

impl Shelf {
    /// Whether its places are these, and its sets good for as long.
    pub(super) fn is_kept_as(&self, keeping: &Keeping) -> bool {
        let same_folder = match (&self.keeping.folder, &keeping.folder) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        same_folder && Arc::ptr_eq(&self.keeping.store, &keeping.store) && self.keeping.max_age == keeping.max_age
    }

    pub(super) fn new(keeping: Keeping, issuer: &Issuer, tenant: &str) -> Self {
        Self {
            keeping,
            issuer: issuer.name(),
            tenant: tenant.to_owned(),
            address: issuer.address(),
            algorithm: issuer.algorithm(),
            store_fails: AtomicBool::new(false),
            folder_fails: AtomicBool::new(false),
        }
    }

    pub(super) fn max_age(&self) -> Duration {
        self.keeping.max_age
    }

    /// Whether other gateways can have put a set here.
    pub(super) fn is_shared(&self) -> bool {
        self.keeping.store.is_shared()
    }

    /// What the folder has.
    pub(super) async fn in_folder(&self) -> Option<(KeySet, ReadAt)> {
        let folder = Arc::clone(self.keeping.folder.as_ref()?);
        let name = self.file();
        let read = tokio::task::spawn_blocking(move || folder.read(&name)).await.ok()?;
        let kept = match read {
            Ok(None) => return None,
            Ok(Some(bytes)) => self.read(&bytes),
            Err(error) => Err(error.to_string()),
        };
        self.note("folder", &self.folder_fails, kept)
    }

    /// What the store has.
    pub(super) async fn in_store(&self) -> Option<(KeySet, ReadAt)> {
        let kept = match self.keeping.store.get_value(&self.name()).await {
            Ok(None) => return None,
            Ok(Some(bytes)) => self.read(&bytes),
            Err(error) => Err(error.to_string()),
        };
        self.note("store", &self.store_fails, kept)
    }

    /// Keeps a set, wherever that can be done.
    pub(super) async fn keep(&self, set: &KeySet, read: ReadAt) {
        let Some(bytes) = self.write(set, read) else { return };
        let life = self.keeping.max_age.saturating_sub(read.age());
        let stored = self.keeping.store.put_value(&self.name(), &bytes, life).await.map_err(|error| error.to_string());
        self.note("store", &self.store_fails, stored);
        if let Some(folder) = self.keeping.folder.clone() {
            let name = self.file();
            let written = tokio::task::spawn_blocking(move || folder.write(&name, &bytes)).await;
            let written = written.map_err(|error| error.to_string());
            self.note("folder", &self.folder_fails, written.and_then(|done| done.map_err(|error| error.to_string())));
        }
    }

    fn write(&self, set: &KeySet, read: ReadAt) -> Option<Vec<u8>> {
        let kept = Kept {
            format: FORMAT,
            issuer: self.issuer.to_owned(),
            tenant: self.tenant.clone(),
            address: self.address.clone(),
            read_at: read.unix_ms,
            keys: set.published().cloned().collect(),
        };
        serde_json::to_vec(&kept).ok()
    }

    fn read(&self, bytes: &[u8]) -> Result<(KeySet, ReadAt), String> {
        let kept: Kept = serde_json::from_slice(bytes).map_err(|_| "it cannot be read".to_owned())?;
        let is_ours = kept.format == FORMAT
            && kept.issuer == self.issuer
            && kept.tenant == self.tenant
            && kept.address == self.address;
        if !is_ours {
            return Err("it is of another tenant or issuer, or in another format".to_owned());
        }
        let read = ReadAt::of(kept.read_at).ok_or("it was written in the future")?;
        if read.age() >= self.keeping.max_age {
            return Err("it is older than keys.max_age".to_owned());
        }
        let set = KeySet::of(kept.keys, self.algorithm).ok_or("it has no key that could be used")?;
        Ok((set, read))
    }

    /// Logs a failure once, until it is over.
    fn note<T>(&self, place: &'static str, fails: &AtomicBool, result: Result<T, String>) -> Option<T> {
        if fails.swap(result.is_err(), Ordering::Relaxed) != result.is_err() {
            let (tenant, issuer) = (&self.tenant, self.issuer);
            match &result {
                Ok(_) => tracing::info!(tenant, issuer, place, "key sets are kept again"),
                Err(reason) => tracing::warn!(tenant, issuer, place, reason, "a key set cannot be kept or taken back"),
            }
        }
        result.ok()
    }

    /// The name in the store.
    fn name(&self) -> Vec<u8> {
        format!("jwks|{}|{}|{}", self.issuer, self.tenant, self.address).into_bytes()
    }

    /// The file in the folder. An organization's id has letters, digits and underscores only.
    fn file(&self) -> String {
        format!("{}-{}.json", self.issuer, self.tenant)
    }
}
