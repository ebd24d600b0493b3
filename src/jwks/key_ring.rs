//! The active key set of one issuer, and its fetches.
//!
//! Reads of the active set are lock-free. At most one fetch runs at a time, under the lock of `FetchState`. A failed fetch
//! leaves the active set unchanged. A set older than `keys.max_age` verifies nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use tokio::sync::{Mutex, Semaphore, watch};

use super::{
    fetch_limit::{FetchLimit, FetchPurpose},
    fetched_at::FetchedAt,
    issuer::Issuer,
    key_set::KeySet,
    persistent_cache::{JwksCache, JwksPersistence},
    refetch_policy::RefetchPolicy,
    unknown_kids::UnknownKidCache,
};
use crate::{correlation, observability::metrics::Metrics, salesforce::error::SalesforceError};

/// Maximum requests that wait for the fetch of an unknown key id.
const MAX_WAITING_REQUESTS: usize = 256;
/// The longest pause after a 429. A 429 without `Retry-After` causes no pause beyond the fetch limit.
const MAX_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(300);

/// The generation of the next new key set, of any issuer.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeyRing {
    pub(super) issuer: Issuer,
    /// The organization, as metrics and logs name a tenant.
    pub(super) tenant: String,
    pub(super) cache: Arc<JwksCache>,
    fetch_limit: FetchLimit,
    active: ArcSwap<ActiveKeySet>,
    pub(super) unknown_kids: UnknownKidCache,
    pub(super) fetch_state: Mutex<FetchState>,
    pub(super) waiting_requests: Arc<Semaphore>,
    /// Whether the first attempt to load or fetch a key set has ended.
    pub(super) is_initialized: watch::Sender<bool>,
    is_failing: AtomicBool,
    metrics: Arc<Metrics>,
}

/// A key set in use.
#[derive(Debug, Default)]
pub(super) struct ActiveKeySet {
    pub(super) key_set: KeySet,
    pub(super) generation: u64,
    /// `None` before the first set.
    pub(super) fetched_at: Option<FetchedAt>,
}

/// The history of fetches that decides about the next one.
#[derive(Debug, Default)]
pub(super) struct FetchState {
    pub(super) refetch_policy: RefetchPolicy,
    /// The end of the pause that the issuer requested.
    paused_until: Option<Instant>,
    /// The last lookup of another replica's key set for an unknown key id.
    pub(super) last_store_lookup: Option<Instant>,
}

/// The outcome of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchOutcome {
    /// A usable key set was fetched and is active.
    Fetched,
    /// The fetch failed.
    Failed,
    /// No fetch was made: the fetch limit was used up, or the issuer requested a pause.
    Throttled,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Request(#[from] SalesforceError),
    #[error("the key set is unreadable or has no usable key")]
    NoUsableKey,
}

