//! The concurrent requests of one organization.
//!
//! A burst waits in a queue. Under overload nobody waits in vain: once a wait has timed out, requests that find no free permit are
//! rejected at once, for as long as another wait would take. Requests of low priority never wait, and leave a quarter of the permits
//! to the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The share of the permits that low priority leaves free, and the length of the queue in relation to the permits.
const RESERVE_DIVISOR: usize = 4;

/// Limits the concurrent requests of one organization.
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    semaphore: Arc<Semaphore>,
    max_concurrent: usize,
    queue_timeout: Duration,
    queued: AtomicUsize,
    /// Until when requests are rejected instead of queued.
    queue_closed_until: Mutex<Option<Instant>>,
}

/// Leaves the queue when it is dropped, also if the client disconnects.
struct Queued<'l>(&'l AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ConcurrencyLimiter {
    pub(super) fn new(max_concurrent: usize, queue_timeout: Duration) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(max_concurrent)),
            max_concurrent,
            queue_timeout,
            queued: AtomicUsize::new(0),
            queue_closed_until: Mutex::default(),
        }
    }

    /// Acquires a permit. Returns `None` if none is free in time.
    pub(super) async fn acquire(&self, is_low_priority: impl Fn() -> bool) -> Option<OwnedSemaphorePermit> {
        let is_scarce = self.semaphore.available_permits() <= self.max_concurrent / RESERVE_DIVISOR;
        if is_scarce && is_low_priority() {
            return None;
        }
        if let Ok(permit) = Arc::clone(&self.semaphore).try_acquire_owned() {
            return Some(permit);
        }
        if self.queue_closed_until.lock().is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let queued = self.queued.fetch_add(1, Ordering::AcqRel);
        let _queued = Queued(&self.queued);
        if queued >= (self.max_concurrent / RESERVE_DIVISOR).max(1) {
            return None;
        }
        let permit = tokio::time::timeout(self.queue_timeout, Arc::clone(&self.semaphore).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok);
        if permit.is_none() {
            *self.queue_closed_until.lock() = Some(Instant::now() + self.queue_timeout);
        }
        permit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn burst_is_queued_and_overload_rejected_immediately() {
        let limiter = ConcurrencyLimiter::new(8, Duration::from_secs(1));
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(limiter.acquire(|| false).await.unwrap());
        }
        let (queued, ()) = futures::join!(limiter.acquire(|| false), async { drop(permits.pop()) });
        permits.push(queued.unwrap());
        // Two of these are queued until they time out.
        let overload = futures::future::join_all((0..5).map(|_| limiter.acquire(|| false))).await;
        assert!(overload.iter().all(Option::is_none));
        let closed_until = limiter.queue_closed_until.lock().unwrap();
        // A request that was queued now would move the time.
        assert!(limiter.acquire(|| false).await.is_none());
        assert_eq!(limiter.queue_closed_until.lock().unwrap(), closed_until);
        assert_eq!(limiter.queued.load(Ordering::Relaxed), 0);
        permits.clear();
        assert!(limiter.acquire(|| false).await.is_some());
    }

    #[tokio::test]
    async fn low_priority_leaves_a_quarter_and_is_never_queued() {
        let limiter = ConcurrencyLimiter::new(8, Duration::from_secs(60));
        let low = futures::future::join_all((0..8).map(|_| limiter.acquire(|| true))).await;
        assert_eq!(low.iter().flatten().count(), 6);
        let others = futures::future::join_all((0..2).map(|_| limiter.acquire(|| false))).await;
        assert_eq!(others.iter().flatten().count(), 2);
    }
}
