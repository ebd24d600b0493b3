//! A rate limit per key: a number per minute, with a burst of the same number.
//!
//! The counts are those of this gateway. The algorithm is the generic cell rate algorithm, which stores one instant per key.
//! At most [`CAPACITY`] keys are stored. Beyond it the least used are evicted, which can only let a request pass.

use std::time::{Duration, Instant};

use moka::{
    ops::compute::{CompResult, Op},
    sync::Cache,
};

/// Maximum keys of one limiter.
const CAPACITY: u64 = 100_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A key: a hash, from which no login id or address can be read.
pub(super) type Name = [u8; 32];

/// Rates of many keys.
#[derive(Debug, Clone)]
pub(super) struct KeyedRateLimiter {
    /// When nothing of a name will be used up any more.
    free_at: Cache<Name, Instant>,
}

impl KeyedRateLimiter {
    pub(super) fn new() -> Self {
        Self { free_at: Cache::builder().max_capacity(CAPACITY).time_to_idle(2 * MINUTE).build() }
    }

    /// Uses up `amount` of a name's `per_minute`. More than that at once is never granted.
    ///
    /// # Errors
    /// How long to wait until it would be granted.
    pub(super) fn take(&self, name: &Name, amount: u32, per_minute: u32) -> Result<(), Duration> {
        let now = Instant::now();
        let (time, mut wait) = (time_of(amount, per_minute), Duration::ZERO);
        let result = self.free_at.entry_by_ref(name).and_compute_with(|entry| {
            let free_at = entry.map_or(now, moka::Entry::into_value).max(now) + time;
            let used = free_at - now;
            if used > MINUTE {
                wait = used - MINUTE;
                Op::Nop
            } else {
                Op::Put(free_at)
            }
        });
        match result {
            CompResult::Unchanged(_) | CompResult::StillNone(_) => Err(wait),
            CompResult::Inserted(_) | CompResult::ReplacedWith(_) | CompResult::Removed(_) => Ok(()),
        }
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, name: &Name, amount: u32, per_minute: u32) {
        let time = time_of(amount, per_minute);
        self.free_at.entry_by_ref(name).and_compute_with(|entry| match entry {
            Some(entry) => Op::Put(entry.into_value().checked_sub(time).unwrap_or_else(Instant::now)),
            None => Op::Nop,
        });
    }
}

/// The time in which an amount comes back.
fn time_of(amount: u32, per_minute: u32) -> Duration {
    MINUTE / per_minute.max(1) * amount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_gets_its_minute_at_once_and_then_waits() {
        let meter = KeyedRateLimiter::new();
        let (one, other) = ([1; 32], [2; 32]);
        assert_eq!((0..200).filter(|_| meter.take(&one, 1, 60).is_ok()).count(), 60);
        let wait = meter.take(&one, 10, 60).unwrap_err();
        assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
        meter.give_back(&one, 1, 60);
        assert!(meter.take(&one, 1, 60).is_ok() && meter.take(&one, 1, 60).is_err());
        assert_eq!((0..200).filter(|_| meter.take(&other, 2, 60).is_ok()).count(), 30);
        assert!(meter.take(&[3; 32], 61, 60).is_err(), "more than a minute has");
    }
}
