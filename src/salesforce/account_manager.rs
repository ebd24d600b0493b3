//! Account Manager: the issuer of system tokens.

use bytes::Bytes;
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{
    error::ExchangeError,
    guard::Class,
    json,
    response::Answer,
    transport::{Purpose, Transport},
};
use crate::types::{ClientId, Scopes};

const JWKS_PATH: &str = "/dwsso/oauth2/connect/jwk_uri";
const TOKEN_PATH: &str = "/dwsso/oauth2/access_token";
const ISSUER_PATH: &str = "/dwsso/oauth2";

/// A token answer (RFC 6749, 5.1). What the gateway does not use is left out.
#[derive(Debug, Deserialize)]
pub struct SystemTokenAnswer {
    /// The system token.
    pub access_token: SecretString,
    /// Its life, seconds; Account Manager says 1799.
    #[serde(deserialize_with = "json::seconds")]
    pub expires_in: u64,
    /// What was granted, where that is said.
    #[serde(default)]
    scope: Option<String>,
}

impl SystemTokenAnswer {
    /// The scopes granted: those asked for, where the answer names none (RFC 6749, 5.1).
    #[must_use]
    pub fn granted(&self, asked: &Scopes) -> Scopes {
        self.scope.as_ref().and_then(|scope| scope.parse().ok()).unwrap_or_else(|| asked.clone())
    }
}

/// Account Manager at one address.
#[derive(Debug, Clone)]
pub struct AccountManager {
    transport: Transport,
    url: Url,
}

impl AccountManager {
    /// Account Manager at `url` (origin only).
    #[must_use]
    pub fn new(transport: Transport, url: Url) -> Self {
        Self { transport, url }
    }

    /// The issuer of its tokens: its origin with the port spelled out, and `/dwsso/oauth2`, e.g.
    /// `https://account.demandware.com:443/dwsso/oauth2`.
    #[must_use]
    pub fn issuer(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}://{host}:{port}{ISSUER_PATH}", self.url.scheme())
    }

    /// Where its key set is.
    #[must_use]
    pub fn jwks_url(&self) -> Url {
        let mut url = self.url.clone();
        url.set_path(JWKS_PATH);
        url
    }

    /// Its key set, as it came.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn jwks(&self) -> Result<Bytes, ExchangeError> {
        let purpose = Purpose::new("account_manager", "jwks", Class::Upkeep);
        let answer = self.transport.send(purpose, self.transport.client().get(self.jwks_url())).await?;
        if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(ExchangeError::of(&answer)) }
    }

    /// A token of a client's own (`client_credentials`). Every scope must be one that the client has: one that is
    /// not fails the whole exchange. Without scopes it is asked for what the client has by default (RFC 6749, 3.3).
    ///
    /// # Errors
    /// [`ExchangeError`]; a wrong secret is [`ExchangeError::Rejected`] with `invalid_client`, a scope that the client
    /// has not is `invalid_scope`.
    pub async fn client_credentials(
        &self,
        client: &ClientId,
        secret: &SecretString,
        scopes: &Scopes,
    ) -> Result<SystemTokenAnswer, ExchangeError> {
        let purpose = Purpose::new("account_manager", "client_credentials", Class::System).repeatable();
        let scopes = scopes.to_string();
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(Some(("scope", scopes.as_str())).filter(|(_, scopes)| !scopes.is_empty()));
        let request = self
            .transport
            .client()
            .post(self.url(TOKEN_PATH))
            .basic_auth(client, Some(secret.expose_secret()))
            .form(&form);
        let token = |answer: &Answer| match answer.status {
            StatusCode::OK => json::read(&answer.body)
                .map_err(|why| ExchangeError::malformed(format!("a token answer that cannot be read: {why}"))),
            _ => Err(ExchangeError::of(answer)),
        };
        self.transport.exchange(purpose, request, token).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }
}
