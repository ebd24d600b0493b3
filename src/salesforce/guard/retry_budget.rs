//! A retry budget: at most a tenth of the calls are retried, so an outage causes no storm of retries.
//!
//! The transport decides whether a call is retryable at all.

use std::sync::atomic::{AtomicU32, Ordering};

/// Number of calls that earn one retry.
const CALLS_PER_RETRY: u32 = 10;
/// Maximum number of saved retries.
const MAX_RETRIES: u32 = 10;

/// The earned and unused retries, counted in calls.
#[derive(Debug)]
pub(super) struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    /// Starts with one retry, for gateways with few calls.
    fn default() -> Self {
        Self(AtomicU32::new(CALLS_PER_RETRY))
    }
}

impl RetryBudget {
    /// Counts a call.
    pub(super) fn record_call(&self) {
        let more = |calls: u32| (calls < MAX_RETRIES * CALLS_PER_RETRY).then_some(calls + 1);
        // Fails at the maximum, where a call earns nothing.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Takes one retry. Returns false if none is left.
    pub(super) fn try_acquire(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |calls| calls.checked_sub(CALLS_PER_RETRY)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_budget_allows_a_tenth_of_calls() {
        let budget = RetryBudget::default();
        let repeated = (0..1000)
            .filter(|_| {
                budget.record_call();
                budget.try_acquire()
            })
            .count();
        assert_eq!(repeated, 101, "one retry at the start");
        for _ in 0..100_000 {
            budget.record_call();
        }
        assert_eq!((0..1000).filter(|_| budget.try_acquire()).count(), MAX_RETRIES as usize, "the savings are limited");
    }
}
