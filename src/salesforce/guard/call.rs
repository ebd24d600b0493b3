//! A call as the guard sees it: its priority, its sender, and its outcome.

use std::time::Duration;

/// What kind of call it is: calls of one class fail together, and matter alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// SLAS: a login, or what ends one.
    Login,
    /// SLAS: a refresh that somebody waits for. Leaves some of the budget to logins.
    Refresh,
    /// SLAS: a client's own request by which a shopper logs in, refreshes or logs out. Leaves some of the budget to the
    /// gateway's logins and refreshes, which strangers cannot ask for without a rate.
    ForwardedLogin,
    /// SLAS: any other request of a client's own. Leaves half of the budget.
    Forwarded,
    /// SLAS: a refresh before anybody asks. Leaves half of the budget.
    BackgroundRefresh,
    /// Account Manager: a system token.
    System,
    /// A Shopper API: a shopper's profile.
    Profile,
    /// Key sets and signs of life.
    Maintenance,
}

/// Whose request an answer of SLAS is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The gateway's own.
    Gateway,
    /// A client's, forwarded as it came. Its content is the client's choice, and so may be the reason of a refusal.
    Client,
}

/// Names of the circuits, by [`Priority::circuit`].
pub(super) const CIRCUIT_NAMES: [&str; 4] = ["login", "refresh", "system", "profile"];

impl Priority {
    /// Which circuit it belongs to; refreshes share one.
    pub(super) fn circuit(self) -> Option<usize> {
        match self {
            Self::Login => Some(0),
            Self::Refresh | Self::BackgroundRefresh => Some(1),
            Self::System => Some(2),
            Self::Profile => Some(3),
            // Their failures are the client's to see, so no circuit keeps them from SLAS.
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

    /// Whether it spends of the tenant's budget at SLAS.
    pub(in crate::salesforce) fn is_budgeted(self) -> bool {
        matches!(self, Self::Login | Self::Refresh | Self::ForwardedLogin | Self::Forwarded | Self::BackgroundRefresh)
    }
}

/// The outcome of a call, as far as its circuit counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered the call, if only to reject it.
    Success,
    /// The service failed, or could not be reached.
    Failure,
    /// The call was not sent, or came to a rate limit: its outcome is counted neither way.
    Ignored,
}

/// Why a call may not be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitError {
    /// The tenant's budget or a rate limit of SLAS is used up, for this time.
    RateLimited(Duration),
    /// The circuit is open.
    CircuitOpen,
}
