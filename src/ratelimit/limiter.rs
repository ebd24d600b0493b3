//! A rate limit shared by the threads of one process.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::token_bucket::{BucketConfig, TokenBucket};

/// One token bucket behind a lock.
#[derive(Debug)]
pub struct RateLimiter {
    config: BucketConfig,
    bucket: Mutex<TokenBucket>,
}

impl RateLimiter {
    /// A limiter with a full bucket.
    #[must_use]
    pub fn new(config: BucketConfig) -> Self {
        Self { config, bucket: Mutex::default() }
    }

    /// Acquires one token.
    ///
    /// # Errors
    /// The time until a token is available.
    pub fn try_acquire(&self) -> Result<(), Duration> {
        self.try_acquire_at(Instant::now())
    }

    /// [`RateLimiter::try_acquire`] at a given time.
    pub(crate) fn try_acquire_at(&self, now: Instant) -> Result<(), Duration> {
        self.bucket.lock().try_acquire(self.config, 1, now)
    }
}
