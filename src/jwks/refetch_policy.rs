//! Whether a token's unknown key id is a reason to fetch the key set.
//!
//! The first token of a rotated key must be accepted at once, and made-up key ids must not cause a flood of fetches. Nothing in
//! an unverified token proves that its key exists. The rules:
//!
//! - Tokens of clients cause one fetch in 30 seconds.
//! - One more fetch is held in reserve for a token that looks newer than the key set: its `iat` is later than the last
//!   fetch, and its key id resembles the issuer's. The reserve exists only while fetches succeed, and refills last: together
//!   two fetches per minute.
//! - A token that the issuer returned to the gateway over a verified connection proves a rotation. These fetches have a limit of
//!   their own, which no client can use up.
//! - A key id in the negative cache (`unknown_kids`) causes no fetch.
//!
//! An attacker who sends made-up key ids can use up the reserve. A newly rotated key is then accepted within 30 seconds, and
//! at once when a login or refresh through the gateway returns a token of that key.

use std::time::{Duration, Instant};

use crate::ratelimit::{BucketConfig, TokenBucket};

/// Fetches caused by tokens of clients: one in 30 seconds, and one in reserve.
const CLIENT_FETCHES: BucketConfig = BucketConfig { capacity: 2, refill_interval: Duration::from_secs(30) };
/// Fetches caused by tokens that the issuer returned to the gateway: one in two seconds.
const ISSUER_FETCHES: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(2) };

/// The origin of a token whose key is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOrigin {
    /// The issuer returned the token to the gateway over a verified connection.
    Issuer,
    /// A client presented the token, which names this issuer.
    Client {
        /// Its `iat`, unverified, in seconds since 1970.
        issued_at: Option<u64>,
    },
    /// A client presented the token, which names another issuer. Never a reason to fetch.
    OtherIssuer,
}

/// The rate limits of fetches for unknown key ids.
#[derive(Debug, Default)]
pub(super) struct RefetchPolicy {
    client_fetches: TokenBucket,
    issuer_fetches: TokenBucket,
}

impl RefetchPolicy {
    /// Whether a token causes a fetch now. The fetch is counted then. `looks_newer`: the token's key may be newer than the key
    /// set. `is_failing`: the last fetch failed.
    pub(super) fn try_acquire(
        &mut self,
        origin: TokenOrigin,
        looks_newer: bool,
        is_failing: bool,
        now: Instant,
    ) -> bool {
        let reserve = u32::from(is_failing || !looks_newer);
        match origin {
            TokenOrigin::OtherIssuer => false,
            TokenOrigin::Issuer if !is_failing => self.issuer_fetches.try_acquire(ISSUER_FETCHES, 1, now).is_ok(),
            TokenOrigin::Issuer | TokenOrigin::Client { .. } => {
                self.client_fetches.try_acquire(CLIENT_FETCHES.with_reserve(reserve), 1, now).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: TokenOrigin = TokenOrigin::Client { issued_at: None };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn client_tokens_cause_one_fetch_in_thirty_seconds_and_have_a_reserve() {
        let (mut policy, start) = (RefetchPolicy::default(), Instant::now());
        assert!(policy.try_acquire(CLIENT, false, false, start));
        assert!(!policy.try_acquire(CLIENT, false, false, start + seconds(29)));
        assert!(policy.try_acquire(CLIENT, true, false, start + seconds(29)), "the reserve");
        assert!(!policy.try_acquire(CLIENT, true, false, start + seconds(29)));
        assert!(!policy.try_acquire(CLIENT, false, false, start + seconds(59)), "the reserve is refilled first");
        assert!(policy.try_acquire(CLIENT, false, false, start + seconds(60)));
    }

    #[test]
    fn token_flood_causes_two_fetches_per_minute() {
        let (mut policy, start) = (RefetchPolicy::default(), Instant::now());
        let acquired =
            (0..600).filter(|second| policy.try_acquire(CLIENT, true, false, start + seconds(*second))).count();
        assert_eq!(acquired, 21);
        let is_fetched = policy.try_acquire(TokenOrigin::Issuer, true, false, start + seconds(600));
        assert!(is_fetched, "a rotation is not delayed");
    }

    #[test]
    fn failing_fetches_leave_no_reserve() {
        let (mut policy, start) = (RefetchPolicy::default(), Instant::now());
        let origins = [CLIENT, TokenOrigin::Issuer];
        let acquired = (0..290)
            .filter(|second| policy.try_acquire(origins[*second as usize % 2], true, true, start + seconds(*second)))
            .count();
        assert_eq!(acquired, 10);
    }

    #[test]
    fn token_of_another_issuer_causes_no_fetch() {
        assert!(!RefetchPolicy::default().try_acquire(TokenOrigin::OtherIssuer, true, false, Instant::now()));
    }
}
