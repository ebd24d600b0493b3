//! Rate limits per minute, and windows in which a login may not repeat.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A budget that is full again when its period ends.
struct Budget {
    opened: Instant,
    used: u32,
}

/// What is left of a budget after this request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remaining {
    pub(crate) limit: u32,
    pub(crate) left: u32,
    pub(crate) reset_seconds: u64,
    pub(crate) exceeded: bool,
}

/// Budgets by name.
#[derive(Default)]
pub(crate) struct Budgets(HashMap<String, Budget>);

impl Budgets {
    pub(crate) fn spend(&mut self, name: &str, limit: u32, period: Duration) -> Remaining {
        let fresh = || Budget { opened: Instant::now(), used: 0 };
        let budget = self.0.entry(name.to_owned()).or_insert_with(fresh);
        if budget.opened.elapsed() >= period {
            *budget = fresh();
        }
        let exceeded = budget.used >= limit;
        if !exceeded {
            budget.used += 1;
        }
        let reset = period.saturating_sub(budget.opened.elapsed());
        Remaining { limit, left: limit - budget.used.min(limit), reset_seconds: reset.as_secs() + 1, exceeded }
    }
}

/// When something was last done, to refuse it again too soon.
pub(crate) struct Windows<K>(HashMap<K, Instant>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Windows<K> {
    /// Whether it may be done now; then it counts as done. A refusal does not prolong the window.
    pub(crate) fn admit(&mut self, key: K, window: Duration) -> bool {
        let now = Instant::now();
        if let Some(last) = self.0.get(&key)
            && now.duration_since(*last) < window
        {
            return false;
        }
        self.0.insert(key, now);
        true
    }
}
