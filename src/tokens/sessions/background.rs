//! The background task of sessions: applies revocations of other replicas, drops expired entries, refreshes ahead of time.
//!
//! The task refreshes only sessions that were used within the last five minutes, at most
//! `sessions.background_refreshes_per_minute` of them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    cache::CachedSession,
    error::SessionError,
    state::{CacheEntry, Sessions, UNKNOWN_TTL},
};
use crate::{
    correlation,
    salesforce::{error::SalesforceError, guard::Priority},
    store::Cursor,
    time::unix_now,
};

/// Interval between two reads of other replicas' revocations.
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Interval between two sweeps of expired entries.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// Interval between two comparisons of the encryption key with that of the other replicas.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// A session that was used within this time is refreshed ahead of time, seconds.
const ACTIVE_SECONDS: u64 = 5 * 60;
/// The number of sweeps in a minute.
const SWEEPS_PER_MINUTE: u32 = 4;

impl Sessions {
    /// Runs the background task. It never returns.
    pub async fn run_background(self: Arc<Self>) {
        let mut swept_at = tokio::time::Instant::now();
        let mut key_checked_at = None;
        let mut round = 0;
        loop {
            tokio::time::sleep(EVENT_POLL_INTERVAL).await;
            if self.store.is_shared() {
                let is_due = key_checked_at.is_none_or(|at: tokio::time::Instant| at.elapsed() >= KEY_CHECK_INTERVAL);
                // The store logs a mismatch.
                if is_due && self.store.check_key(true).await.is_ok() {
                    key_checked_at = Some(tokio::time::Instant::now());
                }
                self.apply_revocation_events(&mut *self.revocation_cursor.lock().await).await;
            }
            if swept_at.elapsed() >= SWEEP_INTERVAL {
                swept_at = tokio::time::Instant::now();
                self.sweep().await;
                round = (round + 1) % SWEEPS_PER_MINUTE;
                self.refresh_due_sessions(round);
            }
        }
    }

    async fn apply_revocation_events(&self, cursor: &mut Cursor) {
        let began = cursor.0.is_empty();
        let Ok(events) = self.store.revocations_since(cursor).await else { return };
        if began && !cursor.0.is_empty() {
            // Entries from before the cursor's first read may have missed a revocation.
            self.cache.clear();
        }
        for (key, revocation) in events.revocations {
            self.revocations.merge(key, revocation);
        }
        for digest in events.tokens {
            if self.cache.peek(&digest).is_some() {
                self.cache.insert(digest, CacheEntry::Revoked);
            }
        }
    }

    /// Drops expired and idle entries, and updates the metric of held sessions.
    pub async fn sweep(&self) {
        let now = unix_now();
        let idle = self.settings.idle_timeout;
        let seen = Mutex::new(HashSet::new());
        self.cache.retain(|_, entry| match entry {
            CacheEntry::Session(cached) => {
                // A session has an entry for each of its tokens.
                seen.lock().insert(cached.session.load().id);
                cached.session.load().expires_at > now
                    && cached.used_at.load(Ordering::Relaxed).saturating_add(idle.as_secs()) > now
            }
            CacheEntry::Unknown(at) => at.saturating_add(UNKNOWN_TTL) > now,
            // Evicted by capacity only: the token may be valid for longer than any entry is kept elsewhere.
            CacheEntry::Revoked | CacheEntry::Epoch(_) => true,
        });
        self.verifier.remove_expired(now);
        let held = self.store.sweep(now, idle).await.unwrap_or_else(|| seen.into_inner().len());
        self.metrics.sessions.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    /// The numbers of cached sessions: of shoppers' logins, and on behalf of shoppers. A session whose first token or name was
    /// evicted is not counted.
    #[must_use]
    pub fn count_cached(&self) -> (usize, usize) {
        let (mut own, mut on_behalf) = (0, 0);
        for (digest, known) in self.cache.iter() {
            let CacheEntry::Session(cached) = known else { continue };
            let session = cached.session.load();
            // A session has an entry for each of its tokens.
            if session.tokens.first() == Some(&digest) {
                *(if session.is_named { &mut on_behalf } else { &mut own }) += 1;
            }
        }
        (own, on_behalf)
    }

    /// Refreshes sessions that are due and in use.
    fn refresh_due_sessions(self: &Arc<Self>, round: u32) {
        // Each round has an equal share of the minute's number, and the first one the remainder.
        let per_minute = self.settings.background_refreshes_per_minute;
        let share = per_minute / SWEEPS_PER_MINUTE + if round == 0 { per_minute % SWEEPS_PER_MINUTE } else { 0 };
        let now = unix_now();
        let mut due = HashMap::new();
        for (_, known) in self.cache.iter() {
            let CacheEntry::Session(cached) = known else { continue };
            let session = cached.session.load_full();
            let is_due =
                session.access_expires_at <= now + CachedSession::refresh_margin(&session, self.settings.refresh_ahead);
            let is_used = cached.used_at.load(Ordering::Relaxed).saturating_add(ACTIVE_SECONDS) > now;
            if is_due && is_used && due.len() < share as usize {
                // A session has several entries and is refreshed once.
                due.insert(session.id, (cached, session.version));
            }
        }
        for (cached, version) in due.into_values() {
            let sessions = Arc::clone(self);
            // A background refresh has a correlation id of its own.
            tokio::spawn(correlation::inherit(async move {
                let Err(error) = sessions.refresh_session(&cached, version, Priority::BackgroundRefresh).await else {
                    return;
                };
                let correlation_id = correlation::current_text();
                match error {
                    // Nothing was sent.
                    SessionError::Slas(SalesforceError::CircuitOpen) => {
                        tracing::debug!("background refresh skipped, circuit breaker open")
                    }
                    error => tracing::info!(%error, correlation_id, "background refresh failed"),
                }
            }));
        }
    }
}
