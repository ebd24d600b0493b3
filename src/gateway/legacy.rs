//! The deprecated logins of Shopper Customers, performed against SLAS and answered in the old shape.
//!
//! Owns the translation between the two contracts. A password is passed to SLAS once and kept
//! nowhere; two logins are never answered by one. The Customer document of a registered shopper is
//! Salesforce's own, byte for byte.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, LINK},
    request::Parts,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    Gateway, Request, Route, Tenant,
    authn::on_behalf_header::OnBehalfHeader,
    authorization_header::{Authorization, BasicCredentials},
    error::GatewayError,
    problem::LocalResponse,
};
use crate::{
    config::{DeprecatedLogins, SlasClient},
    correlation,
    jwt::bearer,
    observability::{
        audit::{AuditRecord, Event},
        deprecated_usage::Endpoint,
    },
    salesforce::{
        error::SalesforceError,
        pkce::Pkce,
        slas::{ShopperCredentials, TokenResponse},
    },
    tokens::{sessions::SessionError, slas_window::PASSWORD_LOGIN},
    types::{ClientId, CustomerId, SiteId},
    verify::shopper::Shopper,
};

/// When the endpoints became deprecated (RFC 9745): 1 July 2022, the date of their API description.
const DEPRECATION: HeaderValue = HeaderValue::from_static("@1656633600");
/// When Salesforce announced to remove them (RFC 8594): mid-2023.
const SUNSET: HeaderValue = HeaderValue::from_static("Sat, 01 Jul 2023 00:00:00 GMT");
/// Where to move to.
const GUIDE: HeaderValue = HeaderValue::from_static(
    "<https://developer.salesforce.com/docs/commerce/commerce-api/guide/slas.html>; rel=\"deprecation\"; type=\"text/html\"",
);
/// Longest `Authorization` of a password login (`auth` 1.50.0, authenticateCustomer), bytes.
const MAX_AUTHORIZATION_BYTES: usize = 4096;
/// The locale of a guest whose browser names none: B2C Commerce's fallback locale.
const DEFAULT_LOCALE: &str = "default";

/// What a deprecated login's body asks for; it has nothing else that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginKind {
    /// A guest.
    Guest,
    /// A registered shopper, by the login and password of the `Authorization` field.
    Credentials,
    /// The shopper of an earlier token.
    Refresh,
}

/// `TrustedSystemAuthRequest`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TrustedSystemLoginBody {
    login: SecretString,
    client_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GuestDocument<'a> {
    auth_type: &'static str,
    customer_id: &'a str,
    preferred_locale: &'a str,
}

/// What is logged in, and where.
struct Login<'a> {
    tenant: &'a Tenant,
    client: &'a SlasClient,
    site: &'a SiteId,
}

/// Marks an answer as that of a deprecated endpoint, refusals included.
#[must_use]
pub fn as_deprecated(mut reply: LocalResponse) -> LocalResponse {
    reply.headers.insert(HeaderName::from_static("deprecation"), DEPRECATION);
    reply.headers.insert(HeaderName::from_static("sunset"), SUNSET);
    reply.headers.append(LINK, GUIDE);
    reply
}

impl LoginKind {
    /// Reads the body.
    ///
    /// # Errors
    /// [`GatewayError::RequestInvalid`].
    pub fn read(body: &[u8]) -> Result<Self, GatewayError> {
        #[derive(Deserialize)]
        struct Body {
            r#type: String,
        }
        let body: Body = read(body, "a type, e.g. {\"type\": \"guest\"}")?;
        match body.r#type.as_str() {
            "guest" => Ok(Self::Guest),
            "credentials" => Ok(Self::Credentials),
            "refresh" => Ok(Self::Refresh),
            _ => Err(GatewayError::RequestInvalid("The type must be guest, credentials or refresh.".into())),
        }
    }
}

