//! A rate limit per key.
//!
//! The number of keys is bounded, because clients choose them. Full buckets are evicted once a minute: a full bucket equals
//! none, and the keys of idle clients do not stay in memory. At the maximum the fuller half is evicted too, so an eviction can
//! only let a request pass. One lock guards all buckets. An eviction takes time in proportion to the number of keys.

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
/// Time between two evictions of full buckets. The first request after it evicts.
const EVICTION_INTERVAL: Duration = Duration::from_secs(60);

/// Token buckets by key. A clone shares the buckets.
///
/// Every call for one key must pass the same [`BucketConfig`], except for its reserve.
#[derive(Debug, Clone)]
pub struct KeyedRateLimiter<K>(Arc<Mutex<Buckets<K>>>);

#[derive(Debug)]
struct Buckets<K> {
    by_key: HashMap<K, TokenBucket>,
    max_keys: usize,
    next_eviction: Instant,
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
        let next_eviction = Instant::now() + EVICTION_INTERVAL;
        Self(Arc::new(Mutex::new(Buckets { by_key: HashMap::new(), max_keys, next_eviction })))
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

    /// Takes out as much as is refilled in `cost`: see [`TokenBucket::reserve`].
    ///
    /// # Errors
    /// The time until `cost` can be taken out.
    pub fn reserve(&self, key: &K, cost: Duration, limit: Duration) -> Result<Duration, Duration> {
        let now = Instant::now();
        self.0.lock().update(key, now, |bucket| bucket.reserve(cost, limit, now))
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
        if now >= self.next_eviction || (self.by_key.len() >= self.max_keys && !self.by_key.contains_key(key)) {
            self.evict(now);
        }
        change(self.by_key.entry(key.clone()).or_default())
    }

    /// Evicts the full buckets, and the fuller half at the maximum if that frees too little. So the next eviction is a minute or
    /// half of the maximum away.
    fn evict(&mut self, now: Instant) {
        let is_at_maximum = self.by_key.len() >= self.max_keys;
        self.by_key.retain(|_, bucket| !bucket.is_full(now));
        if is_at_maximum && self.by_key.len() > self.max_keys / 2 {
            let mut buckets: Vec<TokenBucket> = self.by_key.values().copied().collect();
            let middle = buckets.len() / 2;
            let median = *buckets.select_nth_unstable(middle).1;
            self.by_key.retain(|_, bucket| *bucket > median);
        }
        self.by_key.shrink_to(self.by_key.len() * 2);
        self.next_eviction = now + EVICTION_INTERVAL;
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
    fn full_buckets_are_evicted_within_a_minute() {
        let (limiter, start) = (KeyedRateLimiter::default(), Instant::now());
        let slow = BucketConfig { refill_interval: Duration::from_secs(120), ..CONFIG };
        for key in 1..=900 {
            assert_eq!(limiter.try_acquire_at(&key, CONFIG, 1, start), Ok(()));
        }
        assert_eq!(limiter.try_acquire_at(&0, slow, 3, start), Ok(()));
        assert_eq!(limiter.try_acquire_at(&1, CONFIG, 1, start + Duration::from_secs(61)), Ok(()));
        let buckets = limiter.0.lock();
        assert_eq!(buckets.by_key.len(), 2, "the exhausted bucket and the one in use");
        assert!(buckets.by_key.contains_key(&0) && buckets.by_key.capacity() < 100, "memory is freed");
    }

    #[test]
    fn full_buckets_are_evicted_before_the_maximum_is_reached() {
        let (limiter, start) = (KeyedRateLimiter::new(1_000_000), Instant::now());
        for key in 0..100_000 {
            assert_eq!(limiter.try_acquire_at(&key, CONFIG, 1, start + Duration::from_millis(key * 10)), Ok(()));
            // The keys of a minute, and those whose buckets are not full after it.
            assert!(limiter.0.lock().by_key.len() <= 7_001);
        }
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
