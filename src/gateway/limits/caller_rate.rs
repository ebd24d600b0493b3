//! Rate limits of trusted systems and of SLAS clients.
//!
//! Each gateway counts on its own, so a fleet lets more through than one gateway. Only authenticated senders count. Otherwise a
//! stranger could use up the rate of another sender.

use std::{collections::HashMap, time::Duration};

use crate::{
    config::Settings,
    gateway::callers::Caller,
    ratelimit::{BucketConfig, RateLimiter},
    types::{ClientId, OrganizationId},
    verify::shopper::Shopper,
};

/// The rate limits of a configuration.
#[derive(Debug)]
pub(super) struct CallerRates {
    callers: HashMap<String, RateLimiter>,
    clients: HashMap<(OrganizationId, ClientId), RateLimiter>,
}

impl CallerRates {
    pub(super) fn new(settings: &Settings) -> Self {
        let limiter = |per_second: u32| RateLimiter::new(BucketConfig::per_second(per_second.max(1)));
        let callers = settings.callers.iter();
        let callers = callers.filter_map(|caller| Some((caller.name.clone(), limiter(caller.requests_per_second?))));
        let clients = settings.tenants.iter().flat_map(|tenant| {
            tenant.slas_clients.iter().filter_map(|client| {
                let key = (tenant.organization.clone(), client.id.clone());
                Some((key, limiter(client.requests_per_second?)))
            })
        });
        Self { callers: callers.collect(), clients: clients.collect() }
    }

    /// Whether no caller and no client has a rate limit.
    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty() && self.clients.is_empty()
    }

    /// Counts a request of an authenticated trusted system.
    ///
    /// # Errors
    /// The time until the request is allowed.
    pub(super) fn acquire_caller(&self, caller: &Caller) -> Result<(), Duration> {
        self.callers.get(&caller.settings.name).map_or(Ok(()), RateLimiter::try_acquire)
    }

    /// Counts a request of a shopper for its SLAS client.
    ///
    /// # Errors
    /// The time until the request is allowed.
    pub(super) fn acquire_shopper(&self, shopper: &Shopper) -> Result<(), Duration> {
        if self.clients.is_empty() {
            return Ok(());
        }
        let limiter = self.clients.get(&(shopper.organization.clone(), shopper.client.clone()));
        limiter.map_or(Ok(()), RateLimiter::try_acquire)
    }
}