impl KeyRing {
    /// A key ring without keys for one organization. [`KeyRing::run_refresher`] fetches them.
    #[must_use]
    pub fn new(issuer: Issuer, tenant: &str, persistence: &JwksPersistence, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            fetch_limit: FetchLimit::new(Arc::clone(&persistence.store), tenant, &issuer.jwks_url()),
            cache: Arc::new(JwksCache::new(persistence.clone(), &issuer, tenant)),
            issuer,
            tenant: tenant.to_owned(),
            active: ArcSwap::from_pointee(ActiveKeySet::default()),
            unknown_kids: UnknownKidCache::new(),
            fetch_state: Mutex::default(),
            waiting_requests: Arc::new(Semaphore::new(MAX_WAITING_REQUESTS)),
            is_initialized: watch::Sender::new(false),
            is_failing: AtomicBool::new(false),
            metrics,
        })
    }

    /// Whether both key rings are of the same tenant, issuer and JWKS address.
    #[must_use]
    pub fn has_same_source(&self, other: &Self) -> bool {
        self.tenant == other.tenant
            && self.issuer.name() == other.issuer.name()
            && self.issuer.jwks_url() == other.issuer.jwks_url()
    }

    /// Whether its key sets are persisted in these places, with the same maximum age.
    #[must_use]
    pub fn uses_persistence(&self, persistence: &JwksPersistence) -> bool {
        self.cache.uses(persistence)
    }

    /// Activates the key set of another key ring of the same source. The set keeps its age and generation.
    pub fn inherit_key_set(&self, other: &Self) {
        self.active.store(other.active.load_full());
        self.is_initialized.send_replace(*other.is_initialized.borrow());
    }

    /// The algorithm of the issuer's tokens.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.issuer.algorithm()
    }

    /// The issuer's name in metrics, logs and readiness.
    #[must_use]
    pub fn issuer(&self) -> &'static str {
        self.issuer.name()
    }

    /// The organization, as metrics and logs name a tenant.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Whether there is a key set younger than `keys.max_age`.
    #[must_use]
    pub fn has_usable_keys(&self) -> bool {
        self.is_usable(&self.active.load())
    }

    /// The time since the active key set was fetched from its issuer.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.active.load().fetched_at.map(|fetched_at| fetched_at.age())
    }

    /// Whether the key set of this generation is still active and usable. A verdict by one of its keys is valid only as long as
    /// that.
    #[must_use]
    pub fn is_current(&self, generation: u64) -> bool {
        let active = self.active.load();
        active.generation == generation && self.is_usable(&active)
    }

    /// Updates the gauge of the key set's age.
    pub fn record_age(&self) {
        if let Some(age) = self.age() {
            let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            self.metrics.jwks_age.with_label_values(&[self.tenant.as_str(), self.issuer.name()]).set(age);
        }
    }

    pub(super) fn active(&self) -> arc_swap::Guard<Arc<ActiveKeySet>> {
        self.active.load()
    }

    pub(super) fn is_usable(&self, active: &ActiveKeySet) -> bool {
        active.fetched_at.is_some_and(|fetched_at| fetched_at.age() < self.cache.max_age())
    }

    /// Whether the last fetch failed.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Fetches, activates and saves the key set, if the limits allow a fetch.
    pub(super) async fn fetch(&self, state: &mut FetchState, purpose: FetchPurpose) -> FetchOutcome {
        let is_paused = state.paused_until.is_some_and(|until| until > Instant::now());
        if is_paused || !self.fetch_limit.try_acquire(purpose).await {
            self.count_fetch("throttled");
            return FetchOutcome::Throttled;
        }
        // One fetch serves many requests, so it has a correlation id of its own.
        let correlation_id = correlation::new();
        let result = correlation::scope(correlation_id.clone(), self.fetch_key_set()).await;
        if let Err(FetchError::Request(SalesforceError::RateLimited { retry_after })) = &result {
            state.paused_until = retry_after.map(|wait| Instant::now() + wait.min(MAX_RATE_LIMIT_PAUSE));
        }
        self.record_fetch(result.as_ref().err(), correlation::text(&correlation_id));
        let Ok(key_set) = result else { return FetchOutcome::Failed };
        self.activate(key_set, FetchedAt::now());
        let (cache, active) = (Arc::clone(&self.cache), self.active.load_full());
        tokio::spawn(async move {
            if let Some(fetched_at) = active.fetched_at {
                cache.save(&active.key_set, fetched_at).await;
            }
        });
        FetchOutcome::Fetched
    }

    async fn fetch_key_set(&self) -> Result<KeySet, FetchError> {
        let document = self.issuer.fetch_jwks().await?;
        KeySet::parse(&document, self.algorithm()).ok_or(FetchError::NoUsableKey)
    }

    /// Activates a persisted key set if it is younger than the active one. Returns whether it was.
    pub(super) fn activate_persisted(&self, persisted: Option<(KeySet, FetchedAt)>) -> bool {
        let Some((key_set, fetched_at)) = persisted else { return false };
        let active = self.active.load().fetched_at;
        // A set that this process saved is as old as the active one.
        if active.is_some_and(|active| active.unix_ms >= fetched_at.unix_ms) {
            return false;
        }
        self.activate(key_set, fetched_at);
        true
    }

    pub(super) fn activate(&self, key_set: KeySet, fetched_at: FetchedAt) {
        let before = self.active.load();
        for kid in before.key_set.kids().filter(|kid| key_set.key(kid).is_none()) {
            self.unknown_kids.insert(kid, Instant::now());
        }
        let generation =
            if key_set == before.key_set { before.generation } else { NEXT_GENERATION.fetch_add(1, Ordering::Relaxed) };
        self.active.store(Arc::new(ActiveKeySet { key_set, generation, fetched_at: Some(fetched_at) }));
        self.record_age();
    }

    /// Counts a fetch. Logs the first failure and the recovery.
    fn record_fetch(&self, error: Option<&FetchError>, correlation_id: &str) {
        self.count_fetch(if error.is_none() { "ok" } else { "failed" });
        let (tenant, issuer) = (&self.tenant, self.issuer.name());
        match (self.is_failing.swap(error.is_some(), Ordering::Relaxed), error) {
            (false, Some(error)) if self.active.load().key_set.is_empty() => {
                tracing::warn!(
                    tenant,
                    issuer,
                    %error,
                    correlation_id,
                    "key set fetch failed, answering its tokens with 503 until a fetch succeeds"
                );
            }
            (false, Some(error)) => {
                tracing::warn!(
                    tenant,
                    issuer,
                    %error,
                    correlation_id,
                    "key set fetch failed, keeping the current key set up to keys.max_age"
                );
            }
            (true, None) => tracing::info!(tenant, issuer, "key set fetched again"),
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn count_fetch(&self, outcome: &'static str) {
        self.metrics.jwks_refreshes.with_label_values(&[outcome]).inc();
    }
}
