//! What keeps a ring fresh without a request: taking back what was kept, filling, renewing.
//!
//! Owns the one background task of a ring and its pace. While an issuer is down and a ring is empty, SLAS is asked
//! something cheap each second instead of its key set, whose calls are few: so a gateway is ready within
//! two seconds of the issuer's return, after an outage of any length.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    fetch_limit::Purpose,
    key_ring::{Fetched, KeyRing},
};
use crate::time::random_fraction;

/// How often a set is renewed; up to a quarter is taken off at random.
const RENEWAL: Duration = Duration::from_secs(6 * 60 * 60);
/// How soon a renewal that failed is tried again; up to a quarter is taken off at random.
const RENEWAL_RETRY: Duration = Duration::from_secs(5 * 60);
/// How often an issuer that is down is asked for a sign of life.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);
/// How often an empty ring asks for the set of an issuer that gives a sign of life but no set.
const FILL_EVERY: Duration = Duration::from_millis(1500);
/// How often it does without a sign of life, in case it is the sign that fails.
const FILL_BLINDLY_EVERY: Duration = Duration::from_secs(10);
/// How often the age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);

impl KeyRing {
    /// Keeps the ring fresh for ever.
    pub async fn keep_fresh(self: Arc<Self>) {
        self.restore().await;
        loop {
            if !self.is_filled() {
                self.fill().await;
            }
            let fetched = match self.age() {
                // Just filled by this gateway, or by another one.
                Some(age) if age < RENEWAL_RETRY && *self.tried.borrow() && !self.is_failing() => Fetched::Set,
                _ => self.fetch(&mut *self.search.lock().await, Purpose::Upkeep).await,
            };
            self.tried.send_replace(true);
            let wait = if fetched == Fetched::Set { RENEWAL } else { RENEWAL_RETRY };
            self.rest(wait.mul_f64(1.0 - 0.25 * random_fraction())).await;
        }
    }

    /// Takes back what was kept, the younger of two.
    async fn restore(&self) {
        let _search = self.search.lock().await;
        for (place, kept) in [("folder", self.shelf.in_folder().await), ("store", self.shelf.in_store().await)] {
            if self.take_over(kept) {
                let age = self.age().unwrap_or_default().as_secs();
                let (tenant, issuer) = (&self.tenant, self.issuer.name());
                tracing::info!(
                    tenant,
                    issuer,
                    place,
                    age_seconds = age,
                    "a kept key set is in use until a new one comes"
                );
            }
        }
    }

    /// Waits, unless the set gets too old meanwhile.
    async fn rest(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            let good_for = self.shelf.max_age().saturating_sub(self.age().unwrap_or_default());
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(LOOK_EVERY.min(left).min(good_for)).await;
            self.record_age();
            if !self.is_filled() {
                let (tenant, issuer) = (&self.tenant, self.issuer.name());
                tracing::error!(
                    tenant,
                    issuer,
                    "the key set is older than keys.max_age: its tokens get 503 until a new one comes"
                );
                return;
            }
        }
    }

    /// Returns when there are keys.
    async fn fill(&self) {
        loop {
            {
                let mut search = self.search.lock().await;
                tokio::select! {
                    _ = self.fetch(&mut search, Purpose::Upkeep) => {}
                    // The issuer was silent and is back: the fetch that waits for it began too early.
                    () = self.comes_back() => continue,
                }
            }
            self.tried.send_replace(true);
            if self.is_filled() {
                return;
            }
            self.until_worth_a_fetch().await;
            if self.is_filled() {
                return;
            }
        }
    }

    /// Returns when the issuer gives no sign of life and then one.
    async fn comes_back(&self) {
        let mut silent = false;
        let mut every = tokio::time::interval(SIGN_OF_LIFE_EVERY);
        every.tick().await;
        loop {
            every.tick().await;
            match self.issuer.answers().await {
                true if silent => return,
                answers => silent = !answers,
            }
        }
    }

    /// Returns when the issuer gives a sign of life, when another replica kept a set, or at last in any case.
    async fn until_worth_a_fetch(&self) {
        let start = Instant::now();
        let mut every = tokio::time::interval(SIGN_OF_LIFE_EVERY);
        every.tick().await;
        while start.elapsed() < FILL_BLINDLY_EVERY {
            every.tick().await;
            if self.shelf.is_shared() && self.take_over(self.shelf.in_store().await) {
                return;
            }
            if self.issuer.answers().await {
                return tokio::time::sleep(FILL_EVERY.saturating_sub(start.elapsed())).await;
            }
        }
    }
}