impl Gateway {
    /// `shopper-customers.authorizeCustomer`: a guest's or registered shopper's login, or a refresh.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub(super) async fn deprecated_login(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let _waiting = self.bounds.waiting_login(route)?;
        let head = request.head;
        let client = self.client_of(tenant, route, Endpoint::Login);
        self.performs_logins()?;
        let site = self.site_of(tenant, route)?;
        let login = Login { tenant, client: client?, site };
        let kind = LoginKind::read(request.body.as_deref().unwrap_or_default())?;
        audit.event = (kind != LoginKind::Refresh).then_some(Event::Login);
        audit.actor = Some(login.client.id.to_string());
        match kind {
            LoginKind::Guest => {
                let calls = if login.client.secret.is_some() { 1 } else { 2 };
                let guest = self.guest_login(&login, &head.headers, audit);
                self.bounds.within_guests(tenant, request, calls, guest).await
            }
            LoginKind::Credentials => match Authorization::read(&head.headers) {
                Ok(Authorization::Basic(credentials)) => {
                    let attempt = self.bounds.attempt(route, request, &credentials)?;
                    let performed = self.password_login(&login, credentials, audit);
                    let result = self.bounds.within_slas_calls(tenant, request, 2, performed).await;
                    attempt.end(matches!(result, Err(GatewayError::LoginRejected { .. })));
                    result
                }
                // What cannot be read is no login and password either.
                Ok(Authorization::Bearer(_) | Authorization::Nothing) | Err(GatewayError::TokenInvalid(_)) => {
                    Err(GatewayError::LoginRejected { login: None })
                }
                Err(refusal) => Err(refusal),
            },
            LoginKind::Refresh => {
                let refreshed = self.refresh_login(&login, route, head, audit);
                self.bounds.within_slas_calls(tenant, request, 1, refreshed).await
            }
        }
    }

    /// `shopper-customers.invalidateCustomerAuth`: ends the session here and at SLAS.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub(super) async fn deprecated_logout(
        &self,
        tenant: &Tenant,
        route: &Route,
        head: &Parts,
    ) -> Result<LocalResponse, GatewayError> {
        let verified = self.shopper_of(route, head).await?;
        super::authorize::check_site(&verified.shopper, route.site.as_ref())?;
        self.count_legacy(Endpoint::Logout, Some(&verified.shopper.client), tenant);
        let ended =
            self.sessions.log_out(&verified).await.map_err(|error| super::authorize::refusal_of_session(&error))?;
        // SLAS logs out registered shoppers only; a guest's tokens are forgotten, which is all there is to do.
        if let Some(ended) = ended.filter(|ended| ended.registered) {
            let logout = tenant.slas.logout(ended.client, &ended.site, &ended.access_token, &ended.refresh_token).await;
            if let Err(error) = logout {
                // Here the session is over either way, which is what the caller request for.
                let correlation_id = correlation::current_text();
                tracing::warn!(%error, organization = %route.organization, correlation_id, "SLAS did not confirm a logout");
            }
        }
        Ok(LocalResponse::empty(StatusCode::NO_CONTENT))
    }

    /// `shopper-customers.authorizeTrustedSystem`: a registered shopper's login by a trusted system. The tenant's client
    /// for acting on behalf performs it, so the public `clientId` of the body only says who is still to move.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub(super) async fn deprecated_trusted_system_login(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        audit.event = Some(Event::Login);
        let operation = route.operation.as_deref().ok_or(GatewayError::OperationUnknown)?;
        let scopes = operation.system_scopes();
        let trusted = self.trusted(tenant, route, request, &scopes, audit).await?;
        self.prove(tenant, &trusted, &scopes).await?;
        trusted.has_one_of(&scopes)?;
        self.bounds.caller(&trusted.caller)?;
        let body: TrustedSystemLoginBody = read(
            request.body.as_deref().unwrap_or_default(),
            "login and clientId, e.g. {\"login\": \"ada@example.com\", \"clientId\": \"…\"}",
        )?;
        let counted = tenant.settings.slas_clients.iter().find(|client| client.id.as_str() == body.client_id);
        self.count_legacy(Endpoint::TrustedSystemLogin, counted.map(|client| &client.id), tenant);
        self.performs_logins()?;
        let site = self.site_of(tenant, route)?;
        let named = OnBehalfHeader::registered(&body.login)?;
        let token = self.on_behalf_token(tenant, &trusted.caller, operation, site, named, audit).await?;
        let (shopper, token) = (&token.ready.verified.shopper, token.ready.token());
        let document = self.document_of(tenant, site, shopper, &request.head.headers, &token).await?;
        Ok(with_token(document, &token))
    }

    async fn guest_login(
        &self,
        login: &Login<'_>,
        headers: &HeaderMap,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let slas = &login.tenant.slas;
        let answer = if login.client.secret.is_some() {
            slas.guest_token(login.client, login.site).await
        } else {
            let pkce = Pkce::generate().map_err(|_| GatewayError::SlasUnavailable)?;
            match slas.authorize_guest(login.client, login.site, &pkce).await {
                Ok(code) => slas.redeem(login.client, login.site, &code, &pkce).await,
                Err(error) => Err(error),
            }
        };
        let answer = answer.map_err(|error| refused_by_slas("guest", &error))?;
        let shopper = self.begin_session(login, &answer, audit).await?;
        guest_document(&shopper, headers).map(|document| with_token(document, &answer.access_token))
    }

    async fn password_login(
        &self,
        login: &Login<'_>,
        credentials: BasicCredentials,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let slas = &login.tenant.slas;
        let login_id = credentials.user.clone();
        if authorization_bytes(&credentials) > MAX_AUTHORIZATION_BYTES {
            // SLAS would refuse it unread.
            return Err(GatewayError::LoginRejected { login: Some(login_id) });
        }
        audit.shopper = Some(self.audit.pseudonym_of_login(login.tenant.settings.organization.as_str(), &login_id));
        let credentials =
            ShopperCredentials { login: SecretString::from(credentials.user), password: credentials.password };
        let deadline = Instant::now() + self.timeouts.upstream;
        let before_deadline = |time| deadline.checked_sub(time).unwrap_or_else(Instant::now);
        let organization = login.tenant.settings.organization.as_str();
        // Password logins of one shopper are queued, and one is never answered with another's token.
        PASSWORD_LOGIN
            .wait_for_slot(&self.sessions, organization, &login_id, before_deadline(self.timeouts.exchange))
            .await
            .map_err(|_| GatewayError::LoginConflict)?;
        let attempt = || async {
            // Each attempt has a challenge of its own: SLAS refuses a reused one.
            let pkce = Pkce::generate().map_err(SalesforceError::Random)?;
            let code = slas.login(login.client, login.site, &credentials, &pkce).await?;
            Ok((code, pkce))
        };
        let (code, pkce) = match PASSWORD_LOGIN.retry_conflicts(before_deadline(PASSWORD_LOGIN.length()), attempt).await
        {
            Ok(code) => code,
            Err(error) if error.is_password_rejected() => {
                return Err(GatewayError::LoginRejected { login: Some(login_id) });
            }
            Err(error) => return Err(refused_by_slas("login", &error)),
        };
        drop(credentials);
        let answer = slas.redeem(login.client, login.site, &code, &pkce).await;
        let answer = answer.map_err(|error| refused_by_slas("redeem", &error))?;
        let shopper = self.begin_session(login, &answer, audit).await?;
        let document = self.document(login, &shopper, &HeaderMap::new(), &answer.access_token).await?;
        Ok(with_token(document, &answer.access_token))
    }

    async fn refresh_login(
        &self,
        login: &Login<'_>,
        route: &Route,
        head: &Parts,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let verified = self.shopper_of(route, head).await?;
        let shopper = &verified.shopper;
        super::authorize::check_site(shopper, Some(login.site))?;
        if shopper.client != login.client.id {
            return Err(GatewayError::RequestInvalid(
                "The token was issued to another client than the clientId.".into(),
            ));
        }
        if shopper.marks.tsob && !self.may_be_renewed(&verified, audit).await? {
            return Err(GatewayError::TokenInvalid(
                "the gateway gave it to nobody; it is renewed where it came from".into(),
            ));
        }
        let fresh = self.sessions.refresh(&verified).await.map_err(|error| match error {
            SessionError::Expired => {
                GatewayError::TokenInvalid("its session is not held by this gateway; log in again".into())
            }
            error => super::authorize::refusal_of_session(&error),
        })?;
        let document = self.document(login, shopper, &head.headers, &fresh).await?;
        Ok(with_token(document, &fresh))
    }

    /// Verifies the token that SLAS gave, like anyone else's, and keeps its refresh token.
    async fn begin_session(
        &self,
        login: &Login<'_>,
        answer: &TokenResponse,
        audit: &mut AuditRecord,
    ) -> Result<Arc<Shopper>, GatewayError> {
        let organization = &login.tenant.settings.organization;
        let verified =
            self.shoppers.verify_issued(answer.access_token.expose_secret(), organization).await.map_err(|error| {
                tracing::error!(%error, %organization, "SLAS gave a token that does not verify");
                GatewayError::SlasUnavailable
            })?;
        self.sessions.begin(login.site, &verified, answer).await;
        let customer = verified.shopper.customer.as_ref();
        audit.shopper = customer.map(|customer| self.audit.pseudonym(organization.as_str(), customer.as_str()));
        Ok(verified.shopper)
    }

    async fn document(
        &self,
        login: &Login<'_>,
        shopper: &Shopper,
        headers: &HeaderMap,
        access_token: &SecretString,
    ) -> Result<Bytes, GatewayError> {
        self.document_of(login.tenant, login.site, shopper, headers, access_token).await
    }

    /// The Customer document: Salesforce's for a registered shopper, three fields for a guest.
    async fn document_of(
        &self,
        tenant: &Tenant,
        site: &SiteId,
        shopper: &Shopper,
        headers: &HeaderMap,
        access_token: &SecretString,
    ) -> Result<Bytes, GatewayError> {
        if !shopper.registered {
            return guest_document(shopper, headers);
        }
        let customer = customer_of(shopper)?;
        let document = tenant.customers.customer(site, customer, access_token).await;
        document.map_err(|error| {
            let correlation_id = correlation::current_text();
            tracing::warn!(%error, organization = %tenant.settings.organization, correlation_id, "the profile of a logged-in shopper cannot be read");
            GatewayError::of_api(&error)
        })
    }

    fn client_of<'t>(
        &self,
        tenant: &'t Tenant,
        route: &Route,
        endpoint: Endpoint,
    ) -> Result<&'t SlasClient, GatewayError> {
        let request = route.client_id.as_deref();
        let client = tenant.settings.slas_clients.iter().find(|client| Some(client.id.as_str()) == request);
        self.count_legacy(endpoint, client.map(|client| &client.id), tenant);
        client.ok_or_else(|| {
            GatewayError::RequestInvalid(
                "The query's clientId must be one of the SLAS clients of this organization.".into(),
            )
        })
    }

    fn site_of<'t>(&self, tenant: &'t Tenant, route: &Route) -> Result<&'t SiteId, GatewayError> {
        tenant.settings.sites.iter().find(|site| Some(*site) == route.site.as_ref()).ok_or_else(|| {
            GatewayError::RequestInvalid("The query's siteId must be one of the sites of this organization.".into())
        })
    }

    /// Request when the request is counted already: who is still to move is worth knowing all the more.
    fn performs_logins(&self) -> Result<(), GatewayError> {
        match self.policy.deprecated_logins {
            DeprecatedLogins::Allow => Ok(()),
            DeprecatedLogins::Refuse => Err(GatewayError::OperationNotAllowed),
        }
    }

    fn count_legacy(&self, endpoint: Endpoint, client: Option<&ClientId>, tenant: &Tenant) {
        // Only configured clients become label values: a caller cannot choose new ones.
        let label = self.deprecated_usage.record(&tenant.settings.organization, client, endpoint);
        self.metrics.legacy_requests.with_label_values(&[endpoint.as_str(), label]).inc();
    }
}

