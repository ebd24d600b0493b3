//! The priority, sender and outcome of a call.

use std::time::Duration;

/// The kind of a call, which decides its circuit breaker and its share of SLAS's rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// SLAS: a login or a logout.
    Login,
    /// SLAS: a refresh that a request waits for. Leaves a reserve for logins.
    Refresh,
    /// SLAS: a client's own request for a login, refresh or logout. Leaves a reserve for the gateway's own logins and refreshes,
    /// because those have limits per client.
    ForwardedLogin,
    /// SLAS: any other request of a client. Leaves a larger reserve.
    Forwarded,
    /// SLAS: a refresh in the background. Leaves half of the limit.
    BackgroundRefresh,
    /// Account Manager: a system token.
    System,
    /// A Shopper API: the profile of a shopper.
    Profile,
    /// Key set fetches and health probes.
    Maintenance,
}

/// The origin of a request to SLAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The gateway itself.
    Gateway,
    /// A client, whose request the gateway forwards. The client chooses its content, and can cause a rejection.
    Client,
}

/// Names of the circuit breakers, indexed by [`Priority::circuit`].
pub(super) const CIRCUIT_NAMES: [&str; 4] = ["login", "refresh", "system", "profile"];

impl Priority {
    /// Returns the index of the circuit breaker, or `None` for calls without one. All refreshes share one.
    pub(super) fn circuit(self) -> Option<usize> {
        match self {
            Self::Login => Some(0),
            Self::Refresh | Self::BackgroundRefresh => Some(1),
            Self::System => Some(2),
            Self::Profile => Some(3),
            // The client sees the failures of forwarded requests, so no circuit breaker stops them.
            Self::ForwardedLogin | Self::Forwarded | Self::Maintenance => None,
        }
    }

    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Login
            | Self::Refresh
            | Self::ForwardedLogin
            | Self::Forwarded
            | Self::BackgroundRefresh
            | Self::Maintenance => "slas",
            Self::System => "account_manager",
            Self::Profile => "api",
        }
    }

    /// Returns whether the call counts against the tenant's rate limit at SLAS.
    pub(in crate::salesforce) fn is_rate_limited(self) -> bool {
        matches!(self, Self::Login | Self::Refresh | Self::ForwardedLogin | Self::Forwarded | Self::BackgroundRefresh)
    }
}

/// The outcome of a call for its circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The service responded, even with a rejection.
    Success,
    /// The service failed or was unreachable.
    Failure,
    /// The call was not sent, or was rate limited. The circuit breaker ignores it.
    Ignored,
}

/// The reason for rejecting a call without sending it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitError {
    /// The gateway's or SLAS's rate limit is exhausted for this time.
    RateLimited(Duration),
    /// The circuit breaker is open.
    CircuitOpen,
}
