//! Local permits for SLAS calls, leased from the rate limit shared by all replicas.
//!
//! A call takes a permit without accessing the session store. If none is left, it waits until the refill task answers
//! [`PermitLease::next_refill_request`] by [`PermitLease::refill`] or [`PermitLease::deny`]. Permits expire: many gateways that
//! kept unused permits could otherwise exceed the shared limit later.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::call::Priority;

/// Time until leased permits expire.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// Maximum wait for a refill.
const WAIT_TIMEOUT: Duration = Duration::from_millis(500);
/// Retry time if no refill came in time.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Leased permits, by priority.
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
    /// Whether a refill was requested and has not arrived.
    refill_requested: bool,
    denied_until: Option<Instant>,
}

const PRIORITIES: [Priority; 5] =
    [Priority::Login, Priority::Refresh, Priority::ForwardedLogin, Priority::Forwarded, Priority::BackgroundRefresh];

/// Returns the index of a priority. Calls without a rate limit never take a permit.
fn index_of(priority: Priority) -> usize {
    PRIORITIES.iter().position(|own| *own == priority).unwrap_or(0)
}

impl Default for PermitLease {
    fn default() -> Self {
        Self { permits: Mutex::default(), refilled: watch::Sender::new(()), refill_wanted: Notify::new() }
    }
}

impl PermitLease {
    /// Takes one permit. Waits briefly for a refill if none is left.
    ///
    /// # Errors
    /// The time to wait, if the shared rate limit is exhausted or no refill came in time.
    pub(super) async fn acquire(&self, priority: Priority) -> Result<(), Duration> {
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

    /// Waits for the next priority that needs permits.
    pub async fn next_refill_request(&self) -> Priority {
        loop {
            let requested = self.permits.lock().iter().position(|own| own.refill_requested);
            match requested {
                Some(index) => return PRIORITIES[index],
                None => self.refill_wanted.notified().await,
            }
        }
    }

    /// Replaces the permits of a priority by `calls` new ones.
    pub fn refill(&self, priority: Priority, calls: u32) {
        let expires_at = Some(Instant::now() + LEASE_TTL);
        self.permits.lock()[index_of(priority)] =
            PriorityPermits { calls, expires_at, refill_requested: false, denied_until: None };
        self.refilled.send_replace(());
    }

    /// Rejects calls of a priority until `wait` has passed.
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
    async fn permits_are_shared_and_denied_calls_get_the_wait() {
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
        let taken = futures::future::join_all((0..40).map(|_| lease.acquire(Priority::Login))).await;
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 30);
        let waits: Vec<_> = taken.into_iter().filter_map(Result::err).collect();
        assert!(waits.iter().all(|wait| *wait > Duration::from_secs(5)), "{waits:?}");
    }

    #[tokio::test]
    async fn permits_are_separate_by_priority_and_waits_end() {
        let lease = PermitLease::default();
        lease.refill(Priority::Login, 1);
        assert_eq!(lease.acquire(Priority::BackgroundRefresh).await, Err(DEFAULT_RETRY_AFTER));
        assert_eq!(lease.acquire(Priority::Login).await, Ok(()));
    }
}
