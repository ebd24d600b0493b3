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
    error::ExchangeError,
    guard::{Class, Guard},
    json,
    pkce::Pkce,
    response::Answer,
    transport::{Purpose, Transport},
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
const REFUSED_CLIENT_LOGGED_EVERY: Duration = Duration::from_secs(60);

/// What `/passwordless/login` says of a login that no shopper has.
pub const SHOPPER_UNKNOWN: StatusCode = StatusCode::NOT_FOUND;

/// SLAS of one organization.
#[derive(Debug, Clone)]
pub struct Slas {
    transport: Transport,
    base: String,
    /// Clients of the configuration that SLAS refused, and when that was logged.
    refused_clients: Arc<Mutex<HashMap<ClientId, Instant>>>,
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
pub struct TokenAnswer {
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
        Self { transport, base, refused_clients: Arc::default() }
    }

    /// `GET /authorize` with `hint=guest`: a guest's code for a public client.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn authorize_guest(
        &self,
        client: &SlasClient,
        site: &SiteId,
        pkce: &Pkce,
    ) -> Result<AuthorizationCode, ExchangeError> {
        let request = self.transport.client().get(self.url("/authorize")).query(&[
            ("client_id", client.id.as_str()),
            ("channel_id", site.as_str()),
            ("response_type", "code"),
            ("redirect_uri", &client.redirect_uri),
            ("hint", "guest"),
            ("code_challenge", pkce.challenge()),
        ]);
        let purpose = of_slas("authorize_guest", Class::Login);
        let code = |answer: &Answer| authorization_code(answer, &client.redirect_uri);
        let outcome = self.transport.exchange(purpose, with_strict_auth(request, client), code).await;
        self.note_refused_client(client, outcome.as_ref().err().filter(|error| error.refuses_client()));
        outcome
    }

    /// `POST /login`: a registered shopper's code.
    ///
    /// # Errors
    /// [`ExchangeError`]; a wrong login or password is [`ExchangeError::Rejected`] with 401.
    pub async fn login(
        &self,
        client: &SlasClient,
        site: &SiteId,
        credentials: &ShopperCredentials,
        pkce: &Pkce,
    ) -> Result<AuthorizationCode, ExchangeError> {
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
        let code = |answer: &Answer| authorization_code(answer, &client.redirect_uri);
        let purpose = of_slas("login", Class::Login);
        let outcome = self.transport.exchange(purpose, with_strict_auth(request, client), code).await;
        // A 401 is about the shopper's password.
        let refused = |error: &&ExchangeError| error.refuses_client() && !error.refuses_credentials();
        self.note_refused_client(client, outcome.as_ref().err().filter(refused));
        outcome
    }

    /// `POST /token` with `authorization_code_pkce`. A private client proves itself as well, and
    /// must still send the verifier.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn redeem(
        &self,
        client: &SlasClient,
        site: &SiteId,
        code: &AuthorizationCode,
        pkce: &Pkce,
    ) -> Result<TokenAnswer, ExchangeError> {
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
        self.token(of_slas("authorization_code_pkce", Class::Login), client, &form).await
    }

    /// `POST /token` with `client_credentials`: a new guest of a private client.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn guest_of_private_client(
        &self,
        client: &SlasClient,
        site: &SiteId,
    ) -> Result<TokenAnswer, ExchangeError> {
        let form = [("grant_type", "client_credentials"), ("channel_id", site.as_str())];
        self.token(of_slas("client_credentials", Class::Login).repeatable(), client, &form).await
    }

    /// `POST /trusted-system/token`: a shopper's tokens for a trusted system (TSOB). With `ecom`, an unknown login
    /// is refused; with another identity provider the shopper is created. `usid` continues a shopper's session; without it
    /// SLAS makes a new one. The refresh token must be used by the same client.
    ///
    /// # Errors
    /// [`ExchangeError`]; an unknown login is [`ExchangeError::Rejected`] with 400, the same shopper within 3 seconds is
    /// [`ExchangeError::Conflict`].
    pub async fn trusted_system(
        &self,
        client: &SlasClient,
        site: &SiteId,
        idp: &str,
        login: &str,
        usid: Option<&Usid>,
    ) -> Result<TokenAnswer, ExchangeError> {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("hint", "ts_ext_on_behalf_of"),
            ("login_id", login),
            ("idp_origin", idp),
            ("channel_id", site.as_str()),
            ("client_id", client.id.as_str()),
        ];
        form.extend(usid.map(|usid| ("usid", usid.as_str())));
        self.token_at("/trusted-system/token", of_slas("trusted_system", Class::Login), client, &form).await
    }

    /// `POST /token` with `refresh_token`. For a public client the old refresh token is void afterwards. Of [`Class::Refresh`] or
    /// [`Class::Ahead`]: what nobody asked for yet leaves more of the tenant's budget to others.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn refresh(
        &self,
        client: &SlasClient,
        site: &SiteId,
        refresh_token: &SecretString,
        class: Class,
    ) -> Result<TokenAnswer, ExchangeError> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose_secret()),
            ("client_id", client.id.as_str()),
            ("channel_id", site.as_str()),
        ];
        self.token(of_slas("refresh_token", class), client, &form).await
    }

    /// `GET /logout` of a registered shopper.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn logout(
        &self,
        client: &SlasClient,
        site: &SiteId,
        access_token: &SecretString,
        refresh_token: &SecretString,
    ) -> Result<(), ExchangeError> {
        let request =
            self.transport.client().get(self.url("/logout")).bearer_auth(access_token.expose_secret()).query(&[
                ("client_id", client.id.as_str()),
                ("channel_id", site.as_str()),
                ("refresh_token", refresh_token.expose_secret()),
            ]);
        let confirmation = |answer: &Answer| match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::SEE_OTHER => Ok(()),
            _ => Err(ExchangeError::of(answer)),
        };
        self.transport.exchange(of_slas("logout", Class::Login), request, confirmation).await
    }

    /// `GET /jwks`, as it came. At most 25 calls a minute are allowed.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn jwks(&self) -> Result<Bytes, ExchangeError> {
        let request = self.transport.client().get(self.jwks_url());
        let answer = self.transport.send(of_slas("jwks", Class::Upkeep), request).await?;
        if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(ExchangeError::of(&answer)) }
    }

    /// A caller's own request for a token, and SLAS's answer as it came, whatever it says. `rest` is what
    /// follows `/oauth2` in the target.
    ///
    /// # Errors
    /// [`ExchangeError::Transport`] if no whole answer came. The guard is not asked: see [`Guard::admit_forwarded`].
    pub async fn pass(&self, rest: &str, headers: HeaderMap, form: Bytes) -> Result<Answer, ExchangeError> {
        let request = self.transport.client().post(self.url(rest)).headers(headers).body(form);
        Ok(self.transport.send(of_slas("passed", Class::Login).of_client(), request).await?)
    }

    /// Where its key set is.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        self.url("/jwks")
    }

    /// Whether SLAS answers at all within this time: `GET /userinfo` without a credential, whose 401 is a good
    /// answer. It counts against the 24,000 requests a minute, not against the 25 of key sets.
    pub async fn answers(&self, within: Duration) -> bool {
        let request = self.transport.client().get(self.url("/userinfo")).timeout(within);
        let answer = self.transport.send(of_slas("sign_of_life", Class::Upkeep), request).await;
        answer.is_ok_and(|answer| !answer.status.is_server_error() && answer.status != StatusCode::TOO_MANY_REQUESTS)
    }

    /// What is known of it without asking.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        self.transport.guard()
    }

    async fn token(
        &self,
        purpose: Purpose,
        client: &SlasClient,
        form: &[(&str, &str)],
    ) -> Result<TokenAnswer, ExchangeError> {
        self.token_at("/token", purpose, client, form).await
    }

    async fn token_at(
        &self,
        path: &str,
        purpose: Purpose,
        client: &SlasClient,
        form: &[(&str, &str)],
    ) -> Result<TokenAnswer, ExchangeError> {
        let ask = |secret: Option<&SecretString>| {
            let request = self.transport.client().post(self.url(path)).form(form);
            let request = match secret {
                Some(secret) => request.basic_auth(&client.id, Some(secret.expose_secret())),
                None => request,
            };
            self.transport.exchange(purpose, request, token_answer)
        };
        let outcome = ask(client.secret.as_ref()).await;
        // While a secret is being replaced, nobody knows which of the two SLAS takes at the moment.
        let outcome = match (&outcome, &client.previous_secret) {
            (Err(error), Some(previous)) if error.refuses_client() => ask(Some(previous)).await,
            _ => outcome,
        };
        self.note_refused_client(client, outcome.as_ref().err().filter(|error| error.refuses_client()));
        outcome
    }

    /// Counts and logs that SLAS refuses a client of the configuration: no outage, but a mistake that only the operator can
    /// correct.
    fn note_refused_client(&self, client: &SlasClient, error: Option<&ExchangeError>) {
        let Some(error) = error else { return };
        let organization = self.guard().name();
        self.transport.metrics().slas_client_refusals.with_label_values(&[organization, client.id.as_str()]).inc();
        let now = Instant::now();
        let mut logged = self.refused_clients.lock();
        if logged.get(&client.id).is_some_and(|at| now - *at < REFUSED_CLIENT_LOGGED_EVERY) {
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

fn token_answer(answer: &Answer) -> Result<TokenAnswer, ExchangeError> {
    match answer.status {
        StatusCode::OK => json::read(&answer.body)
            .map_err(|why| ExchangeError::malformed(format!("a token answer that cannot be read: {why}"))),
        _ => Err(ExchangeError::of(answer)),
    }
}

fn of_slas(flow: &'static str, class: Class) -> Purpose {
    Purpose::new("slas", flow, class)
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
fn authorization_code(answer: &Answer, redirect_uri: &str) -> Result<AuthorizationCode, ExchangeError> {
    if answer.status != StatusCode::SEE_OTHER && answer.status != StatusCode::FOUND {
        return Err(ExchangeError::of(answer));
    }
    let expected = Url::parse(redirect_uri).map_err(|_| ExchangeError::malformed("a redirect URI of ours"))?;
    let location =
        location(&answer.headers, &expected).ok_or(ExchangeError::malformed("a redirect without Location"))?;
    if (location.origin(), location.scheme(), location.path())
        != (expected.origin(), expected.scheme(), expected.path())
    {
        return Err(ExchangeError::malformed("a redirect to another address than the client's"));
    }
    let mut code = None;
    let mut usid = None;
    for (name, value) in location.query_pairs() {
        match name.as_ref() {
            "code" => code = Some(SecretString::from(value.into_owned())),
            "usid" => usid = value.parse().ok(),
            "error" => {
                return Err(ExchangeError::Rejected {
                    status: StatusCode::BAD_REQUEST,
                    code: "authorization_refused".into(),
                });
            }
            _ => {}
        }
    }
    let code = code.filter(|code| !code.expose_secret().is_empty());
    Ok(AuthorizationCode { code: code.ok_or(ExchangeError::malformed("a redirect without a code"))?, usid })
}

/// A relative `Location` (RFC 9110, 10.2.2) can only mean the client's own address: SLAS has been told no other.
fn location(headers: &HeaderMap, redirect_uri: &Url) -> Option<Url> {
    redirect_uri.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://localhost:3000/callback";

    fn redirect(status: u16, location: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static(location));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
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
