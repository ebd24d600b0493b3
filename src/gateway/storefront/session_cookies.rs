//! The cookies of a session, by the names, attributes and order of PWA Kit's runtime (`@salesforce/pwa-kit-runtime` 3.20.0).
//!
//! The order matters: an SDK on a server rebuilds a token response from `Set-Cookie`, and the last value of a name counts. So each
//! deletion comes before the value that replaces it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    gateway::{
        cookies::{HOST_PREFIX, MAX_COOKIE_BYTES, PREVIEW_MARKER, SetCookie, SiteAttributes},
        error::GatewayError,
    },
    jwt,
    tokens::references::Reference,
    types::SiteId,
};

/// How long a refresh cookie lives if neither the configuration nor SLAS says so.
const GUEST_REFRESH: Duration = Duration::from_secs(30 * 24 * 3600);
const REGISTERED_REFRESH: Duration = Duration::from_secs(90 * 24 * 3600);
/// The fields of a token response that page scripts must not see.
const TOKEN_FIELDS: [&str; 4] = ["access_token", "refresh_token", "idp_access_token", "idp_refresh_token"];
const ID_TOKEN: &str = "id_token";

/// A cookie of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionCookie {
    Access,
    AccessExpires,
    Consent,
    IdentityProvider,
    IdpAccess,
    GuestRefresh,
    RegisteredRefresh,
    CustomerId,
    EncryptedUserId,
    CustomerType,
    Usid,
    RefreshExpires,
    IdToken,
    IdpRefresh,
}

impl SessionCookie {
    /// All cookies, in the order in which a logout deletes them.
    const ALL: [Self; 14] = [
        Self::Access,
        Self::AccessExpires,
        Self::Consent,
        Self::IdentityProvider,
        Self::IdpAccess,
        Self::GuestRefresh,
        Self::RegisteredRefresh,
        Self::CustomerId,
        Self::EncryptedUserId,
        Self::CustomerType,
        Self::Usid,
        Self::RefreshExpires,
        Self::IdToken,
        Self::IdpRefresh,
    ];

    fn key(self) -> &'static str {
        match self {
            Self::Access => "cc-at",
            Self::AccessExpires => "cc-at-expires",
            Self::Consent => "cc-at-dnt",
            Self::IdentityProvider => "uido",
            Self::IdpAccess => "idp_access_token",
            Self::GuestRefresh => "cc-nx-g",
            Self::RegisteredRefresh => "cc-nx",
            Self::CustomerId => "customer_id",
            Self::EncryptedUserId => "enc_user_id",
            Self::CustomerType => "customer_type",
            Self::Usid => "usid",
            Self::RefreshExpires => "cc-nx-expires",
            Self::IdToken => ID_TOKEN,
            Self::IdpRefresh => "idp_refresh_token",
        }
    }

    fn is_http_only(self) -> bool {
        matches!(self, Self::Access | Self::IdpAccess | Self::GuestRefresh | Self::RegisteredRefresh | Self::IdpRefresh)
    }
}

/// The cookies of a storefront.
#[derive(Debug, Clone)]
pub(super) struct CookieSettings {
    pub(super) site: SiteId,
    pub(super) domain: Option<String>,
    pub(super) host_prefix: bool,
    pub(super) refresh_guest: Option<Duration>,
    pub(super) refresh_registered: Option<Duration>,
    /// Whether cookies hold ids in place of tokens.
    pub(super) is_reference: bool,
}

impl CookieSettings {
    /// The name of a cookie. Page scripts read the others by PWA Kit's names, so only those with credentials have the prefix.
    pub(super) fn name(&self, cookie: SessionCookie) -> String {
        let prefix = if self.host_prefix && cookie.is_http_only() { HOST_PREFIX } else { "" };
        format!("{prefix}{}_{}", cookie.key(), self.site)
    }

    /// How long a refresh cookie lives.
    pub(super) fn refresh_life(&self, is_guest: bool, of_slas: Option<u64>) -> Duration {
        let (own, usual) = match is_guest {
            true => (self.refresh_guest, GUEST_REFRESH),
            false => (self.refresh_registered, REGISTERED_REFRESH),
        };
        own.or(of_slas.filter(|life| *life > 0).map(Duration::from_secs)).unwrap_or(usual)
    }
}

