//! How long a connection has been owing a request's head.
//!
//! Owns one number that says since when. The stream and the phases of a request move it; whoever serves
//! the connection waits for [`HeadClock::overdue`] beside it. It never wakes for a request, only once
//! in the time that a head may take, so that thousands of connections cost no more than they should.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use pingora::protocols::http::ServerSession;

/// No head is owed: a request is being carried out.
const BUSY: u64 = u64::MAX;
/// No head is owed: the connection rests between two requests.
const RESTING: u64 = u64::MAX - 1;

/// Since when the head of a request is owed.
#[derive(Debug)]
pub(crate) struct HeadClock {
    began: Instant,
    allowed: Duration,
    /// Milliseconds after `began`, or [`BUSY`], or [`RESTING`].
    since: AtomicU64,
}

impl HeadClock {
    /// A connection that begins now and owes its first head within `allowed`.
    pub(crate) fn new(allowed: Duration) -> Self {
        Self { began: Instant::now(), allowed, since: AtomicU64::new(0) }
    }

    /// The clock of the HTTP/1.1 connection that a request came by. In HTTP/2 the frames themselves
    /// say when a head begins and ends, and other requests are under way beside this one.
    pub(crate) fn of(session: &ServerSession) -> Option<&Self> {
        session.as_http1()?;
        let carried = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
        carried.downcast_ref::<Arc<Self>>().map(Arc::as_ref)
    }

    /// The whole head is there.
    pub(crate) fn head_arrived(&self) {
        self.since.store(BUSY, Ordering::Relaxed);
    }

    /// The request before, if there was one, is done.
    pub(crate) fn request_done(&self) {
        if self.since.load(Ordering::Relaxed) == BUSY {
            self.rest();
        }
    }

    /// The next head may take its time to begin.
    pub(super) fn rest(&self) {
        self.since.store(RESTING, Ordering::Relaxed);
    }

    /// Bytes arrived: the beginning of a head, if the connection was resting. Says whether it was.
    pub(super) fn bytes_arrived(&self) -> bool {
        let begins = self.since.load(Ordering::Relaxed) == RESTING;
        if begins {
            self.begin();
        }
        begins
    }

    /// The beginning of a head arrived.
    pub(super) fn begin(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(0);
        self.since.store(now, Ordering::Relaxed);
    }

    /// Whether a head is owed.
    pub(super) fn is_head_owed(&self) -> bool {
        self.since.load(Ordering::Relaxed) < RESTING
    }

    /// Completes when a head has been owed for longer than allowed.
    pub(crate) async fn overdue(&self) {
        loop {
            let since = self.since.load(Ordering::Relaxed);
            // A head that begins right now is due no earlier than this.
            let mut due = Instant::now() + self.allowed;
            if since < RESTING {
                due = self.began + Duration::from_millis(since) + self.allowed;
                if due <= Instant::now() {
                    return;
                }
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_millis(200);

    async fn is_overdue_within(clock: &HeadClock, factor: u32) -> bool {
        tokio::time::timeout(ALLOWED * factor, clock.overdue()).await.is_ok()
    }

    #[tokio::test]
    async fn a_head_is_owed_from_the_beginning_and_from_its_first_byte() {
        let clock = HeadClock::new(ALLOWED);
        assert!(is_overdue_within(&clock, 100).await);
        clock.head_arrived();
        clock.bytes_arrived();
        assert!(!is_overdue_within(&clock, 3).await, "a body is no head");
        clock.request_done();
        assert!(!is_overdue_within(&clock, 3).await, "nothing has begun");
        clock.bytes_arrived();
        let began = Instant::now();
        assert!(is_overdue_within(&clock, 100).await);
        assert!(began.elapsed() >= ALLOWED, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn further_bytes_give_no_further_time() {
        let clock = HeadClock::new(ALLOWED);
        let dripping = async {
            loop {
                clock.bytes_arrived();
                tokio::time::sleep(ALLOWED / 8).await;
            }
        };
        tokio::select! {
            () = clock.overdue() => {}
            () = dripping => {}
            () = tokio::time::sleep(ALLOWED * 100) => panic!("never overdue"),
        }
    }
}
