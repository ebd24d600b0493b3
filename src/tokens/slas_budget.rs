//! The calls that SLAS takes of a tenant, shared by all gateways.
//!
//! Owns the figures and the way of sharing: the budget lies in the store, and each gateway takes a twentieth of it in hand
//! at a time, so that the store is asked once for many calls and never by a request that needs none. While the store
//! cannot be reached, each gateway goes on with a quarter, so that four of them stay below the limit. Who is
//! served first when it runs short: logins of the gateway, then its refreshes, then logins and refreshes that clients send
//! to SLAS themselves, then all else that they send, and refreshes ahead of time.

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

/// Of a minute's calls one fifth may be made at once; the others come back during the minute. So there are never
/// more than the limit in any minute, wherever SLAS's own minutes begin.
const AT_ONCE: u32 = 5;
/// Parts that the whole is taken in hand in.
const HANDFULS: u32 = 20;
/// Gateways that may go on alone without exceeding the limit together.
const ALONE: u32 = 4;

/// The budget of one tenant, as one gateway sees it.
#[derive(Debug)]
pub struct SlasBudget {
    store: Arc<dyn SessionStore>,
    guard: Arc<CallGuard>,
    what: Vec<u8>,
    shared: BucketConfig,
    own: BucketConfig,
    alone: TokenBucket,
}

impl SlasBudget {
    /// So many calls a minute, of all gateways together; this one's go through `guard`.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>, guard: Arc<CallGuard>, tenant: &TenantId, per_minute: u32) -> Self {
        let shared = whole(per_minute);
        let own = whole((per_minute / ALONE).max(1));
        Self { store, guard, what: format!("slas|{tenant}").into_bytes(), shared, own, alone: TokenBucket::default() }
    }

    /// Fills the guard's purse whenever it is empty, for ever.
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
        let calls = handful(self.shared);
        match self.store.acquire_tokens(&self.what, self.shared, calls, left_by(priority, self.shared)).await {
            Ok(acquired) => acquired.map(|()| calls),
            Err(_) => {
                let (config, calls) = (self.own.with_reserve(left_by(priority, self.own)), handful(self.own));
                self.alone.try_acquire(config, calls, Instant::now()).map(|()| calls)
            }
        }
    }
}

fn whole(per_minute: u32) -> BucketConfig {
    let capacity = (per_minute / AT_ONCE).max(1);
    let rest = per_minute.saturating_sub(capacity).max(1);
    BucketConfig { capacity, refill_interval: Duration::from_secs(60) / rest }
}

fn handful(config: BucketConfig) -> u32 {
    (config.capacity / HANDFULS).max(1)
}

/// What a class leaves for those that matter more.
fn left_by(priority: Priority, config: BucketConfig) -> u32 {
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

    async fn taken(budget: &mut SlasBudget, priority: Priority) -> u32 {
        let mut all = 0;
        while let Ok(calls) = budget.take(priority).await {
            all += calls;
        }
        all
    }

    #[test]
    fn calls_per_minute_stay_within_limit() {
        for per_minute in [1, 2, 7, 500, 24_000] {
            let (config, mut bucket, start) = (whole(per_minute), TokenBucket::default(), Instant::now());
            let mut taken = 0;
            for tick in 0..600 {
                while bucket.try_acquire(config, 1, start + Duration::from_millis(100 * tick)).is_ok() {
                    taken += 1;
                }
            }
            assert!(taken <= per_minute.max(2) && taken >= per_minute / 2, "{taken} of {per_minute}");
        }
    }

    #[tokio::test]
    async fn replicas_share_the_budget_and_reserve_calls_for_logins() {
        let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new(1));
        // So slow that nothing comes back meanwhile: 100 at once.
        let (mut one, mut other) = (budget(&store, 500), budget(&store, 500));
        assert!((50..60).contains(&taken(&mut one, Priority::BackgroundRefresh).await));
        assert!((25..35).contains(&taken(&mut other, Priority::Refresh).await));
        assert!((25..35).contains(&taken(&mut one, Priority::Login).await));
        assert!(taken(&mut other, Priority::Login).await < 10);
    }
}
