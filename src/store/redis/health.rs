//! Whether the store can be used: what the metric, the log and `/status` say.
//!
//! A server that has no memory left, or was made a replica, goes on answering reads. So an answer ends only an outage of the
//! connection; one of those ends when every command has been tried and taken.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::store::Outage;

/// After the last refusal, and after each trial, how long until the commands are tried.
const QUIET_FOR: Duration = Duration::from_secs(5);
/// A change of the cause is logged no more often than this.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

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

    /// Why the store cannot be used, while that is so.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.state.lock().as_ref().map(|state| state.outage)
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// A command was answered.
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

    /// Every command was tried, the first of them at this time, and taken.
    pub(super) fn note_commands_accepted(&self, since: Instant) {
        let mut state = self.state.lock();
        if state.as_ref().is_some_and(|state| state.last_at < since) {
            self.clear_outage(&mut state);
        }
    }

    /// The store could not be used.
    pub(super) fn failed(&self, outage: Outage) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_news = match state.as_mut() {
            Some(state) => {
                state.last_at = now;
                let is_news = state.outage != outage && now.duration_since(state.logged_at) >= LOGGED_EVERY;
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
                "the session store cannot be used: {outage}; tokens that are still valid pass, refreshes wait"
            );
        }
    }

    /// Whether it is time to try every command, because answers alone do not tell that the outage is over.
    pub(super) fn is_command_check_due(&self) -> bool {
        if self.is_up() {
            return false;
        }
        let mut state = self.state.lock();
        let due = state.as_mut().filter(|state| {
            state.outage.cause.outlasts_answers()
                && state.last_at.elapsed() >= QUIET_FOR
                && state.tried_at.elapsed() >= QUIET_FOR
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
            tracing::info!("the session store can be used again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::UnavailableCause as Cause;

    #[test]
    fn answer_ends_an_outage_of_the_connection_and_none_of_writes() {
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
