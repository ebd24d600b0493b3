//! What an exchange of credentials for tokens may come to, whichever service was asked.
//!
//! Owns the difference that everything above depends on: a rejection is final for what was sent,
//! everything else is temporary and must never destroy a good session.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;
use serde::Deserialize;

use super::{
    json::without_byte_order_mark,
    pkce::RandomError,
    response::{Response, TransportError, retry_after},
    slas_errors,
};
use crate::connect_failure::ConnectFailure;

/// Why an exchange gave no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SalesforceError {
    /// The service understood and said no: 4xx.
    #[error("rejected with {status} {code}")]
    Rejected {
        /// Its status.
        status: StatusCode,
        /// Its OAuth 2 `error`, or `unknown`; only `[a-z_]`.
        code: String,
    },
    /// 409: too soon after another request for the same shopper.
    #[error("conflicts with another request of the same shopper")]
    Conflict,
    /// 429.
    #[error("rate limited")]
    RateLimited {
        /// How long to wait, if the service said so.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("failed with {0}")]
    ServerError(StatusCode),
    /// No whole answer came.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An answer came that is none of the contract's.
    #[error("answered in a way the contract does not know: {0}")]
    Malformed(Cow<'static, str>),
    /// Nothing was sent: the service has failed too often to be asked just now.
    #[error("not asked, because it fails again and again")]
    CircuitOpen,
    /// Nothing could be sent.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// An error answer: RFC 6749's (5.2), or SLAS's own `message`.
#[derive(Deserialize)]
struct OAuthError {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl OAuthError {
    /// What the error means, by [`slas_errors`], or its own code.
    fn code(self) -> Option<String> {
        let error = self.error.unwrap_or_default().to_ascii_lowercase();
        let sentences = [self.error_description, self.message].map(Option::unwrap_or_default).join(" ");
        let known = slas_errors::code(&error, &sentences).map(str::to_owned);
        known.or(Some(error)).filter(|code| !code.is_empty())
    }
}

impl SalesforceError {
    /// What an unsuccessful answer means (RFC 6749, 5.2; statuses of SLAS and Account Manager).
    #[must_use]
    pub fn from_response(response: &Response) -> Self {
        match response.status {
            StatusCode::CONFLICT => Self::Conflict,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited { retry_after: retry_after(&response.headers) },
            status if status.is_client_error() => {
                let code = serde_json::from_slice::<OAuthError>(without_byte_order_mark(&response.body))
                    .ok()
                    .and_then(OAuthError::code)
                    .filter(|code| {
                        code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                    })
                    .unwrap_or_else(|| "unknown".to_owned());
                Self::Rejected { status, code }
            }
            status if status.is_server_error() => Self::ServerError(status),
            _ => Self::malformed("an unexpected status"),
        }
    }

    /// An answer that is none of the contract's, in words without any of its values.
    pub(crate) fn malformed(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed(why.into())
    }

    /// Whether the same call might succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::ServerError(status) => matches!(
                *status,
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
            ),
            Self::Transport(TransportError::Unreachable(cause)) => *cause != ConnectFailure::TimedOut,
            Self::Transport(error) => *error == TransportError::Broken,
            Self::Rejected { .. }
            | Self::Conflict
            | Self::RateLimited { .. }
            | Self::Malformed(_)
            | Self::CircuitOpen
            | Self::Random(_) => false,
        }
    }

    /// Whether a shopper's login and password were refused.
    #[must_use]
    pub fn is_password_rejected(&self) -> bool {
        matches!(self, Self::Rejected { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. })
    }

    /// Whether the client itself was refused: unknown, or with a wrong secret.
    #[must_use]
    pub fn is_client_rejected(&self) -> bool {
        match self {
            Self::Rejected { status, code } => *status == StatusCode::UNAUTHORIZED || code == "invalid_client",
            _ => false,
        }
    }

    /// Whether the proof of the client was refused, and not what the request names.
    #[must_use]
    pub fn is_client_auth_rejected(&self) -> bool {
        matches!(self, Self::Rejected { status: StatusCode::UNAUTHORIZED, .. })
    }

    /// Whether a login id was refused that the request was otherwise right about: 400, and not for its client.
    #[must_use]
    pub fn is_login_id_rejected(&self) -> bool {
        matches!(self, Self::Rejected { status: StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, .. })
            && !self.is_client_rejected()
    }

    /// Whether a refresh token was refused for good. A client that the service does not know is the
    /// configuration's fault, and a firewall's page nobody's: neither is a reason to end a session.
    #[must_use]
    pub fn is_refresh_token_rejected(&self) -> bool {
        matches!(self, Self::Rejected { code, .. } if code == "invalid_grant")
    }
}

