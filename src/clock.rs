//! The time of day, in the unit that tokens use.
//!
//! Owns the one place where the gateway asks the operating system for wall-clock time. Durations
//! that nobody outside sees are measured by [`std::time::Instant`] where they arise.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z, as in `exp`, `iat` and `nbf` (RFC 7519, "`NumericDate`").
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
