//! A session in this process's cache, and what only this process knows of it: the last use and the last failed refresh.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::ready_token::ReadyToken;
use crate::store::{RevocationKeys, Session, SessionId};

/// How long a valid token causes no refresh after a failed one, seconds.
const FAILURE_TTL: u64 = 5;
/// Minimum refresh margin, in seconds, in which the refreshes of sessions are spread.
const MIN_SPREAD_MARGIN: u64 = 30;

/// A session in the cache.
#[derive(Debug)]
pub(in crate::tokens) struct CachedSession {
    /// The newest version that this process knows.
    pub(super) session: ArcSwap<Session>,
    pub(super) revocation_keys: RevocationKeys,
    /// The newest token of a named session, once it was requested.
    pub(super) ready: ArcSwapOption<ReadyToken>,
    pub(super) used_at: AtomicU64,
    /// The last use that was written to the store.
    pub(super) touched_at: AtomicU64,
    /// When a refresh failed, or took longer than a request with a valid token waits.
    failed_at: AtomicU64,
}

impl CachedSession {
    pub(super) fn new(session: Arc<Session>, used_at: u64) -> Self {
        Self {
            revocation_keys: session.revocation_keys(),
            session: ArcSwap::from(session),
            ready: ArcSwapOption::empty(),
            used_at: AtomicU64::new(used_at),
            touched_at: AtomicU64::new(used_at),
            failed_at: AtomicU64::new(0),
        }
    }

    pub(super) fn note_failure(&self, now: u64) {
        self.failed_at.store(now, Ordering::Relaxed);
    }

    pub(super) fn has_recently_failed(&self, now: u64) -> bool {
        self.failed_at.load(Ordering::Relaxed).saturating_add(FAILURE_TTL) > now
    }

    /// How long before its expiry the newest token is due for a refresh, seconds: at most a quarter of its lifetime. A long
    /// margin differs from session to session, so that sessions that began together are not refreshed together.
    pub(super) fn refresh_margin(session: &Session, refresh_ahead: Duration) -> u64 {
        let margin = refresh_ahead.as_secs().min(session.access_lifetime / 4);
        let SessionId([.., high, low]) = session.id;
        let spread = if margin < MIN_SPREAD_MARGIN { 0 } else { margin / 2 };
        margin - spread * u64::from(u16::from_be_bytes([high, low])) / (u64::from(u16::MAX) + 1)
    }
}
