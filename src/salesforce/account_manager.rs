//! Account Manager: the issuer of system tokens.

use bytes::Bytes;
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{
    error::SalesforceError,
    guard::Priority,
    json,
    response::Response,
    transport::{CallKind, Transport},
};
use crate::types::{ClientId, Scopes};

const JWKS_PATH: &str = "/dwsso/oauth2/connect/jwk_uri";
const TOKEN_PATH: &str = "/dwsso/oauth2/access_token";
const ISSUER_PATH: &str = "/dwsso/oauth2";

/// A token answer (RFC 6749, 5.1). What the gateway does not use is left out.
#[derive(Debug, Deserialize)]
pub struct SystemTokenResponse {
    /// The system token.
    pub access_token: SecretString,
    /// Its life, seconds; Account Manager says 1799.
    #[serde(deserialize_with = "json::seconds")]
    pub expires_in: u64,
    /// What was granted, where that is said.
    #[serde(default)]
    scope: Option<String>,
}

impl SystemTokenResponse {
    /// The scopes granted: those asked for, where the answer names none (RFC 6749, 5.1).
    #[must_use]
    pub fn granted_scopes(&self, asked: &Scopes) -> Scopes {
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
    /// [`SalesforceError`].
    pub async fn jwks(&self) -> Result<Bytes, SalesforceError> {
        let kind = CallKind::new("account_manager", "jwks", Priority::Maintenance);
        let answer = self.transport.send(kind, self.transport.client().get(self.jwks_url())).await?;
        if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(SalesforceError::from_response(&answer)) }
    }

    /// A token of a client's own (`client_credentials`). Every scope must be one that the client has: one that is
    /// not fails the whole exchange. Without scopes it is asked for what the client has by default (RFC 6749, 3.3).
    ///
    /// # Errors
    /// [`SalesforceError`]; a wrong secret is [`SalesforceError::Rejected`] with `invalid_client`, a scope that the client
    /// has not is `invalid_scope`.
    pub async fn client_credentials(
        &self,
        client: &ClientId,
        secret: &SecretString,
        scopes: &Scopes,
    ) -> Result<SystemTokenResponse, SalesforceError> {
        let kind = CallKind::new("account_manager", "client_credentials", Priority::System).retryable();
        let scopes = scopes.to_string();
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(Some(("scope", scopes.as_str())).filter(|(_, scopes)| !scopes.is_empty()));
        let request = self
            .transport
            .client()
            .post(self.url(TOKEN_PATH))
            .basic_auth(client, Some(secret.expose_secret()))
            .form(&form);
        let token = |answer: &Response| match answer.status {
            StatusCode::OK => json::read(&answer.body)
                .map_err(|why| SalesforceError::malformed(format!("a token answer that cannot be read: {why}"))),
            _ => Err(SalesforceError::from_response(answer)),
        };
        self.transport.exchange(kind, request, token).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }
}
