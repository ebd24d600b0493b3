//! A verified token with its `Authorization` header.

use http::HeaderValue;
use secrecy::SecretString;

use crate::{
    jwt::bearer,
    verify::shopper_token::{TokenError, VerifiedToken},
};

/// A verified token that the gateway holds, as the value of an `Authorization` header.
#[derive(Debug)]
pub struct ReadyToken {
    /// `Bearer` and the token.
    pub authorization: HeaderValue,
    /// The result of its verification.
    pub verified: VerifiedToken,
}

impl ReadyToken {
    /// A token and the result of its verification.
    ///
    /// # Errors
    /// [`TokenError::NotAShopperToken`] if the token cannot be a header value.
    pub(super) fn new(token: &SecretString, verified: VerifiedToken) -> Result<Self, TokenError> {
        Ok(Self { authorization: bearer(token).ok_or(TokenError::NotAShopperToken)?, verified })
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> SecretString {
        let text = self.authorization.to_str().unwrap_or_default();
        SecretString::from(text.strip_prefix("Bearer ").unwrap_or_default())
    }
}
