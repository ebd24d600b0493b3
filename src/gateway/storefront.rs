//! Storefronts whose sessions are in cookies that page scripts cannot read (`[[tenants.storefronts]]`).
//!
//! A request below a storefront's prefix is translated into a request with a bearer token before the other stages see it, and
//! tokens in its response are moved into cookies. `cookies` reads and writes cookies, `session_cookies` knows PWA Kit's names and
//! attributes, `origin_check` decides whether a cookie may act for the shopper, and `preview` recognizes Storefront Preview.
//!
//! A cookie gives authority below the prefixes of a storefront only, for the site that `x-site-id` names, and for pages of the
//! storefront's own origin or an allowed one. No session cookie goes upstream, on any path.

mod access;
mod entry;
mod fields;
mod origin_check;
mod preview;
mod request;
mod session_cookies;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{AUTHORIZATION, SET_COOKIE},
};
use secrecy::{ExposeSecret, SecretString};

pub(super) use self::{
    access::{AccessCredential, SessionRequest},
    entry::Purpose,
    request::Translated,
};
use self::{
    entry::Storefront,
    fields::{SITE_ID, received_page_fields, single},
    session_cookies::{IssuedTokens, TokenValues},
};
use super::{
    cookies,
    decision::StorefrontEdits,
    error::GatewayError,
    form::{Form, REFRESH_TOKEN},
    headers::HeaderEdits,
    query::Query,
    request::{Route, RoutedRequest},
    response::LocalResponse,
};
use crate::{
    config,
    time::unix_now,
    tokens::references::{ReferenceKind, References},
    types::{ByOrganization, OrganizationId},
};

/// The operation whose response has tokens inside another object. PWA Kit does not use it, and its tokens must not reach a page.
const PASSKEY_LOGIN: &str = "finishWebauthnAuthentication";
/// How long an id is good after a new one has replaced it: requests of other tabs are on their way.
const REPLACED_ID_LIFE: Duration = Duration::from_secs(60);

/// Translates between cookies and bearer tokens.
#[derive(Debug)]
pub struct Storefronts {
    organizations: ByOrganization<Vec<Storefront>>,
    references: Arc<References>,
}

/// The access token of a session.
#[derive(Debug)]
pub(super) struct SessionToken {
    /// The token; `None`: the request's own credential.
    pub(super) token: Option<SecretString>,
    /// The values of `Set-Cookie` for the response, if the gateway has refreshed the session.
    pub(super) set: Vec<HeaderValue>,
}

impl Storefronts {
    /// The storefronts of a configuration. `references` holds the tokens of storefronts with reference cookies.
    #[must_use]
    pub fn new(tenants: &[config::Tenant], references: Arc<References>) -> Self {
        let organizations = tenants.iter().map(|tenant| {
            let storefronts = tenant.storefronts.iter().map(|entry| Storefront::new(tenant, entry));
            (tenant.organization.clone(), storefronts.collect())
        });
        Self { organizations: organizations.collect(), references }
    }

