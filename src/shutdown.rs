//! Requests in flight, and whether the gateway is about to stop: what a drain waits for.
//!
//! Owns the counts. A request of HTTP/2 is done when its answer is in its connection's buffer; what the client has not
//! made room for then is [`UnflushedGuard`], and waited for as well.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Requests in flight, and whether the gateway is about to stop.
#[derive(Debug, Default)]
pub struct RequestTracker {
    requests: AtomicUsize,
    unflushed_connections: AtomicUsize,
    is_draining: AtomicBool,
}

impl RequestTracker {
    /// From now on, each answer closes its connection.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether [`RequestTracker::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// How many connections have bytes that the system has not taken yet, or in a drain had such, and are open.
    #[must_use]
    pub fn unflushed_connections(&self) -> usize {
        self.unflushed_connections.load(Ordering::Acquire)
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

/// Whether one connection has bytes that the system has not taken yet, because its client reads more slowly.
#[derive(Debug)]
pub struct UnflushedGuard {
    tracker: Arc<RequestTracker>,
    is_pending: bool,
}

impl UnflushedGuard {
    /// Of a connection that has written nothing.
    #[must_use]
    pub fn new(tracker: &Arc<RequestTracker>) -> Self {
        Self { tracker: Arc::clone(tracker), is_pending: false }
    }

    /// A write or a flush has to wait.
    pub fn mark_pending(&mut self) {
        if !self.is_pending {
            self.is_pending = true;
            self.tracker.unflushed_connections.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Everything is flushed. In a drain that is not the end, which is the connection's: what the system has taken is
    /// lost if the client sends something, as HTTP/2 does, to a process that is gone.
    pub fn mark_flushed(&mut self) {
        if self.is_pending && !self.tracker.is_draining() {
            self.release();
        }
    }

    fn release(&mut self) {
        self.is_pending = false;
        self.tracker.unflushed_connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for UnflushedGuard {
    fn drop(&mut self) {
        if self.is_pending {
            self.release();
        }
    }
}
