//! How many calls may be made a second time: a tenth of all, so that no outage is answered with a storm.
//!
//! Owns the counting. Which calls may be repeated at all is said by whoever makes them.

use std::sync::atomic::{AtomicU32, Ordering};

/// So many calls earn one repeat.
const CALLS_PER_RETRY: u32 = 10;
/// Most repeats saved up.
const MAX_RETRIES: u32 = 10;

/// RetryBudget earned and not used, in calls.
#[derive(Debug)]
pub(super) struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    /// One to begin with, for a gateway that rarely calls.
    fn default() -> Self {
        Self(AtomicU32::new(CALLS_PER_RETRY))
    }
}

impl RetryBudget {
    /// Counts a call.
    pub(super) fn record_call(&self) {
        let more = |calls: u32| (calls < MAX_RETRIES * CALLS_PER_RETRY).then_some(calls + 1);
        // Whoever has saved the most earns nothing.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether a call may be repeated; then it counts.
    pub(super) fn try_acquire(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |calls| calls.checked_sub(CALLS_PER_RETRY)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_calls_is_repeated() {
        let budget = RetryBudget::default();
        let repeated = (0..1000)
            .filter(|_| {
                budget.record_call();
                budget.try_acquire()
            })
            .count();
        assert_eq!(repeated, 101, "one to begin with");
        for _ in 0..100_000 {
            budget.record_call();
        }
        assert_eq!(
            (0..1000).filter(|_| budget.try_acquire()).count(),
            MAX_RETRIES as usize,
            "quiet times save up little"
        );
    }
}
