//! Limits of the calls to SLAS that one client address may cause, and the priority of a call.
//!
//! SLAS accepts few requests per minute for an organization, and all shoppers share them. So an address may use only a part of
//! them, and requests that need no login have the lowest priority (see [`Priority`]).

use std::{net::IpAddr, time::Duration};

use super::count::Count;
use crate::{
    gateway::{
        credential::{Source, UpstreamCredential},
        request::Route,
    },
    jwt::sha256,
    ratelimit::KeyedRateLimiter,
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

/// Rate limits of calls to SLAS and of deprecated guest logins, per client address. A clone shares the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct SlasCallLimits {
    calls: KeyedRateLimiter<[u8; 32]>,
    guests: KeyedRateLimiter<[u8; 32]>,
}

impl SlasCallLimits {
    /// Counts calls to an organization's SLAS. A request with more calls than a minute allows counts as all of them.
    ///
    /// # Errors
    /// The time until the calls are allowed.
    pub(super) fn acquire_calls(
        &self,
        organization: &OrganizationId,
        client: IpAddr,
        calls: u32,
        per_minute: u32,
    ) -> Result<Count, Duration> {
        Count::acquire(&self.calls, key(organization, client), per_minute, calls.min(per_minute))
    }

    /// Counts a deprecated guest login.
    ///
    /// # Errors
    /// The time until the login is allowed.
    pub(super) fn acquire_guest(
        &self,
        organization: &OrganizationId,
        client: IpAddr,
        per_minute: u32,
    ) -> Result<Count, Duration> {
        Count::acquire(&self.guests, key(organization, client), per_minute, 1)
    }
}

fn key(organization: &OrganizationId, client: IpAddr) -> [u8; 32] {
    sha256(format!("{organization}\0{client}"))
}

/// Returns the priority of a client's request to SLAS. A trusted system is authenticated and has a rate limit of its own, so its
/// requests have the priority of logins.
pub(super) fn priority(route: &Route, credential: &UpstreamCredential) -> Priority {
    match credential.source() {
        Source::Caller(_) | Source::System(..) | Source::OnBehalf(..) => Priority::Login,
        Source::Shopper(_)
        | Source::Session { .. }
        | Source::Slas
        | Source::SlasClient(..)
        | Source::Reported { .. } => {
            if LOGINS.iter().any(|login| route.has_operation_id(login)) {
                Priority::ForwardedLogin
            } else {
                Priority::Forwarded
            }
        }
    }
}
