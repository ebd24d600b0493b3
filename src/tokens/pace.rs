//! Pace: so many at once, and then one each so often, for each of many.
//!
//! Owns the counting. What is counted, and what happens to whoever is too fast, is the owner's affair. Bounded: beyond
//! the capacity the least used is forgotten, which can only let somebody pass.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use moka::sync::Cache;

/// Most that are counted at a time.
const CAPACITY: u64 = 100_000;

/// How fast each of many may be (a leaky bucket: what leaks is one each `each`).
#[derive(Debug)]
pub struct Pace<K: Hash + Eq + Send + Sync + 'static> {
    /// When each bucket will have run empty.
    empty_at: Cache<K, Instant>,
    burst: Duration,
    each: Duration,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Pace<K> {
    /// `at_once` of them, then one each `each`.
    #[must_use]
    pub fn new(at_once: u32, each: Duration) -> Self {
        Self::with_capacity(at_once, each, CAPACITY)
    }

    /// The same for at most `capacity` at a time.
    #[must_use]
    pub fn with_capacity(at_once: u32, each: Duration, capacity: u64) -> Self {
        let burst = each * at_once;
        Self { empty_at: Cache::builder().max_capacity(capacity).time_to_idle(burst.max(each)).build(), burst, each }
    }

    /// Whether nothing is counted of this one at the moment.
    pub fn is_unused(&self, who: &K) -> bool {
        self.empty_at.get(who).is_none_or(|empty_at| empty_at <= Instant::now())
    }

    /// Whether another one may come now.
    ///
    /// # Errors
    /// How long to wait.
    pub fn may(&self, who: &K) -> Result<(), Duration> {
        let Some(empty_at) = self.empty_at.get(who) else { return Ok(()) };
        let level = empty_at.saturating_duration_since(Instant::now()) + self.each;
        if level <= self.burst { Ok(()) } else { Err(level - self.burst) }
    }

    /// Counts one that may come.
    ///
    /// # Errors
    /// How long to wait; nothing is counted then.
    pub fn take(&self, who: &K) -> Result<(), Duration> {
        self.may(who)?;
        self.count(who);
        Ok(())
    }

    /// Counts one.
    pub fn count(&self, who: &K) {
        let now = Instant::now();
        self.empty_at
            .entry_by_ref(who)
            .and_upsert_with(|entry| entry.map_or(now, moka::Entry::into_value).max(now) + self.each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_at_a_time() {
        let pace = Pace::new(3, Duration::from_millis(200));
        for _ in 0..3 {
            assert_eq!(pace.may(&"a"), Ok(()));
            pace.count(&"a");
        }
        let wait = pace.may(&"a").unwrap_err();
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
        assert_eq!(pace.may(&"b"), Ok(()), "each has its own");
        std::thread::sleep(wait + Duration::from_millis(5));
        assert_eq!(pace.may(&"a"), Ok(()));
    }
}
