//! How often a trusted system, or the shoppers of a SLAS client, may ask.
//!
//! Owns the counting, in this gateway alone: it bounds what one of them may cost, and is no contract to the last
//! request. Nobody is counted who has not proved who he is, or anybody could use up another's rate.

use std::{collections::HashMap, time::Duration};

use crate::{
    config::Settings,
    gateway::{
        authn::callers::Caller,
        headers::{Origin, Proved, UpstreamCredential},
    },
    ratelimit::{BucketConfig, RateLimiter},
    types::{ClientId, OrganizationId},
};

/// The rates of the configuration; who has none is not here.
#[derive(Debug)]
pub(super) struct Rates {
    callers: HashMap<String, RateLimiter>,
    clients: HashMap<(OrganizationId, ClientId), RateLimiter>,
}

impl Rates {
    pub(super) fn new(settings: &Settings) -> Self {
        let limiter = |per_second: u32| RateLimiter::new(BucketConfig::per_second(per_second.max(1)));
        let callers = settings.callers.iter();
        let callers = callers.filter_map(|caller| Some((caller.name.clone(), limiter(caller.requests_per_second?))));
        let clients = settings.tenants.iter().flat_map(|tenant| {
            tenant.slas_clients.iter().filter_map(|client| {
                let whose = (tenant.organization.clone(), client.id.clone());
                Some((whose, limiter(client.requests_per_second?)))
            })
        });
        Self { callers: callers.collect(), clients: clients.collect() }
    }

    /// Whether any caller or client has a rate.
    pub(super) fn are_any(&self) -> bool {
        !self.callers.is_empty() || !self.clients.is_empty()
    }

    /// Whether a trusted system that has proved who it is may ask; then it counts.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn admit_caller(&self, caller: &Caller) -> Result<(), Duration> {
        self.callers.get(&caller.settings.name).map_or(Ok(()), RateLimiter::try_acquire)
    }

    /// Whether a request with this credential may go on; then it counts.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn admit(&self, credential: &UpstreamCredential) -> Result<(), Duration> {
        let rate = match credential.origin() {
            // It has been counted already, before SLAS was asked for the guest.
            Origin::OnBehalf(_, token) if token.is_of_new_guest() => None,
            Origin::Caller(caller)
            | Origin::Machine(caller, _)
            | Origin::OnBehalf(caller, _)
            | Origin::Reported { proved: Proved::Caller(caller), .. } => {
                return self.admit_caller(caller);
            }
            Origin::Shopper(shopper)
            | Origin::Session(shopper, _)
            | Origin::Reported { proved: Proved::Shopper(shopper), .. }
                if !self.clients.is_empty() =>
            {
                self.clients.get(&(shopper.organization.clone(), shopper.client.clone()))
            }
            Origin::Shopper(_)
            | Origin::Session(..)
            | Origin::Slas
            | Origin::SlasClient(..)
            | Origin::Reported { .. } => None,
        };
        rate.map_or(Ok(()), RateLimiter::try_acquire)
    }
}
