//! A client of SLAS, the Shopper Login and API Access Service, after its API description (`auth`, 1.50.0).
//!
//! Each method is one HTTP call, or two while a client secret is being rotated. Request bodies are forms, and `channel_id` is the
//! site.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::LOCATION};
use parking_lot::Mutex;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

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
    correlation,
    types::{ClientId, OrganizationId, SiteId, Usid},
};

/// The header of a private client's credentials where `Authorization` holds the shopper's (`/login`, `/authorize`).
pub const CLIENT_AUTH: HeaderName = HeaderName::from_static("x-slas-client-auth");
/// The header of a private client's credentials where `Authorization` holds the agent's (`/trusted-agent/token`).
pub const AGENT_CLIENT_AUTH: HeaderName = HeaderName::from_static("_sfdc_client_auth");

/// Minimum time between two log lines about the same rejected client.
const REJECTED_CLIENT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The status of `/passwordless/login` for a login id without a shopper.
pub const SHOPPER_UNKNOWN: StatusCode = StatusCode::NOT_FOUND;

/// A client of one organization's SLAS.
#[derive(Debug, Clone)]
pub struct Slas {
    transport: Transport,
    base: String,
    /// When the log last reported each rejected client of the configuration.
    rejected_clients: Arc<Mutex<HashMap<ClientId, Instant>>>,
}

/// A shopper's login id and password. The gateway never stores or logs them.
#[derive(Debug)]
pub struct ShopperCredentials {
    /// The login id.
    pub login: SecretString,
    /// The password.
    pub password: SecretString,
}

/// A single-use authorization code, with the usid that SLAS sent with it.
#[derive(Debug)]
pub struct AuthorizationCode {
    code: SecretString,
    usid: Option<Usid>,
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
        let kind = slas_call("authorize_guest", Priority::Login);
        let code = |response: &Response| authorization_code(response, &client.redirect_uri);
        let outcome = self.transport.exchange(kind, with_strict_auth(request, client), code).await;
        self.report_rejected_client(client, outcome.as_ref().err().filter(|error| error.is_client_rejected()));
        outcome
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
        let code = |response: &Response| authorization_code(response, &client.redirect_uri);
        let kind = slas_call("login", Priority::Login);
        let outcome = self.transport.exchange(kind, with_strict_auth(request, client), code).await;
        // A 401 concerns the shopper's password, not the client.
        let is_rejected = |error: &&SalesforceError| error.is_client_rejected() && !error.is_password_rejected();
        self.report_rejected_client(client, outcome.as_ref().err().filter(is_rejected));
        outcome
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
        priority: Priority,
    ) -> Result<TokenResponse, SalesforceError> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose_secret()),
            ("client_id", client.id.as_str()),
            ("channel_id", site.as_str()),
        ];
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
        self.report_rejected_client(client, outcome.as_ref().err().filter(|error| error.is_client_rejected()));
        outcome
    }

    /// Counts and logs that SLAS rejects a configured client. This is a configuration error that only the operator can fix.
    fn report_rejected_client(&self, client: &SlasClient, error: Option<&SalesforceError>) {
        let Some(error) = error else { return };
        let organization = self.guard().name();
        self.transport.metrics().slas_client_refusals.with_label_values(&[organization, client.id.as_str()]).inc();
        let now = Instant::now();
        let mut logged = self.rejected_clients.lock();
        if logged.get(&client.id).is_some_and(|at| now - *at < REJECTED_CLIENT_LOG_INTERVAL) {
            return;
        }
        logged.insert(client.id.clone(), now);
        let correlation_id = correlation::current_text();
        tracing::error!(
            organization, client = %client.id, %error, correlation_id,
            "SLAS rejected a configured client: its secret, redirect URI, site or grants are not those registered; \
             see tenants.slas_clients"
        );
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

/// Returns `base64(clientId:clientSecret)` without the scheme `Basic`.
#[must_use]
pub fn bare_credentials(client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    credentials("", client_id, secret)
}

/// Returns the value of `Authorization` for Basic credentials (RFC 7617).
#[must_use]
pub fn basic_credentials(client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    credentials("Basic ", client_id, secret)
}

fn credentials(scheme: &str, client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{client_id}:{}", secret.expose_secret()));
    // Base64's alphabet is always a valid header value.
    let mut value = HeaderValue::from_str(&format!("{scheme}{encoded}")).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Reads the code from the `Location` of a 303, which the gateway never follows.
fn authorization_code(response: &Response, redirect_uri: &str) -> Result<AuthorizationCode, SalesforceError> {
    if response.status != StatusCode::SEE_OTHER && response.status != StatusCode::FOUND {
        return Err(SalesforceError::from_response(response));
    }
    let expected =
        Url::parse(redirect_uri).map_err(|_| SalesforceError::malformed("the configured redirect URI is no URL"))?;
    let location =
        location(&response.headers, &expected).ok_or(SalesforceError::malformed("redirect without Location"))?;
    if (location.origin(), location.scheme(), location.path())
        != (expected.origin(), expected.scheme(), expected.path())
    {
        return Err(SalesforceError::malformed("redirect to another address than the client's redirect URI"));
    }
    let mut code = None;
    let mut usid = None;
    for (name, value) in location.query_pairs() {
        match name.as_ref() {
            "code" => code = Some(SecretString::from(value.into_owned())),
            "usid" => usid = value.parse().ok(),
            "error" => {
                return Err(SalesforceError::Rejected {
                    status: StatusCode::BAD_REQUEST,
                    code: "authorization_refused".into(),
                });
            }
            _ => {}
        }
    }
    let code = code.filter(|code| !code.expose_secret().is_empty());
    Ok(AuthorizationCode { code: code.ok_or(SalesforceError::malformed("redirect without a code"))?, usid })
}

/// Resolves `Location` (RFC 9110, 10.2.2) against the redirect URI, the only address that SLAS received.
fn location(headers: &HeaderMap, redirect_uri: &Url) -> Option<Url> {
    redirect_uri.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIRECT_URI: &str = "http://localhost:3000/callback";

    fn redirect(status: u16, location: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static(location));
        Response { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    #[test]
    fn code_is_read_from_redirect_location() {
        let code =
            authorization_code(&redirect(303, "http://localhost:3000/callback?usid=u-1&code=c%2B1"), REDIRECT_URI)
                .unwrap();
        assert_eq!(code.code.expose_secret(), "c+1");
        assert_eq!(code.usid.unwrap().as_str(), "u-1");
        for relative in ["/callback?code=c", "callback?code=c", "?code=c", "//localhost:3000/callback?code=c"] {
            assert!(authorization_code(&redirect(303, relative), REDIRECT_URI).is_ok(), "{relative}");
        }
    }

    #[test]
    fn redirect_to_other_address_or_without_code_is_rejected() {
        for (status, location) in [
            (303, "http://evil.example/callback?code=c"),
            (303, "http://localhost:3000/other?code=c"),
            (303, "http://localhost:3000/callback?usid=u"),
            (303, "http://localhost:3000/callback?code="),
            (303, "http://localhost:3000/callback?error=access_denied&code=c"),
            (303, "//evil.example/callback?code=c"),
            (303, "/other?code=c"),
            (303, "https:callback?code=c"),
            (200, "http://localhost:3000/callback?code=c"),
        ] {
            assert!(authorization_code(&redirect(status, location), REDIRECT_URI).is_err(), "{status} {location}");
        }
    }
}
