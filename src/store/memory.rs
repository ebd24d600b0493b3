//! Sessions in the memory of one process.
//!
//! The number of sessions is bounded: a sweep drops the least recently used ones beyond the capacity. Locks have a
//! lease, so that both stores behave in the same way. All content is lost when the process ends.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moka::{Expiry, policy::EvictionPolicy};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::{
    Bucket, CasResult, Coverage, CreationLock, Cursor, Epoch, FencingToken, KeyCheck, LockResult, LookupResult,
    MAX_CALLER_REFRESH_TOKENS, RECENT_TOKENS, REVOCATION_TTL, RejectedCommand, Revocation, RevocationEvents,
    RevocationKey, RevocationKeys, RevocationSet, RevocationTarget, Revocations, Session, SessionStore, StoreError,
    StoreState, random_bytes,
};
use crate::{
    jwt::{TokenDigest, sha256},
    ratelimit::KeyedRateLimiter,
    time::{unix_now, unix_now_ms},
    types::{CustomerId, OrganizationId},
};

/// Cache entries per session of the capacity: twice its digests and one for a revocation, because sessions beyond the
/// capacity are kept until the next sweep.
const ENTRIES_PER_SESSION: usize = 2 * (RECENT_TOKENS + 2 + MAX_CALLER_REFRESH_TOKENS);
/// Maximum number of stored values for each session, and of those of the gateway itself. Beyond it, the least used ones are dropped.
const VALUES_PER_SESSION: usize = 4;
const MIN_VALUES: usize = 1_000;

/// Sessions in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    /// Maximum number of sessions that a sweep keeps.
    capacity: usize,
    by_token: Cache<TokenDigest, Entry>,
    revocations: RevocationSet,
    creation_locks: Mutex<HashMap<TokenDigest, (CreationLock, Instant)>>,
    /// By a SHA-256: a login id may have thousands of bytes.
    buckets: KeyedRateLimiter<[u8; 32]>,
    values: moka::sync::Cache<[u8; 32], StoredValue>,
}

#[derive(Debug, Clone)]
struct StoredValue {
    bytes: Arc<[u8]>,
    life: Duration,
}

/// Each value expires after its own time.
struct ValueExpiry;

impl Expiry<[u8; 32], StoredValue> for ValueExpiry {
    fn expire_after_create(&self, _: &[u8; 32], value: &StoredValue, _: Instant) -> Option<Duration> {
        Some(value.life)
    }

