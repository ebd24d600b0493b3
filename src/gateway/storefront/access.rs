//! The session that a request to a storefront shows: its cookies, and the access token in them.

use std::fmt;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION, request::Parts};
use secrecy::{ExposeSecret, SecretString};

use super::{
    entry::{Purpose, Storefront},
    fields::{GRANT_TYPE, single},
    origin_check, preview,
    session_cookies::{self, SessionCookie},
};
use crate::{
    gateway::{
        cookies::{CookieValue, RequestCookies, SiteAttributes},
        error::GatewayError,
        form::REFRESH_TOKEN,
    },
    time::unix_now,
    tokens::references::{self, ReferenceKind},
    types::{ClientId, SiteId},
};

/// A request whose session is in cookies.
pub(in crate::gateway) struct SessionRequest<'s> {
    pub(super) storefront: &'s Storefront,
    pub(super) purpose: Purpose,
    /// How the cookies of the response are restricted to a site.
    pub(super) attributes: SiteAttributes,
    /// Whether the page asks for a refresh with the refresh cookie.
    refreshes_by_cookie: bool,
    authorization: ReceivedAuthorization,
    access: Option<SecretString>,
    refresh: Option<SecretString>,
    may_use_cookies: bool,
}

/// The `Authorization` of a request, as far as it matters beside a cookie.
enum ReceivedAuthorization {
    /// None, or a scheme without a credential.
    Nothing,
    /// A bearer token.
    Bearer(SecretString),
    /// Another credential, or a malformed one.
    Other,
}

/// The credential of a call or logout.
#[derive(Debug)]
pub(in crate::gateway) enum AccessCredential {
    /// `Authorization`, as received. The text is the id of a reference, if it looks like one.
    Received(Option<SecretString>),
    /// The access token of a cookie.
    Token(SecretString),
    /// The refresh token of a cookie: there is no access token, or it has expired.
    Refresh(SecretString),
    /// None.
    Missing,
}

impl<'s> SessionRequest<'s> {
    /// Reads the session of a request.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] for two cookies of one name; [`GatewayError::OriginNotAllowed`] if a page asks for tokens or for a
    /// logout that may not set the cookies.
    pub(super) fn read(storefront: &'s Storefront, purpose: Purpose, head: &Parts) -> Result<Self, GatewayError> {
        let headers = &head.headers;
        let Storefront { cookies: settings, origins, site, .. } = storefront;
        if purpose != Purpose::Call && !origin_check::may_set_cookies(head, origins, site) {
            return Err(GatewayError::OriginNotAllowed);
        }
        let cookies = RequestCookies::read(headers);
        let value = |cookie: SessionCookie| match cookies.get(&settings.name(cookie)) {
            CookieValue::One(value) if !value.is_empty() => Ok(Some(SecretString::from(value))),
            CookieValue::One(_) | CookieValue::None => Ok(None),
            // A logout deletes them.
            CookieValue::Ambiguous if purpose == Purpose::Logout => Ok(None),
            CookieValue::Ambiguous => {
                Err(GatewayError::Ambiguous(format!("two cookies have the name {}", settings.name(cookie))))
            }
        };
        // Each login deletes one of the two, so another host of the domain may have set the other one.
        let refresh = match (value(SessionCookie::RegisteredRefresh)?, value(SessionCookie::GuestRefresh)?) {
            (Some(_), Some(_)) if purpose == Purpose::Logout => None,
            (Some(_), Some(_)) => {
                let [registered, guest] = [SessionCookie::RegisteredRefresh, SessionCookie::GuestRefresh];
                let (registered, guest) = (settings.name(registered), settings.name(guest));
                return Err(GatewayError::Ambiguous(format!(
                    "the cookies {registered} and {guest} exclude each other"
                )));
            }
            (registered, guest) => registered.or(guest),
        };
        Ok(Self {
            storefront,
            purpose,
            attributes: preview::site_attributes(headers, &cookies, &storefront.preview_origins),
            refreshes_by_cookie: single(headers, &GRANT_TYPE)?.is_some_and(|grant| grant == REFRESH_TOKEN),
            authorization: ReceivedAuthorization::read(headers),
            access: value(SessionCookie::Access)?,
            refresh,
            may_use_cookies: origin_check::may_use_cookies(head, origins, site),
        })
    }

    /// What the request is for.
    pub(in crate::gateway) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Whether the page asks for a refresh with the refresh cookie.
    pub(in crate::gateway) fn refreshes_by_cookie(&self) -> bool {
        self.refreshes_by_cookie
    }