    /// Returns the session request that a request is, if its session is in cookies. `clients` are the SLAS clients that it names.
    ///
    /// # Errors
    /// [`GatewayError::SiteHeaderMissing`] if tokens of a storefront's client are requested without the storefront's site;
    /// [`GatewayError::Ambiguous`] for two sites, or two cookies of one name; [`GatewayError::OriginNotAllowed`] if the page may not
    /// use or set the cookies.
    pub(super) fn session_request<'s>(
        &'s self,
        routed: RoutedRequest<'_>,
        clients: &[String],
    ) -> Result<Option<SessionRequest<'s>>, GatewayError> {
        let RoutedRequest { route, request, .. } = routed;
        let Some(storefronts) = self.organizations.get(&route.organization).filter(|all| !all.is_empty()) else {
            return Ok(None);
        };
        let headers = &request.head.headers;
        let is_storefronts = |client: &str| storefronts.iter().any(|storefront| storefront.client.as_str() == client);
        let Some(purpose) = purpose(route) else {
            // The response of a deprecated login has the token in a field that page scripts can read.
            let query = Query::parse(request.head.uri.query().filter(|_| route.is_deprecated()))?;
            let deprecated = query.single("clientId")?;
            return match deprecated {
                Some(client) if is_storefronts(&client) => Err(GatewayError::OperationNotAllowed),
                _ => Ok(None),
            };
        };
        if route.has_operation_id(PASSKEY_LOGIN) {
            return Err(GatewayError::OperationNotAllowed);
        }
        let site = single(headers, &SITE_ID)?.and_then(|site| site.to_str().ok());
        let named = site.and_then(|site| storefronts.iter().find(|storefront| storefront.site.as_str() == site));
        let is_of_client = |storefront: &Storefront| clients.iter().any(|client| client == storefront.client.as_str());
        let storefront = match (named, purpose) {
            // A client that is no storefront's holds its tokens itself.
            (Some(storefront), Purpose::Token) if is_of_client(storefront) => storefront,
            (_, Purpose::Token) if clients.iter().any(|client| is_storefronts(client)) => {
                return Err(GatewayError::SiteHeaderMissing);
            }
            (_, Purpose::Token) | (None, _) => return Ok(None),
            (Some(storefront), _) => storefront,
        };
        SessionRequest::read(storefront, purpose, request.head).map(Some)
    }

    /// Returns what a storefront changes in a request below its prefix without a session in cookies, e.g. a login, and in its response.
    /// `None` if the organization has no storefronts.
    pub(super) fn edits_without_session(&self, routed: RoutedRequest<'_>) -> Option<StorefrontEdits> {
        let storefronts = self.organizations.get(&routed.route.organization).filter(|all| !all.is_empty())?;
        let headers = &routed.request.head.headers;
        let named = storefronts.iter().find(|own| headers.get(&SITE_ID).is_some_and(|site| site == own.site.as_str()));
        Some(StorefrontEdits {
            request: HeaderEdits { remove: received_page_fields(headers).collect(), set: Vec::new() },
            target: None,
            set: Vec::new(),
            has_session: false,
            domain: named.and_then(|own| own.cookies.domain.clone()),
        })
    }

    /// Returns the credential of a call or logout.
    ///
    /// # Errors
    /// [`GatewayError::OriginNotAllowed`] if the page may not use the cookies; [`GatewayError::StoreUnavailable`];
    /// [`GatewayError::TokenInvalid`] for an unknown id in `Authorization`.
    pub(super) async fn credential(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
    ) -> Result<AccessCredential, GatewayError> {
        let credential = session.credential()?;
        if !session.storefront.cookies.is_reference {
            return Ok(credential);
        }
        let site = &session.storefront.site;
        let find = |kind, id: SecretString| async move {
            self.references.token(kind, organization, site, &id).await.map_err(|_| GatewayError::StoreUnavailable)
        };
        Ok(match credential {
            AccessCredential::Received(Some(id)) => match find(ReferenceKind::Access, id).await? {
                Some(token) => AccessCredential::Token(token),
                None => return Err(GatewayError::TokenInvalid("the session id is unknown or has expired".into())),
            },
            AccessCredential::Token(id) => match (find(ReferenceKind::Access, id).await?, session.refresh_cookie()?) {
                (Some(token), _) => AccessCredential::Token(token),
                (None, Some(refresh)) => match find(ReferenceKind::Refresh, refresh).await? {
                    Some(token) => AccessCredential::Refresh(token),
                    None => AccessCredential::Missing,
                },
                (None, None) => AccessCredential::Missing,
            },
            AccessCredential::Refresh(id) => match find(ReferenceKind::Refresh, id).await? {
                Some(token) => AccessCredential::Refresh(token),
                None => AccessCredential::Missing,
            },
            other @ (AccessCredential::Received(None) | AccessCredential::Missing) => other,
        })
    }

    /// Returns the refresh token of a request's cookie.
    ///
    /// # Errors
    /// [`GatewayError::OriginNotAllowed`] if the page may not use the cookie; [`GatewayError::StoreUnavailable`].
    pub(super) async fn refresh_token(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
    ) -> Result<Option<SecretString>, GatewayError> {
        match session.refresh_cookie()? {
            Some(presented) => self.refresh_token_of(session, organization, presented).await,
            None => Ok(None),
        }
    }

    async fn refresh_token_of(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
        presented: SecretString,
    ) -> Result<Option<SecretString>, GatewayError> {
        if !session.storefront.cookies.is_reference {
            return Ok(Some(presented));
        }
        let found = self.references.token(ReferenceKind::Refresh, organization, &session.storefront.site, &presented);
        found.await.map_err(|_| GatewayError::StoreUnavailable)
    }

    /// Returns the form of a token request, with the refresh token in place of its id. A server that renders pages sends the id there.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`]; [`GatewayError::RefreshCookieInvalid`] for an unknown id; [`GatewayError::StoreUnavailable`].
    pub(super) async fn form(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
        form: &Bytes,
    ) -> Result<Bytes, GatewayError> {
        if !session.storefront.cookies.is_reference {
            return Ok(form.clone());
        }
        let Some(id) = Form::parse(form)?.single(REFRESH_TOKEN)?.map(|id| SecretString::from(&*id)) else {
            return Ok(form.clone());
        };
        let token = self.refresh_token_of(session, organization, id).await?;
        let token = token.ok_or(GatewayError::RefreshCookieInvalid)?;
        Ok(SessionRequest::form_with(form, &token))
    }

    /// Moves the tokens of a refresh that the gateway performed into cookies, and returns the access token with them.
    ///
    /// # Errors
    /// Those of [`Storefronts::with_tokens_in_cookies`]; [`GatewayError::UpstreamUnavailable`] if the response has no access token.
    pub(super) async fn renewed(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
        response: LocalResponse,
    ) -> Result<SessionToken, GatewayError> {
        let access_token = session_cookies::access_token(&response.body).ok_or(GatewayError::UpstreamUnavailable)?;
        let response = self.with_tokens_in_cookies(session, organization, response).await?;
        let set = response.headers.get_all(SET_COOKIE).iter().cloned().collect();
        Ok(SessionToken { token: Some(access_token), set })
    }

    /// Moves the tokens of SLAS's response into cookies. A response without tokens stays as it is.
    ///
    /// # Errors
    /// [`GatewayError::StoreUnavailable`] if the ids of a storefront with reference cookies could not be stored;
    /// [`GatewayError::CookieTooLarge`] if a browser would drop a cookie.
    pub(super) async fn with_tokens_in_cookies(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
        mut response: LocalResponse,
    ) -> Result<LocalResponse, GatewayError> {
        let localized = cookies::localize(&response.headers, session.storefront.cookies.domain.as_deref());
        response.headers.remove(SET_COOKIE);
        response.headers.remove(AUTHORIZATION);
        for cookie in localized {
            response.headers.append(SET_COOKIE, cookie);
        }
        if !response.status.is_success() {
            return Ok(response);
        }
        // Tokens that the gateway does not find must not reach the page.
        if response.status != StatusCode::OK {
            return Err(GatewayError::UpstreamUnavailable);
        }
        let cookies = &session.storefront.cookies;
        let values = match session_cookies::tokens(&response.body) {
            Some(tokens) if cookies.is_reference => self.issue_references(session, organization, &tokens).await?,
            _ => TokenValues::Tokens,
        };
        let converted =
            session_cookies::token_response(&response.body, cookies, &values, unix_now(), session.attributes)?;
        response.body = converted.body;
        for cookie in converted.cookies {
            response.headers.append(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// Stores tokens, and returns the ids in their place.
    async fn issue_references(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
        tokens: &IssuedTokens,
    ) -> Result<TokenValues, GatewayError> {
        let Storefront { site, cookies, .. } = session.storefront;
        let issue = |kind, token, life| async move {
            let issued = self.references.issue(kind, organization, site, token, life).await;
            issued.map_err(|_| GatewayError::StoreUnavailable)
        };
        let life = Duration::from_secs(tokens.access_expires_at.saturating_sub(unix_now()).max(1));
        let access = issue(ReferenceKind::Access, &tokens.access_token, life).await?;
        let refresh = match &tokens.refresh_token {
            Some(token) => {
                let life = cookies.refresh_life(tokens.is_guest, tokens.refresh_expires_in);
                match self.kept_reference(session, organization, token).await {
                    Some(id) => {
                        let kept = self.references.keep(ReferenceKind::Refresh, organization, site, id, token, life);
                        Some(kept.await.map_err(|_| GatewayError::StoreUnavailable)?)
                    }
                    None => Some(issue(ReferenceKind::Refresh, token, life).await?),
                }
            }
            None => None,
        };
        for (kind, id) in session.reference_ids() {
            if let Some(id) = id.filter(|id| refresh.as_ref().is_none_or(|new| new.as_str() != id.expose_secret())) {
                self.end_reference(session, organization, kind, id, REPLACED_ID_LIFE).await;
            }
        }
        Ok(TokenValues::References { access, refresh })
    }

    /// Returns the id in the refresh cookie, if `token` is still its token. A browser that misses the response then keeps its session.
    async fn kept_reference<'r>(
        &self,
        session: &'r SessionRequest<'_>,
        organization: &OrganizationId,
        token: &SecretString,
    ) -> Option<&'r SecretString> {
        let [_, (kind, id)] = session.reference_ids();
        let known = self.references.token(kind, organization, &session.storefront.site, id?).await.ok()??;
        id.filter(|_| known.expose_secret() == token.expose_secret())
    }

    /// Ends the session of a logout: the ids in its cookies are good no longer.
    pub(super) async fn end_session(&self, session: &SessionRequest<'_>, organization: &OrganizationId) {
        if !session.storefront.cookies.is_reference {
            return;
        }
        for (kind, id) in session.reference_ids() {
            if let Some(id) = id {
                self.end_reference(session, organization, kind, id, Duration::ZERO).await;
            }
        }
    }

    /// Ends an id after `life`. Without the store it lives as long as its token.
    async fn end_reference(
        &self,
        session: &SessionRequest<'_>,
        organization: &OrganizationId,
        kind: ReferenceKind,
        id: &SecretString,
        life: Duration,
    ) {
        if let Err(error) = self.references.end(kind, organization, &session.storefront.site, id, life).await {
            tracing::debug!(%error, "an id in place of a token lives as long as its token");
        }
    }
}

/// Returns what a request below a storefront's prefix is for. `None` if its session is not in cookies.
fn purpose(route: &Route) -> Option<Purpose> {
    let checked_by_slas = route.operation.as_ref().filter(|operation| operation.is_checked_by_slas());
    match checked_by_slas.map(|operation| operation.id.as_str()) {
        Some(
            "getAccessToken"
            | "getPasswordLessAccessToken"
            | "getSessionBridgeAccessToken"
            | "getTrustedAgentAccessToken"
            | PASSKEY_LOGIN,
        ) => Some(Purpose::Token),
        Some("logoutCustomer") => Some(Purpose::Logout),
        Some(_) => None,
        None => (!route.is_deprecated()).then_some(Purpose::Call),
    }
}
