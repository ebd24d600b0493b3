//! A request in the count of one key of a rate limit.

use std::time::Duration;

use crate::ratelimit::{BucketConfig, KeyedRateLimiter};

/// A request in the count of one key. Dropping it leaves the request counted.
#[derive(Debug)]
#[must_use = "a request that is not given back stays counted"]
pub(super) struct Count {
    limiter: KeyedRateLimiter<[u8; 32]>,
    key: [u8; 32],
    config: BucketConfig,
    amount: u32,
}

impl Count {
    /// Counts a request as `amount` of a key that may have `per_minute`.
    ///
    /// # Errors
    /// The time until the request is allowed.
    pub(super) fn acquire(
        limiter: &KeyedRateLimiter<[u8; 32]>,
        key: [u8; 32],
        per_minute: u32,
        amount: u32,
    ) -> Result<Self, Duration> {
        let config = BucketConfig::per_minute(per_minute);
        limiter.try_acquire(&key, config, amount)?;
        Ok(Self { limiter: limiter.clone(), key, config, amount })
    }

    /// Takes the request out of the count.
    pub(super) fn give_back(self) {
        self.limiter.refund(&self.key, self.config, self.amount);
    }
}
