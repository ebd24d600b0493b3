//! The request bodies of deprecated logins.

use secrecy::SecretString;
use serde::Deserialize;

use crate::gateway::error::GatewayError;

/// The kind of a deprecated login, by the `type` of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginKind {
    /// A guest.
    Guest,
    /// A registered shopper, by the login and password in `Authorization`.
    Credentials,
    /// The shopper of an earlier token.
    Refresh,
}

/// `TrustedSystemAuthRequest` of the Shopper Customers API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TrustedSystemLoginBody {
    pub(super) login: SecretString,
    pub(super) client_id: String,
}

impl LoginKind {
    /// Reads the body of a login.
    ///
    /// # Errors
    /// [`GatewayError::RequestInvalid`] if the body is not a JSON object with a known `type`.
    pub fn read(body: &[u8]) -> Result<Self, GatewayError> {
        #[derive(Deserialize)]
        struct Body {
            r#type: String,
        }
        let body: Body = read(body, "a type, e.g. {\"type\": \"guest\"}")?;
        match body.r#type.as_str() {
            "guest" => Ok(Self::Guest),
            "credentials" => Ok(Self::Credentials),
            "refresh" => Ok(Self::Refresh),
            _ => Err(GatewayError::RequestInvalid("The type must be guest, credentials or refresh.".into())),
        }
    }
}

impl TrustedSystemLoginBody {
    pub(super) fn read(body: &[u8]) -> Result<Self, GatewayError> {
        read(body, "login and clientId, e.g. {\"login\": \"ada@example.com\", \"clientId\": \"…\"}")
    }
}

fn read<T: for<'b> Deserialize<'b>>(body: &[u8], expected: &str) -> Result<T, GatewayError> {
    // JSON is UTF-8 (RFC 8259, 8.1), but the library does not check skipped parts. It would also read a struct from an array.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_start().starts_with('{'));
    text.and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| GatewayError::RequestInvalid(format!("The body must be JSON with {expected}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_body_must_be_a_utf8_object_with_one_type() {
        assert_eq!(LoginKind::read(b" {\"x\": [1], \"type\": \"guest\"}\r\n"), Ok(LoginKind::Guest));
        for body in [
            &b""[..],
            b"{}",
            b"{\"type\": \"admin\"}",
            b"{\"type\": \"guest\", \"type\": \"credentials\"}",
            b"[\"guest\"]",
            b"{\"x\": \"\xff\", \"type\": \"guest\"}",
        ] {
            assert!(LoginKind::read(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
