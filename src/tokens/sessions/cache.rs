//! One session as this process last saw it, with what is true of it here alone: when it was used, and when a refresh failed.

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

/// For so many seconds after a failure, a valid token asks for no refresh.
const FAILED_FOR: u64 = 5;
/// Seconds before its end in which a token may be renewed, from which on sessions spread over them.
const WORTH_SPREADING: u64 = 30;

/// A session as this process last saw it.
#[derive(Debug)]
pub(in crate::tokens) struct CachedSession {
    pub(super) session: ArcSwap<Session>,
    /// What ends it.
    pub(super) revocation_keys: RevocationKeys,
    /// The newest token of a named session, once somebody wanted it.
    pub(super) held: ArcSwapOption<ReadyToken>,
    pub(super) used_at: AtomicU64,
    /// The last use that the store was told of.
    pub(super) told_at: AtomicU64,
    /// When a refresh failed, or took longer than a valid token waits.
    failed_at: AtomicU64,
}

impl CachedSession {
    pub(super) fn new(session: Arc<Session>, used_at: u64) -> Self {
        Self {
            revocation_keys: session.revocation_keys(),
            session: ArcSwap::from(session),
            held: ArcSwapOption::empty(),
            used_at: AtomicU64::new(used_at),
            told_at: AtomicU64::new(used_at),
            failed_at: AtomicU64::new(0),
        }
    }

    pub(super) fn note_failure(&self, now: u64) {
        self.failed_at.store(now, Ordering::Relaxed);
    }

    pub(super) fn has_just_failed(&self, now: u64) -> bool {
        self.failed_at.load(Ordering::Relaxed).saturating_add(FAILED_FOR) > now
    }

    /// How long before its end the newest token is renewed: never more than a quarter of its life. Where that is long, each
    /// session has a time of its own in it, so that shoppers who came together do not refresh_session together.
    pub(super) fn ahead(session: &Session, refresh_ahead: Duration) -> u64 {
        let ahead = refresh_ahead.as_secs().min(session.access_lifetime / 4);
        let SessionId([.., high, low]) = session.id;
        let spread = if ahead < WORTH_SPREADING { 0 } else { ahead / 2 };
        ahead - spread * u64::from(u16::from_be_bytes([high, low])) / (u64::from(u16::MAX) + 1)
    }
}
