//! The rate limit of JWKS fetches for one issuer of one tenant, shared by all replicas.
//!
//! SLAS allows 25 calls per minute for the key set and the OpenID configuration together, to all clients of the tenant. The
//! replicas make at most 20 of them. The bucket is in the session store. While the store is unavailable, each replica uses a
//! smaller bucket of its own, so that four replicas stay below the limit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    ratelimit::{BucketConfig, TokenBucket},
    store::SessionStore,
};

/// The bucket of all replicas: at most 20 fetches in any minute.
const SHARED: BucketConfig = BucketConfig { capacity: 10, refill_interval: Duration::from_secs(6) };
/// The bucket of one replica without a store: at most 5 fetches in any minute.
const LOCAL: BucketConfig = BucketConfig { capacity: 2, refill_interval: Duration::from_secs(20) };
/// Tokens that fetches for unknown key ids leave to replicas without keys: in the shared and in the local bucket.
const SHARED_RESERVE: u32 = 5;
const LOCAL_RESERVE: u32 = 1;

/// The reason for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchPurpose {
    /// A token names an unknown key id.
    UnknownKid,
    /// There is no key set, or the key set is due for a refresh.
    Refresh,
}

/// The rate limit of one issuer's JWKS.
#[derive(Debug)]
pub(super) struct FetchLimit {
    store: Arc<dyn SessionStore>,
    bucket: Vec<u8>,
    local: Mutex<TokenBucket>,
}

impl FetchLimit {
    /// The limit of one tenant. Tenants of the same Account Manager have separate limits.
    pub(super) fn new(store: Arc<dyn SessionStore>, tenant: &str, jwks_url: &str) -> Self {
        Self { store, bucket: format!("jwks|{tenant}|{jwks_url}").into_bytes(), local: Mutex::default() }
    }

    /// Whether a fetch may be made now. It is counted then.
    pub(super) async fn try_acquire(&self, purpose: FetchPurpose) -> bool {
        let (shared_reserve, local_reserve) = match purpose {
            FetchPurpose::UnknownKid => (SHARED_RESERVE, LOCAL_RESERVE),
            FetchPurpose::Refresh => (0, 0),
        };
        let acquired = match self.store.acquire_tokens(&self.bucket, SHARED, 1, shared_reserve).await {
            Ok(acquired) => acquired,
            Err(_) => self.local.lock().try_acquire(LOCAL.with_reserve(local_reserve), 1, Instant::now()),
        };
        acquired.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn buckets_allow_twenty_fetches_per_minute_and_five_without_store() {
        for (config, max) in [(SHARED, 20), (LOCAL, 5)] {
            let (mut bucket, start) = (TokenBucket::default(), Instant::now());
            let mut acquired = 0;
            for second in 0..60 {
                while bucket.try_acquire(config, 1, start + Duration::from_secs(second)).is_ok() {
                    acquired += 1;
                }
            }
            assert!(acquired <= max, "{acquired} of {max}");
        }
    }

    #[tokio::test]
    async fn unknown_kids_leave_a_reserve_for_replicas_without_keys() {
        let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new(1));
        let of = |jwks_url| FetchLimit::new(Arc::clone(&store), "zzrf_001", jwks_url);
        let (one, other) = (of("https://a/jwks"), of("https://a/jwks"));
        let mut acquired = 0;
        while one.try_acquire(FetchPurpose::UnknownKid).await {
            acquired += 1;
        }
        assert_eq!(acquired, 5);
        while other.try_acquire(FetchPurpose::Refresh).await {
            acquired += 1;
        }
        assert_eq!(acquired, 10);
        assert!(!one.try_acquire(FetchPurpose::Refresh).await);
        assert!(of("https://b/jwks").try_acquire(FetchPurpose::UnknownKid).await, "tenants have separate limits");
    }
}