    fn expire_after_update(
        &self,
        _: &[u8; 32],
        value: &StoredValue,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(value.life)
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Session(Arc<StoredSession>),
    /// Rejected until this time, seconds since 1970.
    Ended(u64),
    /// A token without a session, with its epoch; dropped at this time.
    Epoch(Epoch, u64),
}

impl Entry {
    fn into_session(self) -> Option<Arc<StoredSession>> {
        match self {
            Self::Session(stored) => Some(stored),
            Self::Ended(_) | Self::Epoch(..) => None,
        }
    }
}

#[derive(Debug)]
struct StoredSession {
    used_at: AtomicU64,
    state: Mutex<SessionState>,
}

#[derive(Debug)]
struct SessionState {
    session: Arc<Session>,
    /// Boxed, because few sessions are locked at a time.
    locked: Option<Box<(FencingToken, Instant)>>,
    last_fencing_token: u32,
    has_ended: bool,
}

fn values(capacity: usize) -> moka::sync::Cache<[u8; 32], StoredValue> {
    let most = capacity.saturating_mul(VALUES_PER_SESSION).saturating_add(MIN_VALUES);
    moka::sync::Cache::builder()
        .max_capacity(u64::try_from(most).unwrap_or(u64::MAX))
        // Of frequency, the default, a new value has none, so a full cache would drop it at once.
        .eviction_policy(EvictionPolicy::lru())
        .expire_after(ValueExpiry)
        .build()
}

impl MemoryStore {
    /// An empty store for `capacity` sessions.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            by_token: Cache::new(capacity.saturating_mul(ENTRIES_PER_SESSION)),
            revocations: RevocationSet::default(),
            creation_locks: Mutex::default(),
            buckets: KeyedRateLimiter::default(),
            values: values(capacity),
        }
    }

    /// Drops the least recently used sessions, with all their tokens.
    fn drop_oldest(&self, excess: usize) {
        let age = |stored: Arc<StoredSession>| {
            (stored.used_at.load(Ordering::Relaxed), Arc::clone(&stored.state.lock().session))
        };
        let mut ages: Vec<(u64, Arc<Session>)> = self.all_stored().into_iter().map(age).collect();
        ages.sort_unstable_by_key(|(used_at, session)| (*used_at, session.id.0));
        ages.dedup_by_key(|(_, session)| session.id);
        for (_, session) in ages.into_iter().take(excess) {
            for name in session.lookup_keys() {
                self.by_token.remove(name);
            }
        }
    }

    fn has_ended(&self, session: &Session) -> bool {
        self.revocations.get_both(&session.revocation_keys()).revokes(session.epoch)
    }

    /// Writes a revocation record, unless the stored record covers what is revoked.
    fn record(&self, key: RevocationKey, coverage: Coverage, at: u64) -> Revocation {
        self.revocations.update(key, |known| {
            if coverage.includes(&known) {
                return known;
            }
            Revocation { number: (known.number + 1).max(unix_now_ms().saturating_mul(1000)), at: known.at.max(at) }
        })
    }

    /// Rejects the tokens of a session, and of a refresh in progress.
    fn revoke_tokens(&self, session: &Session) {
        let now = unix_now();
        let refuse = |session: &Session| {
            let (names, tokens) = session.name_and_tokens();
            for name in names {
                self.by_token.remove(name);
            }
            for token in tokens {
                self.by_token.insert(*token, Entry::Ended(now + REVOCATION_TTL.as_secs()));
            }
            for handed in session.caller_refresh_tokens() {
                self.by_token.insert(handed.name, Entry::Ended(session.expires_at));
            }
        };
        if let Some(stored) = self.stored(session) {
            // A refresh may have issued more tokens than the caller knows.
            let mut state = stored.state.lock();
            state.has_ended = true;
            refuse(&state.session);
        }
        refuse(session);
    }

    /// The sessions of all tokens. No session is locked meanwhile, because its holder may wait for the cache.
    fn all_stored(&self) -> Vec<Arc<StoredSession>> {
        self.by_token.iter().filter_map(|(_, entry)| entry.into_session()).collect()
    }

    fn stored(&self, session: &Session) -> Option<Arc<StoredSession>> {
        session.tokens.iter().rev().find_map(|token| self.by_token.get(token)?.into_session())
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn insert(&self, session: Arc<Session>, used_at: u64) -> Result<(), StoreError> {
        let has_ended = |token| matches!(self.by_token.get(token), Some(Entry::Ended(_)));
        if session.tokens.iter().any(has_ended) || self.has_ended(&session) {
            return Ok(());
        }
        let state =
            SessionState { session: Arc::clone(&session), locked: None, last_fencing_token: 0, has_ended: false };
        let stored = Arc::new(StoredSession { used_at: AtomicU64::new(used_at), state: Mutex::new(state) });
        for name in session.lookup_keys() {
            self.by_token.insert(*name, Entry::Session(Arc::clone(&stored)));
        }
        Ok(())
    }

    async fn find(&self, token: &TokenDigest) -> Result<LookupResult, StoreError> {
        let now = unix_now();
        Ok(match self.by_token.get(token) {
            Some(Entry::Session(stored)) => {
                let session = Arc::clone(&stored.state.lock().session);
                if session.expires_at <= now {
                    LookupResult::Unknown
                } else if self.has_ended(&session) {
                    LookupResult::Revoked
                } else {
                    LookupResult::Session(session, stored.used_at.load(Ordering::Relaxed))
                }
            }
            Some(Entry::Ended(until)) if until > now => LookupResult::Revoked,
            Some(Entry::Epoch(epoch, until)) if until > now => LookupResult::Epoch(epoch),
            Some(Entry::Ended(_) | Entry::Epoch(..)) | None => LookupResult::Unknown,
        })
    }

    async fn lock(&self, session: &Session, lease: Duration) -> Result<LockResult, StoreError> {
        let owner = random_bytes()?;
        let Some(stored) = self.stored(session) else { return Ok(LockResult::SessionGone) };
        let mut state = stored.state.lock();
        let now = Instant::now();
        if state.locked.as_ref().is_some_and(|lock| lock.1 > now) {
            return Ok(LockResult::Taken);
        }
        state.last_fencing_token = state.last_fencing_token.saturating_add(1);
        let fencing_token = FencingToken { number: state.last_fencing_token.into(), owner };
        state.locked = Some(Box::new((fencing_token, now + lease)));
        Ok(LockResult::Acquired(fencing_token))
    }

    async fn unlock(&self, session: &Session, fencing_token: FencingToken) -> Result<(), StoreError> {
        if let Some(stored) = self.stored(session) {
            let mut state = stored.state.lock();
            if state.locked.as_ref().is_some_and(|lock| lock.0 == fencing_token) {
                state.locked = None;
            }
        }
        Ok(())
    }

    async fn replace(&self, session: Arc<Session>, fencing_token: FencingToken) -> Result<CasResult, StoreError> {
        let Some(stored) = self.stored(&session) else { return Ok(CasResult::Conflict) };
        // The state is locked to the end, so a logout takes effect entirely before or after this function.
        let mut state = stored.state.lock();
        if state.has_ended || self.has_ended(&session) || state.session.version + 1 != session.version {
            return Ok(CasResult::Conflict);
        }
        if state.locked.as_ref().is_some_and(|lock| lock.0 == fencing_token) {
            state.locked = None;
        }
        let before = std::mem::replace(&mut state.session, Arc::clone(&session));
        for forgotten in before.lookup_keys().filter(|before| !session.lookup_keys().any(|name| name == *before)) {
            self.by_token.remove(forgotten);
        }
        for name in session.lookup_keys() {
            self.by_token.insert(*name, Entry::Session(Arc::clone(&stored)));
        }
        Ok(CasResult::Written)
    }

    async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
        lease: Duration,
    ) -> Result<Option<CreationLock>, StoreError> {
        let (lock, now) = (CreationLock(random_bytes()?), Instant::now());
        let mut creation_locks = self.creation_locks.lock();
        creation_locks.retain(|_, (_, until)| *until > now);
        if creation_locks.contains_key(name) {
            return Ok(None);
        }
        creation_locks.insert(*name, (lock, now + lease));
        Ok(Some(lock))
    }

    async fn release_creation_lock(&self, name: &TokenDigest, lock: CreationLock) -> Result<(), StoreError> {
        self.creation_locks.lock().retain(|locked, (owner, _)| locked != name || *owner != lock);
        Ok(())
    }

    async fn touch(&self, session: &Session, used_at: u64) -> Result<(), StoreError> {
        if let Some(stored) = self.stored(session) {
            stored.used_at.fetch_max(used_at, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn revoke(&self, target: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError> {
        // The record is written first. A refresh that is stored later finds the record; one that is stored before is in
        // the session.
        let (key, coverage) = target.key_and_coverage();
        let revocation = self.record(key, coverage, at);
        match target {
            RevocationTarget::Session(session) => self.revoke_tokens(session),
            RevocationTarget::Token { digest, .. } => self.revoke_token(&digest).await?,
        }
        Ok(revocation)
    }

    async fn revoke_customer(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        at: u64,
    ) -> Result<Revocation, StoreError> {
        let revocation = self.record(RevocationKey::of_customer(organization, customer), Coverage::Never, at);
        for stored in self.all_stored() {
            let session = Arc::clone(&stored.state.lock().session);
            let is_theirs =
                session.owner.organization == *organization && session.owner.customer.as_ref() == Some(customer);
            if is_theirs && revocation.number > session.epoch.customer {
                self.revoke_tokens(&session);
            }
        }
        Ok(revocation)
    }

    async fn revocations(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        Ok(self.revocations.get_both(keys))
    }

    async fn record_epoch(&self, token: &TokenDigest, epoch: Epoch, life: Duration) -> Result<(), StoreError> {
        if self.by_token.get(token).is_none() {
            self.by_token.insert(*token, Entry::Epoch(epoch, unix_now() + life.as_secs()));
        }
        Ok(())
    }

    async fn revoke_token(&self, token: &TokenDigest) -> Result<(), StoreError> {
        self.by_token.insert(*token, Entry::Ended(unix_now() + REVOCATION_TTL.as_secs()));
        Ok(())
    }

    async fn revocations_since(&self, _cursor: &mut Cursor) -> Result<RevocationEvents, StoreError> {
        Ok(RevocationEvents::default())
    }

    async fn reserve(
        &self,
        bucket: Bucket<'_>,
        cost: Duration,
        limit: Duration,
    ) -> Result<Result<Duration, Duration>, StoreError> {
        let key = match bucket {
            Bucket::LoginSlot(name) => sha256([b"slot|".as_slice(), name].concat()),
            Bucket::Tokens(name) => sha256([b"tokens|".as_slice(), name].concat()),
        };
        Ok(self.buckets.reserve(&key, cost, limit))
    }

    async fn put_value(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError> {
        self.values.insert(sha256(name), StoredValue { bytes: value.into(), life });
        Ok(())
    }

    async fn get_value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values.get(&sha256(name)).map(|value| value.bytes.to_vec()))
    }

    async fn sweep(&self, now: u64, idle: Duration) -> Option<usize> {
        let held = AtomicUsize::new(0);
        self.by_token.retain(|token, entry| match entry {
            Entry::Session(stored) => {
                // A locked entry is in use, and its holder may wait for the cache's lock.
                let Some(state) = stored.state.try_lock() else { return true };
                let used_at = stored.used_at.load(Ordering::Relaxed);
                let is_used =
                    used_at.saturating_add(idle.as_secs()) > now || state.session.refresh_token_history.is_some();
                let lives = state.session.expires_at > now && is_used;
                if lives && state.session.tokens.first() == Some(token) {
                    held.fetch_add(1, Ordering::Relaxed);
                }
                lives
            }
            Entry::Ended(until) | Entry::Epoch(_, until) => *until > now,
        });
        let held = held.into_inner();
        let excess = held.saturating_sub(self.capacity);
        if excess > 0 {
            tracing::warn!(
                excess,
                capacity = self.capacity,
                "sessions.capacity exceeded, least recently used sessions dropped"
            );
            self.drop_oldest(excess);
        }
        Some(held - excess)
    }

    fn state(&self) -> StoreState {
        StoreState::default()
    }

    async fn check_commands(&self) -> Result<(), RejectedCommand> {
        Ok(())
    }

    async fn check_key(&self, _registers: bool) -> Result<KeyCheck, StoreError> {
        Ok(KeyCheck::Unknown)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn write_timeout(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache that judges by frequency drops new values once it is full.
    #[tokio::test]
    async fn new_value_stays_in_a_full_store_and_the_least_recently_used_is_dropped() {
        let store = MemoryStore::new(1);
        let life = Duration::from_secs(3600);
        let name = |number: usize| format!("value {number}").into_bytes();
        for number in 0..2 * MIN_VALUES {
            store.put_value(&name(number), b"value", life).await.unwrap();
            for _ in 0..3 {
                store.get_value(&name(number)).await.unwrap();
            }
        }
        store.values.run_pending_tasks();
        store.put_value(b"new", b"value", life).await.unwrap();
        store.values.run_pending_tasks();
        assert!(store.get_value(b"new").await.unwrap().is_some());
        assert!(store.get_value(&name(0)).await.unwrap().is_none());
        assert!(store.get_value(&name(2 * MIN_VALUES - 1)).await.unwrap().is_some());
    }
}
