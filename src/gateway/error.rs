//! The errors of the pipeline, in terms of the domain. [`problem`](super::problem) maps each to a status, a code and a text.

use std::time::Duration;

use super::{path::PathError, policy::Methods, query::QueryError};
use crate::{
    connect_failure::ConnectFailure,
    salesforce::{error::SalesforceError, transport::TransportError},
    tokens::{on_behalf::OnBehalfError, sessions::SessionError, system::SystemTokenFailure},
    types::Scopes,
    verify::{shopper_token::TokenError, system_token::SystemTokenError},
};

/// The reason in logs and metrics if SLAS rejects the gateway's own client.
const SLAS_CLIENT_REJECTED: &str = "slas_client_refused";

/// The reason why a request is rejected, or could not be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayError {
    /// The request has more than one reading. The text names the part.
    Ambiguous(String),
    /// The request is invalid. The text says why, and what to send instead.
    RequestInvalid(String),
    /// The request has two credentials.
    CredentialsConflicting,
    /// The operation needs a credential, and the request has none.
    TokenMissing,
    /// The credential does not verify. The text says why, and never contains the credential.
    TokenInvalid(String),
    /// The token has expired.
    TokenExpired,
    /// SLAS rejected the shopper's login and password.
    LoginRejected {
        /// The login id that the client sent, for the response. `None` if it sent none.
        login: Option<String>,
    },
    /// The trusted system is not configured, or Account Manager rejected its credentials. The client does not learn which.
    CallerRejected(RejectionReason),
    /// The token is of another organization than the path.
    TokenWrongOrganization,
    /// The token is of another site than the request.
    TokenWrongSite,
    /// The token is of the wrong kind for the operation.
    TokenKindWrong(RequiredToken),
    /// The token has none of these scopes.
    ScopeMissing(Scopes),
    /// The entry in `[[callers]]` does not allow the request.
    CallerNotAllowed,
    /// The trusted system named a shopper of another identity provider than B2C Commerce, whom SLAS would create. Its entry in
    /// `[[callers]]` does not allow that.
    CallerMayNotCreateShoppers,
    /// The page of a preflight is of an origin that the tenant does not allow.
    OriginNotAllowed,
    /// A preflight for a tenant that allows no origins.
    OriginsNotConfigured,
    /// The policy table has the path with these other methods.
    MethodNotAllowed(Methods),
    /// A request for tokens of a storefront's client does not name the storefront's site.
    SiteHeaderMissing,
    /// A storefront's page has neither a session cookie nor a token.
    AccessCookieMissing,
    /// A storefront's page asks for a refresh and has no refresh cookie, or one of a session that has ended.
    RefreshCookieInvalid,
    /// A browser would drop a session cookie of this name, because it is too large.
    CookieTooLarge(String),
    /// The gateway does not offer the operation.
    OperationNotAllowed,
    /// The policy table has no such operation, or the organization is not configured.
    OperationUnknown,
    /// No shopper has the login that a trusted system named.
    ShopperUnknown,
    /// SLAS issued a token for the same shopper less than three seconds ago.
    LoginConflict,
    /// A part of the request is larger than allowed.
    TooLarge(TooLargePart),
    /// The rate limit of SLAS is exhausted.
    SlasRateLimited {
        /// The time to wait, if SLAS sent it.
        retry_after: Option<Duration>,
    },
    /// The client has sent too many requests or failed logins.
    CallerRateLimited {
        /// The time to wait.
        retry_after: Duration,
    },
    /// The API is unreachable, or aborted its response.
    UpstreamUnavailable,
    /// The API did not respond in time.
    UpstreamTimeout,
    /// The keys that verify tokens are unavailable.
    KeysUnavailable,
    /// SLAS is unavailable.
    SlasUnavailable,
    /// SLAS rejected the gateway's own client: the configuration is wrong.
    SlasClientRejected,
    /// Account Manager is unavailable.
    AccountManagerUnavailable {
        /// The time until the gateway calls it again, if known.
        retry_after: Option<Duration>,
    },
    /// The session store is unavailable.
    StoreUnavailable,
    /// The gateway sheds load, or has no free permit.
    Overloaded,
}

/// The reason why a trusted system was rejected, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionReason {
    /// `[[callers]]` has no entry for it.
    NotConfigured,
    /// Account Manager rejected its credentials.
    CredentialsRejected,
}

impl RejectionReason {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::NotConfigured, Self::CredentialsRejected];

    /// Its name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::CredentialsRejected => "credentials_refused",
        }
    }
}

/// The kind of token that an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredToken {
    /// A shopper token.
    Shopper,
    /// A shopper token that a trusted system obtained (TSOB).
    OnBehalf,
    /// A shopper token that a trusted agent obtained (TAOB).
    AgentOnBehalf,
    /// A system token.
    System,
}

