//! How long a connection has been owing a request's head, or has rested since the request before.
//!
//! Owns one number that says since when, or until when. The stream and the phases of a request move it; whoever serves
//! the connection waits for [`HeadClock::overdue`] beside it. It never wakes for a request, only once
//! in the shorter of the two times, so that thousands of connections cost no more than they should.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// No head is owed: a request is being carried out, or many are.
const BUSY: u64 = u64::MAX;
/// From here on no head is owed: the connection rests between two requests.
const RESTING: u64 = 1 << 62;
/// A rest that is allowed at all.
const SHORTEST_REST: Duration = Duration::from_secs(1);

/// What a connection has taken too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The head of a request that it owes.
    Head,
    /// The beginning of the next request.
    Rest,
}

/// Since when the head of a request is owed, or until when the connection may rest.
#[derive(Debug)]
pub(crate) struct HeadClock {
    began: Instant,
    allowed: Duration,
    pace: Duration,
    /// Milliseconds after `began` since which a head is owed; or [`BUSY`]; or [`RESTING`] and the milliseconds after
    /// `began` until which it may.
    state: AtomicU64,
}

impl HeadClock {
    /// A connection that begins now, owes its first head within `allowed`, and may usually rest for `rest`.
    pub(crate) fn new(allowed: Duration, rest: Duration) -> Self {
        let pace = allowed.min(rest.max(SHORTEST_REST));
        Self { began: Instant::now(), allowed, pace, state: AtomicU64::new(0) }
    }

    /// The whole head is there.
    pub(crate) fn head_arrived(&self) {
        self.state.store(BUSY, Ordering::Relaxed);
    }

    /// The request before is done, and the next may take this long to begin.
    pub(super) fn rest(&self, at_most: Duration) {
        let until = self.after_began(Instant::now() + at_most.max(SHORTEST_REST));
        self.state.store(RESTING + until, Ordering::Relaxed);
    }

    /// Bytes arrived: the beginning of a head, if the connection was resting. Says whether it was.
    pub(super) fn bytes_arrived(&self) -> bool {
        let begins = (RESTING..BUSY).contains(&self.state.load(Ordering::Relaxed));
        if begins {
            self.begin();
        }
        begins
    }

    /// The beginning of a head arrived.
    pub(super) fn begin(&self) {
        self.state.store(self.after_began(Instant::now()), Ordering::Relaxed);
    }

    /// Whether a head is owed.
    pub(super) fn is_head_owed(&self) -> bool {
        self.state.load(Ordering::Relaxed) < RESTING
    }

    /// Completes when a head has been owed for longer than allowed, or a rest has been too long.
    pub(crate) async fn overdue(&self) -> Overdue {
        loop {
            let now = Instant::now();
            // What begins right now is due no earlier than this.
            let mut next = now + self.pace;
            let due = match self.state.load(Ordering::Relaxed) {
                BUSY => None,
                until @ RESTING.. => Some((Duration::from_millis(until - RESTING), Overdue::Rest)),
                since => Some((Duration::from_millis(since) + self.allowed, Overdue::Head)),
            };
            if let Some((due, what)) = due {
                let due = self.began + due;
                if due <= now {
                    return what;
                }
                next = next.min(due);
            }
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// Milliseconds.
    fn after_began(&self, then: Instant) -> u64 {
        u64::try_from(then.duration_since(self.began).as_millis()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_millis(200);

    async fn is_overdue_within(clock: &HeadClock, factor: u32) -> bool {
        tokio::time::timeout(ALLOWED * factor, clock.overdue()).await == Ok(Overdue::Head)
    }

    #[tokio::test]
    async fn a_head_is_owed_from_the_beginning_and_from_its_first_byte() {
        let clock = HeadClock::new(ALLOWED, ALLOWED);
        assert!(is_overdue_within(&clock, 100).await);
        clock.head_arrived();
        clock.bytes_arrived();
        assert!(!is_overdue_within(&clock, 3).await, "a body is no head");
        clock.rest(ALLOWED * 100);
        assert!(!is_overdue_within(&clock, 3).await, "nothing has begun");
        clock.bytes_arrived();
        let began = Instant::now();
        assert!(is_overdue_within(&clock, 100).await);
        assert!(began.elapsed() >= ALLOWED, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn further_bytes_give_no_further_time() {
        let clock = HeadClock::new(ALLOWED, ALLOWED);
        let dripping = async {
            loop {
                clock.bytes_arrived();
                tokio::time::sleep(ALLOWED / 8).await;
            }
        };
        tokio::select! {
            what = clock.overdue() => assert_eq!(what, Overdue::Head),
            () = dripping => {}
            () = tokio::time::sleep(ALLOWED * 100) => panic!("never overdue"),
        }
    }
    #[tokio::test]
    async fn a_rest_is_as_long_as_the_last_one_may_be() {
        let clock = HeadClock::new(ALLOWED * 100, ALLOWED);
        clock.head_arrived();
        clock.rest(SHORTEST_REST / 2);
        clock.bytes_arrived();
        clock.head_arrived();
        clock.rest(SHORTEST_REST * 2);
        let began = Instant::now();
        assert_eq!(clock.overdue().await, Overdue::Rest);
        assert!(began.elapsed() > SHORTEST_REST, "{:?}", began.elapsed());
    }
}
