//! How long a connection has been owing a request's head, or has rested since the request before.
//!
//! Owns one number that says since when, or until when. The stream and the phases of a request move it; whoever serves
//! the connection waits for [`HeadDeadline::expired`] beside it. It never wakes for a request, only once
//! in the shorter of the two times, so that thousands of connections cost no more than they should.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// No head is owed: a request is being carried out, or many are.
const BUSY: u64 = u64::MAX;
/// From here on no head is owed: the connection rests between two requests.
const IDLE: u64 = 1 << 62;
/// A rest that is allowed at all.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection has taken too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The head of a request that it owes.
    Head,
    /// The beginning of the next request.
    Idle,
}

/// Since when the head of a request is owed, or until when the connection may rest.
#[derive(Debug)]
pub(crate) struct HeadDeadline {
    started: Instant,
    head_timeout: Duration,
    check_interval: Duration,
    /// Milliseconds after `began` since which a head is owed; or [`BUSY`]; or [`IDLE`] and the milliseconds after
    /// `began` until which it may.
    state: AtomicU64,
}

impl HeadDeadline {
    /// A connection that begins now, owes its first head within `allowed`, and may usually rest for `rest`.
    pub(crate) fn new(head_timeout: Duration, idle_timeout: Duration) -> Self {
        let check_interval = head_timeout.min(idle_timeout.max(MIN_IDLE_TIMEOUT));
        Self { started: Instant::now(), head_timeout, check_interval, state: AtomicU64::new(0) }
    }

    /// The whole head is there.
    pub(crate) fn complete_head(&self) {
        self.state.store(BUSY, Ordering::Relaxed);
    }

    /// The request before is done, and the next may take this long to begin.
    pub(super) fn start_idle(&self, idle_timeout: Duration) {
        let until = self.millis_since_start(Instant::now() + idle_timeout.max(MIN_IDLE_TIMEOUT));
        self.state.store(IDLE + until, Ordering::Relaxed);
    }

    /// Bytes arrived: the beginning of a head, if the connection was resting. Says whether it was.
    pub(super) fn on_bytes(&self) -> bool {
        let begins = (IDLE..BUSY).contains(&self.state.load(Ordering::Relaxed));
        if begins {
            self.start_head();
        }
        begins
    }

    /// The beginning of a head arrived.
    pub(super) fn start_head(&self) {
        self.state.store(self.millis_since_start(Instant::now()), Ordering::Relaxed);
    }

    /// Whether a head is owed.
    pub(super) fn is_head_pending(&self) -> bool {
        self.state.load(Ordering::Relaxed) < IDLE
    }

    /// Completes when a head has been owed for longer than allowed, or a rest has been too long.
    pub(crate) async fn expired(&self) -> Expired {
        loop {
            let now = Instant::now();
            // What begins right now is due no earlier than this.
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

    /// Milliseconds.
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
