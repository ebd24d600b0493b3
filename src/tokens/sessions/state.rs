//! The state that all operations on sessions share: the cache, the store, and the revocations that this process knows of.
//!
//! The cache holds what the store returned for a token. `background` applies the revocations of other replicas to it, so an
//! entry needs no lookup while it is cached. A reload of the configuration keeps the cache and refreshes in progress.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use super::{cache::CachedSession, error::RefreshResult, failed_refreshes::FailedRefreshes};
use crate::{
    config::{self, SlasClient},
    jwt::{TokenDigest, token_digest},
    observability::metrics::Metrics,
    ratelimit::{BucketConfig, KeyedRateLimiter},
    salesforce::slas::{Slas, TokenResponse},
    store::{
        Cursor, Epoch, LookupResult, Owner, Revocation, RevocationKey, RevocationKeys, RevocationSet, Revocations,
        Session, SessionId, SessionStore, StoreError, random_bytes,
    },
    time::unix_now,
    tokens::{
        background_retry::{RetrySchedule, retry_in_background},
        single_flight::SingleFlight,
    },
    types::{ByOrganization, OrganizationId, SiteId},
    verify::{
        shopper::Shopper,
        shopper_token::{ShopperVerifier, VerifiedToken},
    },
};

/// How long writing a revocation record may take in this process, in addition to the store's timeout.
const REVOCATION_WRITE_MARGIN: Duration = Duration::from_millis(150);
/// Lifetime of a guest's refresh token if SLAS does not send it, seconds.
const GUEST_REFRESH_SECONDS: u64 = 30 * 24 * 3600;
/// Lifetime of a registered shopper's refresh token if SLAS does not send it, seconds.
const REGISTERED_REFRESH_SECONDS: u64 = 90 * 24 * 3600;
/// How long the cache remembers that a token has no session, seconds.
pub(super) const UNKNOWN_TTL: u64 = 60;
/// How often a session's token is replaced because an API rejected it. An API that rejects every token causes no storm.
pub(super) const REPLACEMENTS: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(1) };
/// In front of a store in memory, the cache holds this part of `sessions.capacity`.
const MEMORY_STORE_CACHE_DIVISOR: u64 = 16;
/// Minimum capacity of the cache, tokens.
const MIN_CACHE_CAPACITY: usize = 1000;
/// How a login is stored that the store did not accept at first.
const INSERT_RETRIES: RetrySchedule = RetrySchedule {
    interval: Duration::from_secs(1),
    attempts: 60,
    failure_message: "session never stored, it ends with its access token",
};

/// All sessions of this gateway.
#[derive(Debug)]
pub struct Sessions {
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) endpoints: ByOrganization<SlasEndpoint>,
    pub(super) verifier: Arc<ShopperVerifier>,
    pub(super) cache: Arc<Cache<TokenDigest, CacheEntry>>,
    /// The revocations that this process knows of.
    pub(super) revocations: Arc<RevocationSet>,
    pub(super) refreshes: Arc<SingleFlight<SessionId, RefreshResult>>,
    /// The last revocation event that was read from the store.
    pub(super) revocation_cursor: Arc<tokio::sync::Mutex<Cursor>>,
    pub(super) replacements: KeyedRateLimiter<SessionId>,
    /// Refreshes that would fail again in the same way.
    pub(super) failed_refreshes: FailedRefreshes,
    pub(super) settings: config::Sessions,
    /// Time limit of one request to SLAS.
    pub(super) request_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// SLAS of one organization, and the clients whose sessions can be refreshed.
#[derive(Debug, Clone)]
pub struct SlasEndpoint {
    /// The organization's SLAS.
    pub slas: Slas,
    /// The configured clients.
    pub clients: Vec<SlasClient>,
}

/// What this process knows of a token.
#[derive(Debug, Clone)]
pub(super) enum CacheEntry {
    /// The token belongs to this session.
    Session(Arc<CachedSession>),
    /// The store knew nothing of the token at this time.
    Unknown(u64),
    /// The token has no session, and this epoch.
    Epoch(Arc<Epoch>),
    /// The token's session was logged out or ended.
    Revoked,
}

