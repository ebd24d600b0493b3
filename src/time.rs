//! Wall-clock time and jitter.
//!
//! Wall-clock time is read here only, in the unit of token claims. Durations are measured with [`std::time::Instant`] where they
//! are needed.

pub mod external_wait;

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z, as in `exp`, `iat` and `nbf` (RFC 7519, "`NumericDate`").
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// The same as a signed number, as in validity periods of certificates and in gauges.
#[must_use]
pub fn unix_now_signed() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn unix_now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// A random number in 0.0..1.0; 0.5 if the operating system provides no random numbers.
#[must_use]
pub fn random_fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
