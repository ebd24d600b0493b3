//! The permits of a deprecated login, which the gateway performs itself.

use super::{count::Count, failed_logins::PendingLogin};
use crate::gateway::{authorization_header::BasicCredentials, error::GatewayError};

/// What a deprecated login counts as.
#[derive(Debug)]
pub enum LoginCost<'a> {
    /// A guest login with this number of calls to SLAS.
    Guest {
        /// The calls to SLAS.
        calls: u32,
    },
    /// A password login: an attempt at a login id, and two calls to SLAS.
    Password(&'a BasicCredentials),
    /// A refresh: one call to SLAS.
    Refresh,
}

/// The counts of a deprecated login. A password login that is not settled counts as failed.
#[derive(Debug, Default)]
#[must_use = "a login that is not settled counts as failed"]
pub(in crate::gateway) struct LoginPermit {
    pub(super) login: PendingLogin,
    pub(super) guest: Option<Count>,
    pub(super) calls: Option<Count>,
}

impl LoginPermit {
    /// Settles the login. Calls that SLAS's rate limit rejected were not made, and a rejected password is a failed login.
    pub(in crate::gateway) fn settle(self, error: Option<&GatewayError>) {
        let is_slas_limited = matches!(error, Some(GatewayError::SlasRateLimited { .. }));
        let is_limited = is_slas_limited || matches!(error, Some(GatewayError::CallerRateLimited { .. }));
        self.calls.into_iter().filter(|_| is_slas_limited).for_each(Count::give_back);
        self.guest.into_iter().filter(|_| is_limited).for_each(Count::give_back);
        self.login.settle(matches!(error, Some(GatewayError::LoginRejected { .. })));
    }
}
