//! The operations of SLAS that count as login attempts, and the login ids in their requests.
//!
//! An attempt counts under every login id that SLAS might read in the request: in Basic credentials of any spelling, and in the
//! query, form or JSON body of an operation with one-time codes. The gateway rejects a request in which SLAS might read a login id
//! that the gateway cannot read. Report mode does not lift that.

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

/// The kind of a login attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptKind {
    /// A password. A rejected password counts.
    Password,
    /// A one-time code or a passkey. A rejected one counts. SLAS may reject with 400 or 404.
    Code,
    /// A message to the shopper. Each message counts.
    Message,
}

/// A login attempt.
#[derive(Debug)]
pub(super) struct LoginAttempt {
    pub(super) kind: AttemptKind,
    /// Every login id that SLAS might read, as the client sent it.
    pub(super) logins: Vec<String>,
}

impl AttemptKind {
    /// Returns the kind of attempt that a request is, if it is one. Authorization codes and secrets of clients do not count: they are
    /// too long to be guessed, and SLAS rejects many of them from storefronts that guess nothing.
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

    /// Returns the kind's name in the keys of the counts.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Code => "code",
            Self::Message => "message",
        }
    }

    /// Whether an attempt counts as failed by the status of SLAS's response. `None` stands for no response.
    pub(super) fn is_failure(self, status: Option<StatusCode>) -> bool {
        match self {
            Self::Password => status.is_some_and(is_password_rejection),
            Self::Code => status.is_some_and(is_code_rejection),
            Self::Message => true,
        }
    }
}

impl LoginAttempt {
    /// Reads the attempt that a request for SLAS is.
    ///
    /// # Errors
    /// [`GatewayError::LoginRejected`] for a login without readable Basic credentials; [`GatewayError::RequestInvalid`] for a body
    /// that the gateway cannot read; [`GatewayError::Ambiguous`] for a field with two values.
    pub(super) fn read(kind: AttemptKind, request: &Request<'_>) -> Result<Self, GatewayError> {
        let logins = match kind {
            AttemptKind::Password => match Authorization::parse(&request.head.headers) {
                Ok(Authorization::Basic(credentials)) => credentials.users().map(str::to_owned).collect(),
                _ => return Err(GatewayError::LoginRejected { login: None }),
            },
            AttemptKind::Code | AttemptKind::Message => {
                login_ids::in_request(request.head, request.body.as_deref().unwrap_or_default())?
            }
        };
        Ok(Self { kind, logins })
    }
}
