//! The calls to SLAS that this gateway has in hand, out of the budget that it shares with others.
//!
//! Owns the counting in this process: nothing here asks a store, so that no exchange waits for one but when the hand is
//! refill_wanted. Whoever fills it ([`PermitLease::wanted`], [`PermitLease::put`], [`PermitLease::nothing`]) owns the budget. What is in hand is
//! lost after a while: hoarded by many gateways, it would be spent above the limit one day.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::call::Priority;

/// How long calls in hand are good.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// Longest wait for the lease to be refilled.
const WAIT_TIMEOUT: Duration = Duration::from_millis(500);
/// What to wait when nobody filled it in time.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Calls in hand, for each priority.
#[derive(Debug)]
pub struct PermitLease {
    permits: Mutex<[PriorityPermits; PRIORITIES.len()]>,
    refilled: watch::Sender<()>,
    refill_wanted: Notify,
}

#[derive(Debug, Default)]
struct PriorityPermits {
    calls: u32,
    expires_at: Option<Instant>,
    /// Whether the filler was asked, and has not answered.
    refill_requested: bool,
    denied_until: Option<Instant>,
}

const PRIORITIES: [Priority; 5] =
    [Priority::Login, Priority::Refresh, Priority::ForwardedLogin, Priority::Forwarded, Priority::BackgroundRefresh];

/// Which hand; what is not budgeted never comes here.
fn index_of(priority: Priority) -> usize {
    PRIORITIES.iter().position(|own| *own == priority).unwrap_or(0)
}

impl Default for PermitLease {
    fn default() -> Self {
        Self { permits: Mutex::default(), refilled: watch::Sender::new(()), refill_wanted: Notify::new() }
    }
}

impl PermitLease {
    /// Takes one call out, waiting a moment for more where the hand is refill_wanted.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) async fn take(&self, priority: Priority) -> Result<(), Duration> {
        let mut refilled = self.refilled.subscribe();
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        loop {
            {
                let (mut permits, now) = (self.permits.lock(), Instant::now());
                let own = &mut permits[index_of(priority)];
                if own.calls > 0 && own.expires_at.is_some_and(|until| until > now) {
                    own.calls -= 1;
                    return Ok(());
                }
                if let Some(wait) = own.denied_until.and_then(|time| time.checked_duration_since(now)) {
                    return Err(wait);
                }
                own.refill_requested = true;
            }
            self.refill_wanted.notify_one();
            if !matches!(tokio::time::timeout_at(deadline, refilled.changed()).await, Ok(Ok(()))) {
                return Err(DEFAULT_RETRY_AFTER);
            }
        }
    }

    /// The next class that has nothing in hand and wants some.
    pub async fn next_refill_request(&self) -> Priority {
        loop {
            let requested = self.permits.lock().iter().position(|own| own.refill_requested);
            match requested {
                Some(index) => return PRIORITIES[index],
                None => self.refill_wanted.notified().await,
            }
        }
    }

    /// Puts calls into a class's hand.
    pub fn refill(&self, priority: Priority, calls: u32) {
        let expires_at = Some(Instant::now() + LEASE_TTL);
        self.permits.lock()[index_of(priority)] =
            PriorityPermits { calls, expires_at, refill_requested: false, denied_until: None };
        self.refilled.send_replace(());
    }

    /// There is nothing for a class before this time has passed.
    pub fn deny(&self, priority: Priority, wait: Duration) {
        let denied_until = Some(Instant::now() + wait);
        self.permits.lock()[index_of(priority)] = PriorityPermits { denied_until, ..PriorityPermits::default() };
        self.refilled.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn many_share_what_is_put_in_and_the_rest_learns_how_long_to_wait() {
        let lease = Arc::new(PermitLease::default());
        let filler = Arc::clone(&lease);
        tokio::spawn(async move {
            for _ in 0..3 {
                assert_eq!(filler.next_refill_request().await, Priority::Login);
                filler.refill(Priority::Login, 10);
            }
            assert_eq!(filler.next_refill_request().await, Priority::Login);
            filler.deny(Priority::Login, Duration::from_secs(9));
        });
        let taken = futures::future::join_all((0..40).map(|_| lease.take(Priority::Login))).await;
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 30);
        let waits: Vec<_> = taken.into_iter().filter_map(Result::err).collect();
        assert!(waits.iter().all(|wait| *wait > Duration::from_secs(5)), "{waits:?}");
    }

    #[tokio::test]
    async fn each_class_has_its_own_and_nobody_waits_for_ever() {
        let lease = PermitLease::default();
        lease.refill(Priority::Login, 1);
        assert_eq!(lease.take(Priority::BackgroundRefresh).await, Err(DEFAULT_RETRY_AFTER));
        assert_eq!(lease.take(Priority::Login).await, Ok(()));
    }
}
