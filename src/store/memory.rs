//! Sessions in this process: bounded, without a dependency, gone with the process.
//!
//! Owns the map from token to session. When there are too many, the sessions longest unused make room at
//! the next sweep. The lock has a lease here too, so that both stores behave alike.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::{
    Claim, Cursor, Epoch, Fence, Found, KeyCheck, Lock, MOST_HANDED, News, RECENT_TOKENS, REVOCATION_TTL,
    RefusedCommand, Revocation, RevocationKey, RevocationKeys, RevocationSet, RevocationTarget, Revocations, Session,
    SessionStore, StoreError, StoreState, Written, random_bytes,
};
use crate::{
    jwt::{TokenDigest, sha256},
    ratelimit::{BucketConfig, KeyedRateLimiter},
    time::{unix_now, unix_now_ms},
    types::{CustomerId, OrganizationId},
};

/// Slots for each session of the capacity: twice its names and one for what was ended, because sessions
/// above the capacity stay until the next sweep.
const SLOTS: usize = 2 * (RECENT_TOKENS + 2 + MOST_HANDED);
/// How many logins at most are queued at a time; beyond it the oldest turns are forgotten.
const MOST_TURNS: usize = 10_000;
/// How many values are kept at a time; beyond it no more are taken.
const MOST_VALUES: usize = 1_000;

/// Sessions in this process.
#[derive(Debug)]
pub struct MemoryStore {
    /// Most sessions that outlast a sweep.
    capacity: usize,
    by_token: Cache<TokenDigest, Slot>,
    ends: RevocationSet,
    /// By the SHA-256 of who waits: a login id may have thousands of bytes.
    turns: Mutex<HashMap<[u8; 32], Instant>>,
    claims: Mutex<HashMap<TokenDigest, (Claim, Instant)>>,
    buckets: KeyedRateLimiter<[u8; 32]>,
    values: Mutex<HashMap<[u8; 32], Value>>,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    ends_at: Instant,
}

#[derive(Debug, Clone)]
enum Slot {
    Session(Arc<Kept>),
    /// Refused until then, seconds since 1970.
    Ended(u64),
    /// Without a session, and later than these ends; forgotten then.
    Epoch(Epoch, u64),
}

impl Slot {
    fn kept(self) -> Option<Arc<Kept>> {
        match self {
            Self::Session(kept) => Some(kept),
            Self::Ended(_) | Self::Epoch(..) => None,
        }
    }
}

#[derive(Debug)]
struct Kept {
    used_at: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    session: Arc<Session>,
    /// Seldom there, so it takes no room when it is not.
    locked: Option<Box<(Fence, Instant)>>,
    fences: u32,
    has_ended: bool,
}

