//! Requests in flight, and whether the gateway is about to stop: what a drain waits for.
//!
//! Owns the counts. A request of HTTP/2 is done when its answer is in its connection's buffer; what the client has not
//! made room for then is [`Unsent`], and waited for as well.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Requests in flight, and whether the gateway is about to stop.
#[derive(Debug, Default)]
pub struct InFlight {
    requests: AtomicUsize,
    unsent: AtomicUsize,
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

    /// How many connections have bytes that the system has not taken yet, or in a drain had such, and are open.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Acquire)
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
pub struct Unsent {
    among: Arc<InFlight>,
    some: bool,
}

impl Unsent {
    /// Of a connection that has written nothing.
    #[must_use]
    pub fn none(among: &Arc<InFlight>) -> Self {
        Self { among: Arc::clone(among), some: false }
    }

    /// A write or a flush has to wait.
    pub fn begin(&mut self) {
        if !self.some {
            self.some = true;
            self.among.unsent.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Everything is flushed. In a drain that is not the end, which is the connection's: what the system has taken is
    /// lost if the client sends something, as HTTP/2 does, to a process that is gone.
    pub fn flushed(&mut self) {
        if self.some && !self.among.is_draining() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.some = false;
        self.among.unsent.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.some {
            self.end();
        }
    }
}
