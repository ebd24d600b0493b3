//! The error of a call to Salesforce's services.
//!
//! Callers depend on one distinction: a rejection is final for the credentials sent. All other errors are temporary, and must
//! never end a valid session.

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

/// A failed call to one of Salesforce's services.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SalesforceError {
    /// The service rejected the request: 4xx.
    #[error("rejected with {status} {code}")]
    Rejected {
        /// The response's status.
        status: StatusCode,
        /// The response's OAuth 2 `error`, or `unknown`. Only `[a-z_]`.
        code: String,
    },
    /// 409: too soon after another request for the same shopper.
    #[error("conflict with another request of the same shopper")]
    Conflict,
    /// 429.
    #[error("rate limited")]
    RateLimited {
        /// The time to wait, if the service sent one.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("server error {0}")]
    ServerError(StatusCode),
    /// No complete response arrived.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The response does not follow the API's contract.
    #[error("unexpected response: {0}")]
    Malformed(Cow<'static, str>),
    /// Nothing was sent, because the circuit breaker is open.
    #[error("circuit breaker open after repeated failures")]
    CircuitOpen,
    /// Nothing was sent, because the operating system provided no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// An error response of RFC 6749 (5.2), or with SLAS's own `message`.
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
    /// Returns the code of [`slas_errors`], or the response's own code.
    fn code(self) -> Option<String> {
        let error = self.error.unwrap_or_default().to_ascii_lowercase();
        let sentences = [self.error_description, self.message].map(Option::unwrap_or_default).join(" ");
        let known = slas_errors::code(&error, &sentences).map(str::to_owned);
        known.or(Some(error)).filter(|code| !code.is_empty())
    }
}

impl SalesforceError {
    /// Interprets an unsuccessful response (RFC 6749, 5.2; statuses of SLAS and Account Manager).
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
            _ => Self::malformed("unexpected status"),
        }
    }

    /// Creates an error for a response outside the contract. The text must contain none of its values.
    pub(crate) fn malformed(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed(reason.into())
    }

    /// Returns whether an immediate retry can succeed.
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

    /// Returns whether SLAS rejected a shopper's login id or password.
    #[must_use]
    pub fn is_password_rejected(&self) -> bool {
        matches!(self, Self::Rejected { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. })
    }

    /// Returns whether the service rejected the client: it is unknown, or its secret is wrong.
    #[must_use]
    pub fn is_client_rejected(&self) -> bool {
        match self {
            Self::Rejected { status, code } => *status == StatusCode::UNAUTHORIZED || code == "invalid_client",
            _ => false,
        }
    }

    /// Returns whether the service rejected the client's secret, and not another parameter of the request.
    #[must_use]
    pub fn is_client_auth_rejected(&self) -> bool {
        matches!(self, Self::Rejected { status: StatusCode::UNAUTHORIZED, .. })
    }

    /// Returns whether SLAS rejected the login id of an otherwise valid request: 400 or 404, and not for the client.
    #[must_use]
    pub fn is_login_id_rejected(&self) -> bool {
        matches!(self, Self::Rejected { status: StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, .. })
            && !self.is_client_rejected()
    }

    /// Returns whether a refresh token was rejected for good. A rejected client is a configuration error, and a firewall's
    /// page says nothing about the token: neither is a reason to end a session.
    #[must_use]
    pub fn is_refresh_token_rejected(&self) -> bool {
        matches!(self, Self::Rejected { code, .. } if code == "invalid_grant")
    }
}

/// Returns whether an API rejected the access token (RFC 6750, 3.1).
#[must_use]
pub fn is_token_rejection(status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED
}

/// Returns whether SLAS rejected a login id or password on a forwarded path.
#[must_use]
pub fn is_password_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Returns whether SLAS rejected a one-time code or a passkey, for which it also uses 400 and 404.
#[must_use]
pub fn is_code_rejection(status: StatusCode) -> bool {
    is_password_rejection(status) || matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};

    use super::*;

    fn response(status: u16, body: &'static str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn response_other_than_4xx_rejection_is_not_final() {
        let rejected =
            SalesforceError::from_response(&response(400, r#"{"error":"invalid_grant","error_description":"secret"}"#));
        assert_eq!(rejected.to_string(), "rejected with 400 Bad Request invalid_grant");
        for (status, body) in [(409, ""), (429, ""), (500, ""), (503, "<html>"), (302, "")] {
            assert!(
                !matches!(SalesforceError::from_response(&response(status, body)), SalesforceError::Rejected { .. }),
                "{status}"
            );
        }
    }

    #[test]
    fn rejected_client_is_no_rejected_refresh_token() {
        assert!(
            SalesforceError::from_response(&response(400, r#"{"error":"invalid_grant"}"#)).is_refresh_token_rejected()
        );
        assert!(
            SalesforceError::from_response(&response(400, r#"{"message":"invalid refresh_token"}"#))
                .is_refresh_token_rejected()
        );
        let published = r#"{"error":"invalid_request","error_description":"Bad or missing refresh token."}"#;
        assert!(SalesforceError::from_response(&response(400, published)).is_refresh_token_rejected());
        let client = r#"{"error":"invalid_request","error_description":"Bad or missing client_id."}"#;
        assert!(SalesforceError::from_response(&response(400, client)).is_client_rejected());
        assert!(!SalesforceError::from_response(&response(400, client)).is_refresh_token_rejected());
        assert!(!SalesforceError::from_response(&response(401, "{}")).is_refresh_token_rejected());
        assert!(!SalesforceError::from_response(&response(400, "<html>")).is_refresh_token_rejected());
        assert!(
            !SalesforceError::from_response(&response(401, r#"{"error":"invalid_client"}"#))
                .is_refresh_token_rejected()
        );
        assert!(!SalesforceError::from_response(&response(404, "")).is_refresh_token_rejected());
        assert!(
            !SalesforceError::from_response(&response(500, r#"{"error":"invalid_grant"}"#)).is_refresh_token_rejected()
        );
    }

    #[test]
    fn error_text_omits_values_of_the_response() {
        let error = SalesforceError::from_response(&response(401, r#"{"error":"bad\nline shopper@example.com"}"#));
        assert_eq!(error.to_string(), "rejected with 401 Unauthorized unknown");
    }

    #[test]
    fn retry_after_is_read_and_limited_to_an_hour() {
        let mut limited = response(429, "");
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
