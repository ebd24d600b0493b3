//! The background task of a key ring: restores the persisted key set, then fetches and refreshes it.
//!
//! Requests never cause the first fetch. While an issuer is down and there is no usable key set, the task probes a cheap
//! endpoint of SLAS every second, because JWKS fetches are rate limited. So a gateway is ready within two seconds of the
//! issuer's recovery, however long the outage was.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    fetch_limit::FetchPurpose,
    key_ring::{FetchOutcome, KeyRing},
};
use crate::time::random_fraction;

/// The time between refreshes, and after a failed one. Up to [`MAX_JITTER`] of it is subtracted at random.
const REFRESH_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
const RETRY_INTERVAL: Duration = Duration::from_secs(5 * 60);
const MAX_JITTER: f64 = 0.25;
/// The time between probes of an issuer that is down.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum time between fetches of the first key set from an issuer that is reachable.
const FETCH_INTERVAL: Duration = Duration::from_millis(1500);
/// The time after which a fetch is made without a successful probe, in case only the probe fails.
const UNPROBED_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// The time between checks of the key set's age.
const AGE_CHECK_INTERVAL: Duration = Duration::from_secs(15);

impl KeyRing {
    /// Keeps the key set fresh. Never returns.
    pub async fn run_refresher(self: Arc<Self>) {
        self.restore().await;
        loop {
            if !self.has_usable_keys() {
                self.fetch_until_usable().await;
            }
            let outcome = match self.age() {
                // This gateway or another replica has just fetched it.
                Some(age) if age < RETRY_INTERVAL && *self.is_initialized.borrow() && !self.is_failing() => {
                    FetchOutcome::Fetched
                }
                _ => self.fetch(&mut *self.fetch_state.lock().await, FetchPurpose::Refresh).await,
            };
            self.is_initialized.send_replace(true);
            let interval = if outcome == FetchOutcome::Fetched { REFRESH_INTERVAL } else { RETRY_INTERVAL };
            self.wait_for_refresh(interval.mul_f64(1.0 - MAX_JITTER * random_fraction())).await;
        }
    }

    /// Activates the younger of the two persisted key sets.
    async fn restore(&self) {
        let _state = self.fetch_state.lock().await;
        for (location, persisted) in
            [("file", self.cache.load_from_directory().await), ("store", self.cache.load_from_store().await)]
        {
            if self.activate_persisted(persisted) {
                let age_seconds = self.age().unwrap_or_default().as_secs();
                let (tenant, issuer) = (&self.tenant, self.issuer.name());
                tracing::info!(
                    tenant,
                    issuer,
                    location,
                    age_seconds,
                    "key set restored, using it until the next fetch"
                );
            }
        }
    }

    /// Returns when the time has passed, or earlier when the key set is too old.
    async fn wait_for_refresh(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            let time_to_expiry = self.cache.max_age().saturating_sub(self.age().unwrap_or_default());
            let time_left = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(AGE_CHECK_INTERVAL.min(time_left).min(time_to_expiry)).await;
            self.record_age();
            if !self.has_usable_keys() {
                let (tenant, issuer) = (&self.tenant, self.issuer.name());
                tracing::error!(
                    tenant,
                    issuer,
                    "key set is older than keys.max_age, answering its tokens with 503 until a fetch succeeds"
                );
                return;
            }
        }
    }

    /// Returns when there is a usable key set.
    async fn fetch_until_usable(&self) {
        loop {
            {
                let mut state = self.fetch_state.lock().await;
                tokio::select! {
                    _ = self.fetch(&mut state, FetchPurpose::Refresh) => {}
                    // The issuer was down and has recovered. The pending fetch began too early and may hang until its
                    // timeout.
                    () = self.wait_for_recovery() => continue,
                }
            }
            self.is_initialized.send_replace(true);
            if self.has_usable_keys() {
                return;
            }
            self.wait_for_next_fetch().await;
            if self.has_usable_keys() {
                return;
            }
        }
    }

    /// Returns when a probe succeeds after a failed one.
    async fn wait_for_recovery(&self) {
        let mut was_down = false;
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.tick().await;
        loop {
            interval.tick().await;
            match self.issuer.is_reachable().await {
                true if was_down => return,
                is_reachable => was_down = !is_reachable,
            }
        }
    }

    /// Returns when the issuer is reachable, when another replica saved a key set, or after [`UNPROBED_FETCH_INTERVAL`].
    async fn wait_for_next_fetch(&self) {
        let start = Instant::now();
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.tick().await;
        while start.elapsed() < UNPROBED_FETCH_INTERVAL {
            interval.tick().await;
            if self.cache.is_shared() && self.activate_persisted(self.cache.load_from_store().await) {
                return;
            }
            if self.issuer.is_reachable().await {
                return tokio::time::sleep(FETCH_INTERVAL.saturating_sub(start.elapsed())).await;
            }
        }
    }
}
