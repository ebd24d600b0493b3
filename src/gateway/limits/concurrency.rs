//! How many requests of one organization are upstream at a time.
//!
//! Owns the seats and the queue for them. A burst waits a moment; an overload does not: once a wait was in vain, whoever
//! comes next is refused at once, for as long as another such wait would take, so that those who are refused do not
//! wait and those who are served do not wait long. What matters least never waits, and leaves a quarter of the
//! seats to the rest.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One of so many seats is left by what matters least, and so many may wait for each.
const QUARTER: usize = 4;

/// The seats of one organization.
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    free: Arc<Semaphore>,
    seats: usize,
    longest: Duration,
    waiting: AtomicUsize,
    in_vain_until: Mutex<Option<Instant>>,
}

/// Counts who waits, also if he goes away.
struct Waiting<'s>(&'s AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ConcurrencyLimiter {
    /// So many seats, for each of which one waits at most so long.
    pub(super) fn new(seats: usize, longest: Duration) -> Self {
        Self {
            free: Arc::new(Semaphore::new(seats)),
            seats,
            longest,
            waiting: AtomicUsize::new(0),
            in_vain_until: Mutex::default(),
        }
    }

    /// A seat, given back when it is dropped; `None` if there is none in time.
    pub(super) async fn take(&self, is_low: impl Fn() -> bool) -> Option<OwnedSemaphorePermit> {
        let is_scarce = self.free.available_permits() <= self.seats / QUARTER;
        if is_scarce && is_low() {
            return None;
        }
        if let Ok(seat) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(seat);
        }
        if self.in_vain_until.lock().is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        if before >= (self.seats / QUARTER).max(1) {
            return None;
        }
        let seat = tokio::time::timeout(self.longest, Arc::clone(&self.free).acquire_owned()).await;
        let seat = seat.ok().and_then(Result::ok);
        if seat.is_none() {
            *self.in_vain_until.lock() = Some(Instant::now() + self.longest);
        }
        seat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_waits_and_an_overload_is_refused_at_once() {
        let seats = ConcurrencyLimiter::new(8, Duration::from_millis(300));
        let mut taken = Vec::new();
        for _ in 0..8 {
            taken.push(seats.take(|| false).await.unwrap());
        }
        let (given, ()) = futures::join!(seats.take(|| false), async { drop(taken.pop()) });
        taken.push(given.unwrap());
        let (many, began) = (futures::future::join_all((0..5).map(|_| seats.take(|| false))).await, Instant::now());
        assert!(many.iter().all(Option::is_none), "two wait, the others do not, and all in vain");
        assert!(seats.take(|| false).await.is_none());
        assert!(began.elapsed() < Duration::from_millis(250), "now nobody waits any more");
        assert_eq!(seats.waiting.load(Ordering::Relaxed), 0);
        taken.clear();
        assert!(seats.take(|| false).await.is_some());
    }

    #[tokio::test]
    async fn what_matters_least_leaves_a_quarter_and_does_not_wait() {
        let seats = ConcurrencyLimiter::new(8, Duration::from_secs(60));
        let low = futures::future::join_all((0..8).map(|_| seats.take(|| true))).await;
        assert_eq!(low.iter().flatten().count(), 6);
        let others = futures::future::join_all((0..2).map(|_| seats.take(|| false))).await;
        assert_eq!(others.iter().flatten().count(), 2);
    }
}