    /// The site of the storefront.
    pub(in crate::gateway) fn site(&self) -> &SiteId {
        &self.storefront.site
    }

    /// The SLAS client of the storefront.
    pub(in crate::gateway) fn client(&self) -> &ClientId {
        &self.storefront.client
    }

    /// The domain of the storefront's cookies.
    pub(in crate::gateway) fn cookie_domain(&self) -> Option<String> {
        self.storefront.cookies.domain.clone()
    }

    /// Returns the deletions of all cookies of the session.
    pub(in crate::gateway) fn expired_cookies(&self) -> Vec<HeaderValue> {
        session_cookies::expired(&self.storefront.cookies, self.attributes)
    }

    /// Returns the credential of a call or logout, with ids in place of tokens for a storefront with reference cookies.
    ///
    /// # Errors
    /// [`GatewayError::OriginNotAllowed`] if the page may not use the cookies.
    pub(super) fn credential(&self) -> Result<AccessCredential, GatewayError> {
        let is_reference = self.storefront.cookies.is_reference;
        let received = match &self.authorization {
            ReceivedAuthorization::Bearer(token) => {
                let is_id = is_reference && references::has_form_of_id(token.expose_secret());
                Some(AccessCredential::Received(is_id.then(|| token.clone())))
            }
            ReceivedAuthorization::Nothing | ReceivedAuthorization::Other => None,
        };
        let other = match self.authorization {
            ReceivedAuthorization::Other => AccessCredential::Received(None),
            ReceivedAuthorization::Nothing | ReceivedAuthorization::Bearer(_) => AccessCredential::Missing,
        };
        // A logout ends the session of the cookies, whatever the page sends beside them.
        match received {
            Some(received) if self.purpose != Purpose::Logout || self.cookies().is_none() => Ok(received),
            received => match self.cookies() {
                Some(_) if !self.may_use_cookies => Err(GatewayError::OriginNotAllowed),
                Some(credential) => Ok(credential),
                None => Ok(received.unwrap_or(other)),
            },
        }
    }

    /// Returns the value of the refresh cookie.
    ///
    /// # Errors
    /// [`GatewayError::OriginNotAllowed`] if the page may not use it.
    pub(super) fn refresh_cookie(&self) -> Result<Option<SecretString>, GatewayError> {
        match &self.refresh {
            Some(_) if !self.may_use_cookies => Err(GatewayError::OriginNotAllowed),
            refresh => Ok(refresh.clone()),
        }
    }

    /// Returns the ids in the cookies of a storefront with reference cookies: of the access token and of the refresh token.
    pub(super) fn reference_ids(&self) -> [(ReferenceKind, Option<&SecretString>); 2] {
        [(ReferenceKind::Access, self.access.as_ref()), (ReferenceKind::Refresh, self.refresh.as_ref())]
    }

    /// The credential of the cookies.
    fn cookies(&self) -> Option<AccessCredential> {
        let access = self.access.as_ref().filter(|access| self.is_usable(access.expose_secret()));
        match (access, &self.refresh) {
            (Some(access), _) => Some(AccessCredential::Token(access.clone())),
            (None, Some(refresh)) => Some(AccessCredential::Refresh(refresh.clone())),
            (None, None) => None,
        }
    }

    /// Whether an access cookie may be good. SFRA writes `refresh` into it to ask for a refresh.
    fn is_usable(&self, access: &str) -> bool {
        if self.storefront.cookies.is_reference {
            return references::has_form_of_id(access);
        }
        session_cookies::expires_at(access).is_some_and(|expires_at| expires_at > unix_now())
    }
}

/// Without the cookies, which are credentials.
impl fmt::Debug for SessionRequest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SessionRequest").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl ReceivedAuthorization {
    fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (first, second) = (values.next(), values.next());
        let Some(first) = first.filter(|_| second.is_none()) else {
            return if second.is_some() { Self::Other } else { Self::Nothing };
        };
        let Some((scheme, credential)) = first.to_str().ok().map(split) else { return Self::Other };
        match (scheme.eq_ignore_ascii_case("bearer"), credential) {
            (true, "") => Self::Nothing,
            (true, token) => Self::Bearer(SecretString::from(token)),
            (false, _) => Self::Other,
        }
    }
}

/// The scheme and the credential of `Authorization`.
fn split(text: &str) -> (&str, &str) {
    let (scheme, credential) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (scheme, credential.trim())
}

/// A header value with a secret.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
