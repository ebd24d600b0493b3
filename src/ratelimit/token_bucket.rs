//! A token bucket, stored as one instant.
//!
//! The algorithm is the generic cell rate algorithm: the bucket stores the time at which it is full again, so it needs no
//! background refill.

use std::time::{Duration, Instant};

/// The capacity of a bucket and its refill rate. In any time `t`, callers acquire at most `capacity + t / refill_interval`
/// tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// The number of tokens in a full bucket, which may be acquired at once.
    pub capacity: u32,
    /// The time in which one token is refilled.
    pub refill_interval: Duration,
}

impl BucketConfig {
    /// A bucket that holds and refills this number of tokens per second.
    #[must_use]
    pub fn per_second(tokens: u32) -> Self {
        Self { capacity: tokens, refill_interval: Duration::from_secs(1) / tokens.max(1) }
    }

    /// A bucket that holds and refills this number of tokens per minute.
    #[must_use]
    pub fn per_minute(tokens: u32) -> Self {
        Self { capacity: tokens, refill_interval: Duration::from_secs(60) / tokens.max(1) }
    }

    /// The same bucket for callers that must leave a reserve of tokens.
    #[must_use]
    pub fn with_reserve(self, tokens: u32) -> Self {
        Self { capacity: self.capacity.saturating_sub(tokens), ..self }
    }

    /// The time in which this number of tokens is refilled.
    #[must_use]
    pub fn refill_time(self, tokens: u32) -> Duration {
        self.refill_interval.saturating_mul(tokens)
    }

    /// The time in which an empty bucket is refilled.
    #[must_use]
    pub fn full_refill_time(self) -> Duration {
        self.refill_time(self.capacity)
    }
}

/// The fill level of one bucket. A new bucket is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenBucket {
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Whether the bucket is full.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }

    /// Checks that tokens are available, without acquiring them.
    ///
    /// # Errors
    /// The time until they are available.
    pub fn check(&self, config: BucketConfig, tokens: u32, now: Instant) -> Result<(), Duration> {
        let mut copy = *self;
        copy.try_acquire(config, tokens, now)
    }

    /// Acquires tokens: all of them or none.
    ///
    /// # Errors
    /// The time until they are available.
    pub fn try_acquire(&mut self, config: BucketConfig, tokens: u32, now: Instant) -> Result<(), Duration> {
        self.reserve(config.refill_time(tokens), config.full_refill_time(), now).map(|_| ())
    }

    /// Takes out as much as is refilled in `cost`, if at most `limit` is missing then. Returns the refill time of what was
    /// missing before.
    ///
    /// # Errors
    /// The time until `cost` can be taken out.
    pub fn reserve(&mut self, cost: Duration, limit: Duration, now: Instant) -> Result<Duration, Duration> {
        let missing = self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        match (missing + cost).saturating_sub(limit) {
            Duration::ZERO => {
                self.full_at = Some(now + missing + cost);
                Ok(missing)
            }
            wait => Err(wait),
        }
    }

    /// Takes tokens out even if they are not available. Later callers wait until the debt is refilled.
    pub fn debit(&mut self, config: BucketConfig, tokens: u32, now: Instant) {
        // Without a limit, the bucket always has enough.
        let _ = self.reserve(config.refill_time(tokens), Duration::MAX, now);
    }

    /// Puts tokens back.
    pub fn refund(&mut self, config: BucketConfig, tokens: u32) {
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(config.refill_time(tokens)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BucketConfig = BucketConfig { capacity: 3, refill_interval: Duration::from_secs(10) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn bucket_grants_its_capacity_and_refills() {
        let (mut bucket, start) = (TokenBucket::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(bucket.try_acquire(CONFIG, 1, start), Ok(()));
        }
        assert_eq!(bucket.try_acquire(CONFIG, 1, start), Err(seconds(10)));
        assert_eq!(bucket.try_acquire(CONFIG, 1, start + seconds(4)), Err(seconds(6)));
        assert_eq!(bucket.try_acquire(CONFIG, 1, start + seconds(10)), Ok(()));
        assert_eq!(bucket.try_acquire(CONFIG, 2, start + seconds(25)), Err(seconds(5)));
        assert_eq!(bucket.try_acquire(CONFIG, 3, start + seconds(1000)), Ok(()), "never more than the capacity");
        assert_eq!(bucket.try_acquire(CONFIG, 1, start + seconds(1000)), Err(seconds(10)));
    }

    #[test]
    fn reserve_is_left_for_other_callers() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        assert_eq!(bucket.try_acquire(CONFIG.with_reserve(2), 1, now), Ok(()));
        assert_eq!(bucket.try_acquire(CONFIG.with_reserve(2), 1, now), Err(seconds(10)));
        assert_eq!(bucket.try_acquire(CONFIG, 2, now), Ok(()), "the reserve is there for others");
    }

    #[test]
    fn debit_of_an_empty_bucket_delays_later_callers() {
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        bucket.debit(CONFIG, 4, now);
        assert_eq!(bucket.check(CONFIG, 1, now), Err(seconds(20)));
        bucket.refund(CONFIG, 2);
        assert_eq!(bucket.check(CONFIG, 1, now), Ok(()));
        assert!(!bucket.is_full(now + seconds(19)) && bucket.is_full(now + seconds(20)));
    }
}