/// The tokens of a response, as far as ids replace them.
pub(super) struct IssuedTokens {
    pub(super) access_token: SecretString,
    pub(super) refresh_token: Option<SecretString>,
    /// Seconds since 1970.
    pub(super) access_expires_at: u64,
    /// The lifetime of the refresh token, seconds.
    pub(super) refresh_expires_in: Option<u64>,
    pub(super) is_guest: bool,
}

/// What the cookies hold.
#[derive(Debug)]
pub(super) enum TokenValues {
    /// The tokens of the response.
    Tokens,
    /// Ids in their place.
    References { access: Reference, refresh: Option<Reference> },
}

/// A token response without tokens, and its cookies.
#[derive(Debug)]
pub(super) struct TokenCookies {
    pub(super) body: Bytes,
    pub(super) cookies: Vec<HeaderValue>,
}

/// The claims of an access token that a page may know.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: u64,
    dnt: Option<Value>,
    isb: Option<String>,
}

impl Claims {
    fn is_guest(&self) -> bool {
        self.isb.as_deref().is_none_or(|isb| isb.split("::").nth(1) == Some("upn:Guest"))
    }

    fn identity_provider(&self) -> Option<&str> {
        let first = self.isb.as_deref()?.split("::").next()?;
        first.split("uido:").nth(1).filter(|provider| !provider.is_empty())
    }
}

/// When an access token expires, unverified; seconds since 1970. `None` if the text is no token.
pub(super) fn expires_at(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    jwt::read_unverified::<Expiry>(token).map(|claims| claims.exp)
}

/// Returns the access token of a token response.
pub(super) fn access_token(body: &[u8]) -> Option<SecretString> {
    let document = serde_json::from_slice::<Map<String, Value>>(body).ok()?;
    text(&document, "access_token").map(SecretString::from)
}

/// Returns the tokens of a token response. `None` if the body has none.
pub(super) fn tokens(body: &[u8]) -> Option<IssuedTokens> {
    let document = serde_json::from_slice::<Map<String, Value>>(body).ok()?;
    let access_token = text(&document, "access_token")?;
    let claims = jwt::read_unverified::<Claims>(access_token)?;
    Some(IssuedTokens {
        access_expires_at: claims.exp,
        is_guest: claims.is_guest(),
        access_token: SecretString::from(access_token),
        refresh_token: text(&document, "refresh_token").map(SecretString::from),
        refresh_expires_in: document.get("refresh_token_expires_in").and_then(seconds),
    })
}

