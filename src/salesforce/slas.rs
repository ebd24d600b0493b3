//! A client of SLAS, the Shopper Login and API Access Service, after its API description (`auth`, 1.50.0).
//!
//! Each method is one HTTP call, or two while a client secret is being rotated. Request bodies are forms, and `channel_id` is the
//! site.

mod authorization_code;
mod client_credentials;
mod rejected_clients;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use self::rejected_clients::RejectedClients;
pub use self::{
    authorization_code::AuthorizationCode,
    client_credentials::{AGENT_CLIENT_AUTH, CLIENT_AUTH, bare_credentials, basic_credentials},
};
use super::{
    error::SalesforceError,
    guard::{CallGuard, Priority},
    json,
    pkce::Pkce,
    response::Response,
    transport::{CallKind, Transport},
};
use crate::{
    config::SlasClient,
    types::{OrganizationId, SiteId, Usid},
};

/// The header in which SLAS reads a refresh token that is not in the form.
pub const REFRESH_TOKEN_FIELD: HeaderName = HeaderName::from_static("sfdc_refresh_token");
/// The status of `/passwordless/login` for a login id without a shopper.
pub const SHOPPER_UNKNOWN: StatusCode = StatusCode::NOT_FOUND;

/// A client of one organization's SLAS.
#[derive(Debug, Clone)]
pub struct Slas {
    transport: Transport,
    base: String,
    rejected_clients: Arc<RejectedClients>,
}

/// A shopper's login id and password. The gateway never stores or logs them.
#[derive(Debug)]
pub struct ShopperCredentials {
    /// The login id.
    pub login: SecretString,
    /// The password.
    pub password: SecretString,
}

/// A token response (`TokenResponse`), without the fields that the gateway does not use.
#[derive(Debug, Deserialize)]
pub struct TokenResponse {
    /// The shopper's JWT.
    pub access_token: SecretString,
    /// Absent for trusted agents.
    #[serde(default)]
    pub refresh_token: Option<SecretString>,
    /// Lifetime of the access token, seconds.
    #[serde(deserialize_with = "json::seconds")]
    pub expires_in: u64,
    /// Lifetime of the refresh token, seconds.
    #[serde(default, deserialize_with = "json::optional_seconds")]
    pub refresh_token_expires_in: Option<u64>,
}

impl Slas {
    /// Creates a client of SLAS at `api` (origin only).
    #[must_use]
    pub fn new(transport: Transport, api: &Url, organization: &OrganizationId) -> Self {
        let origin = api.as_str().trim_end_matches('/');
        let base = format!("{origin}/shopper/auth/v1/organizations/{organization}/oauth2");
        Self { transport, base, rejected_clients: Arc::default() }
    }

