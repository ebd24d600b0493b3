//! Why a session provides no token.

use std::sync::Arc;

use crate::{
    salesforce::error::SalesforceError,
    store::{Session, StoreError},
};

/// The session after its refresh, or why there is none.
pub(super) type RefreshResult = Result<Arc<Session>, SessionError>;

/// Why a verified token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The token has expired and has no session, or its session has expired.
    #[error("the token has expired and has no session here")]
    Expired,
    /// The session was logged out.
    #[error("the session was logged out")]
    LoggedOut,
    /// SLAS rejected the refresh token, which ends the session.
    #[error("SLAS rejected the refresh token: {0}")]
    RefreshRejected(SalesforceError),
    /// SLAS failed, or rejected the client. The session remains.
    #[error("the session could not be refreshed: {0}")]
    Slas(SalesforceError),
    /// The store failed. The session remains.
    #[error(transparent)]
    Store(#[from] StoreError),
}
