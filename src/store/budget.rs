//! A budget that several spend and that refills steadily: a token bucket, kept as one point in time.
//!
//! Owns the arithmetic (the generic cell rate algorithm: what stands there is when the budget is full again) and
//! the budgets of one process. Knows nothing of what is spent, and never sleeps: whoever gets nothing
//! is told how long to wait.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::jwt::sha256;

/// How many budgets are held at most; beyond it the half that is nearest to being full is forgotten.
const MOST: usize = 10_000;

/// How much there is, and how fast it comes back. In any time `t` at most `size + t / refill` can be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The whole, which may be spent at once.
    pub size: u32,
    /// In which time one of it comes back.
    pub refill: Duration,
}

/// What became of a wish to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is spent.
    Yes,
    /// Nothing is spent; the same wish can be granted after this time, if nobody else spends meanwhile.
    NotFor(Duration),
}

impl Budget {
    /// In which time this much comes back.
    #[must_use]
    pub fn time_of(self, amount: u32) -> Duration {
        self.refill.saturating_mul(amount)
    }

    /// The part of the whole that may be spent by those who must leave some, as time.
    #[must_use]
    pub fn room(self, leave: u32) -> Duration {
        self.time_of(self.size.saturating_sub(leave))
    }
}

/// What is left of one budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Level {
    full_at: Option<Instant>,
}

impl Level {
    /// Spends `amount`, if `leave` would still be there afterwards.
    pub fn take(&mut self, budget: Budget, amount: u32, leave: u32, now: Instant) -> Taken {
        let missing = self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let after = missing + budget.time_of(amount);
        let room = budget.room(leave);
        if after > room {
            return Taken::NotFor(after - room);
        }
        self.full_at = Some(now + after);
        Taken::Yes
    }
}

/// The budgets of one process, by name.
#[derive(Debug, Default)]
pub struct Levels(Mutex<HashMap<[u8; 32], Level>>);

impl Levels {
    /// Spends of the budget `what`, as [`Level::take`] does.
    pub fn take(&self, what: &[u8], budget: Budget, amount: u32, leave: u32) -> Taken {
        let now = Instant::now();
        let what = sha256(what);
        let mut levels = self.0.lock();
        if levels.len() >= MOST && !levels.contains_key(&what) {
            levels.retain(|_, level| level.full_at.is_some_and(|full_at| full_at > now));
            if levels.len() >= MOST {
                let mut ends: Vec<_> = levels.values().map(|level| level.full_at).collect();
                let middle = *ends.select_nth_unstable(MOST / 2).1;
                levels.retain(|_, level| level.full_at > middle);
            }
        }
        levels.entry(what).or_default().take(budget, amount, leave, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { size: 3, refill: Duration::from_secs(10) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let (mut level, start) = (Level::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(level.take(BUDGET, 1, 0, start), Taken::Yes);
        }
        assert_eq!(level.take(BUDGET, 1, 0, start), Taken::NotFor(seconds(10)));
        assert_eq!(level.take(BUDGET, 1, 0, start + seconds(4)), Taken::NotFor(seconds(6)));
        assert_eq!(level.take(BUDGET, 1, 0, start + seconds(10)), Taken::Yes);
        assert_eq!(level.take(BUDGET, 2, 0, start + seconds(25)), Taken::NotFor(seconds(5)));
        assert_eq!(level.take(BUDGET, 3, 0, start + seconds(1000)), Taken::Yes, "never more than the whole");
        assert_eq!(level.take(BUDGET, 1, 0, start + seconds(1000)), Taken::NotFor(seconds(10)));
    }

    #[test]
    fn who_must_leave_some_leaves_it() {
        let (mut level, now) = (Level::default(), Instant::now());
        assert_eq!(level.take(BUDGET, 1, 2, now), Taken::Yes);
        assert_eq!(level.take(BUDGET, 1, 2, now), Taken::NotFor(seconds(10)));
        assert_eq!(level.take(BUDGET, 2, 0, now), Taken::Yes, "the reserve is there for others");
    }

    #[test]
    fn a_flood_of_names_does_not_fill_the_memory() {
        let levels = Levels::default();
        assert_eq!(levels.take(b"spent", BUDGET, 3, 0), Taken::Yes);
        for number in 0..2 * MOST {
            assert_eq!(levels.take(&number.to_le_bytes(), BUDGET, 1, 0), Taken::Yes);
        }
        assert!(levels.0.lock().len() <= MOST);
        assert!(matches!(levels.take(b"spent", BUDGET, 1, 0), Taken::NotFor(_)), "what is spent is forgotten last");
    }
}