    /// `GET /authorize` with `hint=guest`: returns a guest's code for a public client.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn authorize_guest(
        &self,
        client: &SlasClient,
        site: &SiteId,
        pkce: &Pkce,
    ) -> Result<AuthorizationCode, SalesforceError> {
        let request = self.transport.client().get(self.url("/authorize")).query(&[
            ("client_id", client.id.as_str()),
            ("channel_id", site.as_str()),
            ("response_type", "code"),
            ("redirect_uri", &client.redirect_uri),
            ("hint", "guest"),
            ("code_challenge", pkce.challenge()),
        ]);
        self.code("authorize_guest", client, request, SalesforceError::is_client_rejected).await
    }

    /// `POST /login`: returns a registered shopper's code.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails; [`SalesforceError::Rejected`] with 401 if the login id or password is wrong.
    pub async fn login(
        &self,
        client: &SlasClient,
        site: &SiteId,
        credentials: &ShopperCredentials,
        pkce: &Pkce,
    ) -> Result<AuthorizationCode, SalesforceError> {
        let request = self
            .transport
            .client()
            .post(self.url("/login"))
            .basic_auth(credentials.login.expose_secret(), Some(credentials.password.expose_secret()))
            .form(&[
                ("client_id", client.id.as_str()),
                ("channel_id", site.as_str()),
                ("redirect_uri", &client.redirect_uri),
                ("code_challenge", pkce.challenge()),
            ]);
        // A 401 concerns the shopper's password, not the client.
        let is_client_rejected = |error: &SalesforceError| error.is_client_rejected() && !error.is_password_rejected();
        self.code("login", client, request, is_client_rejected).await
    }

    /// `POST /token` with `authorization_code_pkce`: returns the tokens for a code. A private client sends its secret and the
    /// verifier.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn redeem(
        &self,
        client: &SlasClient,
        site: &SiteId,
        code: &AuthorizationCode,
        pkce: &Pkce,
    ) -> Result<TokenResponse, SalesforceError> {
        let mut form = vec![
            ("grant_type", "authorization_code_pkce"),
            ("client_id", client.id.as_str()),
            ("channel_id", site.as_str()),
            ("code", code.code.expose_secret()),
            ("code_verifier", pkce.verifier()),
            ("redirect_uri", &client.redirect_uri),
        ];
        if let Some(usid) = &code.usid {
            form.push(("usid", usid.as_str()));
        }
        self.token(slas_call("authorization_code_pkce", Priority::Login), client, &form).await
    }

    /// `POST /token` with `client_credentials`: returns the tokens of a new guest of a private client.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn guest_token(&self, client: &SlasClient, site: &SiteId) -> Result<TokenResponse, SalesforceError> {
        let form = [("grant_type", "client_credentials"), ("channel_id", site.as_str())];
        self.token(slas_call("client_credentials", Priority::Login).retryable(), client, &form).await
    }

    /// `POST /trusted-system/token`: returns a shopper's tokens for a trusted system (TSOB). With the identity provider `ecom`,
    /// SLAS rejects an unknown login id. With another one it creates the shopper. `usid` continues a shopper's session; without
    /// it SLAS creates a new one. Only the same client can use the refresh token.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails; [`SalesforceError::Rejected`] with 400 if the login id is unknown;
    /// [`SalesforceError::Conflict`] on a second request for the same shopper within 3 seconds.
    pub async fn trusted_system_token(
        &self,
        client: &SlasClient,
        site: &SiteId,
        idp: &str,
        login: &str,
        usid: Option<&Usid>,
    ) -> Result<TokenResponse, SalesforceError> {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("hint", "ts_ext_on_behalf_of"),
            ("login_id", login),
            ("idp_origin", idp),
            ("channel_id", site.as_str()),
            ("client_id", client.id.as_str()),
        ];
        form.extend(usid.map(|usid| ("usid", usid.as_str())));
        self.token_at("/trusted-system/token", slas_call("trusted_system", Priority::Login), client, &form).await
    }

    /// `POST /token` with `refresh_token`: returns new tokens. A public client's old refresh token becomes invalid. `priority` is
    /// [`Priority::Refresh`] or [`Priority::BackgroundRefresh`].
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn refresh(
        &self,
        client: &SlasClient,
        site: &SiteId,
        refresh_token: &SecretString,
        do_not_track: Option<&str>,
        priority: Priority,
    ) -> Result<TokenResponse, SalesforceError> {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose_secret()),
            ("client_id", client.id.as_str()),
            ("channel_id", site.as_str()),
        ];
        form.extend(do_not_track.map(|do_not_track| ("dnt", do_not_track)));
        self.token(slas_call("refresh_token", priority), client, &form).await
    }

    /// `GET /logout`: logs a registered shopper out.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn logout(
        &self,
        client: &SlasClient,
        site: &SiteId,
        access_token: &SecretString,
        refresh_token: &SecretString,
    ) -> Result<(), SalesforceError> {
        let request =
            self.transport.client().get(self.url("/logout")).bearer_auth(access_token.expose_secret()).query(&[
                ("client_id", client.id.as_str()),
                ("channel_id", site.as_str()),
                ("refresh_token", refresh_token.expose_secret()),
            ]);
        let confirmation = |response: &Response| match response.status {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::SEE_OTHER => Ok(()),
            _ => Err(SalesforceError::from_response(response)),
        };
        self.transport.exchange(slas_call("logout", Priority::Login), request, confirmation).await
    }

    /// `GET /jwks`: returns the unparsed key set. SLAS allows 25 calls a minute.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails.
    pub async fn jwks(&self) -> Result<Bytes, SalesforceError> {
        let request = self.transport.client().get(self.jwks_url());
        let response = self.transport.send(slas_call("jwks", Priority::Maintenance), request).await?;
        if response.status == StatusCode::OK {
            Ok(response.body)
        } else {
            Err(SalesforceError::from_response(&response))
        }
    }

    /// Forwards a client's own token request, and returns SLAS's response with any status. `rest` is the part of the target
    /// after `/oauth2`. The caller must have admitted the request by [`CallGuard::admit_forwarded`].
    ///
    /// # Errors
    /// [`SalesforceError::Transport`] if no complete response arrives.
    pub async fn forward(&self, rest: &str, headers: HeaderMap, form: Bytes) -> Result<Response, SalesforceError> {
        let request = self.transport.client().post(self.url(rest)).headers(headers).body(form);
        Ok(self.transport.send(slas_call("passthrough", Priority::Login).from_client(), request).await?)
    }

    /// Returns the URL of the key set.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        self.url("/jwks")
    }

    /// Returns whether SLAS responds in time, by `GET /userinfo` without credentials, whose 401 is a success. The call counts
    /// against the 24,000 requests a minute, not against the 25 key set fetches.
    pub async fn probe(&self, timeout: Duration) -> bool {
        let request = self.transport.client().get(self.url("/userinfo")).timeout(timeout);
        let response = self.transport.send(slas_call("health_probe", Priority::Maintenance), request).await;
        response.is_ok_and(|response| {
            !response.status.is_server_error() && response.status != StatusCode::TOO_MANY_REQUESTS
        })
    }

    /// Returns the guard of SLAS calls.
    #[must_use]
    pub fn guard(&self) -> &Arc<CallGuard> {
        self.transport.guard()
    }

    /// Sends a request that SLAS answers by a redirect with a code.
    async fn code(
        &self,
        flow: &'static str,
        client: &SlasClient,
        request: RequestBuilder,
        is_client_rejected: impl Fn(&SalesforceError) -> bool,
    ) -> Result<AuthorizationCode, SalesforceError> {
        let read = |response: &Response| authorization_code::from_redirect(response, &client.redirect_uri);
        let kind = slas_call(flow, Priority::Login);
        let outcome = self.transport.exchange(kind, with_strict_auth(request, client), read).await;
        self.reported(client, outcome, is_client_rejected)
    }

    /// Reports a rejection of the client.
    fn reported<T>(
        &self,
        client: &SlasClient,
        outcome: Result<T, SalesforceError>,
        is_client_rejected: impl Fn(&SalesforceError) -> bool,
    ) -> Result<T, SalesforceError> {
        outcome.inspect_err(|error| {
            if is_client_rejected(error) {
                self.rejected_clients.report(&self.transport, client, error);
            }
        })
    }

    async fn token(
        &self,
        kind: CallKind,
        client: &SlasClient,
        form: &[(&str, &str)],
    ) -> Result<TokenResponse, SalesforceError> {
        self.token_at("/token", kind, client, form).await
    }

    async fn token_at(
        &self,
        path: &str,
        kind: CallKind,
        client: &SlasClient,
        form: &[(&str, &str)],
    ) -> Result<TokenResponse, SalesforceError> {
        let request_token = |secret: Option<&SecretString>| {
            let request = self.transport.client().post(self.url(path)).form(form);
            let request = match secret {
                Some(secret) => request.basic_auth(&client.id, Some(secret.expose_secret())),
                None => request,
            };
            self.transport.exchange(kind, request, token_response)
        };
        let outcome = request_token(client.secret.as_ref()).await;
        // While a secret is being rotated, SLAS may still accept only the previous one.
        let outcome = match (&outcome, &client.previous_secret) {
            (Err(error), Some(previous)) if error.is_client_rejected() => request_token(Some(previous)).await,
            _ => outcome,
        };
        self.reported(client, outcome, SalesforceError::is_client_rejected)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn token_response(response: &Response) -> Result<TokenResponse, SalesforceError> {
    match response.status {
        StatusCode::OK => json::read(&response.body)
            .map_err(|why| SalesforceError::malformed(format!("invalid token response: {why}"))),
        _ => Err(SalesforceError::from_response(response)),
    }
}

fn slas_call(flow: &'static str, priority: Priority) -> CallKind {
    CallKind::new("slas", flow, priority)
}

/// Adds `x-slas-client-auth` for a client that must authenticate on `/login` and `/authorize`.
fn with_strict_auth(request: RequestBuilder, client: &SlasClient) -> RequestBuilder {
    match &client.secret {
        Some(secret) if client.strict_client_auth => request.header(CLIENT_AUTH, bare_credentials(&client.id, secret)),
        _ => request,
    }
}
