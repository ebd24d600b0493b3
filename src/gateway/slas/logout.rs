//! Logouts and revocations at SLAS, followed in the gateway's sessions.

use std::sync::Arc;

use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};
use tracing::Instrument;

use crate::{
    gateway::{
        authorization_header::Authorization,
        decision::{LogoutScope, PendingLogout},
        error::GatewayError,
        form::{self, Form},
        query::Query,
        request::Route,
    },
    observability::spans,
    tokens::sessions::{PresentedRefreshToken, Sessions},
    types::SiteId,
    verify::{
        HashedToken,
        shopper_token::{ShopperVerifier, VerifiedToken},
    },
};

/// Follows logouts.
#[derive(Debug)]
pub(super) struct Logouts {
    sessions: Arc<Sessions>,
    shoppers: Arc<ShopperVerifier>,
}

impl Logouts {
    pub(super) fn new(sessions: Arc<Sessions>, shoppers: Arc<ShopperVerifier>) -> Self {
        Self { sessions, shoppers }
    }

    /// Returns the logout that `logoutCustomer` performs, if its token verifies. If `uses_caller_held`, the refresh token in the
    /// query is replaced by the valid one: SLAS does not know the client's any more.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`], [`GatewayError::StoreUnavailable`].
    pub(super) async fn of_logout(
        &self,
        route: &Route,
        head: &Parts,
        uses_caller_held: bool,
    ) -> Result<Option<PendingLogout>, GatewayError> {
        let Some(token) = self.verified_token(route, head).await else { return Ok(None) };
        let hint =
            Query::parse(head.uri.query()).and_then(|query| Ok(query.single("hint")?.map(|hint| hint.into_owned())));
        let Ok(hint) = hint else { return Ok(None) };
        let target = if uses_caller_held { self.logout_target(route, head, &token).await? } else { None };
        let scope = match hint.as_deref() {
            Some("all-sessions") => LogoutScope::AllSessions(token),
            _ => LogoutScope::Session(token),
        };
        Ok(Some(PendingLogout { scope, target }))
    }

    async fn verified_token(&self, route: &Route, head: &Parts) -> Option<VerifiedToken> {
        let Ok(Authorization::Bearer(token)) = Authorization::parse(&head.headers) else { return None };
        let token = HashedToken::new(token.expose_secret());
        self.shoppers.verify(&token, &route.organization).instrument(spans::verify("slas")).await.ok()
    }

    /// Returns the path and query of a logout with the valid refresh token, if the client's has been replaced.
    async fn logout_target(
        &self,
        route: &Route,
        head: &Parts,
        token: &VerifiedToken,
    ) -> Result<Option<String>, GatewayError> {
        let text = head.uri.query().unwrap_or_default();
        let query = Query::parse(Some(text))?;
        let presented = query.single(form::REFRESH_TOKEN)?.map(|token| SecretString::from(&*token));
        let site = query.single("channel_id")?.and_then(|site| site.parse::<SiteId>().ok());
        let (Some(presented), Some(site)) = (presented, site) else { return Ok(None) };
        let client = &token.shopper.client;
        let found = self.sessions.find_caller_held(&route.organization, client, Some(&site), &presented).await;
        let held = match found.map_err(|_| GatewayError::StoreUnavailable)? {
            PresentedRefreshToken::Session(held) => Some(held).filter(|held| held.is_of(&token.shopper)),
            PresentedRefreshToken::Revoked | PresentedRefreshToken::Unknown => None,
        };
        Ok(held.map(|held| {
            let target = route.upstream_target.as_deref().unwrap_or(head.uri.path());
            let path = target.split('?').next().unwrap_or_default();
            format!("{path}?{}", form::replace_value(text, form::REFRESH_TOKEN, held.refresh_token().expose_secret()))
        }))
    }

    /// Returns the logout that the revocation of a refresh token performs, if the gateway has its session.
    ///
    /// # Errors
    /// [`GatewayError::StoreUnavailable`].
    pub(super) async fn of_revocation(
        &self,
        route: &Route,
        head: &Parts,
        form: &[u8],
    ) -> Result<Option<PendingLogout>, GatewayError> {
        let token = Form::parse(form).ok().and_then(|form| Some(SecretString::from(&*form.single("token").ok()??)));
        let Ok(Authorization::Basic(basic)) = Authorization::parse(&head.headers) else { return Ok(None) };
        let (Some(token), Ok(client)) = (token, basic.user.parse()) else { return Ok(None) };
        match self.sessions.find_caller_held(&route.organization, &client, None, &token).await {
            Ok(PresentedRefreshToken::Session(held)) => {
                Ok(Some(PendingLogout { scope: LogoutScope::CallerHeld(held), target: None }))
            }
            Ok(PresentedRefreshToken::Revoked | PresentedRefreshToken::Unknown) => Ok(None),
            Err(_) => Err(GatewayError::StoreUnavailable),
        }
    }

    /// Ends the sessions of a logout that SLAS has confirmed.
    pub(super) async fn complete(&self, logout: &PendingLogout) {
        let ended = match &logout.scope {
            LogoutScope::AllSessions(token) => self.sessions.log_out_customer(token).await,
            LogoutScope::Session(token) => self.sessions.log_out(token).await.map(|_| ()),
            LogoutScope::CallerHeld(session) => self.sessions.end_caller_held(session).await,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "failed to tell other replicas of a logout");
        }
    }
}
