//! SLAS: shopper login, as its API description (`auth`, 1.50.0) says.
//!
//! Each method is one HTTP call. Form bodies throughout; `channel_id` is the site.

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

/// The field in which a private client proves itself where `Authorization` is the shopper's (`/login`,
/// `/authorize`).
pub const CLIENT_AUTH: HeaderName = HeaderName::from_static("x-slas-client-auth");
/// The field in which a private client proves itself where `Authorization` is the agent's
/// (`/trusted-agent/token`).
pub const AGENT_CLIENT_AUTH: HeaderName = HeaderName::from_static("_sfdc_client_auth");

/// How often it is logged that SLAS refuses one client.
const REJECTED_CLIENT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What `/passwordless/login` says of a login that no shopper has.
pub const SHOPPER_UNKNOWN: StatusCode = StatusCode::NOT_FOUND;

/// SLAS of one organization.
#[derive(Debug, Clone)]
pub struct Slas {
    transport: Transport,
    base: String,
    /// Clients of the configuration that SLAS refused, and when that was logged.
    rejected_clients: Arc<Mutex<HashMap<ClientId, Instant>>>,
}

/// What a shopper types: never kept, never logged.
#[derive(Debug)]
pub struct ShopperCredentials {
    /// The login id.
    pub login: SecretString,
    /// The password.
    pub password: SecretString,
}

/// A code to be redeemed once, with the usid that SLAS gave beside it.
#[derive(Debug)]
pub struct AuthorizationCode {
    code: SecretString,
    usid: Option<Usid>,
}

/// A token answer (`TokenResponse`). What the gateway does not use is left out.
#[derive(Debug, Deserialize)]
pub struct TokenResponse {
    /// The shopper's JWT.
    pub access_token: SecretString,
    /// Absent for trusted agents.
    #[serde(default)]
    pub refresh_token: Option<SecretString>,
    /// Life of the access token, seconds.
    #[serde(deserialize_with = "json::seconds")]
    pub expires_in: u64,
    /// Life of the refresh token, seconds.
    #[serde(default, deserialize_with = "json::optional_seconds")]
    pub refresh_token_expires_in: Option<u64>,
}

impl Slas {
    /// SLAS at `api` (origin only).
    #[must_use]
    pub fn new(transport: Transport, api: &Url, organization: &OrganizationId) -> Self {
        let origin = api.as_str().trim_end_matches('/');
        let base = format!("{origin}/shopper/auth/v1/organizations/{organization}/oauth2");
        Self { transport, base, rejected_clients: Arc::default() }
    }

    /// `GET /authorize` with `hint=guest`: a guest's code for a public client.
    ///
    /// # Errors
    /// [`SalesforceError`].
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
        let code = |answer: &Response| authorization_code(answer, &client.redirect_uri);
        let outcome = self.transport.exchange(kind, with_strict_auth(request, client), code).await;
        self.report_rejected_client(client, outcome.as_ref().err().filter(|error| error.is_client_rejected()));
        outcome
    }

    /// `POST /login`: a registered shopper's code.
    ///
    /// # Errors
    /// [`SalesforceError`]; a wrong login or password is [`SalesforceError::Rejected`] with 401.
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
        let code = |answer: &Response| authorization_code(answer, &client.redirect_uri);
        let kind = slas_call("login", Priority::Login);
        let outcome = self.transport.exchange(kind, with_strict_auth(request, client), code).await;
        // A 401 is about the shopper's password.
        let refused = |error: &&SalesforceError| error.is_client_rejected() && !error.is_password_rejected();
        self.report_rejected_client(client, outcome.as_ref().err().filter(refused));
        outcome
    }

    /// `POST /token` with `authorization_code_pkce`. A private client proves itself as well, and
    /// must still send the verifier.
    ///
    /// # Errors
    /// [`SalesforceError`].
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

    /// `POST /token` with `client_credentials`: a new guest of a private client.
    ///
    /// # Errors
    /// [`SalesforceError`].
    pub async fn guest_token(&self, client: &SlasClient, site: &SiteId) -> Result<TokenResponse, SalesforceError> {
        let form = [("grant_type", "client_credentials"), ("channel_id", site.as_str())];
        self.token(slas_call("client_credentials", Priority::Login).retryable(), client, &form).await
    }

    /// `POST /trusted-system/token`: a shopper's tokens for a trusted system (TSOB). With `ecom`, an unknown login
    /// is refused; with another identity provider the shopper is created. `usid` continues a shopper's session; without it
    /// SLAS makes a new one. The refresh token must be used by the same client.
    ///
    /// # Errors
    /// [`SalesforceError`]; an unknown login is [`SalesforceError::Rejected`] with 400, the same shopper within 3 seconds is
    /// [`SalesforceError::Conflict`].
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

    /// `POST /token` with `refresh_token`. For a public client the old refresh token is void afterwards. Of [`Priority::Refresh`] or
    /// [`Priority::BackgroundRefresh`]: what nobody asked for yet leaves more of the tenant's budget to others.
    ///
    /// # Errors
    /// [`SalesforceError`].
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

    /// `GET /logout` of a registered shopper.
    ///
    /// # Errors
    /// [`SalesforceError`].
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
        let confirmation = |answer: &Response| match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::SEE_OTHER => Ok(()),
            _ => Err(SalesforceError::from_response(answer)),
        };
        self.transport.exchange(slas_call("logout", Priority::Login), request, confirmation).await
    }

    /// `GET /jwks`, as it came. At most 25 calls a minute are allowed.
    ///
    /// # Errors
    /// [`SalesforceError`].
    pub async fn jwks(&self) -> Result<Bytes, SalesforceError> {
        let request = self.transport.client().get(self.jwks_url());
        let answer = self.transport.send(slas_call("jwks", Priority::Maintenance), request).await?;
        if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(SalesforceError::from_response(&answer)) }
    }

    /// A caller's own request for a token, and SLAS's answer as it came, whatever it says. `rest` is what
    /// follows `/oauth2` in the target.
    ///
    /// # Errors
    /// [`SalesforceError::Transport`] if no whole answer came. The guard is not asked: see [`CallGuard::admit_forwarded`].
    pub async fn forward(&self, rest: &str, headers: HeaderMap, form: Bytes) -> Result<Response, SalesforceError> {
        let request = self.transport.client().post(self.url(rest)).headers(headers).body(form);
        Ok(self.transport.send(slas_call("passthrough", Priority::Login).from_client(), request).await?)
    }

    /// Where its key set is.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        self.url("/jwks")
    }

    /// Whether SLAS answers at all within this time: `GET /userinfo` without a credential, whose 401 is a good
    /// answer. It counts against the 24,000 requests a minute, not against the 25 of key sets.
    pub async fn probe(&self, within: Duration) -> bool {
        let request = self.transport.client().get(self.url("/userinfo")).timeout(within);
        let answer = self.transport.send(slas_call("health_probe", Priority::Maintenance), request).await;
        answer.is_ok_and(|answer| !answer.status.is_server_error() && answer.status != StatusCode::TOO_MANY_REQUESTS)
    }

    /// What is known of it without asking.
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
        let ask = |secret: Option<&SecretString>| {
            let request = self.transport.client().post(self.url(path)).form(form);
            let request = match secret {
                Some(secret) => request.basic_auth(&client.id, Some(secret.expose_secret())),
                None => request,
            };
            self.transport.exchange(kind, request, token_response)
        };
        let outcome = ask(client.secret.as_ref()).await;
        // While a secret is being replaced, nobody knows which of the two SLAS takes at the moment.
        let outcome = match (&outcome, &client.previous_secret) {
            (Err(error), Some(previous)) if error.is_client_rejected() => ask(Some(previous)).await,
            _ => outcome,
        };
        self.report_rejected_client(client, outcome.as_ref().err().filter(|error| error.is_client_rejected()));
        outcome
    }

    /// Counts and logs that SLAS refuses a client of the configuration: no outage, but a mistake that only the operator can
    /// correct.
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
            "SLAS refuses a client of the configuration: its secret, redirect URI, site or grants are not those registered; \
             see tenants.slas_clients"
        );
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn token_response(answer: &Response) -> Result<TokenResponse, SalesforceError> {
    match answer.status {
        StatusCode::OK => json::read(&answer.body)
            .map_err(|why| SalesforceError::malformed(format!("a token answer that cannot be read: {why}"))),
        _ => Err(SalesforceError::from_response(answer)),
    }
}

