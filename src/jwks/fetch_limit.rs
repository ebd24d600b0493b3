//! How often one tenant's key set may be fetched, by all gateways together.
//!
//! Owns the figures. SLAS allows 25 calls a minute for key set and OpenID configuration together, to everybody who
//! uses the tenant; the gateways take 20 at most, counted in the session store. While that cannot be reached, each
//! gateway goes on with a small allowance of its own, so that four of them stay below the limit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    ratelimit::{BucketConfig, TokenBucket},
    store::SessionStore,
};

/// 20 in any minute: ten at once and ten that come back meanwhile.
const SHARED: BucketConfig = BucketConfig { capacity: 10, refill_interval: Duration::from_secs(6) };
/// 5 in any minute.
const ALONE: BucketConfig = BucketConfig { capacity: 2, refill_interval: Duration::from_secs(20) };
/// What those who present unknown key ids leave for gateways that have no keys yet.
const LEFT_BY_UNKNOWN: u32 = 5;

/// What a fetch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A key id that nobody knows.
    Unknown,
    /// A ring that is empty, or due.
    Upkeep,
}

/// The allowance of one issuer's key set.
#[derive(Debug)]
pub(super) struct Allowance {
    store: Arc<dyn SessionStore>,
    what: Vec<u8>,
    alone: Mutex<TokenBucket>,
}

impl Allowance {
    /// Tenants do not share one, not even of one Account Manager.
    pub(super) fn new(store: Arc<dyn SessionStore>, tenant: &str, address: &str) -> Self {
        Self { store, what: format!("jwks|{tenant}|{address}").into_bytes(), alone: Mutex::default() }
    }

    /// Whether one more fetch may be made; then it counts.
    pub(super) async fn take(&self, purpose: Purpose) -> bool {
        let leave = if purpose == Purpose::Unknown { LEFT_BY_UNKNOWN } else { 0 };
        let acquired = match self.store.acquire_tokens(&self.what, SHARED, 1, leave).await {
            Ok(acquired) => acquired,
            Err(_) => self.alone.lock().try_acquire(ALONE.with_reserve(leave.min(1)), 1, Instant::now()),
        };
        acquired.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_minute_has_twenty_fetches_at_most_and_five_alone() {
        for (config, most) in [(SHARED, 20), (ALONE, 5)] {
            let (mut bucket, start) = (TokenBucket::default(), Instant::now());
            let mut taken = 0;
            for second in 0..60 {
                while bucket.try_acquire(config, 1, start + Duration::from_secs(second)).is_ok() {
                    taken += 1;
                }
            }
            assert!(taken <= most, "{taken} of {most}");
        }
    }

    #[tokio::test]
    async fn unknown_key_ids_leave_some_for_empty_rings_and_gateways_share() {
        let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new(1));
        let of = |address| Allowance::new(Arc::clone(&store), "zzrf_001", address);
        let (one, other) = (of("https://a/jwks"), of("https://a/jwks"));
        let mut taken = 0;
        while one.take(Purpose::Unknown).await {
            taken += 1;
        }
        assert_eq!(taken, 5);
        while other.take(Purpose::Upkeep).await {
            taken += 1;
        }
        assert_eq!(taken, 10);
        assert!(!one.take(Purpose::Upkeep).await);
        assert!(of("https://b/jwks").take(Purpose::Unknown).await, "another tenant's is its own");
    }
}
