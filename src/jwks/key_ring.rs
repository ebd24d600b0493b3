//! A key ring: the keys of one issuer that are in use, and the search for one that is not there.
//!
//! Owns which key set is in use. Reading is lock-free; one fetch runs at a time, in a task of its own, so that a caller
//! who hangs up does not abort it. A fetch that fails, or gives no usable set, changes nothing; a set older than
//! `keys.max_age` verifies nothing any more. Whether a token's unknown key id is a reason to fetch is `pace`'s to say.

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
use tracing::Instrument;

use super::{
    fetch_limit::{Allowance, Purpose},
    issuer::Issuer,
    key_set::{KeySet, ReadAt},
    persistence::{Keeping, Shelf},
    refetch_policy::{InVain, Pace, Source},
};
use crate::{
    correlation, jwt::VerifyingKey, observability::metrics::Metrics, salesforce::error::SalesforceError,
    time::external_wait,
};

/// How many requests wait for one search at most; the others learn at once that nobody can tell.
const MOST_WAITING: usize = 256;
/// A token issued so long before the last reading cannot be of a newer key, seconds.
const LONG_BEFORE: u64 = 60;
/// How far the clocks of issuer and gateway may differ before a token counts as issued after a reading, seconds.
const CLOCKS_DIFFER: u64 = 5;
/// How often other replicas' sets are looked at because of an unknown key id, at most.
const LOOK_AT_OTHERS: Duration = Duration::from_secs(1);
/// The longest time that a 429 may keep us away. One that names no time leaves it to the allowance.
const RATE_LIMITED_AT_MOST: Duration = Duration::from_secs(300);

/// The next generation of a key set, counted in this process for all rings.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// Why a key cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The issuer has no such key.
    #[error("the issuer publishes no such key")]
    Unknown,
    /// Nobody can tell: there are no keys that are young enough, or the issuer could not be asked.
    #[error("the issuer's keys cannot be had at the moment")]
    Unavailable,
}

