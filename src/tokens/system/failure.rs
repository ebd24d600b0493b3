//! Why there is no system token, and how long a failure is cached.

use std::time::Duration;

/// Maximum number of cached failures.
pub(super) const MAX_FAILURES: u64 = 10_000;
/// How long the rejection of a client or its secret is cached.
pub(super) const CLIENT_REJECTED_TTL: Duration = Duration::from_secs(60);
/// The pause after a failure of Account Manager. It doubles with each failure, up to the maximum.
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(500);
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Why there is no system token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SystemTokenFailure {
    /// Account Manager rejected the client or its secret.
    #[error("Account Manager refused the client credentials")]
    CredentialsRejected,
    /// The client does not have the scope.
    #[error("the client has none of the scopes asked for")]
    ScopeRejected,
    /// Too many wrong secrets were sent for this client.
    #[error("too many wrong secrets were tried for this client")]
    TooManyGuesses {
        /// The time until another secret is accepted for verification.
        retry_after: Duration,
    },
    /// Account Manager is unavailable, or has just failed.
    #[error("Account Manager does not answer as it should")]
    Unavailable {
        /// The time until the next attempt.
        retry_after: Duration,
    },
}
