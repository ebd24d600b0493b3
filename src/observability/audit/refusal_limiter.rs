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
const OF_ADDRESS: u32 = 10;
/// Most refused lines a second: at most 3 GB a day of an attack from everywhere.
const IN_ALL: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// The limiter, and the number of lines it dropped.
#[derive(Debug)]
pub(super) struct RefusalLimiter {
    written: Mutex<Written>,
    left_out: AtomicU64,
    metric: IntCounter,
}

/// What was written in the second under way.
#[derive(Debug)]
struct Written {
    since: Instant,
    in_all: u32,
    of: HashMap<IpAddr, u32>,
}

impl Written {
    fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            *self = Self { since: now, in_all: 0, of: HashMap::new() };
        }
        if self.in_all >= IN_ALL {
            return false;
        }
        let of_address = self.of.entry(address).or_default();
        if *of_address >= OF_ADDRESS {
            return false;
        }
        *of_address += 1;
        self.in_all += 1;
        true
    }
}

impl RefusalLimiter {
    pub(super) fn new(metric: IntCounter) -> Self {
        let written = Written { since: Instant::now(), in_all: 0, of: HashMap::new() };
        Self { written: Mutex::new(written), left_out: AtomicU64::new(0), metric }
    }

    /// Whether a refused line of this address is written; if not, it is counted as left out. Lines of unknown addresses
    /// share one bound.
    pub(super) fn may_write(&self, address: Option<IpAddr>) -> bool {
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let may = self.written.lock().take(address, Instant::now());
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
        let mut written = Written { since: now, in_all: 0, of: HashMap::new() };
        assert_eq!((0..1000).filter(|_| written.take(address(1), now)).count(), 10);
        assert!(written.take(address(2), now));
        assert_eq!((0..1000).filter(|number| written.take(address(100 + number), now)).count(), 89);
        assert!(written.of.len() <= 100, "{}", written.of.len());
        assert!(written.take(address(1), now + SECOND), "the next second");
    }

    #[test]
    fn lines_left_out_are_counted_once() {
        let refused = RefusalLimiter::new(IntCounter::new("left_out", "left out").unwrap());
        let written = (0..1000).filter(|_| refused.may_write(None)).count() as u64;
        assert_eq!(refused.take_left_out(), 1000 - written);
        assert_eq!((refused.take_left_out(), refused.metric.get()), (0, 1000 - written));
    }
}
