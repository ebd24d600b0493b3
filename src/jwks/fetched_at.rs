//! The time at which a key set was fetched from its issuer, in this process or another one.

use std::time::{Duration, Instant};

use crate::time::unix_now_ms;

/// The furthest future, in ms, in which a persisted fetch may lie: the clock may have been set back since then.
const MAX_CLOCK_SETBACK_MS: u64 = 2 * 60 * 60 * 1000;

/// The time of a fetch. Within a process the age is measured by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct FetchedAt {
    /// Milliseconds since 1970: two replicas may fetch within one second.
    pub(super) unix_ms: u64,
    age: Duration,
    since: Instant,
}

impl FetchedAt {
    pub(super) fn now() -> Self {
        Self { unix_ms: unix_now_ms(), age: Duration::ZERO, since: Instant::now() }
    }

    /// A fetch of another process, which keeps its age. `None` if it lies in the future.
    pub(super) fn from_unix_ms(unix_ms: u64) -> Option<Self> {
        let now = unix_now_ms();
        let age = Duration::from_millis(now.saturating_sub(unix_ms));
        (unix_ms <= now.saturating_add(MAX_CLOCK_SETBACK_MS)).then(|| Self { unix_ms, age, since: Instant::now() })
    }

    /// Seconds since 1970.
    pub(super) fn unix_seconds(&self) -> u64 {
        self.unix_ms / 1000
    }

    pub(super) fn age(&self) -> Duration {
        self.age + self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_fetch_keeps_its_age() {
        let now = unix_now_ms();
        assert!(FetchedAt::from_unix_ms(now - 100_000).unwrap().age() >= Duration::from_secs(100));
        assert!(FetchedAt::from_unix_ms(now + MAX_CLOCK_SETBACK_MS).is_some());
        assert!(FetchedAt::from_unix_ms(now + MAX_CLOCK_SETBACK_MS + 60_000).is_none());
        assert!(FetchedAt::from_unix_ms(u64::MAX).is_none());
    }
}
