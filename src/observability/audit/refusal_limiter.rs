//! Limits the audit lines of rejected requests, per second: for each client address and in total.
//!
//! A line counts against both limits or none. The number of addresses is bounded, see [`KeyedRateLimiter`].

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use prometheus::IntCounter;

use crate::ratelimit::{BucketConfig, KeyedRateLimiter, RateLimiter};

/// Maximum rejected lines of one client address a second. By default one address can fail one login a second.
const MAX_LINES_PER_ADDRESS: u32 = 10;
/// Maximum rejected lines a second. An attack from many addresses writes at most 3 GB a day.
const MAX_LINES: u32 = 100;

/// The limiter, and the number of lines left out.
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

    /// Returns whether a rejected line of this address may be written. If not, the limiter counts it as left out. Lines
    /// without an address share one limit.
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

    /// Returns the number of lines left out since the previous call.
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
    fn refused_lines_are_limited_per_address_and_in_total() {
        let now = Instant::now();
        let limiter = RefusalLimiter::new(IntCounter::new("left_out", "left out").unwrap());
        assert_eq!((0..1000).filter(|_| limiter.try_acquire_at(address(1), now)).count(), 10);
        assert!(limiter.try_acquire_at(address(2), now));
        assert_eq!((0..1000).filter(|number| limiter.try_acquire_at(address(100 + number), now)).count(), 89);
        assert!(limiter.try_acquire_at(address(1), now + Duration::from_secs(1)), "the next second");
    }

    #[test]
    fn left_out_lines_are_counted_once() {
        let limiter = RefusalLimiter::new(IntCounter::new("left_out", "left out").unwrap());
        let written = (0..1000).filter(|_| limiter.may_write(None)).count() as u64;
        assert_eq!(limiter.take_left_out(), 1000 - written);
        assert_eq!((limiter.take_left_out(), limiter.metric.get()), (0, 1000 - written));
    }
}
