//! The errors of sessions.

use std::sync::Arc;

use crate::{
    salesforce::error::SalesforceError,
    store::{Session, StoreError},
};

/// The session after its refresh.
pub(super) type Outcome = Result<Arc<Session>, SessionError>;

/// Why a verified token is good for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It has ended, and no session makes up for it.
    #[error("the token has ended and has no session here")]
    Expired,
    /// Its session was logged out.
    #[error("the session was logged out")]
    LoggedOut,
    /// SLAS refused the refresh token: the session is over.
    #[error("the session is over: {0}")]
    RefreshRejected(SalesforceError),
    /// SLAS could not be asked, or does not know the client any more; the session stays.
    #[error("the session could not be refreshed: {0}")]
    Slas(SalesforceError),
    /// The store could not be asked; the session stays.
    #[error(transparent)]
    Store(#[from] StoreError),
}
