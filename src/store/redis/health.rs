//! Whether the store can be used, as the metric, the log and `/status` show it.
//!
//! A server without memory, or one that was made a replica, still serves reads. So a reply ends only an outage of the
//! connection. Other outages end when the server has accepted every command.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::store::Outage;

/// Time from the last refusal, and from the last check of the commands, to the next check.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum time between two log lines about a changed cause.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Health {
    is_up: AtomicBool,
    gauge: IntGauge,
    state: Mutex<Option<OutageState>>,
}

struct OutageState {
    outage: Outage,
    last_at: Instant,
    logged_at: Instant,
    tried_at: Instant,
}

impl Health {
    pub(super) fn new(gauge: IntGauge) -> Self {
        Self { is_up: AtomicBool::new(true), gauge, state: Mutex::new(None) }
    }

    /// The cause, while the store is unavailable.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.state.lock().as_ref().map(|state| state.outage)
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Notes that a command was answered.
    pub(super) fn answered(&self) {
        if self.is_up() {
            self.gauge.set(1);
            return;
        }
        let mut state = self.state.lock();
        if state.as_ref().is_none_or(|state| !state.outage.cause.outlasts_answers()) {
            self.clear_outage(&mut state);
        }
    }

    /// Notes that the server has accepted every command; the check began at `since`.
    pub(super) fn note_commands_accepted(&self, since: Instant) {
        let mut state = self.state.lock();
        if state.as_ref().is_some_and(|state| state.last_at < since) {
            self.clear_outage(&mut state);
        }
    }

    /// Notes that the store is unavailable.
    pub(super) fn failed(&self, outage: Outage) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_news = match state.as_mut() {
            Some(state) => {
                state.last_at = now;
                let is_news = state.outage != outage && now.duration_since(state.logged_at) >= LOG_INTERVAL;
                state.outage = outage;
                if is_news {
                    state.logged_at = now;
                }
                is_news
            }
            None => {
                *state = Some(OutageState { outage, last_at: now, logged_at: now, tried_at: now });
                true
            }
        };
        self.is_up.store(false, Ordering::Relaxed);
        self.gauge.set(0);
        drop(state);
        if is_news {
            tracing::error!(
                cause = outage.cause.label(),
                "session store unavailable: {outage}; valid tokens are forwarded, refreshes fail"
            );
        }
    }

    /// Whether every command is to be checked now, because replies alone do not end this outage.
    pub(super) fn is_command_check_due(&self) -> bool {
        if self.is_up() {
            return false;
        }
        let mut state = self.state.lock();
        let due = state.as_mut().filter(|state| {
            state.outage.cause.outlasts_answers()
                && state.last_at.elapsed() >= CHECK_INTERVAL
                && state.tried_at.elapsed() >= CHECK_INTERVAL
        });
        match due {
            Some(state) => {
                state.tried_at = Instant::now();
                true
            }
            None => false,
        }
    }

    fn clear_outage(&self, state: &mut Option<OutageState>) {
        *state = None;
        self.gauge.set(1);
        if !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!("session store available again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::UnavailableCause as Cause;

    #[test]
    fn reply_ends_connection_outage_and_no_write_outage() {
        let gauge = IntGauge::new("up", "up").unwrap();
        let health = Health::new(gauge.clone());
        health.failed(Outage::of_redis(Cause::ConnectionRefused));
        assert_eq!((gauge.get(), health.is_up()), (0, false));
        health.answered();
        assert_eq!((gauge.get(), health.outage()), (1, None));
        health.failed(Outage::of_redis(Cause::OutOfMemory));
        health.answered();
        assert_eq!((gauge.get(), health.outage()), (0, Some(Outage::of_redis(Cause::OutOfMemory))));
        let began = Instant::now();
        health.failed(Outage::of_redis(Cause::OutOfMemory));
        health.note_commands_accepted(began);
        assert!(!health.is_up(), "a refusal came while the commands were tried");
        health.note_commands_accepted(Instant::now() + Duration::from_millis(1));
        assert_eq!((gauge.get(), health.is_up()), (1, true));
    }
}
