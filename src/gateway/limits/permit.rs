//! The permits of a request on its way upstream.

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::{failed_logins::Attempt, login_attempt::Kind};
use crate::gateway::request::Route;

/// The permits of a request on its way upstream. Dropping them releases the concurrency permit; a login attempt that is not
/// settled counts as failed.
#[derive(Debug, Default)]
pub struct Permit {
    /// Held from the moment when Salesforce has the whole request until its response begins. A slow client holds no permit.
    pub(super) concurrency: Option<OwnedSemaphorePermit>,
    /// Whether the concurrency permit is taken only when the body is complete.
    pub(super) is_deferred: bool,
    pub(super) attempt: Option<Attempt>,
}

impl Permit {
    /// Takes back what the request counted as, because it was not sent.
    pub(super) fn give_back(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.end(false);
        }
    }

    /// Releases the concurrency permit.
    pub(super) fn release_concurrency(&mut self) {
        self.concurrency = None;
        self.is_deferred = false;
    }

    /// Settles the login attempt by the status of SLAS's response. `None` stands for no response.
    pub(in crate::gateway) fn settle_attempt(&mut self, route: &Route, status: Option<StatusCode>) {
        if let Some(attempt) = self.attempt.take() {
            attempt.end(Kind::of(route).unwrap_or(Kind::Password).counts(status));
        }
    }
}
