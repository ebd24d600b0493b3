//! Limits of the calls to SLAS that one client address may cause, and the priority of a call.
//!
//! SLAS accepts few requests per minute for an organization, and all shoppers share them. So an address may use only a part of
//! them, and requests that need no login have the lowest priority (see [`Priority`]).

use std::net::IpAddr;

use crate::{
    gateway::{
        credential::{Source, UpstreamCredential},
        error::GatewayError,
        request::Route,
    },
    jwt::sha256,
    ratelimit::{BucketConfig, KeyedRateLimiter},
    salesforce::guard::Priority,
    types::OrganizationId,
};

/// The SLAS operations of logins, refreshes and logouts.
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

/// Rate limits of calls to SLAS and of deprecated guest logins, per client address.
#[derive(Debug, Clone, Default)]
pub(super) struct SlasCallLimits {
    calls: KeyedRateLimiter<[u8; 32]>,
    guests: KeyedRateLimiter<[u8; 32]>,
}

/// Counted calls, or a counted login.
#[derive(Debug)]
#[must_use = "a permit that is not given back stays counted"]
pub(super) struct SlasCallPermit<'l> {
    limiter: &'l KeyedRateLimiter<[u8; 32]>,
    key: [u8; 32],
    amount: u32,
    config: BucketConfig,
}

impl SlasCallPermit<'_> {
    /// Takes the count back, because no call was made.
    pub(super) fn give_back(self) {
        self.limiter.refund(&self.key, self.config, self.amount);
    }
}

impl SlasCallLimits {
    /// Counts calls to an organization's SLAS. A request with more calls than a minute allows counts as all of them.
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

/// Returns the priority of a client's request to SLAS. A trusted system is authenticated and has a rate limit of its own, so its
/// requests have the priority of logins.
pub(super) fn priority(route: &Route, credential: &UpstreamCredential) -> Priority {
    match credential.source() {
        Source::Caller(_) | Source::System(..) | Source::OnBehalf(..) => Priority::Login,
        Source::Shopper(_) | Source::Session(..) | Source::Slas | Source::SlasClient(..) | Source::Reported { .. } => {
            if LOGINS.iter().any(|login| route.has_operation_id(login)) {
                Priority::ForwardedLogin
            } else {
                Priority::Forwarded
            }
        }
    }
}
