//! Finds a token's key by its key id.
//!
//! A key of the active set is returned at once. An unknown key id may cause a fetch, which all requests with unknown key ids
//! wait for together. The fetch runs in a task of its own, so a client that disconnects does not abort it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::Instrument;

use super::{
    fetch_limit::FetchPurpose,
    key_ring::{FetchOutcome, KeyRing},
    refetch_policy::TokenOrigin,
};
use crate::{jwt::VerifyingKey, time::external_wait};

/// A token issued this long before the last fetch cannot be of a newer key, seconds.
const OLDER_TOKEN_MARGIN: u64 = 60;
/// The clock difference up to which a token does not count as issued after the last fetch, seconds.
const CLOCK_SKEW: u64 = 5;
/// The minimum time between lookups of other replicas' key sets for unknown key ids.
const STORE_LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// An error of a key lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The issuer does not publish the key.
    #[error("the issuer publishes no key with this id")]
    UnknownKid,
    /// There is no usable key set, or the key may be newer than the key set and no fetch was possible.
    #[error("the issuer's keys are unavailable at the moment")]
    Unavailable,
}

/// A key with the generation of its key set.
#[derive(Debug, Clone)]
pub struct Key {
    /// Verifies signatures.
    pub verifying_key: Arc<VerifyingKey>,
    /// The generation of its key set: see [`KeyRing::is_current`]. Generations are unique within the process.
    pub generation: u64,
}

impl KeyRing {
    /// The key with this id. An unknown key id may cause a fetch.
    ///
    /// # Errors
    /// [`KeyError::UnknownKid`] if the issuer does not publish the key. [`KeyError::Unavailable`] if the gateway cannot find out.
    pub async fn key(self: &Arc<Self>, kid: &str, origin: TokenOrigin) -> Result<Key, KeyError> {
        if let Some(key) = self.active_key(kid) {
            return Ok(key);
        }
        if !self.has_usable_keys() {
            // Requests cause no fetch of the first key set. They wait for the first attempt only, not for an issuer that
            // is down.
            let mut is_initialized = self.is_initialized.subscribe();
            let _ = external_wait::track(is_initialized.wait_for(|is_initialized| *is_initialized)).await;
            if let Some(key) = self.active_key(kid) {
                return Ok(key);
            }
            if !self.has_usable_keys() {
                return Err(KeyError::Unavailable);
            }
        }
        if self.is_known_absent(kid, origin) {
            return Err(KeyError::UnknownKid);
        }
        let Ok(permit) = Arc::clone(&self.waiting_requests).try_acquire_owned() else {
            return Err(KeyError::Unavailable);
        };
        let (key_ring, wanted) = (Arc::clone(self), kid.to_owned());
        let lookup = async move {
            let result = key_ring.look_up_or_fetch(&wanted, origin).await;
            drop(permit);
            result
        };
        external_wait::track(tokio::spawn(lookup.in_current_span())).await.unwrap_or(Err(KeyError::Unavailable))
    }

    fn active_key(&self, kid: &str) -> Option<Key> {
        let active = self.active();
        let verifying_key = active.key_set.key(kid).filter(|_| self.is_usable(&active))?;
        Some(Key { verifying_key: Arc::clone(verifying_key), generation: active.generation })
    }

    /// Whether the issuer certainly does not publish the key.
    fn is_known_absent(&self, kid: &str, origin: TokenOrigin) -> bool {
        match origin {
            TokenOrigin::Issuer => false,
            TokenOrigin::OtherIssuer => true,
            TokenOrigin::Client { issued_at } => {
                issued_at.is_some_and(|issued_at| issued_at.saturating_add(OLDER_TOKEN_MARGIN) < self.last_fetch())
                    || self.unknown_kids.contains(kid, Instant::now())
            }
        }
    }

    /// The time of the active key set's fetch, in seconds since 1970.
    fn last_fetch(&self) -> u64 {
        self.active().fetched_at.map_or(0, |fetched_at| fetched_at.unix_seconds())
    }

    /// The key from the active set, from another replica's set, or from a fetch, one lookup at a time.
    async fn look_up_or_fetch(&self, kid: &str, origin: TokenOrigin) -> Result<Key, KeyError> {
        let mut state = self.fetch_state.lock().await;
        // An earlier lookup may have answered the question.
        if let Some(key) = self.active_key(kid) {
            return Ok(key);
        }
        if self.is_known_absent(kid, origin) {
            return Err(KeyError::UnknownKid);
        }
        let now = Instant::now();
        let is_lookup_due = state.last_store_lookup.is_none_or(|last| now - last >= STORE_LOOKUP_INTERVAL);
        if is_lookup_due && self.cache.is_shared() {
            state.last_store_lookup = Some(now);
            self.activate_persisted(self.cache.load_from_store().await);
            if let Some(key) = self.active_key(kid) {
                return Ok(key);
            }
        }
        let looks_newer = self.looks_newer(kid, origin);
        if !state.refetch_policy.try_acquire(origin, looks_newer, self.is_failing(), now) {
            return Err(self.error_without_fetch(origin));
        }
        let outcome = self.fetch(&mut state, FetchPurpose::UnknownKid).await;
        match (self.active_key(kid), outcome) {
            (Some(key), _) => Ok(key),
            (None, FetchOutcome::Fetched) => {
                self.unknown_kids.insert(kid, Instant::now());
                Err(KeyError::UnknownKid)
            }
            (None, FetchOutcome::Failed) => Err(KeyError::Unavailable),
            (None, FetchOutcome::Throttled) => Err(self.error_without_fetch(origin)),
        }
    }

