//! Answers a client id that is not configured exactly as a wrong secret is answered.
//!
//! The responses must not reveal which client ids are configured. An unknown client passes through the same limits and
//! waits as long as Account Manager takes to reject a secret; only the call is left out. The state is separate, so that
//! a flood of made-up clients evicts no state of configured ones. docs/THREAT-MODEL.md names the remaining difference.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use parking_lot::Mutex;

use super::{
    credentials::{ClientCredentials, TokenKey},
    failure::{CLIENT_REJECTED_TTL, MAX_BACKOFF, MAX_FAILURES, MIN_BACKOFF, SystemTokenFailure},
    guess_limiter::{GuessLimiter, Guesser},
    verified_secrets::VerifiedSecrets,
};
use crate::{time::random_fraction, tokens::single_flight::SingleFlight, types::TenantId};

/// A rejection is answered at a multiple of this time after the verification began. Account Manager's rejections take
/// less.
const REJECTION_INTERVAL: Duration = Duration::from_millis(500);
/// The assumed time of a rejection, until Account Manager has rejected one.
const DEFAULT_REJECTION_TIME: Duration = Duration::from_millis(150);

/// The observed responses of Account Manager for one tenant.
#[derive(Debug, Clone, Copy)]
struct Observed {
    rejected_within: Duration,
    fails_until: Option<Instant>,
}

/// The state that answers clients that are not configured.
#[derive(Debug)]
pub(super) struct UnknownClients {
    guess_limiter: GuessLimiter,
    failures: Cache<TokenKey, Instant>,
    exchanges: Arc<SingleFlight<TokenKey, SystemTokenFailure>>,
    /// By configured tenant.
    observed: Mutex<HashMap<TenantId, Observed>>,
}

impl UnknownClients {
    pub(super) fn new() -> Self {
        Self {
            guess_limiter: GuessLimiter::new(),
            failures: Cache::builder().max_capacity(MAX_FAILURES).time_to_live(CLIENT_REJECTED_TTL).build(),
            exchanges: SingleFlight::new(),
            observed: Mutex::default(),
        }
    }

    /// Notes that Account Manager rejected a configured client after this time.
    pub(super) fn observe_rejection(&self, tenant: &TenantId, took: Duration) {
        self.observe(tenant, |observed| {
            *observed = Observed { rejected_within: (observed.rejected_within * 3 + took) / 4, fails_until: None };
        });
    }

    /// Notes that Account Manager failed. A configured client would get this error until Account Manager responds
    /// again, or for [`MAX_BACKOFF`].
    pub(super) fn observe_failure(&self, tenant: &TenantId) {
        self.observe(tenant, |observed| observed.fails_until = Some(Instant::now() + MAX_BACKOFF));
    }

    /// Notes that Account Manager accepted a configured client.
    pub(super) fn observe_success(&self, tenant: &TenantId) {
        self.observe(tenant, |observed| observed.fails_until = None);
    }

    fn observe(&self, tenant: &TenantId, change: impl FnOnce(&mut Observed)) {
        let unknown = Observed { rejected_within: DEFAULT_REJECTION_TIME, fails_until: None };
        change(self.observed.lock().entry(tenant.clone()).or_insert(unknown));
    }

    /// Rejects a client that is not configured.
    pub(super) async fn refuse(
        self: &Arc<Self>,
        verified_secrets: &Arc<VerifiedSecrets>,
        guesser: Guesser,
        credentials: &ClientCredentials,
        key: &TokenKey,
    ) -> SystemTokenFailure {
        if self.failures.contains_key(key) {
            return SystemTokenFailure::CredentialsRejected;
        }
        let work = || {
            let (unknown_clients, verified_secrets) = (Arc::clone(self), Arc::clone(verified_secrets));
            let (credentials, key) = (credentials.clone(), key.clone());
            async move { unknown_clients.imitate_rejection(&verified_secrets, guesser, &credentials, key).await }
        };
        let (failure, _) = self.exchanges.join(key, work).await;
        failure.unwrap_or(SystemTokenFailure::Unavailable { retry_after: MIN_BACKOFF })
    }

    async fn imitate_rejection(
        &self,
        verified_secrets: &VerifiedSecrets,
        guesser: Guesser,
        credentials: &ClientCredentials,
        key: TokenKey,
    ) -> SystemTokenFailure {
        let permit = match self.guess_limiter.begin(&guesser, &key.credentials).await {
            Ok(permit) => permit,
            Err(retry_after) => {
                // The store has no entry, but the lookup takes the same time.
                verified_secrets.is_shared(&key.credentials, credentials).await;
                return SystemTokenFailure::TooManyGuesses { retry_after };
            }
        };
        let began = Instant::now();
        let observed = self.observed.lock().get(&key.tenant).copied();
        let Observed { rejected_within, fails_until } =
            observed.unwrap_or(Observed { rejected_within: DEFAULT_REJECTION_TIME, fails_until: None });
        if fails_until.is_some_and(|until| until > began) {
            return SystemTokenFailure::Unavailable { retry_after: MIN_BACKOFF };
        }
        tokio::time::sleep(rejected_within.mul_f64(0.75 + 0.5 * random_fraction())).await;
        self.guess_limiter.refused(&permit);
        drop(permit);
        until_rejection_time(began).await;
        self.failures.insert(key, Instant::now());
        SystemTokenFailure::CredentialsRejected
    }
}

/// Waits until the rejection of a verification that began at this time is answered.
pub(super) async fn until_rejection_time(began: Instant) {
    let took = u32::try_from(began.elapsed().as_millis() / REJECTION_INTERVAL.as_millis()).unwrap_or(u32::MAX - 1);
    let at = began + REJECTION_INTERVAL.saturating_mul(took + 1);
    tokio::time::sleep_until(at.into()).await;
}