/// A body of few fields, or what it should have been.
fn read<T: for<'b> Deserialize<'b>>(body: &[u8], expected: &str) -> Result<T, GatewayError> {
    // JSON is UTF-8 (RFC 8259, 8.1) also where the library passes over it; and it would read a structure from an array.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_start().starts_with('{'));
    text.and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| GatewayError::RequestInvalid(format!("The body must be JSON with {expected}.")))
}

/// How long a login and password are as SLAS is sent them: `Basic`, a blank, and base64 with padding.
fn authorization_bytes(credentials: &BasicCredentials) -> usize {
    let pair = credentials.user.len() + 1 + credentials.password.expose_secret().len();
    "Basic ".len() + pair.div_ceil(3) * 4
}

fn refused_by_slas(flow: &'static str, error: &SalesforceError) -> GatewayError {
    let correlation_id = correlation::current_text();
    tracing::warn!(flow, %error, correlation_id, "a deprecated login failed at SLAS");
    GatewayError::of_slas(error)
}

fn customer_of(shopper: &Shopper) -> Result<&CustomerId, GatewayError> {
    shopper.customer.as_ref().ok_or_else(|| {
        tracing::error!(organization = %shopper.organization, "SLAS gave a token without a customer id");
        GatewayError::SlasUnavailable
    })
}

