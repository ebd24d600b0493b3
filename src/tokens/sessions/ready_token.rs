//! A verified token that the gateway itself holds.

use std::sync::Weak;

use http::HeaderValue;
use secrecy::SecretString;

use crate::verify::shopper_token::{ShopperVerifier, VerifiedToken};

/// A token that the gateway holds, verified and ready to go upstream as often as it is wanted.
#[derive(Debug)]
pub struct ReadyToken {
    /// `Bearer` and the token.
    pub authorization: HeaderValue,
    /// Who it speaks for.
    pub verified: VerifiedToken,
    /// Who said so; another configuration has another verifier.
    pub(super) verifier: Weak<ShopperVerifier>,
}

impl ReadyToken {
    /// The token itself.
    #[must_use]
    pub fn token(&self) -> SecretString {
        let text = self.authorization.to_str().unwrap_or_default();
        SecretString::from(text.strip_prefix("Bearer ").unwrap_or_default())
    }
}
