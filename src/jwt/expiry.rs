//! Validity periods of tokens, compared with a leeway for clocks that differ (RFC 7519, 4.1.4 and 4.1.5).
//!
//! All times are seconds since 1970.

use std::time::Duration;

/// The maximum difference between an issuer's clock and this machine's clock, in seconds.
pub const LEEWAY_SECONDS: u64 = 30;

/// Whether a token that expires at `expires_at` is rejected now.
#[must_use]
pub fn is_expired(expires_at: u64, now: u64) -> bool {
    now >= expires_at.saturating_add(LEEWAY_SECONDS)
}

/// Whether a token that is valid from `not_before` is rejected now.
#[must_use]
pub fn is_not_yet_valid(not_before: u64, now: u64) -> bool {
    not_before > now.saturating_add(LEEWAY_SECONDS)
}

/// The time until a token that expires at `expires_at` is rejected for certain, whenever `now` was read.
#[must_use]
pub fn time_to_expiry(expires_at: u64, now: u64) -> Duration {
    Duration::from_secs(expires_at.saturating_sub(now) + LEEWAY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leeway_applies_to_both_ends_of_a_validity_period() {
        assert!(!is_expired(1000, 1029) && is_expired(1000, 1030));
        assert!(!is_not_yet_valid(1030, 1000) && is_not_yet_valid(1031, 1000));
        assert!(!is_expired(u64::MAX, u64::MAX - 1));
        assert_eq!(time_to_expiry(1000, 900), Duration::from_secs(130));
        assert_eq!(time_to_expiry(1000, 2000), Duration::from_secs(30));
    }
}
