//! How many calls to SLAS the requests of one client address may cause, and how much they matter.
//!
//! SLAS takes few requests of a tenant in a minute, and all shoppers share them. So no address may use up more than its
//! part, and what a stranger can ask for without logging in comes last, see [`Priority`].

use std::net::IpAddr;

use crate::{
    gateway::{
        Route,
        error::GatewayError,
        headers::{Origin, UpstreamCredential},
    },
    jwt::sha256,
    ratelimit::{BucketConfig, KeyedRateLimiter},
    salesforce::guard::Priority,
    types::OrganizationId,
};

/// Operations of SLAS by which shoppers log in, refresh their tokens and log out.
const LOGINS: [&str; 10] = [
    "authenticateCustomer",
    "authorizeCustomer",
    "getAccessToken",
    "getPasswordLessAccessToken",
    "getSessionBridgeAccessToken",
    "getTrustedAgentAccessToken",
    "getTrustedAgentAuthorizationToken",
    "getTrustedSystemAccessToken",
    "logoutCustomer",
    "finishWebauthnAuthentication",
];

/// Rates of calls to SLAS and of deprecated guest logins, for each client address.
#[derive(Debug, Clone, Default)]
pub(super) struct SlasCallLimits {
    calls: KeyedRateLimiter<[u8; 32]>,
    guests: KeyedRateLimiter<[u8; 32]>,
}

/// Calls or a login that have been counted.
#[derive(Debug)]
#[must_use = "what is not given back stays counted"]
pub(super) struct SlasCallPermit<'l> {
    limiter: &'l KeyedRateLimiter<[u8; 32]>,
    key: [u8; 32],
    amount: u32,
    config: BucketConfig,
}

impl SlasCallPermit<'_> {
    /// Takes the count back: nothing was sent.
    pub(super) fn give_back(self) {
        self.limiter.refund(&self.key, self.config, self.amount);
    }
}

impl SlasCallLimits {
    /// Counts calls to an organization's SLAS. A request that causes more than a minute has counts as all of them.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`] if the client has used up its rate.
    pub(super) fn take_calls(
        &self,
        organization: &OrganizationId,
        client: IpAddr,
        calls: u32,
        per_minute: u32,
    ) -> Result<SlasCallPermit<'_>, GatewayError> {
        take(&self.calls, organization, client, calls.min(per_minute), per_minute)
    }

    /// Counts a deprecated guest login.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`] if the client has used up its rate.
    pub(super) fn take_guest(
        &self,
        organization: &OrganizationId,
        client: IpAddr,
        per_minute: u32,
    ) -> Result<SlasCallPermit<'_>, GatewayError> {
        take(&self.guests, organization, client, 1, per_minute)
    }
}

fn take<'l>(
    limiter: &'l KeyedRateLimiter<[u8; 32]>,
    organization: &OrganizationId,
    client: IpAddr,
    amount: u32,
    per_minute: u32,
) -> Result<SlasCallPermit<'l>, GatewayError> {
    let key = sha256(format!("{organization}\0{client}"));
    let config = BucketConfig::per_minute(per_minute);
    limiter.try_acquire(&key, config, amount).map_err(|retry_after| GatewayError::CallerRateLimited { retry_after })?;
    Ok(SlasCallPermit { limiter, key, amount, config })
}

/// How much a client's own request to SLAS matters beside the gateway's. A trusted system has proved its identity, and has
/// a rate of its own, so its requests matter like logins.
pub(super) fn priority(route: &Route, credential: &UpstreamCredential) -> Priority {
    let is_login = LOGINS.iter().any(|login| route.is(login));
    match credential.origin() {
        Origin::Caller(_) | Origin::Machine(..) | Origin::OnBehalf(..) => Priority::Login,
        Origin::Shopper(_) | Origin::Session(..) | Origin::Slas | Origin::SlasClient(..) | Origin::Reported { .. } => {
            if is_login {
                Priority::ForwardedLogin
            } else {
                Priority::Forwarded
            }
        }
    }
}
