//! A client of Account Manager, the issuer of system tokens.

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

/// A token response (RFC 6749, 5.1), without the fields that the gateway does not use.
#[derive(Debug, Deserialize)]
pub struct SystemTokenResponse {
    /// The system token.
    pub access_token: SecretString,
    /// Its lifetime, seconds. Account Manager sends 1799.
    #[serde(deserialize_with = "json::seconds")]
    pub expires_in: u64,
    /// The granted scopes, if the response has them.
    #[serde(default)]
    scope: Option<String>,
}

impl SystemTokenResponse {
    /// Returns the granted scopes. A response without scopes grants the requested ones (RFC 6749, 5.1).
    #[must_use]
    pub fn granted_scopes(&self, requested: &Scopes) -> Scopes {
        self.scope.as_ref().and_then(|scope| scope.parse().ok()).unwrap_or_else(|| requested.clone())
    }
}

/// A client of one Account Manager.
#[derive(Debug, Clone)]
pub struct AccountManager {
    transport: Transport,
    url: Url,
}

impl AccountManager {
    /// Creates a client of Account Manager at `url` (origin only).
    #[must_use]
    pub fn new(transport: Transport, url: Url) -> Self {
        Self { transport, url }
    }

    /// Returns the issuer of its tokens: its origin with the explicit port, and `/dwsso/oauth2`, for example
    /// `https://account.demandware.com:443/dwsso/oauth2`.
    #[must_use]
    pub fn issuer(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}://{host}:{port}{ISSUER_PATH}", self.url.scheme())
    }

    /// Returns the URL of the key set.
    #[must_use]
    pub fn jwks_url(&self) -> Url {
        let mut url = self.url.clone();
        url.set_path(JWKS_PATH);
        url
    }

    /// Returns the unparsed key set.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn jwks(&self) -> Result<Bytes, SalesforceError> {
        let kind = CallKind::new("account_manager", "jwks", Priority::Maintenance);
        let response = self.transport.send(kind, self.transport.client().get(self.jwks_url())).await?;
        if response.status == StatusCode::OK {
            Ok(response.body)
        } else {
            Err(SalesforceError::from_response(&response))
        }
    }

    /// Returns a client's own token (`client_credentials`). One scope that the client does not have fails the whole request.
    /// Without scopes the client gets its default scopes (RFC 6749, 3.3).
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails; [`SalesforceError::Rejected`] with `invalid_client` if the secret is wrong, and with
    /// `invalid_scope` if the client lacks a scope.
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
        let token = |response: &Response| match response.status {
            StatusCode::OK => json::read(&response.body)
                .map_err(|why| SalesforceError::malformed(format!("invalid token response: {why}"))),
            _ => Err(SalesforceError::from_response(response)),
        };
        self.transport.exchange(kind, request, token).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }
}
