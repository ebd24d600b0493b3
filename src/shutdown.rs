//! Graceful shutdown: the requests in flight and the unflushed responses that a drain waits for.
//!
//! An HTTP/2 request is done when its response is in the connection's buffer. Bytes that the client has not read by then are
//! counted by [`UnflushedGuard`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Counts requests in flight, and knows whether the gateway is draining.
#[derive(Debug, Default)]
pub struct RequestTracker {
    requests: AtomicUsize,
    unflushed_connections: AtomicUsize,
    is_draining: AtomicBool,
}

impl RequestTracker {
    /// Starts the drain: from now on, each response closes its connection.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether [`RequestTracker::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The number of requests in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// The number of connections with unflushed bytes. During a drain, a connection counts until it closes.
    #[must_use]
    pub fn unflushed_connections(&self) -> usize {
        self.unflushed_connections.load(Ordering::Acquire)
    }

    /// Counts a request that starts.
    pub fn enter(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a request that is done.
    pub fn leave(&self) {
        self.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts one connection while it has bytes that its client has not read.
#[derive(Debug)]
pub struct UnflushedGuard {
    tracker: Arc<RequestTracker>,
    is_pending: bool,
}

impl UnflushedGuard {
    /// Creates the guard of a new connection, which has no unflushed bytes.
    #[must_use]
    pub fn new(tracker: &Arc<RequestTracker>) -> Self {
        Self { tracker: Arc::clone(tracker), is_pending: false }
    }

    /// Records that a write or flush is pending.
    pub fn mark_pending(&mut self) {
        if !self.is_pending {
            self.is_pending = true;
            self.tracker.unflushed_connections.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Records that all bytes are flushed. During a drain, the connection stays counted until it closes: flushed bytes are lost if
    /// the client sends anything, as HTTP/2 clients do, after the process has ended.
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
