//! How many calls may be made a second time: a tenth of all, so that no outage is answered with a storm.
//!
//! Owns the counting. Which calls may be repeated at all is said by whoever makes them.

use std::sync::atomic::{AtomicU32, Ordering};

/// So many calls earn one repeat.
const CALLS: u32 = 10;
/// Most repeats saved up.
const MOST: u32 = 10;

/// Repeats earned and not used, in calls.
#[derive(Debug)]
pub(super) struct Repeats(AtomicU32);

impl Default for Repeats {
    /// One to begin with, for a gateway that rarely calls.
    fn default() -> Self {
        Self(AtomicU32::new(CALLS))
    }
}

impl Repeats {
    /// Counts a call.
    pub(super) fn earn(&self) {
        let more = |calls: u32| (calls < MOST * CALLS).then_some(calls + 1);
        // Whoever has saved the most earns nothing.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether a call may be repeated; then it counts.
    pub(super) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |calls| calls.checked_sub(CALLS)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_calls_is_repeated() {
        let repeats = Repeats::default();
        let repeated = (0..1000)
            .filter(|_| {
                repeats.earn();
                repeats.take()
            })
            .count();
        assert_eq!(repeated, 101, "one to begin with");
        for _ in 0..100_000 {
            repeats.earn();
        }
        assert_eq!((0..1000).filter(|_| repeats.take()).count(), MOST as usize, "quiet times save up little");
    }
}