impl Sessions {
    /// Sessions in `store`, refreshed at `endpoints`. `request_timeout` is the time limit of one request to SLAS.
    #[must_use]
    pub fn new(
        store: Arc<dyn SessionStore>,
        endpoints: ByOrganization<SlasEndpoint>,
        verifier: Arc<ShopperVerifier>,
        settings: config::Sessions,
        request_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        // A lookup in a store in memory is cheap, so the cache may be smaller.
        let share = if store.is_shared() { 1 } else { MEMORY_STORE_CACHE_DIVISOR };
        let capacity = usize::try_from(settings.capacity / share).unwrap_or(usize::MAX).max(MIN_CACHE_CAPACITY);
        Arc::new(Self {
            store,
            endpoints,
            verifier,
            cache: Arc::new(Cache::new(capacity)),
            revocations: Arc::default(),
            refreshes: SingleFlight::new(),
            revocation_cursor: Arc::default(),
            replacements: KeyedRateLimiter::default(),
            failed_refreshes: FailedRefreshes::new(),
            settings,
            request_timeout,
            metrics,
        })
    }

    /// Returns these sessions with the cache and the refreshes in progress of `before`, if both use the same store. The cache
    /// of failed refreshes starts empty, so that a corrected configuration is used at once.
    #[must_use]
    pub fn inherit_cache(self: Arc<Self>, before: &Self) -> Arc<Self> {
        self.verifier.inherit_clock_skew(&before.verifier);
        if !Arc::ptr_eq(&self.store, &before.store) {
            return self;
        }
        Arc::new(Self {
            store: Arc::clone(&self.store),
            endpoints: self.endpoints.clone(),
            verifier: Arc::clone(&self.verifier),
            cache: Arc::clone(&before.cache),
            revocations: Arc::clone(&before.revocations),
            refreshes: Arc::clone(&before.refreshes),
            revocation_cursor: Arc::clone(&before.revocation_cursor),
            replacements: KeyedRateLimiter::default(),
            failed_refreshes: FailedRefreshes::new(),
            settings: self.settings.clone(),
            request_timeout: self.request_timeout,
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// The session of a login, not stored yet. `None` if the response has no refresh token.
    pub(super) fn new_session(
        &self,
        site: &SiteId,
        token: &VerifiedToken,
        response: &TokenResponse,
        name: Option<&TokenDigest>,
    ) -> Option<Session> {
        let shopper = &token.shopper;
        let usual = if shopper.is_registered { REGISTERED_REFRESH_SECONDS } else { GUEST_REFRESH_SECONDS };
        Some(Session {
            id: SessionId(random_bytes().ok()?),
            owner: self.owner(shopper, site),
            access_token: response.access_token.clone(),
            access_expires_at: token_expiry(shopper.expires_at, response.expires_in),
            access_lifetime: response.expires_in,
            refresh_token: response.refresh_token.clone()?,
            expires_at: unix_now().saturating_add(response.refresh_token_expires_in.unwrap_or(usual)),
            tokens: name.copied().into_iter().chain([token.digest]).collect(),
            is_named: name.is_some(),
            refresh_token_history: None,
            epoch: Epoch::default(),
            refreshed_at: 0,
            caller: None,
            version: 0,
        })
    }

    /// Stores a new session with this epoch, or with the current one. If the store is unavailable, the session is cached
    /// and stored in the background.
    pub(super) async fn insert_session(
        self: &Arc<Self>,
        mut session: Session,
        epoch: Option<Epoch>,
    ) -> Arc<CachedSession> {
        let now = unix_now();
        let keys = session.revocation_keys();
        let epoch = match epoch {
            Some(epoch) => Ok(epoch),
            None => self.current_revocations(&keys).await.map(|revocations| revocations.epoch()),
        };
        session.epoch = epoch.clone().unwrap_or_else(|_| self.revocations.get_both(&keys).epoch());
        let session = Arc::new(session);
        let cached = Arc::new(CachedSession::new(Arc::clone(&session), now));
        self.cache_version(&cached, Arc::clone(&session));
        let stored = match epoch {
            Ok(_) => self.store.insert(session, now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "failed to store session, retrying in background");
            let state = (Arc::clone(self), Arc::clone(&cached));
            retry_in_background(INSERT_RETRIES, state, |(sessions, cached)| async move {
                sessions.retry_insert(&cached).await
            });
        }
        cached
    }

    /// Stores a session that the store did not accept. Revocations that were unknown when the session began are earlier than
    /// the session, so its epoch is set anew. A revocation that this process has noted since ends the session.
    async fn retry_insert(&self, cached: &CachedSession) -> Result<(), StoreError> {
        let session = cached.session.load_full();
        if self.is_revoked(cached) {
            return Ok(());
        }
        let epoch = self.store.revocations(&cached.revocation_keys).await?.epoch();
        let session = if session.version == 0 && session.epoch != epoch {
            let later = Arc::new(Session { epoch, ..Session::clone(&session) });
            cached.session.store(Arc::clone(&later));
            later
        } else {
            session
        };
        self.store.insert(session, unix_now()).await
    }

    /// The latest revocations of a shopper that the store or this process knows of.
    pub(super) async fn current_revocations(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        let Revocations { session, customer } = self.store.revocations(keys).await?;
        let note = |key: RevocationKey, revocation: Revocation| {
            if revocation.number > 0 { self.revocations.merge(key, revocation) } else { self.revocations.of(key) }
        };
        Ok(Revocations {
            session: note(keys.session, session),
            customer: keys.customer.map(|key| note(key, customer)).unwrap_or_default(),
        })
    }

    /// Whether this process knows of a revocation of the session.
    pub(super) fn is_revoked(&self, cached: &CachedSession) -> bool {
        !self.revocations.is_empty()
            && self.revocations.get_both(&cached.revocation_keys).revokes(cached.session.load().epoch)
    }

    /// The time for a revocation record that is about to be written. Refreshes find no record until it is written, and SLAS
    /// may issue their tokens in the next second, so the time includes the time limit of the write.
    pub(super) fn revocation_time(&self, organization: &OrganizationId) -> u64 {
        self.verifier.slas_time_after(self.store.write_timeout() + REVOCATION_WRITE_MARGIN, organization)
    }

    /// What is known of a token: from the cache, or else from the store.
    pub(super) async fn lookup(&self, token: &VerifiedToken, now: u64) -> Result<CacheEntry, StoreError> {
        let shopper = &token.shopper;
        let known = match self.cache.get(&token.digest) {
            Some(CacheEntry::Unknown(at)) if at.saturating_add(UNKNOWN_TTL) <= now => None,
            Some(CacheEntry::Session(cached)) if !owns(shopper, &cached.session.load().owner) => {
                Some(CacheEntry::Unknown(now))
            }
            known => known,
        };
        let Some(known) = known else { return self.lookup_in_store(token, now).await };
        if self.revocations.is_empty() {
            return Ok(known);
        }
        Ok(known.apply_revocations(&self.revocations.get_both(&shopper.revocation_keys), shopper))
    }

    async fn lookup_in_store(&self, token: &VerifiedToken, now: u64) -> Result<CacheEntry, StoreError> {
        let shopper = &token.shopper;
        let (found, revocations) =
            tokio::try_join!(self.store.find(&token.digest), self.current_revocations(&shopper.revocation_keys))?;
        let known = match found {
            LookupResult::Session(session, used_at) if owns(shopper, &session.owner) => {
                CacheEntry::Session(Arc::new(CachedSession::new(session, used_at)))
            }
            // Without a revocation, the store has lost the session, and its token remains valid.
            LookupResult::Gone if revocations != Revocations::default() => CacheEntry::Revoked,
            LookupResult::Session(..) | LookupResult::Gone | LookupResult::Unknown => CacheEntry::Unknown(now),
            LookupResult::Epoch(epoch) => CacheEntry::Epoch(Arc::new(epoch)),
            LookupResult::Revoked => CacheEntry::Revoked,
        };
        let known = known.apply_revocations(&revocations, shopper);
        self.cache.insert(token.digest, known.clone());
        Ok(known)
    }

    /// Whether the session was not used within the idle timeout. The store knows the uses of other replicas, so it is read
    /// before a session counts as idle.
    pub(super) async fn is_idle(&self, cached: &CachedSession, now: u64) -> Result<bool, StoreError> {
        let idle = self.settings.idle_timeout.as_secs();
        let is_idle = |used_at: u64| used_at.saturating_add(idle) <= now;
        if !is_idle(cached.used_at.load(Ordering::Relaxed)) {
            return Ok(false);
        }
        let session = cached.session.load_full();
        let Some(token) = session.tokens.last() else { return Ok(true) };
        let LookupResult::Session(_, used_at) = self.store.find(token).await? else { return Ok(true) };
        cached.used_at.fetch_max(used_at, Ordering::Relaxed);
        Ok(is_idle(used_at))
    }

    /// Notes a use of a session. The store is written at most once a minute, behind the request.
    pub(super) async fn note_use(&self, cached: &Arc<CachedSession>, now: u64) {
        cached.used_at.fetch_max(now, Ordering::Relaxed);
        let every = (self.settings.idle_timeout.as_secs() / 20).clamp(1, 60);
        let touched_at = cached.touched_at.load(Ordering::Relaxed);
        let is_due = touched_at.saturating_add(every) <= now;
        if !is_due || cached.touched_at.compare_exchange(touched_at, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let session = cached.session.load_full();
        let store = Arc::clone(&self.store);
        let touch = async move {
            // If this write fails, the next use is written.
            let _ = store.touch(&session, now).await;
        };
        if self.store.is_shared() {
            tokio::spawn(touch);
        } else {
            touch.await;
        }
    }

    /// The owner of a shopper's session. Identifiers that many sessions have in common share one allocation.
    fn owner(&self, shopper: &Shopper, site: &SiteId) -> Owner {
        let endpoint = self.endpoints.get_key_value(&shopper.organization);
        let client =
            endpoint.and_then(|(_, endpoint)| endpoint.clients.iter().find(|client| client.id == shopper.client));
        Owner {
            organization: endpoint.map_or(&shopper.organization, |(organization, _)| organization).clone(),
            site: shopper.site.as_ref().filter(|own| *own != site).unwrap_or(site).clone(),
            client: client.map_or(&shopper.client, |client| &client.id).clone(),
            usid: shopper.usid.clone(),
            customer: shopper.customer.clone(),
            registered: shopper.is_registered,
        }
    }

    /// Reserves the next login slot of `key`, where slots are one `window` apart. Returns the time until the slot begins; `None`
    /// if that is more than `max_wait`.
    pub async fn reserve_login_slot(&self, key: &str, window: Duration, max_wait: Duration) -> Option<Duration> {
        // Without the store there is no queue, and SLAS's conflicts are retried instead.
        self.store.reserve_login_slot(key.as_bytes(), window, max_wait).await.unwrap_or(Some(Duration::ZERO))
    }

    /// The configured client of a session.
    pub(super) fn client_of(&self, session: &Session) -> Option<&SlasClient> {
        let endpoint = self.endpoints.get(&session.owner.organization)?;
        endpoint.clients.iter().find(|client| client.id == session.owner.client)
    }

    /// Caches the newest version of a session, under all its tokens.
    pub(super) fn cache_version(&self, cached: &Arc<CachedSession>, newest: Arc<Session>) {
        for digest in &newest.tokens {
            self.cache.insert(*digest, CacheEntry::Session(Arc::clone(cached)));
        }
        cached.session.store(newest);
    }

    /// Rejects the tokens of a session in this process.
    pub(super) fn mark_revoked(&self, session: &Session) {
        for digest in &session.tokens {
            self.cache.insert(*digest, CacheEntry::Revoked);
        }
    }

    /// Counts a request for a session's token by its result.
    pub(super) fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["session", result]).inc();
    }
}

impl CacheEntry {
    /// This entry, or `Revoked` if one of these revocations covers it.
    fn apply_revocations(self, revocations: &Revocations, shopper: &Shopper) -> Self {
        let is_over = match &self {
            Self::Session(cached) => revocations.revokes(cached.session.load().epoch),
            Self::Epoch(epoch) => revocations.revokes(**epoch),
            Self::Unknown(_) => revocations.revokes_issued_at(shopper.issued_at),
            Self::Revoked => false,
        };
        if is_over { Self::Revoked } else { self }
    }
}

/// When a token expires that SLAS has just issued, by the gateway's clock. `exp` is by SLAS's clock. If the clocks differ by
/// much, `expires_in` limits the result (RFC 6749, section 5.1). Otherwise a token could look expired as soon as it arrives,
/// and each request would refresh it.
pub(super) fn token_expiry(exp: u64, expires_in: u64) -> u64 {
    let now = unix_now();
    if expires_in == 0 {
        return exp;
    }
    exp.clamp(now.saturating_add(expires_in / 2), now.saturating_add(expires_in))
}

/// Whether a token's shopper is the owner of a session: the same organization, client, shopper and site.
pub(super) fn owns(shopper: &Shopper, owner: &Owner) -> bool {
    shopper.organization == owner.organization
        && shopper.client == owner.client
        && shopper.usid == owner.usid
        && shopper.customer == owner.customer
        && shopper.site.as_ref().is_none_or(|site| *site == owner.site)
}

/// The digest of an access token.
pub(super) fn digest_of(token: &SecretString) -> TokenDigest {
    token_digest(token.expose_secret())
}
