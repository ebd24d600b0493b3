//! Limits the audit lines of refused requests, per second: of each client address and in all.
//!
//! The window is a whole second. Only addresses that wrote a line in the current second are stored, so their number is
//! bounded by the limit for all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::IntCounter;

/// Most refused lines a second of one client address. The login throttle lets one address fail once a second by default.
const MAX_LINES_PER_ADDRESS: u32 = 10;
/// Most refused lines a second: at most 3 GB a day of an attack from everywhere.
const MAX_LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// The limiter, and the number of lines it dropped.
#[derive(Debug)]
pub(super) struct RefusalLimiter {
    window: Mutex<Window>,
    left_out: AtomicU64,
    metric: IntCounter,
}

/// What was written in the second under way.
#[derive(Debug)]
struct Window {
    start: Instant,
    total: u32,
    per_address: HashMap<IpAddr, u32>,
}

impl Window {
    fn try_acquire(&mut self, address: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.start) >= WINDOW {
            *self = Self { start: now, total: 0, per_address: HashMap::new() };
        }
        if self.total >= MAX_LINES {
            return false;
        }
        let of_address = self.per_address.entry(address).or_default();
        if *of_address >= MAX_LINES_PER_ADDRESS {
            return false;
        }
        *of_address += 1;
        self.total += 1;
        true
    }
}

impl RefusalLimiter {
    pub(super) fn new(metric: IntCounter) -> Self {
        let window = Window { start: Instant::now(), total: 0, per_address: HashMap::new() };
        Self { window: Mutex::new(window), left_out: AtomicU64::new(0), metric }
    }

    /// Whether a refused line of this address is written; if not, it is counted as left out. Lines of unknown addresses
    /// share one bound.
    pub(super) fn may_write(&self, address: Option<IpAddr>) -> bool {
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let may = self.window.lock().try_acquire(address, Instant::now());
        if !may {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            self.metric.inc();
        }
        may
    }

    /// How many lines were left out since this was asked last.
    pub(super) fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn one_address_leaves_room_for_others_and_all_have_a_bound() {
        let now = Instant::now();
        let mut window = Window { start: now, total: 0, per_address: HashMap::new() };
        assert_eq!((0..1000).filter(|_| window.try_acquire(address(1), now)).count(), 10);
        assert!(window.try_acquire(address(2), now));
        assert_eq!((0..1000).filter(|number| window.try_acquire(address(100 + number), now)).count(), 89);
        assert!(window.per_address.len() <= 100, "{}", window.per_address.len());
        assert!(window.try_acquire(address(1), now + WINDOW), "the next second");
    }

    #[test]
    fn lines_left_out_are_counted_once() {
        let limiter = RefusalLimiter::new(IntCounter::new("left_out", "left out").unwrap());
        let written = (0..1000).filter(|_| limiter.may_write(None)).count() as u64;
        assert_eq!(limiter.take_left_out(), 1000 - written);
        assert_eq!((limiter.take_left_out(), limiter.metric.get()), (0, 1000 - written));
    }
}
