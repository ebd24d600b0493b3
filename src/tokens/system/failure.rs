//! Why there is no system token, and how long such a failure is cached.

use std::time::Duration;

/// Most failures cached.
pub(super) const MAX_FAILURES: u64 = 10_000;
/// How long a wrong secret, or a client that Account Manager does not know, is not asked again.
pub(super) const CLIENT_REJECTED_TTL: Duration = Duration::from_secs(60);
/// Between two attempts when Account Manager fails: doubled each time, up to the longest.
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(500);
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Why there is no system token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SystemTokenFailure {
    /// Account Manager refused the client or its secret.
    #[error("Account Manager refused the client credentials")]
    CredentialsRejected,
    /// The client has not this scope.
    #[error("the client has none of the scopes asked for")]
    ScopeRejected,
    /// Too many wrong secrets were tried for this client.
    #[error("too many wrong secrets were tried for this client")]
    TooManyGuesses {
        /// When another one may be tried.
        retry_after: Duration,
    },
    /// Account Manager could not be asked, or has just failed.
    #[error("Account Manager does not answer as it should")]
    Unavailable {
        /// When it will be asked again.
        retry_after: Duration,
    },
}
