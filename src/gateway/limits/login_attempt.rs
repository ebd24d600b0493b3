//! Which of SLAS's operations count as attempts, and for which shoppers.
//!
//! An attempt counts under every login id that SLAS might read in the request: in a Basic credential of any spelling, and in
//! the query, form or JSON body of an operation with one-time codes. A request in which the gateway cannot read the
//! shopper, and SLAS perhaps can, is refused: the throttle would not see it. Report mode does not lift that.

mod login_ids;

use http::StatusCode;

use crate::{
    gateway::{
        authorization_header::Authorization,
        error::GatewayError,
        request::{Request, Route},
    },
    salesforce::error::{is_code_rejection, is_password_rejection},
};

/// What an attempt is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A password; a refused one counts.
    Password,
    /// A one-time code or a passkey; a refused one counts, which may be 400 or 404 as well.
    Code,
    /// A message to the shopper; each counts.
    Message,
}

/// Whom an attempt is for.
#[derive(Debug)]
pub(super) struct LoginAttempt {
    /// What it is at.
    pub(super) kind: Kind,
    /// Every login id that SLAS might read, as it was sent; none where the request names none.
    pub(super) logins: Vec<String>,
}

impl Kind {
    /// What a request is an attempt at, if it is one. Codes of `/token` and secrets of clients are too long to be guessed,
    /// and a storefront's server has many of them refused without guessing: they do not count.
    pub(super) fn of(route: &Route) -> Option<Self> {
        match route.operation.as_ref()?.id.as_str() {
            "authenticateCustomer" => Some(Self::Password),
            "getPasswordLessAccessToken"
            | "resetPassword"
            | "verifyOtp"
            | "startWebauthnUserRegistration"
            | "finishWebauthnUserRegistration"
            | "startWebauthnAuthentication"
            | "finishWebauthnAuthentication" => Some(Self::Code),
            "authorizePasswordlessCustomer"
            | "getPasswordResetToken"
            | "requestOtp"
            | "authorizeWebauthnRegistration" => Some(Self::Message),
            _ => None,
        }
    }

    /// Its name in the counters.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Code => "code",
            Self::Message => "message",
        }
    }

    /// Whether SLAS's answer, or that there was none, makes the attempt count.
    pub(super) fn counts(self, status: Option<StatusCode>) -> bool {
        match self {
            Self::Password => status.is_some_and(is_password_rejection),
            Self::Code => status.is_some_and(is_code_rejection),
            Self::Message => true,
        }
    }
}

impl LoginAttempt {
    /// Reads whom an attempt on a path of SLAS is for.
    ///
    /// # Errors
    /// [`GatewayError::LoginRejected`] for a login without a readable Basic credential; [`GatewayError::RequestInvalid`] for a body
    /// that the gateway cannot read; [`GatewayError::Ambiguous`] for a field with two values.
    pub(super) fn read(kind: Kind, request: &Request<'_>) -> Result<Self, GatewayError> {
        let logins = match kind {
            Kind::Password => match Authorization::read(&request.head.headers) {
                Ok(Authorization::Basic(credentials)) => credentials.users().map(str::to_owned).collect(),
                _ => return Err(GatewayError::LoginRejected { login: None }),
            },
            Kind::Code | Kind::Message => {
                login_ids::shoppers_named(request.head, request.body.as_deref().unwrap_or_default())?
            }
        };
        Ok(Self { kind, logins })
    }
}
