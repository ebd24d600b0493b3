//! The rate limit of a tenant's SLAS calls, shared by all replicas.
//!
//! The token bucket is in the store. Each replica leases a twentieth of it at a time, so that one access to the store
//! serves many calls and no request waits for it. While the store is unavailable or slow, each replica uses a bucket of its
//! own with a quarter of the limit. Four replicas then stay within the limit.
//!
//! Under shortage, calls are served by priority: the gateway's logins first, then its refreshes, then logins and
//! refreshes that clients send to SLAS themselves, then their other calls and background refreshes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    ratelimit::{BucketConfig, TokenBucket},
    salesforce::guard::{CallGuard, Priority},
    store::SessionStore,
    types::TenantId,
};

/// A fifth of a minute's calls may be made at once, and the others are refilled during the minute. No minute has more
/// calls than the limit, wherever SLAS's own minutes begin.
const BURST_DIVISOR: u32 = 5;
/// The number of leases in a full bucket.
const LEASES_PER_BUCKET: u32 = 20;
/// The number of replicas that stay within the limit together without the store.
const OFFLINE_SHARE: u32 = 4;
/// Maximum wait of a lease for the store. It is half of the time that a request waits for a permit.
const STORE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a slow store is not called again. Each lease would wait otherwise.
const SLOW_STORE_PAUSE: Duration = Duration::from_secs(1);

/// The SLAS budget of one tenant, in one replica.
#[derive(Debug)]
pub struct SlasBudget {
    store: Arc<dyn SessionStore>,
    guard: Arc<CallGuard>,
    key: Vec<u8>,
    shared: BucketConfig,
    own: BucketConfig,
    offline: TokenBucket,
    /// When the store is called again, after it was slow.
    store_retry_at: Option<Instant>,
}

impl SlasBudget {
    /// A budget of `per_minute` calls of all replicas. The calls of this replica pass through `guard`.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>, guard: Arc<CallGuard>, tenant: &TenantId, per_minute: u32) -> Self {
        let shared = bucket_of(per_minute);
        let own = bucket_of((per_minute / OFFLINE_SHARE).max(1));
        let key = format!("slas|{tenant}").into_bytes();
        Self { store, guard, key, shared, own, offline: TokenBucket::default(), store_retry_at: None }
    }

    /// Refills the guard's permit lease whenever it is empty. It never returns.
    pub async fn run(mut self) {
        loop {
            let priority = self.guard.permit_lease().next_refill_request().await;
            match self.take(priority).await {
                Ok(calls) => self.guard.permit_lease().refill(priority, calls),
                Err(wait) => self.guard.permit_lease().deny(priority, wait),
            }
        }
    }

    async fn take(&mut self, priority: Priority) -> Result<u32, Duration> {
        if let Some(taken) = self.take_shared(priority).await {
            return taken;
        }
        let (config, calls) = (self.own.with_reserve(reserve_of(priority, self.own)), lease_size(self.own));
        self.offline.try_acquire(config, calls, Instant::now()).map(|()| calls)
    }

    /// Takes calls from the shared bucket. `None` if the store is unavailable or slow. A slow store may have taken the tokens
    /// nevertheless, so fewer calls are made than the limit allows.
    async fn take_shared(&mut self, priority: Priority) -> Option<Result<u32, Duration>> {
        if self.store_retry_at.is_some_and(|time| Instant::now() < time) {
            return None;
        }
        let (calls, reserve) = (lease_size(self.shared), reserve_of(priority, self.shared));
        let acquiring = self.store.acquire_tokens(&self.key, self.shared, calls, reserve);
        let Ok(acquired) = tokio::time::timeout(STORE_TIMEOUT, acquiring).await else {
            if self.store_retry_at.replace(Instant::now() + SLOW_STORE_PAUSE).is_none() {
                tracing::warn!("the store is slow: this gateway uses its own quarter of the SLAS call budget");
            }
            return None;
        };
        if self.store_retry_at.take().is_some() {
            tracing::info!("the store is fast again: all gateways share the SLAS call budget");
        }
        Some(acquired.ok()?.map(|()| calls))
    }
}

fn bucket_of(per_minute: u32) -> BucketConfig {
    let capacity = (per_minute / BURST_DIVISOR).max(1);
    let rest = per_minute.saturating_sub(capacity).max(1);
    BucketConfig { capacity, refill_interval: Duration::from_secs(60) / rest }
}

fn lease_size(config: BucketConfig) -> u32 {
    (config.capacity / LEASES_PER_BUCKET).max(1)
}

/// The tokens that calls of a priority leave for higher priorities.
fn reserve_of(priority: Priority, config: BucketConfig) -> u32 {
    match priority {
        Priority::BackgroundRefresh | Priority::Forwarded => config.capacity / 2,
        Priority::ForwardedLogin => config.capacity / 8 * 3,
        Priority::Refresh => config.capacity / 4,
        Priority::Login | Priority::System | Priority::Profile | Priority::Maintenance => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{observability::metrics::Metrics, store::memory::MemoryStore};

    fn budget(store: &Arc<dyn SessionStore>, per_minute: u32) -> SlasBudget {
        let metrics = Arc::new(Metrics::new("test", "test").unwrap());
        let tenant = "zzrf_001".parse().unwrap();
        SlasBudget::new(Arc::clone(store), CallGuard::new("f_ecom_zzrf_001", metrics), &tenant, per_minute)
    }

    async fn calls(budget: &mut SlasBudget, priority: Priority) -> u32 {
        let mut all = 0;
        while let Ok(calls) = budget.take(priority).await {
            all += calls;
        }
        all
    }

    #[test]
    fn calls_per_minute_stay_within_limit() {
        for per_minute in [1, 2, 7, 500, 24_000] {
            let (config, mut bucket, start) = (bucket_of(per_minute), TokenBucket::default(), Instant::now());
            let mut calls = 0;
            for tick in 0..600 {
                while bucket.try_acquire(config, 1, start + Duration::from_millis(100 * tick)).is_ok() {
                    calls += 1;
                }
            }
            assert!(calls <= per_minute.max(2) && calls >= per_minute / 2, "{calls} of {per_minute}");
        }
    }

    #[tokio::test]
    async fn replicas_share_the_budget_and_reserve_calls_for_logins() {
        let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new(1));
        // So slow that nothing comes back meanwhile: 100 at once.
        let (mut one, mut other) = (budget(&store, 500), budget(&store, 500));
        assert!((50..60).contains(&calls(&mut one, Priority::BackgroundRefresh).await));
        assert!((25..35).contains(&calls(&mut other, Priority::Refresh).await));
        assert!((25..35).contains(&calls(&mut one, Priority::Login).await));
        assert!(calls(&mut other, Priority::Login).await < 10);
    }
}
