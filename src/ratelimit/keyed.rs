//! A rate limit per key.
//!
//! The number of keys is bounded, because clients choose them. Full buckets are evicted first, then those nearest to full,
//! so an eviction can only let a request pass. One lock guards all buckets. An eviction costs time in proportion to the
//! number of keys and frees at least half of them, so its cost per request is constant.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::token_bucket::{BucketConfig, TokenBucket};

/// Maximum keys of a limiter by default.
const MAX_KEYS: usize = 100_000;
/// The number of keys from which on full buckets are evicted.
const MIN_EVICTION_SIZE: usize = 1024;

/// Token buckets by key. A clone shares the buckets.
///
/// Every call for one key must pass the same [`BucketConfig`], except for its reserve.
#[derive(Debug, Clone)]
pub struct KeyedRateLimiter<K>(Arc<Mutex<Buckets<K>>>);

#[derive(Debug)]
struct Buckets<K> {
    by_key: HashMap<K, TokenBucket>,
    max_keys: usize,
    /// The number of keys at which the next eviction takes place.
    eviction_size: usize,
}

impl<K: Hash + Eq + Clone> Default for KeyedRateLimiter<K> {
    fn default() -> Self {
        Self::new(MAX_KEYS)
    }
}

impl<K: Hash + Eq + Clone> KeyedRateLimiter<K> {
    /// A limiter with a full bucket for every key, which stores at most `max_keys` buckets.
    #[must_use]
    pub fn new(max_keys: usize) -> Self {
        let eviction_size = MIN_EVICTION_SIZE.min(max_keys);
        Self(Arc::new(Mutex::new(Buckets { by_key: HashMap::new(), max_keys, eviction_size })))
    }

    /// Whether the key's bucket is full.
    pub fn is_full(&self, key: &K) -> bool {
        self.0.lock().get(key).is_full(Instant::now())
    }

    /// Checks that a token is available, without acquiring it.
    ///
    /// # Errors
    /// The time until a token is available.
    pub fn check(&self, key: &K, config: BucketConfig) -> Result<(), Duration> {
        self.0.lock().get(key).check(config, 1, Instant::now())
    }

    /// Acquires tokens: all of them or none.
    ///
    /// # Errors
    /// The time until they are available.
    pub fn try_acquire(&self, key: &K, config: BucketConfig, tokens: u32) -> Result<(), Duration> {
        self.try_acquire_at(key, config, tokens, Instant::now())
    }

    /// [`KeyedRateLimiter::try_acquire`] at a given time.
    pub(crate) fn try_acquire_at(
        &self,
        key: &K,
        config: BucketConfig,
        tokens: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        self.0.lock().update(key, now, |bucket| bucket.try_acquire(config, tokens, now))
    }

    /// Takes one token out even if none is available.
    pub fn debit(&self, key: &K, config: BucketConfig) {
        let now = Instant::now();
        self.0.lock().update(key, now, |bucket| bucket.debit(config, 1, now));
    }

    /// Puts acquired tokens back.
    pub fn refund(&self, key: &K, config: BucketConfig, tokens: u32) {
        if let Some(bucket) = self.0.lock().by_key.get_mut(key) {
            bucket.refund(config, tokens);
        }
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn get(&self, key: &K) -> TokenBucket {
        self.by_key.get(key).copied().unwrap_or_default()
    }

    fn update<T>(&mut self, key: &K, now: Instant, change: impl FnOnce(&mut TokenBucket) -> T) -> T {
        if let Some(bucket) = self.by_key.get_mut(key) {
            return change(bucket);
        }
        if self.by_key.len() >= self.eviction_size {
            self.evict(now);
        }
        change(self.by_key.entry(key.clone()).or_default())
    }

    /// Evicts the full buckets, and the fuller half if that frees too little.
    fn evict(&mut self, now: Instant) {
        self.by_key.retain(|_, bucket| !bucket.is_full(now));
        if self.eviction_size == self.max_keys && self.by_key.len() > self.max_keys / 2 {
            let mut buckets: Vec<TokenBucket> = self.by_key.values().copied().collect();
            let middle = buckets.len() / 2;
            let median = *buckets.select_nth_unstable(middle).1;
            self.by_key.retain(|_, bucket| *bucket > median);
        }
        self.eviction_size = (self.by_key.len() * 2).max(MIN_EVICTION_SIZE).min(self.max_keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BucketConfig = BucketConfig { capacity: 3, refill_interval: Duration::from_secs(10) };

    #[test]
    fn key_flood_is_bounded_and_evicts_exhausted_buckets_last() {
        let limiter = KeyedRateLimiter::new(10_000);
        assert_eq!(limiter.try_acquire(&u32::MAX, CONFIG, 3), Ok(()));
        for key in 0..50_000 {
            assert_eq!(limiter.try_acquire(&key, CONFIG, 1), Ok(()));
            assert!(limiter.0.lock().by_key.len() <= 10_000);
        }
        assert!(limiter.try_acquire(&u32::MAX, CONFIG, 1).is_err());
    }

    #[test]
    fn full_buckets_are_evicted_before_the_maximum_is_reached() {
        let (limiter, start) = (KeyedRateLimiter::new(1_000_000), Instant::now());
        for key in 0..100_000 {
            assert_eq!(limiter.try_acquire_at(&key, CONFIG, 1, start + Duration::from_millis(key * 10)), Ok(()));
        }
        assert!(limiter.0.lock().by_key.len() <= 2 * MIN_EVICTION_SIZE);
    }

    #[test]
    fn key_gets_its_minute_at_once_and_then_waits() {
        let (limiter, config) = (KeyedRateLimiter::new(10), BucketConfig::per_minute(60));
        assert_eq!((0..200).filter(|_| limiter.try_acquire(&1, config, 1).is_ok()).count(), 60);
        let wait = limiter.try_acquire(&1, config, 10).unwrap_err();
        assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
        limiter.refund(&1, config, 1);
        assert!(limiter.try_acquire(&1, config, 1).is_ok() && limiter.try_acquire(&1, config, 1).is_err());
        assert_eq!((0..200).filter(|_| limiter.try_acquire(&2, config, 2).is_ok()).count(), 30);
        assert!(limiter.try_acquire(&3, config, 61).is_err(), "more than a minute has");
    }

    #[test]
    fn key_is_granted_a_burst_and_then_single_tokens() {
        let config = BucketConfig { capacity: 3, refill_interval: Duration::from_millis(200) };
        let limiter = KeyedRateLimiter::new(10);
        assert!(limiter.is_full(&"a"));
        for _ in 0..3 {
            assert_eq!(limiter.check(&"a", config), Ok(()));
            limiter.debit(&"a", config);
        }
        assert!(!limiter.is_full(&"a"));
        let wait = limiter.check(&"a", config).unwrap_err();
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
        assert_eq!(limiter.check(&"b", config), Ok(()), "each key has a bucket of its own");
        std::thread::sleep(wait + Duration::from_millis(5));
        assert_eq!(limiter.check(&"a", config), Ok(()));
    }
}
