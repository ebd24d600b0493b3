//! Deadline of a connection for the next request's head, or for the end of its idle time.
//!
//! The deadline is one atomic number. The stream and the request phases move it; the listener awaits [`HeadDeadline::expired`]
//! beside the connection. The timer does not wake for each request, only once per the shorter of the two timeouts, so thousands
//! of connections stay cheap.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// At least one request is being served, and no head is pending.
const BUSY: u64 = u64::MAX;
/// Values from here on: the connection is idle between two requests.
const IDLE: u64 = 1 << 62;
/// Shortest idle timeout.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Which deadline expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The head of a request did not arrive in time.
    Head,
    /// The connection was idle for too long.
    Idle,
}

/// Deadline for the next head, or for an idle connection.
#[derive(Debug)]
pub(crate) struct HeadDeadline {
    started: Instant,
    head_timeout: Duration,
    check_interval: Duration,
    /// In milliseconds after `started`: the time when a head started; or [`BUSY`]; or [`IDLE`] plus the end of the idle time.
    state: AtomicU64,
}

impl HeadDeadline {
    /// Starts with a pending head. `idle_timeout` is the usual one; [`HeadDeadline::start_idle`] gets the one that applies.
    pub(crate) fn new(head_timeout: Duration, idle_timeout: Duration) -> Self {
        let check_interval = head_timeout.min(idle_timeout.max(MIN_IDLE_TIMEOUT));
        Self { started: Instant::now(), head_timeout, check_interval, state: AtomicU64::new(0) }
    }

    /// Records that the whole head has arrived.
    pub(crate) fn complete_head(&self) {
        self.state.store(BUSY, Ordering::Relaxed);
    }

    /// Records that the previous request is done. The next one has to start within `idle_timeout`.
    pub(super) fn start_idle(&self, idle_timeout: Duration) {
        let until = self.millis_since_start(Instant::now() + idle_timeout.max(MIN_IDLE_TIMEOUT));
        self.state.store(IDLE + until, Ordering::Relaxed);
    }

    /// Records that bytes arrived. On an idle connection they start a head; returns whether they did.
    pub(super) fn on_bytes(&self) -> bool {
        let begins = (IDLE..BUSY).contains(&self.state.load(Ordering::Relaxed));
        if begins {
            self.start_head();
        }
        begins
    }

    /// Records that a head starts now.
    pub(super) fn start_head(&self) {
        self.state.store(self.millis_since_start(Instant::now()), Ordering::Relaxed);
    }

    /// Whether a head has started and is incomplete.
    pub(super) fn is_head_pending(&self) -> bool {
        self.state.load(Ordering::Relaxed) < IDLE
    }

    /// Completes when the deadline has passed.
    pub(crate) async fn expired(&self) -> Expired {
        loop {
            let now = Instant::now();
            // A head or idle time that starts right now ends no earlier.
            let mut next = now + self.check_interval;
            let due = match self.state.load(Ordering::Relaxed) {
                BUSY => None,
                until @ IDLE.. => Some((Duration::from_millis(until - IDLE), Expired::Idle)),
                since => Some((Duration::from_millis(since) + self.head_timeout, Expired::Head)),
            };
            if let Some((due, what)) = due {
                let due = self.started + due;
                if due <= now {
                    return what;
                }
                next = next.min(due);
            }
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// Milliseconds between `started` and `then`.
    fn millis_since_start(&self, then: Instant) -> u64 {
        u64::try_from(then.duration_since(self.started).as_millis()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_millis(200);

    async fn has_expired_within(deadline: &HeadDeadline, factor: u32) -> bool {
        tokio::time::timeout(ALLOWED * factor, deadline.expired()).await == Ok(Expired::Head)
    }

    #[tokio::test]
    async fn head_deadline_starts_with_the_connection_and_with_each_first_byte() {
        let deadline = HeadDeadline::new(ALLOWED, ALLOWED);
        assert!(has_expired_within(&deadline, 100).await);
        deadline.complete_head();
        deadline.on_bytes();
        assert!(!has_expired_within(&deadline, 3).await, "a body is no head");
        deadline.start_idle(ALLOWED * 100);
        assert!(!has_expired_within(&deadline, 3).await, "nothing has begun");
        deadline.on_bytes();
        let began = Instant::now();
        assert!(has_expired_within(&deadline, 100).await);
        assert!(began.elapsed() >= ALLOWED, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn head_deadline_is_not_extended_by_further_bytes() {
        let deadline = HeadDeadline::new(ALLOWED, ALLOWED);
        let dripping = async {
            loop {
                deadline.on_bytes();
                tokio::time::sleep(ALLOWED / 8).await;
            }
        };
        tokio::select! {
            what = deadline.expired() => assert_eq!(what, Expired::Head),
            () = dripping => {}
            () = tokio::time::sleep(ALLOWED * 100) => panic!("never overdue"),
        }
    }
    #[tokio::test]
    async fn idle_deadline_follows_the_latest_timeout() {
        let deadline = HeadDeadline::new(ALLOWED * 100, ALLOWED);
        deadline.complete_head();
        deadline.start_idle(MIN_IDLE_TIMEOUT / 2);
        deadline.on_bytes();
        deadline.complete_head();
        deadline.start_idle(MIN_IDLE_TIMEOUT * 2);
        let began = Instant::now();
        assert_eq!(deadline.expired().await, Expired::Idle);
        assert!(began.elapsed() > MIN_IDLE_TIMEOUT, "{:?}", began.elapsed());
    }
}
