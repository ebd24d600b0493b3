//! What happens to sessions without a request: news of other replicas, sweeping, renewal ahead.
//!
//! Owns the one background task of sessions and its pace. It ends nothing that still lives and renews nothing
//! that nobody uses.

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

/// How often a replica asks what others ended.
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How often what has ended by itself is dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// How often the key is compared with that of the gateways that share the store.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// A session used within this time counts as in use for proactive renewal, seconds.
const ACTIVE_SECONDS: u64 = 5 * 60;
/// So many sweeps are a minute.
const SWEEPS_PER_MINUTE: u32 = 4;

impl Sessions {
    /// Learns what other replicas ended, drops what ended by itself, and renews ahead if so configured.
    pub async fn run_background(self: Arc<Self>) {
        let mut swept_at = tokio::time::Instant::now();
        let mut key_checked_at = None;
        let mut round = 0;
        loop {
            tokio::time::sleep(EVENT_POLL_INTERVAL).await;
            if self.store.is_shared() {
                let is_due = key_checked_at.is_none_or(|at: tokio::time::Instant| at.elapsed() >= KEY_CHECK_INTERVAL);
                // What it finds the store itself tells.
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
            // Whatever was learnt before the cursor began may have ended unseen.
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

    /// Drops what has ended by itself, and measures how many sessions are held.
    pub async fn sweep(&self) {
        let now = unix_now();
        let idle = self.settings.idle_timeout;
        let seen_version = Mutex::new(HashSet::new());
        self.cache.retain(|_, entry| match entry {
            CacheEntry::Session(cached) => {
                // A session has an entry for each of its tokens.
                seen_version.lock().insert(cached.session.load().id);
                cached.session.load().expires_at > now
                    && cached.used_at.load(Ordering::Relaxed).saturating_add(idle.as_secs()) > now
            }
            CacheEntry::Unknown(at) => at.saturating_add(UNKNOWN_TTL) > now,
            // Forgotten by capacity only: the store remembers for as long as a token may live.
            CacheEntry::Revoked | CacheEntry::Epoch(_) => true,
        });
        self.verifier.forget_ended(now);
        let ready = self.store.sweep(now, idle).await.unwrap_or_else(|| seen_version.into_inner().len());
        self.metrics.sessions.set(i64::try_from(ready).unwrap_or(i64::MAX));
    }

    /// How many sessions of shoppers, and how many on behalf of shoppers, this process has at hand. A session that is no
    /// longer known by its first token or name is not counted.
    #[must_use]
    pub fn count_cached(&self) -> (usize, usize) {
        let (mut own, mut on_behalf) = (0, 0);
        for (digest, known) in self.cache.iter() {
            let CacheEntry::Session(cached) = known else { continue };
            let session = cached.session.load();
            // It has an entry for each of its tokens.
            if session.tokens.first() == Some(&digest) {
                *(if session.is_named { &mut on_behalf } else { &mut own }) += 1;
            }
        }
        (own, on_behalf)
    }

    /// Renews sessions that are in use and due, within the configured number a minute.
    fn refresh_due_sessions(self: &Arc<Self>, round: u32) {
        // The minute's number in equal shares; the first round has what is left over.
        let a_minute = self.settings.background_refreshes_per_minute;
        let share = a_minute / SWEEPS_PER_MINUTE + if round == 0 { a_minute % SWEEPS_PER_MINUTE } else { 0 };
        let now = unix_now();
        let mut due = HashMap::new();
        for (_, known) in self.cache.iter() {
            let CacheEntry::Session(cached) = known else { continue };
            let session = cached.session.load_full();
            let is_due =
                session.access_expires_at <= now + CachedSession::refresh_margin(&session, self.settings.refresh_ahead);
            let is_used = cached.used_at.load(Ordering::Relaxed).saturating_add(ACTIVE_SECONDS) > now;
            if is_due && is_used && due.len() < share as usize {
                // Once a session, by however many of its tokens it is known.
                due.insert(session.id, (cached, session.version));
            }
        }
        for (cached, version) in due.into_values() {
            let sessions = Arc::clone(self);
            // No request asked for it: it has a correlation id of its own.
            tokio::spawn(correlation::inherit(async move {
                let Err(error) = sessions.refresh_session(&cached, version, Priority::BackgroundRefresh).await else {
                    return;
                };
                let correlation_id = correlation::current_text();
                match error {
                    // Nothing was sent.
                    SessionError::Slas(SalesforceError::CircuitOpen) => {
                        tracing::debug!("a session was not renewed ahead")
                    }
                    error => tracing::info!(%error, correlation_id, "a session was not renewed ahead"),
                }
            }));
        }
    }
}