/// Moves the tokens of SLAS's response into cookies.
///
/// # Errors
/// [`GatewayError::CookieTooLarge`] if a browser would drop a cookie; [`GatewayError::UpstreamUnavailable`] if the body is no JSON
/// object, the access token is no JWT, or a value cannot be in a cookie.
pub(super) fn token_response(
    body: &Bytes,
    settings: &CookieSettings,
    values: &TokenValues,
    now: u64,
    attributes: SiteAttributes,
) -> Result<TokenCookies, GatewayError> {
    let mut document =
        serde_json::from_slice::<Map<String, Value>>(body).map_err(|_| GatewayError::UpstreamUnavailable)?;
    let mut jar = Jar { settings, attributes, cookies: Vec::new() };
    let (of_access, of_refresh) = match values {
        TokenValues::Tokens => (None, None),
        TokenValues::References { access, refresh } => (Some(access.as_str()), refresh.as_ref().map(Reference::as_str)),
    };
    let mut is_guest = true;
    if let Some(token) = text(&document, "access_token") {
        let claims = jwt::read_unverified::<Claims>(token).ok_or(GatewayError::UpstreamUnavailable)?;
        is_guest = claims.is_guest();
        let end = claims.exp;
        jar.set(SessionCookie::Access, of_access.unwrap_or(token), end)?;
        jar.set(SessionCookie::AccessExpires, &end.to_string(), end)?;
        if let Some(consent) = claims.dnt.as_ref().and_then(as_text) {
            jar.set(SessionCookie::Consent, &consent, end)?;
        }
        if let Some(provider) = claims.identity_provider() {
            jar.set(SessionCookie::IdentityProvider, provider, end)?;
        }
        if !settings.is_reference {
            jar.copy(&document, "idp_access_token", SessionCookie::IdpAccess, end)?;
            jar.copy(&document, ID_TOKEN, SessionCookie::IdToken, end)?;
        }
        jar.set(SessionCookie::CustomerType, if is_guest { "guest" } else { "registered" }, end)?;
        jar.copy(&document, "customer_id", SessionCookie::CustomerId, end)?;
    }
    if let Some(token) = text(&document, "refresh_token") {
        let life = settings.refresh_life(is_guest, document.get("refresh_token_expires_in").and_then(seconds));
        let end = now.saturating_add(life.as_secs());
        let (own, other) = match is_guest {
            true => (SessionCookie::GuestRefresh, SessionCookie::RegisteredRefresh),
            false => (SessionCookie::RegisteredRefresh, SessionCookie::GuestRefresh),
        };
        jar.set(other, "", 0)?;
        jar.set(own, of_refresh.unwrap_or(token), end)?;
        jar.copy(&document, "enc_user_id", SessionCookie::EncryptedUserId, end)?;
        jar.copy(&document, "usid", SessionCookie::Usid, end)?;
        jar.set(SessionCookie::RefreshExpires, &end.to_string(), end)?;
        if !settings.is_reference {
            jar.copy(&document, "idp_refresh_token", SessionCookie::IdpRefresh, end)?;
        }
    }
    for field in TOKEN_FIELDS.iter().chain(settings.is_reference.then_some(&ID_TOKEN)) {
        document.remove(*field);
    }
    let body = serde_json::to_vec(&document).map_err(|_| GatewayError::UpstreamUnavailable)?;
    Ok(TokenCookies { body: body.into(), cookies: jar.cookies })
}

/// Returns the deletions of all cookies of a session, and of the mark of a preview.
pub(super) fn expired(settings: &CookieSettings, attributes: SiteAttributes) -> Vec<HeaderValue> {
    let mut jar = Jar { settings, attributes, cookies: Vec::new() };
    for cookie in SessionCookie::ALL {
        // An empty value is always valid.
        let _ = jar.set(cookie, "", 0);
    }
    let marker = SetCookie {
        name: PREVIEW_MARKER,
        value: "",
        expires_at: 0,
        domain: None,
        is_http_only: true,
        attributes: SiteAttributes::Preview,
    };
    jar.cookies.extend(marker.header());
    jar.cookies
}

/// The cookies of a response, in order.
struct Jar<'s> {
    settings: &'s CookieSettings,
    attributes: SiteAttributes,
    cookies: Vec<HeaderValue>,
}

impl Jar<'_> {
    /// Sets a cookie. With a domain, a cookie of the host alone that would hide it is deleted first.
    fn set(&mut self, cookie: SessionCookie, value: &str, expires_at: u64) -> Result<(), GatewayError> {
        let name = self.settings.name(cookie);
        if name.len() + value.len() > MAX_COOKIE_BYTES {
            return Err(GatewayError::CookieTooLarge(name));
        }
        let domain = self.settings.domain.as_deref();
        let set = SetCookie {
            name: &name,
            value,
            expires_at,
            domain,
            is_http_only: cookie.is_http_only(),
            attributes: self.attributes,
        };
        if domain.is_some() {
            self.cookies.extend(SetCookie { value: "", expires_at: 0, domain: None, ..set }.header());
        }
        self.cookies.push(set.header().ok_or(GatewayError::UpstreamUnavailable)?);
        Ok(())
    }

    /// Sets a cookie to a field of the response, if it is there.
    fn copy(
        &mut self,
        document: &Map<String, Value>,
        field: &str,
        cookie: SessionCookie,
        expires_at: u64,
    ) -> Result<(), GatewayError> {
        match text(document, field) {
            Some(value) => self.set(cookie, value, expires_at),
            None => Ok(()),
        }
    }
}

/// A text of a document that is not empty.
fn text<'d>(document: &'d Map<String, Value>, field: &str) -> Option<&'d str> {
    document.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// A number of seconds, which may be written as a text.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A value as JavaScript's `String` writes it.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
