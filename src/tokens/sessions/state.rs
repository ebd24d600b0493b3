//! The state of all sessions of this process: which it knows, how it asks the store for others, and how it keeps new ones.
//!
//! Refreshes, named sessions and the ends of sessions build on it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use super::{cache::CachedSession, error::Outcome, failed_refreshes::RefreshRefusals};
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
        retry::{RetrySchedule, retry_in_background},
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
/// Life of a guest's refresh token when SLAS does not say it, seconds.
const GUEST_REFRESH_SECONDS: u64 = 30 * 24 * 3600;
/// Life of a registered shopper's refresh token when SLAS does not say it, seconds.
const REGISTERED_REFRESH_SECONDS: u64 = 90 * 24 * 3600;
/// A token without a session is asked for again after this many seconds.
pub(super) const NOTHING_FOR: u64 = 60;
/// At most one token that an API refused is replaced in this time, so that an API that refuses everything makes no storm.
pub(super) const REPLACEMENTS: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(1) };
/// Beside a store in memory, one of so many of its sessions is also known here.
const MEMORY_SHARE: u64 = 16;
/// At least so many tokens are known.
const LEAST_KNOWN: usize = 1000;
/// How a login that the store did not take is offered to it again.
const INSERT_RETRIES: RetrySchedule = RetrySchedule {
    interval: Duration::from_secs(1),
    attempts: 60,
    failure_message: "a session was never stored; it ends with its access token",
};

/// The sessions of this gateway.
#[derive(Debug)]
pub struct Sessions {
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) endpoints: ByOrganization<SlasEndpoint>,
    pub(super) verifier: Arc<ShopperVerifier>,
    pub(super) cache: Arc<Cache<TokenDigest, CacheEntry>>,
    /// What was ended, here or elsewhere.
    pub(super) ends: Arc<RevocationSet>,
    pub(super) refreshes: Arc<SingleFlight<SessionId, Outcome>>,
    /// How far the news of other replicas have been read.
    pub(super) news: Arc<tokio::sync::Mutex<Cursor>>,
    pub(super) replacements: KeyedRateLimiter<SessionId>,
    /// Refreshes that SLAS refused without ending the session.
    pub(super) refusals: RefreshRefusals,
    pub(super) settings: config::Sessions,
    /// How long a refresh may take, at most.
    pub(super) exchange: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// SLAS of one organization and the clients that sessions may be of.
#[derive(Debug, Clone)]
pub struct SlasEndpoint {
    /// Its SLAS.
    pub slas: Slas,
    /// Its clients.
    pub clients: Vec<SlasClient>,
}

/// What this process knows of a token without asking the store.
#[derive(Debug, Clone)]
pub(super) enum CacheEntry {
    Session(Arc<CachedSession>),
    /// The store had nothing, at that time.
    Unknown(u64),
    /// It has no session, and came after these ends.
    Epoch(Arc<Epoch>),
    Revoked,
}

impl Sessions {
    /// Sessions in `store`, refreshed at `endpoints`; `exchange` is the time limit of one call to SLAS.
    #[must_use]
    pub fn new(
        store: Arc<dyn SessionStore>,
        endpoints: ByOrganization<SlasEndpoint>,
        verifier: Arc<ShopperVerifier>,
        settings: config::Sessions,
        exchange: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        // What is in the same process is soon asked for; what is not is kept here in full.
        let share = if store.is_shared() { 1 } else { MEMORY_SHARE };
        let capacity = usize::try_from(settings.capacity / share).unwrap_or(usize::MAX).max(LEAST_KNOWN);
        Arc::new(Self {
            store,
            endpoints,
            verifier,
            cache: Arc::new(Cache::new(capacity)),
            ends: Arc::default(),
            refreshes: SingleFlight::new(),
            news: Arc::default(),
            replacements: KeyedRateLimiter::default(),
            refusals: RefreshRefusals::new(),
            settings,
            exchange,
            metrics,
        })
    }

