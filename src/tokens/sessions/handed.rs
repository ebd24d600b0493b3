//! Sessions whose refresh token is also in a caller's hands: logins that callers performed at SLAS themselves.
//!
//! Owns what keeps both in step. SLAS voids a public client's refresh token when it is used, so the one
//! that a caller holds may be void because the gateway has renewed the session meanwhile. It is a name of the
//! session here: under the session's lock the one that is valid now goes to SLAS in its place, and
//! what SLAS answers is stored before the caller gets it. A caller that was given another may use the one
//! before for a minute still; then it is as void as SLAS would have it.

use std::{future::Future, sync::Arc, time::Instant};

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};

use super::{
    InUse, Known, SessionError, Sessions, owns,
    refresh::{LEASE_MARGIN, LOOK_EVERY},
};
use crate::{
    clock::unix_now,
    jwt::{TokenDigest, sha256},
    names::{ClientId, OrganizationId, SiteId},
    salesforce::{exchange::ExchangeError, slas::TokenAnswer, transport::Answer},
    shopper::{Shopper, verify::VerifiedToken},
    store::{Fence, Found, Lock, Session, StoreError},
};

/// The session of a refresh token that a caller presented.
#[derive(Debug, Clone)]
pub struct HandedSession {
    session: Arc<Session>,
    presented: TokenDigest,
}

impl HandedSession {
    /// The refresh token that is valid now.
    #[must_use]
    pub fn refresh_token(&self) -> &SecretString {
        &self.session.refresh_token
    }

    /// Whether it is this shopper's.
    #[must_use]
    pub fn is_of(&self, shopper: &Shopper) -> bool {
        owns(shopper, &self.session.owner)
    }
}

impl Sessions {
    /// Begins the session of a login whose answer goes to the caller as it is.
    pub async fn begin_handed(self: &Arc<Self>, site: &SiteId, token: &VerifiedToken, answer: &TokenAnswer) {
        if let Some(session) = self.session_of(site, token, answer, None) {
            let name = name_of(&session.refresh_token);
            self.put(session.handing(name, None, unix_now())).await;
        }
    }

    /// The session of a refresh token that this client was given at this site, if the gateway has it.
    ///
    /// # Errors
    /// [`StoreError`]: nobody knows whether the token is still the valid one.
    pub async fn of_handed(
        &self,
        organization: &OrganizationId,
        client: &ClientId,
        site: &SiteId,
        refresh_token: &SecretString,
    ) -> Result<Option<HandedSession>, StoreError> {
        let presented = name_of(refresh_token);
        let Found::Session(session, _) = self.store.find(&presented).await? else { return Ok(None) };
        let owner = &session.owner;
        let is_theirs = owner.organization == *organization && owner.client == *client && owner.site == *site;
        let is_good =
            is_theirs && session.handed.as_deref().is_some_and(|handed| handed.accepts(&presented, unix_now()));
        Ok(is_good.then_some(HandedSession { session, presented }))
    }

    /// A caller's own refresh: `exchange` with the refresh token that is valid now, and SLAS's answer as it
    /// came. `None` if the session is gone. The rest is done even if the caller hangs up.
    ///
    /// # Errors
    /// [`SessionError::Slas`] if no answer came, [`SessionError::Store`] if the lock could not be had.
    pub async fn refresh_handed<F, Exchange>(
        self: &Arc<Self>,
        handed: HandedSession,
        exchange: F,
    ) -> Result<Option<Answer>, SessionError>
    where
        F: FnOnce(SecretString) -> Exchange + Send + 'static,
        Exchange: Future<Output = Result<Answer, ExchangeError>> + Send + 'static,
    {
        let sessions = Arc::clone(self);
        let refreshing = tokio::spawn(async move {
            let Some((session, fence)) = sessions.locked(&handed.session).await? else { return Ok(None) };
            match exchange(session.refresh_token.clone()).await {
                Ok(answer) => {
                    sessions.keep_answer(&session, &handed.presented, fence, &answer).await;
                    Ok(Some(answer))
                }
                Err(error) => {
                    sessions.unlock(&session, fence).await;
                    Err(SessionError::Slas(error))
                }
            }
        });
        refreshing.await.unwrap_or(Err(SessionError::Store(StoreError::Broken("a refresh was abandoned"))))
    }

    /// The session as it is now, and the right to refresh it; `None` if it is gone.
    async fn locked(&self, session: &Arc<Session>) -> Result<Option<(Arc<Session>, Fence)>, SessionError> {
        let lease = self.exchange + LEASE_MARGIN;
        let patience = Instant::now() + lease * 2;
        loop {
            match self.store.lock(session, lease).await? {
                Lock::Yours(fence) => match self.newest(session).await {
                    Ok(newest) => return Ok(Some((newest, fence))),
                    Err(error) => {
                        self.unlock(session, fence).await;
                        return if matches!(error, SessionError::Store(_)) { Err(error) } else { Ok(None) };
                    }
                },
                Lock::Gone => return Ok(None),
                Lock::Taken if Instant::now() > patience => {
                    return Err(SessionError::Store(StoreError::Unavailable));
                }
                Lock::Taken => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Takes over what SLAS answered. The caller gets the answer either way: it holds the tokens then.
    async fn keep_answer(
        self: &Arc<Self>,
        session: &Arc<Session>,
        presented: &TokenDigest,
        fence: Fence,
        answer: &Answer,
    ) {
        if answer.status != StatusCode::OK {
            let error = ExchangeError::of(answer);
            if error.refuses_refresh_token() {
                if self.refused(session, fence, error).await.is_err() {
                    self.forget(session);
                }
            } else {
                self.unlock(session, fence).await;
            }
            return;
        }
        let now = unix_now();
        let renewed = match serde_json::from_slice::<TokenAnswer>(&answer.body) {
            Ok(answer) => self.renewed(session, answer).await,
            Err(_) => None,
        };
        let Some(renewed) = renewed else {
            self.unlock(session, fence).await;
            return;
        };
        let name = name_of(&renewed.refresh_token);
        let renewed = Arc::new(renewed.handing(name, Some(presented), now));
        match self.write(session, renewed, fence).await {
            Ok(newest) => self.adopt(newest, now).await,
            Err(error) => tracing::warn!(%error, "a caller's own refresh is not stored yet"),
        }
    }

    /// Makes the newest version known in this process.
    async fn adopt(&self, newest: Arc<Session>, now: u64) {
        let known = newest.tokens.iter().find_map(|token| match self.known.get(token) {
            Some(Known::Session(in_use)) => Some(in_use),
            _ => None,
        });
        let in_use = known.unwrap_or_else(|| Arc::new(InUse::new(Arc::clone(&newest), 0)));
        in_use.session.store(Arc::clone(&newest));
        for token in &newest.tokens {
            self.known.insert(*token, Known::Session(Arc::clone(&in_use)));
        }
        self.used(&in_use, now).await;
    }
}

/// The name of a refresh token: never an access token's.
fn name_of(refresh_token: &SecretString) -> TokenDigest {
    sha256([b"refresh token\0", refresh_token.expose_secret().as_bytes()].concat())
}