fn guest_document(shopper: &Shopper, headers: &HeaderMap) -> Result<Bytes, GatewayError> {
    let document = GuestDocument {
        auth_type: "guest",
        customer_id: customer_of(shopper)?.as_str(),
        preferred_locale: &preferred_locale(headers),
    };
    serde_json::to_vec(&document).map(Bytes::from).map_err(|_| GatewayError::SlasUnavailable)
}

/// The first language of `Accept-Language`, as B2C Commerce writes locales: `en-US` is `en_US`.
fn preferred_locale(headers: &HeaderMap) -> String {
    let first = headers
        .get(ACCEPT_LANGUAGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split([',', ';']).next())
        .map(str::trim)
        .unwrap_or_default();
    let (language, country) = first.split_once('-').unwrap_or((first, ""));
    let letters = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    match (letters(language), letters(country)) {
        (true, true) => format!("{}_{}", language.to_ascii_lowercase(), country.to_ascii_uppercase()),
        (true, false) => language.to_ascii_lowercase(),
        (false, _) => DEFAULT_LOCALE.to_owned(),
    }
}

/// The old shape: the document as the body, the token in the response header.
fn with_token(document: Bytes, access_token: &SecretString) -> LocalResponse {
    let mut reply = LocalResponse::json(StatusCode::OK, document);
    reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A token that verified is base64url and dots, so it always is a header value.
    if let Some(value) = bearer(access_token) {
        reply.headers.insert(AUTHORIZATION, value);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locale(value: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(value));
        preferred_locale(&headers)
    }

    #[test]
    fn a_logins_body_is_an_object_in_utf_8_with_one_type() {
        assert_eq!(LoginKind::read(b" {\"x\": [1], \"type\": \"guest\"}\r\n"), Ok(LoginKind::Guest));
        for body in [
            &b""[..],
            b"{}",
            b"{\"type\": \"admin\"}",
            b"{\"type\": \"guest\", \"type\": \"credentials\"}",
            b"[\"guest\"]",
            b"{\"x\": \"\xff\", \"type\": \"guest\"}",
        ] {
            assert!(LoginKind::read(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_guests_locale_is_the_browsers_first() {
        assert_eq!(locale("en-US,en;q=0.9"), "en_US");
        assert_eq!(locale("de;q=1"), "de");
        assert_eq!(locale("*"), "default");
        assert_eq!(locale("zh-Hant-TW"), "zh");
        assert_eq!(preferred_locale(&HeaderMap::new()), "default");
    }
}
