//! The negative cache of key ids: absent from a fetched key set, or removed from it.
//!
//! An entry lasts 30 seconds, and twice as long each time that the key id is inserted again, up to ten minutes. Clients choose
//! the key ids, so the cache is bounded, and entries evict each other.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// The time for which an unknown key id causes no fetch, the first time and at most.
const UNKNOWN_KID_TTL: Duration = Duration::from_secs(30);
const MAX_UNKNOWN_KID_TTL: Duration = Duration::from_secs(600);
/// Maximum unknown key ids.
const MAX_UNKNOWN_KIDS: usize = 1000;

/// Key ids that no key set of the issuer has.
#[derive(Debug)]
pub(super) struct UnknownKidCache(Cache<String, UnknownKid>);

#[derive(Debug, Clone, Copy)]
struct UnknownKid {
    ttl: Duration,
    expires_at: Instant,
}

impl UnknownKidCache {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_UNKNOWN_KIDS))
    }

    /// Whether the key id is known to be absent.
    pub(super) fn contains(&self, kid: &str, now: Instant) -> bool {
        self.0.get(kid).is_some_and(|unknown| unknown.expires_at > now)
    }

    /// Records that the issuer's newest key set has no such key.
    pub(super) fn insert(&self, kid: &str, now: Instant) {
        let ttl = self.0.get(kid).map_or(UNKNOWN_KID_TTL, |earlier| (earlier.ttl * 2).min(MAX_UNKNOWN_KID_TTL));
        self.0.insert(kid.to_owned(), UnknownKid { ttl, expires_at: now + ttl });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kid_inserted_again_is_known_for_longer() {
        let (unknown, start) = (UnknownKidCache::new(), Instant::now());
        assert!(!unknown.contains("a", start));
        for ttl in [30, 60, 120, 240, 480, 600, 600] {
            unknown.insert("a", start);
            assert!(
                unknown.contains("a", start + Duration::from_secs(ttl - 1))
                    && !unknown.contains("a", start + Duration::from_secs(ttl))
            );
        }
        assert!(!unknown.contains("b", start));
    }

    #[test]
    fn unknown_kid_flood_stays_within_maximum() {
        let unknown = UnknownKidCache::new();
        for kid in 0..10 * MAX_UNKNOWN_KIDS {
            unknown.insert(&kid.to_string(), Instant::now());
        }
        assert!(unknown.0.len() <= MAX_UNKNOWN_KIDS);
    }
}
