//! How many calls to SLAS the requests of one client address may cause, and how much they matter.
//!
//! SLAS takes few requests of a tenant in a minute, and all shoppers share them. So no address may use up more than its
//! part, and what a stranger can ask for without logging in comes last, see [`Class`].

use std::{net::IpAddr, time::Duration};

use super::meter::Meter;
use crate::{
    gate::{
        Route,
        forward::{Credential, Origin},
    },
    jwt::sha256,
    names::OrganizationId,
    salesforce::guard::Class,
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

/// What the addresses have asked of SLAS in the last minute.
#[derive(Debug, Clone)]
pub(super) struct SlasCallers {
    calls: Meter,
    guests: Meter,
}

impl Default for SlasCallers {
    fn default() -> Self {
        Self { calls: Meter::new(), guests: Meter::new() }
    }
}

impl SlasCallers {
    /// Counts calls to an organization's SLAS. A request that causes more than a minute has counts as all of them.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn take_calls(
        &self,
        organization: &OrganizationId,
        client: IpAddr,
        calls: u32,
        per_minute: u32,
    ) -> Result<(), Duration> {
        self.calls.take(&name(organization, client), calls.min(per_minute), per_minute)
    }

    /// Gives back what was taken.
    pub(super) fn give_back_calls(&self, organization: &OrganizationId, client: IpAddr, calls: u32, per_minute: u32) {
        self.calls.give_back(&name(organization, client), calls.min(per_minute), per_minute);
    }

    /// Counts a deprecated guest login.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn take_guest(
        &self,
        organization: &OrganizationId,
        client: IpAddr,
        per_minute: u32,
    ) -> Result<(), Duration> {
        self.guests.take(&name(organization, client), 1, per_minute)
    }

    /// Gives a guest login back.
    pub(super) fn give_back_guest(&self, organization: &OrganizationId, client: IpAddr, per_minute: u32) {
        self.guests.give_back(&name(organization, client), 1, per_minute);
    }
}

/// How much a client's own request to SLAS matters beside the gateway's. A trusted system has proved its identity, and has
/// a rate of its own, so its requests matter like logins.
pub(super) fn class(route: &Route, credential: &Credential) -> Class {
    let is_login = LOGINS.iter().any(|login| route.is(login));
    match credential.origin() {
        Origin::Caller(_) | Origin::Machine(..) | Origin::OnBehalf(..) => Class::Login,
        Origin::Shopper(_) | Origin::Session(..) | Origin::Slas | Origin::SlasClient(..) | Origin::Reported { .. } => {
            if is_login {
                Class::ForwardedLogin
            } else {
                Class::Forwarded
            }
        }
    }
}

fn name(organization: &OrganizationId, client: IpAddr) -> [u8; 32] {
    sha256(format!("{organization}\0{client}"))
}
