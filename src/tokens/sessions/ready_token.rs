//! A verified token that the gateway itself holds.

use http::HeaderValue;
use secrecy::SecretString;

use crate::{
    jwt::bearer,
    verify::shopper_token::{TokenError, VerifiedToken},
};

/// A token that the gateway holds, verified and ready to go upstream as often as it is wanted.
#[derive(Debug)]
pub struct ReadyToken {
    /// `Bearer` and the token.
    pub authorization: HeaderValue,
    /// Who it speaks for.
    pub verified: VerifiedToken,
}

impl ReadyToken {
    /// A token with its verdict.
    ///
    /// # Errors
    /// [`TokenError::NotAShoppers`] if the token cannot be a header value.
    pub(super) fn new(token: &SecretString, verified: VerifiedToken) -> Result<Self, TokenError> {
        Ok(Self { authorization: bearer(token).ok_or(TokenError::NotAShoppers)?, verified })
    }

    /// The token itself.
    #[must_use]
    pub fn token(&self) -> SecretString {
        let text = self.authorization.to_str().unwrap_or_default();
        SecretString::from(text.strip_prefix("Bearer ").unwrap_or_default())
    }
}
