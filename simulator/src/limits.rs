//! Rate limits per minute, and windows in which a login may not repeat.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The requests of the current period.
struct RequestCounter {
    opened: Instant,
    used: u32,
}

/// The rest of a limit after a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remaining {
    pub(crate) limit: u32,
    pub(crate) left: u32,
    pub(crate) reset_seconds: u64,
    pub(crate) exceeded: bool,
}

/// Request counters by name.
#[derive(Default)]
pub(crate) struct RequestCounters(HashMap<String, RequestCounter>);

impl RequestCounters {
    pub(crate) fn count(&mut self, name: &str, limit: u32, period: Duration) -> Remaining {
        let fresh = || RequestCounter { opened: Instant::now(), used: 0 };
        let counter = self.0.entry(name.to_owned()).or_insert_with(fresh);
        if counter.opened.elapsed() >= period {
            *counter = fresh();
        }
        let exceeded = counter.used >= limit;
        if !exceeded {
            counter.used += 1;
        }
        let reset = period.saturating_sub(counter.opened.elapsed());
        Remaining { limit, left: limit - counter.used.min(limit), reset_seconds: reset.as_secs() + 1, exceeded }
    }
}

/// Times of the last admitted actions, by key. The next one within a window is refused.
pub(crate) struct Windows<K>(HashMap<K, Instant>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Windows<K> {
    /// Whether the action is admitted now. A refusal does not prolong the window.
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