impl MemoryStore {
    /// An empty store for `capacity` sessions.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            by_token: Cache::new(capacity.saturating_mul(SLOTS)),
            ends: RevocationSet::default(),
            turns: Mutex::default(),
            claims: Mutex::default(),
            buckets: KeyedRateLimiter::default(),
            values: Mutex::default(),
        }
    }

    /// Drops the sessions longest unused, with all their tokens.
    fn drop_oldest(&self, excess: usize) {
        let all: Vec<Arc<Kept>> = self.by_token.iter().filter_map(|(_, slot)| slot.kept()).collect();
        let mut ages: Vec<(u64, Arc<Session>)> = Vec::with_capacity(all.len());
        for kept in all {
            let session = Arc::clone(&kept.state.lock().session);
            ages.push((kept.used_at.load(Ordering::Relaxed), session));
        }
        ages.sort_unstable_by_key(|(used_at, session)| (*used_at, session.id.0));
        ages.dedup_by_key(|(_, session)| session.id);
        for (_, session) in ages.into_iter().take(excess) {
            for name in session.names() {
                self.by_token.remove(name);
            }
        }
    }

    fn has_ended(&self, session: &Session) -> bool {
        self.ends.of_both(&session.revocation_keys()).cover(session.after)
    }

    /// Writes the record of an end, unless the one that is there covers what is ended.
    fn record(&self, key: RevocationKey, at: u64, is_covered: impl FnOnce(&Revocation) -> bool) -> Revocation {
        self.ends.update(key, |known| {
            if is_covered(&known) {
                return known;
            }
            Revocation { number: (known.number + 1).max(unix_now_ms().saturating_mul(1000)), at: known.at.max(at) }
        })
    }

    /// Refuses the tokens of a session, and what a refresh makes of it that is under way.
    fn take_away(&self, session: &Session) {
        let now = unix_now();
        let refuse = |session: &Session| {
            let (names, tokens) = session.names_and_tokens();
            for name in names {
                self.by_token.remove(name);
            }
            for token in tokens {
                self.by_token.insert(*token, Slot::Ended(now + REVOCATION_TTL.as_secs()));
            }
            for handed in session.handed() {
                self.by_token.insert(handed.name, Slot::Ended(session.ends_at));
            }
        };
        if let Some(kept) = self.kept(session) {
            // A refresh may have given out more tokens than the caller knows.
            let mut state = kept.state.lock();
            state.has_ended = true;
            refuse(&state.session);
        }
        refuse(session);
    }

    fn kept(&self, session: &Session) -> Option<Arc<Kept>> {
        session.tokens.iter().rev().find_map(|token| self.by_token.get(token)?.kept())
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn insert(&self, session: Arc<Session>, used_at: u64) -> Result<(), StoreError> {
        let has_ended = |token| matches!(self.by_token.get(token), Some(Slot::Ended(_)));
        if session.tokens.iter().any(has_ended) || self.has_ended(&session) {
            return Ok(());
        }
        let state = State { session: Arc::clone(&session), locked: None, fences: 0, has_ended: false };
        let kept = Arc::new(Kept { used_at: AtomicU64::new(used_at), state: Mutex::new(state) });
        for name in session.names() {
            self.by_token.insert(*name, Slot::Session(Arc::clone(&kept)));
        }
        Ok(())
    }

    async fn find(&self, token: &TokenDigest) -> Result<Found, StoreError> {
        let now = unix_now();
        Ok(match self.by_token.get(token) {
            Some(Slot::Session(kept)) => {
                let session = Arc::clone(&kept.state.lock().session);
                if session.ends_at <= now {
                    Found::Nothing
                } else if self.has_ended(&session) {
                    Found::Ended
                } else {
                    Found::Session(session, kept.used_at.load(Ordering::Relaxed))
                }
            }
            Some(Slot::Ended(until)) if until > now => Found::Ended,
            Some(Slot::Epoch(after, until)) if until > now => Found::Epoch(after),
            Some(Slot::Ended(_) | Slot::Epoch(..)) | None => Found::Nothing,
        })
    }

    async fn lock(&self, session: &Session, lease: Duration) -> Result<Lock, StoreError> {
        let owner = random_bytes()?;
        let Some(kept) = self.kept(session) else { return Ok(Lock::Gone) };
        let mut state = kept.state.lock();
        let now = Instant::now();
        if state.locked.as_ref().is_some_and(|lock| lock.1 > now) {
            return Ok(Lock::Taken);
        }
        state.fences = state.fences.saturating_add(1);
        let fence = Fence { number: state.fences.into(), owner };
        state.locked = Some(Box::new((fence, now + lease)));
        Ok(Lock::Yours(fence))
    }

    async fn unlock(&self, session: &Session, fence: Fence) -> Result<(), StoreError> {
        if let Some(kept) = self.kept(session) {
            let mut state = kept.state.lock();
            if state.locked.as_ref().is_some_and(|lock| lock.0 == fence) {
                state.locked = None;
            }
        }
        Ok(())
    }

    async fn replace(&self, session: Arc<Session>, fence: Fence) -> Result<Written, StoreError> {
        let Some(kept) = self.kept(&session) else { return Ok(Written::Outdated) };
        // Held to the end: a logout comes before all of this or after it.
        let mut state = kept.state.lock();
        if state.has_ended || self.has_ended(&session) || state.session.version + 1 != session.version {
            return Ok(Written::Outdated);
        }
        if state.locked.as_ref().is_some_and(|lock| lock.0 == fence) {
            state.locked = None;
        }
        let before = std::mem::replace(&mut state.session, Arc::clone(&session));
        for forgotten in before.names().filter(|before| !session.names().any(|name| name == *before)) {
            self.by_token.remove(forgotten);
        }
        for name in session.names() {
            self.by_token.insert(*name, Slot::Session(Arc::clone(&kept)));
        }
        Ok(Written::Yes)
    }

    async fn claim(&self, name: &TokenDigest, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let (claim, now) = (Claim(random_bytes()?), Instant::now());
        let mut claims = self.claims.lock();
        claims.retain(|_, (_, until)| *until > now);
        if claims.contains_key(name) {
            return Ok(None);
        }
        claims.insert(*name, (claim, now + lease));
        Ok(Some(claim))
    }

    async fn release(&self, name: &TokenDigest, claim: Claim) -> Result<(), StoreError> {
        let mut claims = self.claims.lock();
        if claims.get(name).is_some_and(|(owner, _)| *owner == claim) {
            claims.remove(name);
        }
        Ok(())
    }

    async fn touch(&self, session: &Session, used_at: u64) -> Result<(), StoreError> {
        if let Some(kept) = self.kept(session) {
            kept.used_at.fetch_max(used_at, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn end(&self, ending: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError> {
        // The record first: a refresh that is stored after it sees it, one before it is in the session.
        Ok(match ending {
            RevocationTarget::Session(session) => {
                let end = self.record(session.revocation_keys().session, at, |end| end.number > session.after.session);
                self.take_away(session);
                end
            }
            RevocationTarget::Token { digest, keys, issued_at, after } => {
                let end = self.record(keys.session, at, |end| match after {
                    Some(after) => end.number > after.session,
                    None => end.covers_issued(issued_at),
                });
                self.by_token.insert(digest, Slot::Ended(unix_now() + REVOCATION_TTL.as_secs()));
                end
            }
        })
    }

    async fn end_all(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        at: u64,
    ) -> Result<Revocation, StoreError> {
        let end = self.record(RevocationKey::of_customer(organization, customer), at, |_| false);
        let all: Vec<Arc<Kept>> = self.by_token.iter().filter_map(|(_, slot)| slot.kept()).collect();
        for kept in all {
            let session = Arc::clone(&kept.state.lock().session);
            let is_theirs =
                session.owner.organization == *organization && session.owner.customer.as_ref() == Some(customer);
            if is_theirs && end.number > session.after.customer {
                self.take_away(&session);
            }
        }
        Ok(end)
    }

    async fn ends(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        Ok(self.ends.of_both(keys))
    }

    async fn note_after(&self, token: &TokenDigest, after: Epoch, life: Duration) -> Result<(), StoreError> {
        if self.by_token.get(token).is_none() {
            self.by_token.insert(*token, Slot::Epoch(after, unix_now() + life.as_secs()));
        }
        Ok(())
    }

    async fn refuse(&self, token: &TokenDigest) -> Result<(), StoreError> {
        self.by_token.insert(*token, Slot::Ended(unix_now() + REVOCATION_TTL.as_secs()));
        Ok(())
    }

    async fn ended_since(&self, _cursor: &mut Cursor) -> Result<News, StoreError> {
        Ok(News::default())
    }

    async fn turn(&self, who: &[u8], window: Duration, longest: Duration) -> Result<Option<Duration>, StoreError> {
        let who = sha256(who);
        let now = Instant::now();
        let mut turns = self.turns.lock();
        if turns.len() >= MOST_TURNS {
            turns.retain(|_, next| *next > now);
        }
        let free_at = turns.get(&who).copied().filter(|next| *next > now).unwrap_or(now);
        let wait = free_at - now;
        if wait > longest {
            return Ok(None);
        }
        turns.insert(who, free_at + window);
        Ok(Some(wait))
    }

    async fn take(
        &self,
        bucket: &[u8],
        config: BucketConfig,
        tokens: u32,
        reserve: u32,
    ) -> Result<Result<(), Duration>, StoreError> {
        Ok(self.buckets.try_acquire(&sha256(bucket), config.with_reserve(reserve), tokens))
    }

    async fn keep(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError> {
        let (name, now) = (sha256(name), Instant::now());
        let mut values = self.values.lock();
        values.retain(|_, value| value.ends_at > now);
        if values.len() >= MOST_VALUES && !values.contains_key(&name) {
            return Err(StoreError::Broken("there is no room for another value"));
        }
        values.insert(name, Value { bytes: value.to_vec(), ends_at: now + life });
        Ok(())
    }

    async fn kept(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let values = self.values.lock();
        let value = values.get(&sha256(name)).filter(|value| value.ends_at > Instant::now());
        Ok(value.map(|value| value.bytes.clone()))
    }

    async fn sweep(&self, now: u64, idle: Duration) -> Option<usize> {
        let held = AtomicUsize::new(0);
        self.by_token.retain(|token, slot| match slot {
            Slot::Session(kept) => {
                // Whoever has it locked may be waiting for us: it is in use, so it lives.
                let Some(state) = kept.state.try_lock() else { return true };
                let used_at = kept.used_at.load(Ordering::Relaxed);
                let is_used = used_at.saturating_add(idle.as_secs()) > now || state.session.handed.is_some();
                let lives = state.session.ends_at > now && is_used;
                if lives && state.session.tokens.first() == Some(token) {
                    held.fetch_add(1, Ordering::Relaxed);
                }
                lives
            }
            Slot::Ended(until) | Slot::Epoch(_, until) => *until > now,
        });
        let held = held.into_inner();
        let excess = held.saturating_sub(self.capacity);
        if excess > 0 {
            tracing::warn!(
                excess,
                capacity = self.capacity,
                "more sessions than sessions.capacity; the longest unused are dropped"
            );
            self.drop_oldest(excess);
        }
        Some(held - excess)
    }

    fn state(&self) -> StoreState {
        StoreState::default()
    }

    async fn try_commands(&self) -> Result<(), RefusedCommand> {
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

    #[tokio::test]
    async fn who_waits_is_not_kept_in_full() {
        let store = MemoryStore::new(1);
        for number in 0..100_u8 {
            store.turn(&vec![number; 12_000], Duration::ZERO, Duration::ZERO).await.unwrap();
        }
        let kept: usize = store.turns.lock().keys().map(|who| size_of_val(who.as_slice())).sum();
        assert_eq!(kept, 100 * 32);
    }
}