/// The part of a request that exceeds its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLargePart {
    /// The body.
    Body,
    /// The target: path and query.
    Target,
    /// The head: all header fields, or their number.
    Head,
}

impl GatewayError {
    /// The reason for logs and metrics that the client must not learn.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::CallerRejected(reason) => Some(reason.as_str()),
            Self::SlasClientRejected => Some(SLAS_CLIENT_REJECTED),
            _ => None,
        }
    }

    /// Whether the gateway rejected a trusted system. The audit log has a line for each such rejection.
    pub(super) fn is_caller_rejection(&self) -> bool {
        matches!(
            self,
            Self::CallerRejected(_)
                | Self::CallerNotAllowed
                | Self::CallerMayNotCreateShoppers
                | Self::CallerRateLimited { .. }
        )
    }

    /// The error for a request whose `siteId` is missing or not one of the organization's sites.
    pub(super) fn site_invalid() -> Self {
        Self::RequestInvalid("The query's siteId must be one of the sites of this organization.".into())
    }

    /// Converts the failure of a call to SLAS.
    #[must_use]
    pub fn from_slas(error: &SalesforceError) -> Self {
        match error {
            SalesforceError::Conflict => Self::LoginConflict,
            SalesforceError::RateLimited { retry_after } => Self::SlasRateLimited { retry_after: *retry_after },
            error if error.is_client_rejected() => Self::SlasClientRejected,
            SalesforceError::Rejected { .. }
            | SalesforceError::ServerError(_)
            | SalesforceError::Transport(_)
            | SalesforceError::Malformed(_)
            | SalesforceError::CircuitOpen
            | SalesforceError::Random(_) => Self::SlasUnavailable,
        }
    }

    /// Converts the failure of a call to a Shopper API.
    #[must_use]
    pub fn from_api(error: &SalesforceError) -> Self {
        match error {
            SalesforceError::Transport(
                TransportError::Timeout | TransportError::Unreachable(ConnectFailure::TimedOut),
            ) => Self::UpstreamTimeout,
            _ => Self::UpstreamUnavailable,
        }
    }
}

impl From<QueryError> for GatewayError {
    fn from(error: QueryError) -> Self {
        Self::Ambiguous(format!("the query has more than one reading: {error}"))
    }
}

impl From<PathError> for GatewayError {
    fn from(error: PathError) -> Self {
        Self::Ambiguous(error.to_string())
    }
}

impl From<TokenError> for GatewayError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::WrongOrganization => Self::TokenWrongOrganization,
            TokenError::KeysUnavailable => Self::KeysUnavailable,
            TokenError::Malformed(_)
            | TokenError::InvalidSignature
            | TokenError::UnknownKey
            | TokenError::NotYetValid
            | TokenError::WrongIssuer
            | TokenError::NotAShopperToken => Self::TokenInvalid(error.to_string()),
        }
    }
}

impl From<SystemTokenError> for GatewayError {
    fn from(error: SystemTokenError) -> Self {
        match error {
            SystemTokenError::Invalid => Self::TokenInvalid(error.to_string()),
            SystemTokenError::Expired => Self::TokenExpired,
            SystemTokenError::WrongTenant => Self::TokenWrongOrganization,
            SystemTokenError::KeysUnavailable => Self::KeysUnavailable,
        }
    }
}

impl From<SystemTokenFailure> for GatewayError {
    fn from(failure: SystemTokenFailure) -> Self {
        match failure {
            SystemTokenFailure::CredentialsRejected | SystemTokenFailure::ScopeRejected => {
                Self::CallerRejected(RejectionReason::CredentialsRejected)
            }
            SystemTokenFailure::TooManyGuesses { retry_after } => Self::CallerRateLimited { retry_after },
            SystemTokenFailure::Unavailable { retry_after } => {
                Self::AccountManagerUnavailable { retry_after: Some(retry_after) }
            }
        }
    }
}

impl From<SessionError> for GatewayError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Expired | SessionError::RefreshRejected(_) => Self::TokenExpired,
            SessionError::LoggedOut => Self::TokenInvalid("its session was logged out".into()),
            SessionError::Slas(error) => Self::from_slas(&error),
            SessionError::Store(_) => Self::StoreUnavailable,
        }
    }
}

impl From<OnBehalfError> for GatewayError {
    fn from(error: OnBehalfError) -> Self {
        match error {
            OnBehalfError::NoClient => Self::RequestInvalid(
                "This organization has no on_behalf_client, so no request can be sent on behalf of a shopper.".into(),
            ),
            OnBehalfError::TooManyWaiting => Self::Overloaded,
            OnBehalfError::ShopperUnknown => Self::ShopperUnknown,
            OnBehalfError::Slas(error) => Self::from_slas(&error),
            OnBehalfError::Store(_) => Self::StoreUnavailable,
        }
    }
}
