//! Requests in flight, and whether the gateway is about to stop: what a drain waits for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Requests in flight, and whether the gateway is about to stop.
#[derive(Debug, Default)]
pub struct InFlight {
    requests: AtomicUsize,
    draining: AtomicBool,
}

impl InFlight {
    /// From now on, each answer closes its connection.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`InFlight::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// A request begins.
    pub fn enter(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    /// A request is done.
    pub fn leave(&self) {
        self.requests.fetch_sub(1, Ordering::AcqRel);
    }
}