fn slas_call(flow: &'static str, priority: Priority) -> CallKind {
    CallKind::new("slas", flow, priority)
}

/// Adds `x-slas-client-auth` for a client that must prove itself on `/login` and `/authorize`.
fn with_strict_auth(request: RequestBuilder, client: &SlasClient) -> RequestBuilder {
    match &client.secret {
        Some(secret) if client.strict_client_auth => request.header(CLIENT_AUTH, bare_credentials(&client.id, secret)),
        _ => request,
    }
}

/// `base64(clientId:clientSecret)`, without the word "Basic".
#[must_use]
pub fn bare_credentials(client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    credentials("", client_id, secret)
}

/// The same as RFC 7617 writes it, for `Authorization`.
#[must_use]
pub fn basic_credentials(client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    credentials("Basic ", client_id, secret)
}

fn credentials(word: &str, client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{client_id}:{}", secret.expose_secret()));
    // Base64's alphabet is always a valid header value.
    let mut value = HeaderValue::from_str(&format!("{word}{encoded}")).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Reads the code out of a 303's `Location`, which is parsed and never followed.
fn authorization_code(answer: &Response, redirect_uri: &str) -> Result<AuthorizationCode, SalesforceError> {
    if answer.status != StatusCode::SEE_OTHER && answer.status != StatusCode::FOUND {
        return Err(SalesforceError::from_response(answer));
    }
    let expected = Url::parse(redirect_uri).map_err(|_| SalesforceError::malformed("a redirect URI of ours"))?;
    let location =
        location(&answer.headers, &expected).ok_or(SalesforceError::malformed("a redirect without Location"))?;
    if (location.origin(), location.scheme(), location.path())
        != (expected.origin(), expected.scheme(), expected.path())
    {
        return Err(SalesforceError::malformed("a redirect to another address than the client's"));
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
    Ok(AuthorizationCode { code: code.ok_or(SalesforceError::malformed("a redirect without a code"))?, usid })
}

/// A relative `Location` (RFC 9110, 10.2.2) can only mean the client's own address: SLAS has been told no other.
fn location(headers: &HeaderMap, redirect_uri: &Url) -> Option<Url> {
    redirect_uri.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://localhost:3000/callback";

    fn redirect(status: u16, location: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static(location));
        Response { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    #[test]
    fn the_code_is_read_from_the_redirect() {
        let code =
            authorization_code(&redirect(303, "http://localhost:3000/callback?usid=u-1&code=c%2B1"), OURS).unwrap();
        assert_eq!(code.code.expose_secret(), "c+1");
        assert_eq!(code.usid.unwrap().as_str(), "u-1");
        for relative in ["/callback?code=c", "callback?code=c", "?code=c", "//localhost:3000/callback?code=c"] {
            assert!(authorization_code(&redirect(303, relative), OURS).is_ok(), "{relative}");
        }
    }

    #[test]
    fn another_address_or_no_code_is_refused() {
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
            assert!(authorization_code(&redirect(status, location), OURS).is_err(), "{status} {location}");
        }
    }
}