/// A key, and the set that it is of: what it verified must not outlive that set, whatever has come into use meanwhile.
#[derive(Debug, Clone)]
pub struct Key {
    /// Verifies signatures.
    pub verifying: Arc<VerifyingKey>,
    /// The generation of its set: see [`KeyRing::is_current`]. No other set of any ring of this process has it.
    pub generation: u64,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeyRing {
    pub(super) issuer: Issuer,
    /// The organization, as metrics and logs name a tenant.
    pub(super) tenant: String,
    pub(super) shelf: Arc<Shelf>,
    allowance: Allowance,
    in_use: ArcSwap<InUse>,
    in_vain: InVain,
    pub(super) search: Mutex<Search>,
    waiting: Arc<Semaphore>,
    /// Whether the first attempt to fill it is over.
    pub(super) tried: watch::Sender<bool>,
    failing: AtomicBool,
    metrics: Arc<Metrics>,
}

/// The set in use.
#[derive(Debug, Default)]
struct InUse {
    set: KeySet,
    generation: u64,
    read: Option<ReadAt>,
}

/// What the one search at a time knows of those before.
#[derive(Debug, Default)]
pub(super) struct Search {
    pace: Pace,
    /// The issuer asked us to stay away until then.
    not_before: Option<Instant>,
    looked_at_others: Option<Instant>,
}

/// What became of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// A usable set came, and is in use.
    Set,
    /// None came.
    Nothing,
    /// Nobody was asked: the allowance is used up, or the issuer asked us to wait.
    NotAllowed,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Exchange(#[from] SalesforceError),
    #[error("the key set is unreadable or has no key that could be used")]
    NoKeys,
}

impl KeyRing {
    /// A ring without keys, for the tenant that is this organization; [`KeyRing::keep_fresh`] fills it.
    #[must_use]
    pub fn new(issuer: Issuer, tenant: &str, keeping: &Keeping, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            allowance: Allowance::new(Arc::clone(&keeping.store), tenant, &issuer.address()),
            shelf: Arc::new(Shelf::new(keeping.clone(), &issuer, tenant)),
            issuer,
            tenant: tenant.to_owned(),
            in_use: ArcSwap::from_pointee(InUse::default()),
            in_vain: InVain::new(),
            search: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            tried: watch::Sender::new(false),
            failing: AtomicBool::new(false),
            metrics,
        })
    }

    /// Whether another ring is of the same tenant and issuer at the same address.
    #[must_use]
    pub fn is_twin_of(&self, other: &Self) -> bool {
        self.tenant == other.tenant
            && self.issuer.name() == other.issuer.name()
            && self.issuer.address() == other.issuer.address()
    }

    /// Whether its sets outlive the process in these places, and are good for as long.
    #[must_use]
    pub fn is_kept_as(&self, keeping: &Keeping) -> bool {
        self.shelf.is_kept_as(keeping)
    }

    /// Takes over the set that a twin has in use, as old as it is.
    pub fn inherit(&self, twin: &Self) {
        self.in_use.store(twin.in_use.load_full());
        self.tried.send_replace(*twin.tried.borrow());
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

    /// Whose tokens it verifies: the organization, as metrics and logs name a tenant.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Whether there are keys, and young enough.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.is_usable(&self.in_use.load())
    }

    /// How long ago the set in use was read from its issuer.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.in_use.load().read.map(|read| read.age())
    }

    /// Whether a key of this generation is still in use. What it verified must not be accepted any longer than that.
    #[must_use]
    pub fn is_current(&self, generation: u64) -> bool {
        let in_use = self.in_use.load();
        in_use.generation == generation && self.is_usable(&in_use)
    }

    /// Measures the age of the set in use.
    pub fn record_age(&self) {
        if let Some(age) = self.age() {
            let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            self.metrics.jwks_age.with_label_values(&[self.tenant.as_str(), self.issuer.name()]).set(age);
        }
    }

    /// The key of this id. One that is not there may cause a fetch, and then all who want it wait for that.
    ///
    /// # Errors
    /// [`NoKey`].
    pub async fn key(self: &Arc<Self>, kid: &str, source: Source) -> Result<Key, NoKey> {
        if let Some(key) = self.known(kid) {
            return Ok(key);
        }
        if !self.is_filled() {
            // Filling it is no request's business. The first attempt is worth waiting for; after that
            // nobody waits for an issuer that is down.
            let mut tried = self.tried.subscribe();
            let _ = external_wait::track(tried.wait_for(|tried| *tried)).await;
            if let Some(key) = self.known(kid) {
                return Ok(key);
            }
            if !self.is_filled() {
                return Err(NoKey::Unavailable);
            }
        }
        if self.is_settled(kid, source) {
            return Err(NoKey::Unknown);
        }
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else { return Err(NoKey::Unavailable) };
        let (ring, wanted) = (Arc::clone(self), kid.to_owned());
        let searching = async move {
            let found = ring.look_for(&wanted, source).await;
            drop(place);
            found
        };
        external_wait::track(tokio::spawn(searching.in_current_span())).await.unwrap_or(Err(NoKey::Unavailable))
    }

    fn known(&self, kid: &str) -> Option<Key> {
        let in_use = self.in_use.load();
        let verifying = in_use.set.key(kid).filter(|_| self.is_usable(&in_use))?;
        Some(Key { verifying: Arc::clone(verifying), generation: in_use.generation })
    }

    fn is_usable(&self, in_use: &InUse) -> bool {
        in_use.read.is_some_and(|read| read.age() < self.shelf.max_age())
    }

    /// Whether the set in use says for sure that there is no such key.
    fn is_settled(&self, kid: &str, source: Source) -> bool {
        match source {
            Source::Issuer => false,
            Source::Foreign => true,
            Source::Presented { issued_at } => {
                let read = self.in_use.load().read.map_or(0, |read| read.unix());
                issued_at.is_some_and(|at| at.saturating_add(LONG_BEFORE) < read)
                    || self.in_vain.holds(kid, Instant::now())
            }
        }
    }

    async fn look_for(&self, kid: &str, source: Source) -> Result<Key, NoKey> {
        let mut search = self.search.lock().await;
        // Whoever searched before may have brought the key, or learnt that there is none.
        if let Some(key) = self.known(kid) {
            return Ok(key);
        }
        if self.is_settled(kid, source) {
            return Err(NoKey::Unknown);
        }
        let now = Instant::now();
        if search.looked_at_others.is_none_or(|at| now - at >= LOOK_AT_OTHERS) && self.shelf.is_shared() {
            search.looked_at_others = Some(now);
            self.take_over(self.shelf.in_store().await);
            if let Some(key) = self.known(kid) {
                return Ok(key);
            }
        }
        let promising = self.is_promising(kid, source);
        if !search.pace.admits(source, promising, self.is_failing(), now) {
            return Err(self.in_doubt(source));
        }
        let fetched = self.fetch(&mut search, Purpose::Unknown).await;
        match (self.known(kid), fetched) {
            (Some(key), _) => Ok(key),
            (None, Fetched::Set) => {
                self.in_vain.note(kid, Instant::now());
                Err(NoKey::Unknown)
            }
            (None, Fetched::Nothing) => Err(NoKey::Unavailable),
            (None, Fetched::NotAllowed) => Err(self.in_doubt(source)),
        }
    }

    /// Whether a token with this key id looks as if it were of a key newer than those in use. Tokens tell time in whole
    /// seconds: one of the reading's own second is given the benefit of the doubt when that is over.
    fn is_promising(&self, kid: &str, source: Source) -> bool {
        let in_use = self.in_use.load();
        let (Some(read), Source::Presented { issued_at: Some(at) }) = (in_use.read, source) else { return false };
        let is_later = at > read.unix() || at == read.unix() && read.age() >= Duration::from_secs(1);
        is_later && in_use.set.resembles(kid)
    }

    /// The answer without asking anybody: a token that says it was issued after the last reading may be genuine.
    fn in_doubt(&self, source: Source) -> NoKey {
        let read = self.in_use.load().read.map_or(0, |read| read.unix());
        match source {
            _ if self.is_failing() => NoKey::Unavailable,
            Source::Presented { issued_at: Some(at) } if at > read.saturating_add(CLOCKS_DIFFER) => NoKey::Unavailable,
            Source::Issuer => NoKey::Unavailable,
            Source::Presented { .. } | Source::Foreign => NoKey::Unknown,
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Fetches the set, if that is allowed, and uses and keeps what came.
    pub(super) async fn fetch(&self, search: &mut Search, purpose: Purpose) -> Fetched {
        let must_wait = search.not_before.is_some_and(|until| until > Instant::now());
        if must_wait || !self.allowance.take(purpose).await {
            self.count("throttled");
            return Fetched::NotAllowed;
        }
        // The set is for all requests, and its call for none of them.
        let correlation_id = correlation::new();
        let result = correlation::scope(correlation_id.clone(), self.read_set()).await;
        if let Err(FetchError::Exchange(SalesforceError::RateLimited { retry_after })) = &result {
            search.not_before = retry_after.map(|wait| Instant::now() + wait.min(RATE_LIMITED_AT_MOST));
        }
        self.note(result.as_ref().err(), correlation::text(&correlation_id));
        let Ok(set) = result else { return Fetched::Nothing };
        self.use_set(set, ReadAt::now());
        let (shelf, in_use) = (Arc::clone(&self.shelf), self.in_use.load_full());
        tokio::spawn(async move {
            if let Some(read) = in_use.read {
                shelf.keep(&in_use.set, read).await;
            }
        });
        Fetched::Set
    }

    async fn read_set(&self) -> Result<KeySet, FetchError> {
        let document = self.issuer.key_set().await?;
        KeySet::read(&document, self.algorithm()).ok_or(FetchError::NoKeys)
    }

    /// Uses a set that was kept, if it is younger than the one in use. Says whether it was.
    pub(super) fn take_over(&self, kept: Option<(KeySet, ReadAt)>) -> bool {
        let Some((set, read)) = kept else { return false };
        let in_use = self.in_use.load().read;
        // What this gateway kept itself is as old as what it has.
        if in_use.is_some_and(|own| own.unix_ms >= read.unix_ms) {
            return false;
        }
        self.use_set(set, read);
        true
    }

    fn use_set(&self, set: KeySet, read: ReadAt) {
        let before = self.in_use.load();
        for kid in before.set.kids().filter(|kid| set.key(kid).is_none()) {
            self.in_vain.note(kid, Instant::now());
        }
        let generation =
            if set == before.set { before.generation } else { NEXT_GENERATION.fetch_add(1, Ordering::Relaxed) };
        self.in_use.store(Arc::new(InUse { set, generation, read: Some(read) }));
        self.record_age();
    }

    /// Counts an attempt, and logs when attempts begin to fail and when that is over.
    fn note(&self, error: Option<&FetchError>, correlation_id: &str) {
        self.count(if error.is_none() { "ok" } else { "failed" });
        let (tenant, issuer) = (&self.tenant, self.issuer.name());
        match (self.failing.swap(error.is_some(), Ordering::Relaxed), error) {
            (false, Some(error)) if self.in_use.load().set.is_empty() => {
                tracing::warn!(tenant, issuer, %error, correlation_id, "key set not fetched, and there is none: its tokens get 503 until it comes");
            }
            (false, Some(error)) => {
                tracing::warn!(tenant, issuer, %error, correlation_id, "key set not fetched; the one in use stays, up to keys.max_age");
            }
            (true, None) => tracing::info!(tenant, issuer, "key set fetched again"),
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.jwks_refreshes.with_label_values(&[outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config::Timeouts,
        salesforce::{guard::CallGuard, slas::Slas, transport::Transport},
        store::memory::MemoryStore,
        types::OrganizationId,
    };

    /// A ring of nobody's.
    fn ring() -> Arc<KeyRing> {
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
        let keeping = Keeping { store: Arc::new(MemoryStore::new(1)), folder: None, max_age: Duration::from_secs(60) };
        KeyRing::new(Issuer::Slas(slas), organization.as_str(), &keeping, metrics)
    }

    fn set(ring: &KeyRing, kid: &str) -> KeySet {
        // The example of RFC 7517, appendix A.1.
        let key = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": kid,
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
        });
        KeySet::read(&json!({ "keys": [key] }).to_string().into_bytes(), ring.algorithm()).unwrap()
    }

    #[tokio::test]
    async fn who_waits_for_the_first_set_learns_what_is_in_it() {
        let ring = ring();
        let asked = ["first", "second"].map(|kid| {
            let ring = Arc::clone(&ring);
            // Both are from long before the set, which settles that another key is none of it.
            let source = Source::Presented { issued_at: Some(1) };
            tokio::spawn(async move { ring.key(kid, source).await.map(|_| ()) })
        });
        tokio::task::yield_now().await;
        assert!(asked.iter().all(|asked| !asked.is_finished()), "the first attempt is worth waiting for");
        ring.use_set(set(&ring, "first"), ReadAt::now());
        ring.tried.send_replace(true);
        let [first, second] = asked;
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Err(NoKey::Unknown)));
    }

    #[tokio::test]
    async fn who_waits_for_a_set_that_does_not_come_learns_nothing() {
        let ring = ring();
        ring.tried.send_replace(true);
        let source = Source::Presented { issued_at: Some(1) };
        assert_eq!(ring.key("first", source).await.map(|_| ()), Err(NoKey::Unavailable));
    }

    #[tokio::test]
    async fn a_key_is_of_its_own_set_whatever_comes_into_use_meanwhile() {
        let ring = ring();
        ring.use_set(set(&ring, "first"), ReadAt::now());
        let key = ring.key("first", Source::Foreign).await.unwrap();
        assert!(ring.is_current(key.generation));
        ring.use_set(set(&ring, "second"), ReadAt::now());
        assert!(!ring.is_current(key.generation), "what it verifies now is forgotten with its set");
        assert!(ring.key("first", Source::Foreign).await.is_err());
    }
}
