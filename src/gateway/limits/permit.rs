//! The permits of a request on its way upstream.

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::{count::Count, failed_logins::PendingLogin, login_attempt::AttemptKind};
use crate::gateway::request::Route;

/// The permits of a request on its way upstream. Dropping them releases the concurrency permit. A login attempt that is not settled
/// counts as failed.
#[derive(Debug, Default)]
pub struct Permit {
    /// Held from the moment when Salesforce has the whole request until its response begins. A slow client holds no permit.
    pub(super) concurrency: Option<OwnedSemaphorePermit>,
    /// Whether the concurrency permit is acquired only when the body is complete.
    pub(super) is_deferred: bool,
    pub(super) login: PendingLogin,
    /// Boxed, because few requests go to SLAS, and each request moves its permit.
    pub(super) slas_call: Option<Box<Count>>,
    pub(super) guest: Option<Box<Count>>,
}

impl Permit {
    /// Takes back what the request counted as for SLAS, because it is not sent and takes nothing from the organization's budget.
    pub(super) fn give_back(&mut self) {
        self.give_back_login();
        self.slas_call.take().into_iter().chain(self.guest.take()).for_each(|count| count.give_back());
    }

    /// Takes back the login attempt, because it is not sent.
    pub(in crate::gateway) fn give_back_login(&mut self) {
        std::mem::take(&mut self.login).settle(false);
    }

    /// Releases the concurrency permit.
    pub(super) fn release_concurrency(&mut self) {
        self.concurrency = None;
        self.is_deferred = false;
    }

    /// Settles the login attempt by the status of SLAS's response. `None` stands for no response.
    pub(in crate::gateway) fn settle_login(&mut self, route: &Route, status: Option<StatusCode>) {
        let has_failed = AttemptKind::of(route).is_some_and(|kind| kind.is_failure(status));
        std::mem::take(&mut self.login).settle(has_failed);
    }
}
