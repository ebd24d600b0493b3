//! Limits the audit lines of refused requests, per second: of each client address and in all.
//!
//! A line counts against both limits or none. The number of addresses is bounded, see [`KeyedRateLimiter`].

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use prometheus::IntCounter;

use crate::ratelimit::{BucketConfig, KeyedRateLimiter, RateLimiter};

/// Most refused lines a second of one client address. The login throttle lets one address fail once a second by default.
const MAX_LINES_PER_ADDRESS: u32 = 10;
/// Most refused lines a second: at most 3 GB a day of an attack from everywhere.
const MAX_LINES: u32 = 100;

/// The limiter, and the number of lines it dropped.
#[derive(Debug)]
pub(super) struct RefusalLimiter {
    per_address: KeyedRateLimiter<IpAddr>,
    total: RateLimiter,
    left_out: AtomicU64,
    metric: IntCounter,
}

impl RefusalLimiter {
    pub(super) fn new(metric: IntCounter) -> Self {
        let total = RateLimiter::new(BucketConfig::per_second(MAX_LINES));
        Self { per_address: KeyedRateLimiter::default(), total, left_out: AtomicU64::new(0), metric }
    }

    /// Whether a refused line of this address is written; if not, it is counted as left out. Lines of unknown addresses
    /// share one bound.
    pub(super) fn may_write(&self, address: Option<IpAddr>) -> bool {
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let may = self.try_acquire_at(address, Instant::now());
        if !may {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            self.metric.inc();
        }
        may
    }

    fn try_acquire_at(&self, address: IpAddr, now: Instant) -> bool {
        let config = BucketConfig::per_second(MAX_LINES_PER_ADDRESS);
        if self.per_address.try_acquire_at(&address, config, 1, now).is_err() {
            return false;
        }
        let is_admitted = self.total.try_acquire_at(now).is_ok();
        if !is_admitted {
            self.per_address.refund(&address, config, 1);
        }
        is_admitted
    }

    /// How many lines were left out since this was asked last.
    pub(super) fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn one_address_leaves_room_for_others_and_all_have_a_bound() {
        let now = Instant::now();
        let limiter = RefusalLimiter::new(IntCounter::new("left_out", "left out").unwrap());
        assert_eq!((0..1000).filter(|_| limiter.try_acquire_at(address(1), now)).count(), 10);
        assert!(limiter.try_acquire_at(address(2), now));
        assert_eq!((0..1000).filter(|number| limiter.try_acquire_at(address(100 + number), now)).count(), 89);
        assert!(limiter.try_acquire_at(address(1), now + Duration::from_secs(1)), "the next second");
    }

    #[test]
    fn lines_left_out_are_counted_once() {
        let limiter = RefusalLimiter::new(IntCounter::new("left_out", "left out").unwrap());
        let written = (0..1000).filter(|_| limiter.may_write(None)).count() as u64;
        assert_eq!(limiter.take_left_out(), 1000 - written);
        assert_eq!((limiter.take_left_out(), limiter.metric.get()), (0, 1000 - written));
    }
}
