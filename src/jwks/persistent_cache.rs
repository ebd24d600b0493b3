//! Persisted key sets: copies in the session store, which replicas share, and in a directory of this machine.
//!
//! A copy is loaded only if it is of this tenant, this issuer and this JWKS address, and younger than `keys.max_age`. It keeps
//! the age that it had. In Redis a copy is encrypted like a session. In a directory the permissions protect it from planted
//! keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::{Algorithm, jwk::Jwk};
use serde::{Deserialize, Serialize};

use super::{cache_directory::CacheDirectory, fetched_at::FetchedAt, issuer::Issuer, key_set::KeySet};
use crate::store::SessionStore;

/// The version of the serialized form.
const FORMAT: u32 = 1;

/// The configuration of persistence.
#[derive(Debug, Clone)]
pub struct JwksPersistence {
    /// The session store, which other replicas may share.
    pub store: Arc<dyn SessionStore>,
    /// The directory `keys.jwks_cache_dir`.
    pub directory: Option<Arc<CacheDirectory>>,
    /// The age from which no key of a set verifies a signature.
    pub max_age: Duration,
}

impl JwksPersistence {
    /// Whether both are the same places with the same maximum age.
    fn is_same(&self, other: &Self) -> bool {
        let has_same_directory = match (&self.directory, &other.directory) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        has_same_directory && Arc::ptr_eq(&self.store, &other.store) && self.max_age == other.max_age
    }
}

/// The persisted copies of one issuer's key set.
#[derive(Debug)]
pub(super) struct JwksCache {
    persistence: JwksPersistence,
    issuer: &'static str,
    tenant: String,
    jwks_url: String,
    algorithm: Algorithm,
    is_store_failing: AtomicBool,
    is_directory_failing: AtomicBool,
}

/// A serialized key set.
#[derive(Debug, Serialize, Deserialize)]
struct StoredKeySet {
    format: u32,
    issuer: String,
    tenant: String,
    address: String,
    /// Milliseconds since 1970.
    read_at: u64,
    keys: Vec<Jwk>,
}

impl JwksCache {
    pub(super) fn new(persistence: JwksPersistence, issuer: &Issuer, tenant: &str) -> Self {
        Self {
            persistence,
            issuer: issuer.name(),
            tenant: tenant.to_owned(),
            jwks_url: issuer.jwks_url(),
            algorithm: issuer.algorithm(),
            is_store_failing: AtomicBool::new(false),
            is_directory_failing: AtomicBool::new(false),
        }
    }

    /// Whether the copies are in these places, with the same maximum age.
    pub(super) fn uses(&self, persistence: &JwksPersistence) -> bool {
        self.persistence.is_same(persistence)
    }

    pub(super) fn max_age(&self) -> Duration {
        self.persistence.max_age
    }

    /// Whether other replicas save key sets in the same store.
    pub(super) fn is_shared(&self) -> bool {
        self.persistence.store.is_shared()
    }

    /// Loads the copy in the directory.
    pub(super) async fn load_from_directory(&self) -> Option<(KeySet, FetchedAt)> {
        let directory = Arc::clone(self.persistence.directory.as_ref()?);
        let name = self.file_name();
        let read = tokio::task::spawn_blocking(move || directory.read(&name)).await.ok()?;
        let loaded = match read {
            Ok(None) => return None,
            Ok(Some(bytes)) => self.deserialize(&bytes),
            Err(error) => Err(error.to_string()),
        };
        self.log_transition("file", &self.is_directory_failing, loaded)
    }

    /// Loads the copy in the session store.
    pub(super) async fn load_from_store(&self) -> Option<(KeySet, FetchedAt)> {
        let loaded = match self.persistence.store.get_value(&self.store_key()).await {
            Ok(None) => return None,
            Ok(Some(bytes)) => self.deserialize(&bytes),
            Err(error) => Err(error.to_string()),
        };
        self.log_transition("store", &self.is_store_failing, loaded)
    }

    /// Saves a key set in both places. A failure is logged.
    pub(super) async fn save(&self, key_set: &KeySet, fetched_at: FetchedAt) {
        let Some(bytes) = self.serialize(key_set, fetched_at) else { return };
        let ttl = self.persistence.max_age.saturating_sub(fetched_at.age());
        let saved = self.persistence.store.put_value(&self.store_key(), &bytes, ttl).await;
        self.log_transition("store", &self.is_store_failing, saved.map_err(|error| error.to_string()));
        if let Some(directory) = self.persistence.directory.clone() {
            let name = self.file_name();
            let written = tokio::task::spawn_blocking(move || directory.write(&name, &bytes)).await;
            let written = written.map_err(|error| error.to_string());
            let written = written.and_then(|written| written.map_err(|error| error.to_string()));
            self.log_transition("file", &self.is_directory_failing, written);
        }
    }

    fn serialize(&self, key_set: &KeySet, fetched_at: FetchedAt) -> Option<Vec<u8>> {
        let stored = StoredKeySet {
            format: FORMAT,
            issuer: self.issuer.to_owned(),
            tenant: self.tenant.clone(),
            address: self.jwks_url.clone(),
            read_at: fetched_at.unix_ms,
            keys: key_set.jwks().cloned().collect(),
        };
        serde_json::to_vec(&stored).ok()
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<(KeySet, FetchedAt), String> {
        let stored: StoredKeySet = serde_json::from_slice(bytes).map_err(|_| "unreadable".to_owned())?;
        let has_same_source = stored.format == FORMAT
            && stored.issuer == self.issuer
            && stored.tenant == self.tenant
            && stored.address == self.jwks_url;
        if !has_same_source {
            return Err("of another tenant or issuer, or in another format".to_owned());
        }
        let fetched_at = FetchedAt::from_unix_ms(stored.read_at).ok_or("saved in the future")?;
        if fetched_at.age() >= self.persistence.max_age {
            return Err("older than keys.max_age".to_owned());
        }
        let key_set = KeySet::from_jwks(stored.keys, self.algorithm).ok_or("without a usable key")?;
        Ok((key_set, fetched_at))
    }

    /// Logs the first failure of a place, and its recovery.
    fn log_transition<T>(
        &self,
        location: &'static str,
        is_failing: &AtomicBool,
        result: Result<T, String>,
    ) -> Option<T> {
        if is_failing.swap(result.is_err(), Ordering::Relaxed) != result.is_err() {
            let (tenant, issuer) = (&self.tenant, self.issuer);
            match &result {
                Ok(_) => tracing::info!(tenant, issuer, location, "persisting key sets again"),
                Err(reason) => {
                    tracing::warn!(tenant, issuer, location, reason, "failed to save or load a persisted key set");
                }
            }
        }
        result.ok()
    }

    fn store_key(&self) -> Vec<u8> {
        format!("jwks|{}|{}|{}", self.issuer, self.tenant, self.jwks_url).into_bytes()
    }

    /// The name of the file. An organization's id has only letters, digits and underscores.
    fn file_name(&self) -> String {
        format!("{}-{}.json", self.issuer, self.tenant)
    }
}