    /// The same sessions by other settings: what is known and under way stays, if they live in the same store.
    #[must_use]
    pub fn inherit_cache(self: Arc<Self>, before: &Self) -> Arc<Self> {
        self.verifier.learn_clocks_of(&before.verifier);
        if !Arc::ptr_eq(&self.store, &before.store) {
            return self;
        }
        Arc::new(Self {
            store: Arc::clone(&self.store),
            endpoints: self.endpoints.clone(),
            verifier: Arc::clone(&self.verifier),
            cache: Arc::clone(&before.cache),
            ends: Arc::clone(&before.ends),
            refreshes: Arc::clone(&before.refreshes),
            news: Arc::clone(&before.news),
            replacements: KeyedRateLimiter::default(),
            refusals: RefreshRefusals::new(),
            settings: self.settings.clone(),
            exchange: self.exchange,
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// The session of a login, not begun yet; `None` if the answer has no refresh token.
    pub(super) fn new_session(
        &self,
        site: &SiteId,
        token: &VerifiedToken,
        answer: &TokenResponse,
        name: Option<&TokenDigest>,
    ) -> Option<Session> {
        let shopper = &token.shopper;
        let usual = if shopper.registered { REGISTERED_REFRESH_SECONDS } else { GUEST_REFRESH_SECONDS };
        Some(Session {
            id: SessionId(random_bytes().ok()?),
            owner: self.owner(shopper, site),
            access_token: answer.access_token.clone(),
            access_expires_at: ends_at(shopper.expires_at, answer.expires_in),
            access_lifetime: answer.expires_in,
            refresh_token: answer.refresh_token.clone()?,
            ends_at: unix_now().saturating_add(answer.refresh_token_expires_in.unwrap_or(usual)),
            tokens: name.copied().into_iter().chain([token.digest]).collect(),
            is_named: name.is_some(),
            refresh_token_history: None,
            epoch: Epoch::default(),
            refreshed_at: 0,
            caller: None,
            version: 0,
        })
    }

    /// Keeps a new session. It came after these ends, or after every end that is known now.
    pub(super) async fn insert_session(
        self: &Arc<Self>,
        mut session: Session,
        epoch: Option<Epoch>,
    ) -> Arc<CachedSession> {
        let now = unix_now();
        let keys = session.revocation_keys();
        let epoch = match epoch {
            Some(epoch) => Ok(epoch),
            None => self.revocations_of(&keys).await.map(|ends| ends.epoch()),
        };
        session.epoch = epoch.clone().unwrap_or_else(|_| self.ends.get_both(&keys).epoch());
        let session = Arc::new(session);
        let cached = Arc::new(CachedSession::new(Arc::clone(&session), now));
        for digest in &session.tokens {
            self.cache.insert(*digest, CacheEntry::Session(Arc::clone(&cached)));
        }
        let stored = match epoch {
            Ok(_) => self.store.insert(session, now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "a session could not be stored; trying again");
            let (sessions, cached) = (Arc::clone(self), Arc::clone(&cached));
            retry_in_background(INSERT_RETRIES, move || {
                let (sessions, cached) = (Arc::clone(&sessions), Arc::clone(&cached));
                async move { sessions.retry_insert(&cached).await }
            });
        }
        cached
    }

    /// Offers a session to the store that did not take it. The store may know an end before it that this process did not,
    /// and this process an end of it that the store does not: the latter counts.
    async fn retry_insert(&self, cached: &CachedSession) -> Result<(), StoreError> {
        let session = cached.session.load_full();
        if self.has_ended(cached) {
            return Ok(());
        }
        let epoch = self.store.revocations(&cached.revocation_keys).await?.epoch();
        let session = if session.version == 0 && session.epoch != epoch {
            let later = Arc::new(Session { epoch: epoch, ..Session::clone(&session) });
            cached.session.store(Arc::clone(&later));
            later
        } else {
            session
        };
        self.store.insert(session, unix_now()).await
    }

    /// The records of ends, as the store and this process know them.
    pub(super) async fn revocations_of(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        let Revocations { session, customer } = self.store.revocations(keys).await?;
        let note = |key: RevocationKey, end: Revocation| {
            if end.number > 0 { self.ends.note(key, end) } else { self.ends.of(key) }
        };
        Ok(Revocations {
            session: note(keys.session, session),
            customer: keys.customer.map(|key| note(key, customer)).unwrap_or_default(),
        })
    }

    /// Whether a session was ended, as far as this process knows.
    pub(super) fn has_ended(&self, cached: &CachedSession) -> bool {
        !self.ends.is_empty() && self.ends.get_both(&cached.revocation_keys).revokes(cached.session.load().epoch)
    }

    /// The time for a revocation record that is about to be written. Until it is written, refreshes find no record and pass
    /// their tokens on, and SLAS may issue those tokens in the next second.
    pub(super) fn revocation_time(&self, organization: &OrganizationId) -> u64 {
        self.verifier.slas_time_in(self.store.write_timeout() + REVOCATION_WRITE_MARGIN, organization)
    }

    /// What is known of a token, asking the store where this process has not seen it. Once a token is known here, the
    /// news of other replicas keep it true.
    pub(super) async fn lookup(&self, token: &VerifiedToken, now: u64) -> Result<CacheEntry, StoreError> {
        let shopper = &token.shopper;
        let known = match self.cache.get(&token.digest) {
            Some(CacheEntry::Unknown(at)) if at.saturating_add(NOTHING_FOR) <= now => None,
            Some(CacheEntry::Session(cached)) if !owns(shopper, &cached.session.load().owner) => {
                Some(CacheEntry::Unknown(now))
            }
            known => known,
        };
        let Some(known) = known else { return self.lookup_in_store(token, now).await };
        if self.ends.is_empty() {
            return Ok(known);
        }
        Ok(known.unless(&self.ends.get_both(&shopper.revocation_keys), shopper))
    }

    /// What the store knows of a token.
    async fn lookup_in_store(&self, token: &VerifiedToken, now: u64) -> Result<CacheEntry, StoreError> {
        let shopper = &token.shopper;
        let (found, ends) =
            tokio::try_join!(self.store.find(&token.digest), self.revocations_of(&shopper.revocation_keys))?;
        let known = match found {
            LookupResult::Session(session, used_at) if owns(shopper, &session.owner) => {
                CacheEntry::Session(Arc::new(CachedSession::new(session, used_at)))
            }
            // Of a session that is gone without an end, which a store that lost it is to blame for, the token goes on.
            LookupResult::Gone if ends != Revocations::default() => CacheEntry::Revoked,
            LookupResult::Session(..) | LookupResult::Gone | LookupResult::Unknown => CacheEntry::Unknown(now),
            LookupResult::Epoch(epoch) => CacheEntry::Epoch(Arc::new(epoch)),
            LookupResult::Revoked => CacheEntry::Revoked,
        };
        let known = known.unless(&ends, shopper);
        self.cache.insert(token.digest, known.clone());
        Ok(known)
    }

    /// Whether nobody used it for too long. What other replicas saw counts as well, so the store is asked
    /// before that is said.
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

    /// Notes a use, and tells the store now and then.
    pub(super) async fn note_use(&self, cached: &Arc<CachedSession>, now: u64) {
        cached.used_at.fetch_max(now, Ordering::Relaxed);
        let every = (self.settings.idle_timeout.as_secs() / 20).clamp(1, 60);
        let told_at = cached.told_at.load(Ordering::Relaxed);
        let is_due = told_at.saturating_add(every) <= now;
        if !is_due || cached.told_at.compare_exchange(told_at, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let session = cached.session.load_full();
        let store = Arc::clone(&self.store);
        let write_revocation = async move {
            // A use that is not told is told with the next.
            let _ = store.touch(&session, now).await;
        };
        if self.store.is_shared() {
            tokio::spawn(write_revocation);
        } else {
            write_revocation.await;
        }
    }

    /// The owner that a shopper is. Names that many sessions share are shared in memory as well.
    fn owner(&self, shopper: &Shopper, site: &SiteId) -> Owner {
        let issuer = self.endpoints.get_key_value(&shopper.organization);
        let client = issuer.and_then(|(_, issuer)| issuer.clients.iter().find(|client| client.id == shopper.client));
        Owner {
            organization: issuer.map_or(&shopper.organization, |(organization, _)| organization).clone(),
            site: shopper.site.as_ref().filter(|own| *own != site).unwrap_or(site).clone(),
            client: client.map_or(&shopper.client, |client| &client.id).clone(),
            usid: shopper.usid.clone(),
            customer: shopper.customer.clone(),
            registered: shopper.registered,
        }
    }

    pub(super) fn client_of(&self, session: &Session) -> Option<&SlasClient> {
        let issuer = self.endpoints.get(&session.owner.organization)?;
        issuer.clients.iter().find(|client| client.id == session.owner.client)
    }

    pub(super) fn mark_revoked(&self, session: &Session) {
        for digest in &session.tokens {
            self.cache.insert(*digest, CacheEntry::Revoked);
        }
    }

    pub(super) fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["session", result]).inc();
    }
}

impl CacheEntry {
    /// The same, unless one of these ends covers it.
    fn unless(self, ends: &Revocations, shopper: &Shopper) -> Self {
        let is_over = match &self {
            Self::Session(cached) => ends.revokes(cached.session.load().epoch),
            Self::Epoch(epoch) => ends.revokes(**epoch),
            Self::Unknown(_) => ends.revokes_issued_at(shopper.issued_at),
            Self::Revoked => false,
        };
        if is_over { Self::Revoked } else { self }
    }
}

/// When a token ends that SLAS has just given, by the gateway's clock. It says so itself, by SLAS's clock; where the two
/// differ by much, its life counts, which needs no clock in common (RFC 6749, 5.1): else a token could look ended as soon
/// as it is here, and each request would refresh_session it.
pub(super) fn ends_at(says: u64, life: u64) -> u64 {
    let now = unix_now();
    if life == 0 { says } else { says.clamp(now.saturating_add(life / 2), now.saturating_add(life)) }
}

/// Whether a token speaks for the owner of a session: organization, client, shopper and site alike.
pub(super) fn owns(shopper: &Shopper, owner: &Owner) -> bool {
    shopper.organization == owner.organization
        && shopper.client == owner.client
        && shopper.usid == owner.usid
        && shopper.customer == owner.customer
        && shopper.site.as_ref().is_none_or(|site| *site == owner.site)
}

/// The digest of a token that SLAS gave.
pub(super) fn digest_of(token: &SecretString) -> TokenDigest {
    token_digest(token.expose_secret())
}