/// Whether an API's answer says that it takes no such token (RFC 6750, 3.1).
#[must_use]
pub fn is_token_rejection(status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED
}

/// Whether SLAS refused a login and password on its own path.
#[must_use]
pub fn is_password_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The same of a one-time code or a passkey, which SLAS may also call a bad request or not found.
#[must_use]
pub fn is_code_rejection(status: StatusCode) -> bool {
    is_password_rejection(status) || matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};

    use super::*;

    fn answer(status: u16, body: &'static str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn only_a_no_is_final() {
        let rejected =
            SalesforceError::from_response(&answer(400, r#"{"error":"invalid_grant","error_description":"secret"}"#));
        assert_eq!(rejected.to_string(), "rejected with 400 Bad Request invalid_grant");
        for (status, body) in [(409, ""), (429, ""), (500, ""), (503, "<html>"), (302, "")] {
            assert!(
                !matches!(SalesforceError::from_response(&answer(status, body)), SalesforceError::Rejected { .. }),
                "{status}"
            );
        }
    }

    #[test]
    fn an_unknown_client_ends_no_session() {
        assert!(
            SalesforceError::from_response(&answer(400, r#"{"error":"invalid_grant"}"#)).is_refresh_token_rejected()
        );
        assert!(
            SalesforceError::from_response(&answer(400, r#"{"message":"invalid refresh_token"}"#))
                .is_refresh_token_rejected()
        );
        let published = r#"{"error":"invalid_request","error_description":"Bad or missing refresh token."}"#;
        assert!(SalesforceError::from_response(&answer(400, published)).is_refresh_token_rejected());
        let client = r#"{"error":"invalid_request","error_description":"Bad or missing client_id."}"#;
        assert!(SalesforceError::from_response(&answer(400, client)).is_client_rejected());
        assert!(!SalesforceError::from_response(&answer(400, client)).is_refresh_token_rejected());
        assert!(!SalesforceError::from_response(&answer(401, "{}")).is_refresh_token_rejected());
        assert!(!SalesforceError::from_response(&answer(400, "<html>")).is_refresh_token_rejected());
        assert!(
            !SalesforceError::from_response(&answer(401, r#"{"error":"invalid_client"}"#)).is_refresh_token_rejected()
        );
        assert!(!SalesforceError::from_response(&answer(404, "")).is_refresh_token_rejected());
        assert!(
            !SalesforceError::from_response(&answer(500, r#"{"error":"invalid_grant"}"#)).is_refresh_token_rejected()
        );
    }

    #[test]
    fn what_a_service_writes_does_not_get_into_logs() {
        let error = SalesforceError::from_response(&answer(401, r#"{"error":"bad\nline shopper@example.com"}"#));
        assert_eq!(error.to_string(), "rejected with 401 Unauthorized unknown");
    }

    #[test]
    fn the_time_to_wait_is_read() {
        let mut limited = answer(429, "");
        limited.headers.insert(RETRY_AFTER, HeaderValue::from_static("30"));
        assert_eq!(
            SalesforceError::from_response(&limited),
            SalesforceError::RateLimited { retry_after: Some(Duration::from_secs(30)) }
        );
        limited.headers.insert(RETRY_AFTER, HeaderValue::from_static("18446744073709551615"));
        assert_eq!(
            SalesforceError::from_response(&limited),
            SalesforceError::RateLimited { retry_after: Some(Duration::from_secs(3600)) }
        );
    }
}