    /// Whether a token with this key id may be of a key newer than the active set. `iat` has whole seconds: a token of the
    /// fetch's own second counts as newer once that second has passed.
    fn looks_newer(&self, kid: &str, origin: TokenOrigin) -> bool {
        let active = self.active();
        let (Some(fetched_at), TokenOrigin::Client { issued_at: Some(issued_at) }) = (active.fetched_at, origin) else {
            return false;
        };
        let is_later = issued_at > fetched_at.unix_seconds()
            || issued_at == fetched_at.unix_seconds() && fetched_at.age() >= Duration::from_secs(1);
        is_later && active.key_set.has_similar_kid(kid)
    }

    /// The result for an unknown key id without a fetch. A token issued after the last fetch may be genuine.
    fn error_without_fetch(&self, origin: TokenOrigin) -> KeyError {
        match origin {
            _ if self.is_failing() => KeyError::Unavailable,
            TokenOrigin::Client { issued_at: Some(issued_at) }
                if issued_at > self.last_fetch().saturating_add(CLOCK_SKEW) =>
            {
                KeyError::Unavailable
            }
            TokenOrigin::Issuer => KeyError::Unavailable,
            TokenOrigin::Client { .. } | TokenOrigin::OtherIssuer => KeyError::UnknownKid,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config::Timeouts,
        jwks::{fetched_at::FetchedAt, issuer::Issuer, key_set::KeySet, persistent_cache::JwksPersistence},
        observability::metrics::Metrics,
        salesforce::{guard::CallGuard, slas::Slas, transport::Transport},
        store::memory::MemoryStore,
        types::OrganizationId,
    };

    /// A key ring whose issuer is unreachable.
    fn key_ring() -> Arc<KeyRing> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (second, metrics) = (Duration::from_secs(1), Arc::new(Metrics::new("test", "test").unwrap()));
        let timeouts = Timeouts {
            upstream: second,
            upstream_admin: second,
            connect: second,
            exchange: second,
            client_head: second,
            client_body: second,
            held_body: second,
            client_write: second,
            idle: second,
            drain: second,
        };
        let guard = CallGuard::new("test", Arc::clone(&metrics));
        let url = "http://127.0.0.1:9".parse().unwrap();
        let transport = Transport::new(&timeouts, &url, &[], guard, Arc::clone(&metrics)).unwrap();
        let organization: OrganizationId = "f_ecom_zzrf_001".parse().unwrap();
        let slas = Slas::new(transport, &url, &organization);
        let store = Arc::new(MemoryStore::new(1));
        let persistence = JwksPersistence { store, directory: None, max_age: Duration::from_secs(60) };
        KeyRing::new(Issuer::Slas(slas), organization.as_str(), &persistence, metrics)
    }

    fn key_set(key_ring: &KeyRing, kid: &str) -> KeySet {
        // The example of RFC 7517, appendix A.1.
        let key = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": kid,
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
        });
        KeySet::parse(&json!({ "keys": [key] }).to_string().into_bytes(), key_ring.algorithm()).unwrap()
    }

    #[tokio::test]
    async fn lookup_before_the_first_key_set_waits() {
        let key_ring = key_ring();
        let lookups = ["first", "second"].map(|kid| {
            let key_ring = Arc::clone(&key_ring);
            // The tokens are much older than the key set, so no fetch can bring their keys.
            let origin = TokenOrigin::Client { issued_at: Some(1) };
            tokio::spawn(async move { key_ring.key(kid, origin).await.map(|_| ()) })
        });
        tokio::task::yield_now().await;
        assert!(lookups.iter().all(|lookup| !lookup.is_finished()), "requests wait for the first attempt");
        key_ring.activate(key_set(&key_ring, "first"), FetchedAt::now());
        key_ring.is_initialized.send_replace(true);
        let [first, second] = lookups;
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Err(KeyError::UnknownKid)));
    }

    #[tokio::test]
    async fn lookup_without_a_key_set_is_unavailable() {
        let key_ring = key_ring();
        key_ring.is_initialized.send_replace(true);
        let origin = TokenOrigin::Client { issued_at: Some(1) };
        assert_eq!(key_ring.key("first", origin).await.map(|_| ()), Err(KeyError::Unavailable));
    }

    #[tokio::test]
    async fn key_of_a_replaced_set_is_not_current() {
        let key_ring = key_ring();
        key_ring.activate(key_set(&key_ring, "first"), FetchedAt::now());
        let key = key_ring.key("first", TokenOrigin::OtherIssuer).await.unwrap();
        assert!(key_ring.is_current(key.generation));
        key_ring.activate(key_set(&key_ring, "second"), FetchedAt::now());
        assert!(!key_ring.is_current(key.generation), "a verdict by the replaced key is no longer valid");
        assert!(key_ring.key("first", TokenOrigin::OtherIssuer).await.is_err());
    }
}
