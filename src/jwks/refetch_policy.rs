//! When a token's unknown key id is a reason to fetch the key set.
//!
//! Owns the trade-off between two wishes: the first token of a new key is accepted at once, and nobody who makes up
//! key ids turns the gateway into a flood. Nothing in an unverified token proves that its key exists, so:
//!
//! - A stranger's token may cause one fetch in 30 seconds.
//! - One more is held in reserve, for a token that says it was issued after the last reading, with a key id that looks
//!   as the issuer's do: noise a moment ago does not delay a rotation. It comes out of the same long-run rate, two in
//!   a minute, and is there only if the last fetch succeeded.
//! - A token that the issuer itself gave to this gateway over its verified connection proves a rotation. Nobody else's
//!   tokens use that up.
//! - A key id that was looked for in vain is no reason again for 30 seconds, doubled each time up to ten minutes.
//!
//! Who makes up such tokens can use up the reserve; a key that its issuer did not announce is then
//! accepted from strangers within 30 seconds, and at once when a login or refresh through this gateway brings it.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::ratelimit::{BucketConfig, TokenBucket};

/// One fetch in 30 seconds, and one in reserve.
const STRANGERS: BucketConfig = BucketConfig { capacity: 2, refill_interval: Duration::from_secs(30) };
/// One fetch in two seconds for the issuer's own tokens.
const ISSUED: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(2) };
/// How long a key id looked for in vain is no reason to look again.
const IN_VAIN: Duration = Duration::from_secs(30);
/// How often that is doubled at most.
const MOST_DOUBLINGS: u32 = 4;
const LONGEST_IN_VAIN: Duration = Duration::from_secs(600);
/// Key ids remembered as looked for in vain. Callers choose them, so they make room for one another.
const MOST_IN_VAIN: usize = 1000;

/// Where a token with an unknown key id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The issuer gave it to this gateway over a verified connection.
    Issuer,
    /// Somebody presented it, and it names this issuer.
    Presented {
        /// When it says that it was issued, seconds since 1970.
        issued_at: Option<u64>,
    },
    /// Somebody presented it, and it names another issuer: no reason to ask this one.
    Foreign,
}

/// When the next unknown key id may cause a fetch.
#[derive(Debug, Default)]
pub(super) struct Pace {
    strangers: TokenBucket,
    issued: TokenBucket,
}

impl Pace {
    /// Whether this one may; then it counts. `promising`: the token may be of a key newer than those in use;
    /// `failing`: the last fetch failed, whatever for.
    pub(super) fn admits(&mut self, source: Source, promising: bool, failing: bool, now: Instant) -> bool {
        let reserve = u32::from(failing || !promising);
        match source {
            Source::Foreign => false,
            Source::Issuer if !failing => self.issued.try_acquire(ISSUED, 1, now).is_ok(),
            Source::Issuer | Source::Presented { .. } => {
                self.strangers.try_acquire(STRANGERS.with_reserve(reserve), 1, now).is_ok()
            }
        }
    }
}

/// The key ids that were looked for in vain, or are not published any more.
#[derive(Debug)]
pub(super) struct InVain(Cache<String, Miss>);

#[derive(Debug, Clone, Copy)]
struct Miss {
    times: u32,
    until: Instant,
}

impl InVain {
    pub(super) fn new() -> Self {
        Self(Cache::new(MOST_IN_VAIN))
    }

    /// Whether this key id is no reason to look again yet.
    pub(super) fn holds(&self, kid: &str, now: Instant) -> bool {
        self.0.get(kid).is_some_and(|miss| miss.until > now)
    }

    /// Notes that a key set that was read just now has no such key.
    pub(super) fn note(&self, kid: &str, now: Instant) {
        let times = self.0.get(kid).map_or(0, |miss| (miss.times + 1).min(MOST_DOUBLINGS + 1));
        let wait = (IN_VAIN * 2_u32.pow(times)).min(LONGEST_IN_VAIN);
        self.0.insert(kid.to_owned(), Miss { times, until: now + wait });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: Source = Source::Presented { issued_at: None };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn strangers_cause_one_fetch_in_thirty_seconds_and_have_one_in_reserve() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.admits(STRANGER, false, false, start));
        assert!(!pace.admits(STRANGER, false, false, start + seconds(29)));
        assert!(pace.admits(STRANGER, true, false, start + seconds(29)), "the reserve");
        assert!(!pace.admits(STRANGER, true, false, start + seconds(29)));
        assert!(!pace.admits(STRANGER, false, false, start + seconds(59)), "the reserve is made up for first");
        assert!(pace.admits(STRANGER, false, false, start + seconds(60)));
    }

    #[test]
    fn a_flood_causes_two_fetches_a_minute() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let admitted = (0..600).filter(|second| pace.admits(STRANGER, true, false, start + seconds(*second))).count();
        assert_eq!(admitted, 21);
        assert!(pace.admits(Source::Issuer, true, false, start + seconds(600)), "that does not delay a rotation");
    }

    #[test]
    fn while_fetches_fail_there_is_no_reserve_for_anybody() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let sources = [STRANGER, Source::Issuer];
        let admitted = (0..290)
            .filter(|second| pace.admits(sources[*second as usize % 2], true, true, start + seconds(*second)))
            .count();
        assert_eq!(admitted, 10);
    }

    #[test]
    fn a_token_of_another_issuer_causes_none() {
        assert!(!Pace::default().admits(Source::Foreign, true, false, Instant::now()));
    }

    #[test]
    fn what_is_looked_for_in_vain_is_looked_for_less_and_less() {
        let (vain, start) = (InVain::new(), Instant::now());
        assert!(!vain.holds("a", start));
        for (wait, next) in [(30, 60), (60, 120), (120, 240), (240, 480), (480, 600), (600, 600)] {
            vain.note("a", start);
            assert!(vain.holds("a", start + seconds(wait - 1)) && !vain.holds("a", start + seconds(wait)), "{next}");
        }
        assert!(!vain.holds("b", start));
    }

    #[test]
    fn a_flood_of_key_ids_does_not_fill_the_memory() {
        let vain = InVain::new();
        for kid in 0..10 * MOST_IN_VAIN {
            vain.note(&kid.to_string(), Instant::now());
        }
        assert!(vain.0.len() <= MOST_IN_VAIN);
    }
}
