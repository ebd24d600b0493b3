//! Every no of the gateway, as one enum.
//!
//! A refusal says what is wrong in terms of the domain. Which status, code and words a caller sees is
//! decided in [`reply`](super::problem), in one exhaustive match.

use std::time::Duration;

use super::path::PathError;
use crate::{
    connect_failure::ConnectFailure,
    salesforce::{error::SalesforceError, transport::TransportError},
    tokens::{on_behalf::OnBehalfError, sessions::SessionError, system::SystemTokenFailure},
    types::Scopes,
    verify::{shopper_token::TokenError, system_token::SystemTokenError},
};

/// What logs say beside the code where SLAS refuses the gateway's own client.
const SLAS_CLIENT_REFUSED: &str = "slas_client_refused";

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayError {
    /// The request has more than one reading; the text says which part.
    Ambiguous(String),
    /// The request cannot be carried out as it is; the text says why and what would do.
    RequestInvalid(String),
    /// Two credentials where one is allowed.
    CredentialsConflicting,
    /// No credential where one is needed.
    TokenMissing,
    /// A credential that does not verify; the text says what is wrong, never what it was.
    TokenInvalid(String),
    /// A credential whose time is over.
    TokenExpired,
    /// SLAS refused the shopper's login and password.
    LoginRejected {
        /// The login id, for the caller who sent it; none was sent if absent.
        login: Option<String>,
    },
    /// A trusted system is not configured, or Account Manager refused its credentials. The caller is not told which.
    CallerRejected(RejectionReason),
    /// The token is of another organization than the path.
    TokenWrongOrganization,
    /// The token is of another site than the request.
    TokenWrongSite,
    /// The token is of the wrong kind for the operation.
    TokenKindWrong(RequiredToken),
    /// The token has none of these scopes.
    ScopeMissing(Scopes),
    /// The trusted system may not do this.
    CallerNotAllowed,
    /// The trusted system may act on behalf of shoppers, and not of those of another identity provider than B2C Commerce,
    /// which SLAS would create.
    CallerMayNotCreateShoppers,
    /// The operation is known and not offered.
    OperationNotAllowed,
    /// The operation, or its organization, is not known here.
    OperationUnknown,
    /// No shopper has the login on whose behalf a trusted system asks.
    ShopperUnknown,
    /// SLAS's conflict window did not open in time.
    LoginConflict,
    /// A part of the request is larger than allowed.
    TooLarge(TooLargePart),
    /// SLAS has no more calls for us at the moment.
    SlasRateLimited {
        /// How long to wait, if SLAS said so.
        retry_after: Option<Duration>,
    },
    /// Whoever asks does so too often, or failed to log in too often.
    CallerRateLimited {
        /// How long to wait.
        retry_after: Duration,
    },
    /// No connection to the API, or a broken answer.
    UpstreamUnavailable,
    /// No answer of the API in time.
    UpstreamTimeout,
    /// Keys to verify with cannot be had.
    KeysUnavailable,
    /// SLAS does not answer as it should.
    SlasUnavailable,
    /// SLAS refuses the gateway's own client, which is the configuration's fault.
    SlasClientRefused,
    /// Account Manager does not answer as it should.
    AccountManagerUnavailable {
        /// When it will be asked again, if that is known.
        retry_after: Option<Duration>,
    },
    /// The session store does not answer.
    StoreUnavailable,
    /// More is asked than can be served just now.
    Overloaded,
}

/// Why a trusted system was rejected, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionReason {
    /// `[[callers]]` has no such system.
    NotConfigured,
    /// Account Manager refused its credentials.
    CredentialsRejected,
}

impl RejectionReason {
    /// All of them.
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
    /// A shopper's.
    Shopper,
    /// A shopper's, obtained by a trusted system on behalf.
    OnBehalf,
    /// A shopper's, obtained by a trusted agent on behalf.
    AgentOnBehalf,
    /// A trusted system's.
    System,
}

/// What is too large.
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
    /// What logs and metrics say beside the code, where the caller must not be told.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::CallerRejected(reason) => Some(reason.as_str()),
            Self::SlasClientRefused => Some(SLAS_CLIENT_REFUSED),
            _ => None,
        }
    }

    /// Whether the error concerns a sender that wants to act as a trusted system. The audit log has a line for each.
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
            error if error.is_client_rejected() => Self::SlasClientRefused,
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

/// The path, the query or a form has more than one reading.
impl From<PathError> for GatewayError {
    fn from(error: PathError) -> Self {
        Self::Ambiguous(error.to_string())
    }
}

/// A shopper token does not verify.
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

/// A system token does not verify.
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

/// Account Manager issues no token for a trusted system's client credentials.
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

/// A session cannot serve a verified token.
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

/// SLAS issues no token on behalf of a shopper.
impl From<OnBehalfError> for GatewayError {
    fn from(error: OnBehalfError) -> Self {
        match error {
            OnBehalfError::NoClient => {
                Self::RequestInvalid("This organization has no client that acts on behalf of shoppers.".into())
            }
            OnBehalfError::TooManyWaiting => Self::Overloaded,
            OnBehalfError::ShopperUnknown => Self::ShopperUnknown,
            OnBehalfError::Slas(error) => Self::from_slas(&error),
            OnBehalfError::Store(_) => Self::StoreUnavailable,
        }
    }
}
