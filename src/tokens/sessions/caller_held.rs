//! Sessions whose refresh token is also in a caller's hands: logins that callers performed at SLAS themselves.
//!
//! Owns what keeps both in step. SLAS voids a public client's refresh token when it is used, so the one
//! that a caller holds may be void because the gateway has renewed the session meanwhile. It is a name of the
//! session here: under the session's lock the one that is valid now goes to SLAS in its place, and
//! what SLAS answers is stored before the caller gets it. A caller that was given another may use the one
//! before for a minute still; then it is as void as SLAS would have it. A caller that refreshes again and again gets the
//! last answer again for [`MIN_REFRESH_INTERVAL`] seconds. After a logout its refresh token is void, whatever SLAS thinks of it.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};

use super::{
    cache::CachedSession,
    error::SessionError,
    refresh::MIN_REFRESH_INTERVAL,
    state::{CacheEntry, Sessions, owns},
};
use crate::{
    correlation,
    jwt::{TokenDigest, expiry, sha256},
    salesforce::{error::SalesforceError, json, slas::TokenResponse, transport::Response},
    store::{Epoch, FencingToken, LookupResult, REVOCATION_TTL, Session, StoreError},
    time::unix_now,
    types::{ClientId, OrganizationId, SiteId},
    verify::{shopper::Shopper, shopper_token::VerifiedToken},
};

/// The session of a refresh token that a caller presented.
#[derive(Debug, Clone)]
pub struct CallerHeldSession {
    session: Arc<Session>,
    presented: TokenDigest,
}

/// What the gateway knows of a refresh token that a caller presented.
#[derive(Debug, Clone)]
pub enum PresentedRefreshToken {
    /// It is good for this session.
    Session(CallerHeldSession),
    /// Its session was ended.
    Revoked,
    /// Nothing: it is for SLAS to judge.
    Unknown,
}

/// Where tokens come from that the gateway does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOrigin {
    /// A login.
    Login,
    /// A refresh token, of which this is known.
    Refresh(RefreshTokenEpoch),
}

/// What the gateway knows of the epoch of a refresh token that has no session here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokenEpoch {
    /// It came after these logouts of its shopper.
    Epoch(Epoch),
    /// Nothing: if its shopper has logged out, it is from before.
    Unknown,
    /// The store could not be asked.
    StoreUnavailable,
}

/// How a caller's own refresh ended.
#[derive(Debug)]
pub enum CallerRefresh {
    /// With this answer of SLAS.
    Response(Response),
    /// The session was ended meanwhile: what SLAS gave is refused.
    Revoked,
    /// The session is gone: the refresh token is for SLAS to judge.
    Gone,
}

impl CallerHeldSession {
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
    /// Begins the session of a login whose answer goes to the caller as it is, and which came after these logouts, or
    /// after all.
    pub async fn begin_caller_held(
        self: &Arc<Self>,
        site: &SiteId,
        token: &VerifiedToken,
        response: &TokenResponse,
        epoch: Option<Epoch>,
    ) {
        if let Some(session) = self.new_session(site, token, response, None) {
            let name = refresh_token_digest(&session.refresh_token);
            self.insert_session(session.with_caller_refresh_token(name, None, unix_now()), epoch).await;
        }
    }

    /// Notes that tokens came after the logouts of their shopper: a login's after all that there are, a refresh's after
    /// those that its refresh token came after. Returns those; `None` if the tokens are of a session that was logged out.
    /// SLAS goes on giving tokens for a guest's refresh token, so that a refresh token counts as one from before a logout
    /// unless it is noted as later.
    ///
    /// # Errors
    /// [`StoreError`]: nobody knows, or other replicas could not be told.
    pub async fn note_epoch(
        &self,
        token: &VerifiedToken,
        refresh_token: Option<&SecretString>,
        origin: TokenOrigin,
    ) -> Result<Option<Epoch>, StoreError> {
        let shopper = &token.shopper;
        let revocations = self.current_revocations(&shopper.revocation_keys).await?;
        if revocations.epoch() == Epoch::default() {
            return Ok(Some(Epoch::default()));
        }
        let is_covered = revocations.revokes_issued_at(shopper.issued_at);
        let epoch = match origin {
            TokenOrigin::Login => revocations.epoch(),
            TokenOrigin::Refresh(RefreshTokenEpoch::Epoch(epoch)) if !revocations.revokes(epoch) => epoch,
            TokenOrigin::Refresh(RefreshTokenEpoch::StoreUnavailable) if !is_covered => {
                return Ok(Some(revocations.epoch()));
            }
            TokenOrigin::Refresh(_) => {
                // Its issue time would show it as later than the logout.
                self.store.revoke_token(&token.digest).await?;
                self.cache.insert(token.digest, CacheEntry::Revoked);
                return Ok(None);
            }
        };
        if is_covered {
            let life = expiry::time_to_expiry(shopper.expires_at, unix_now());
            self.cache.insert(token.digest, CacheEntry::Epoch(Arc::new(epoch)));
            self.store.record_epoch(&token.digest, epoch, life).await?;
        }
        if let Some(refresh_token) = refresh_token {
            self.store.record_epoch(&refresh_token_digest(refresh_token), epoch, REVOCATION_TTL).await?;
        }
        Ok(Some(epoch))
    }

    /// What is known of a refresh token without a session.
    pub async fn refresh_token_epoch(&self, refresh_token: &SecretString) -> RefreshTokenEpoch {
        match self.store.find(&refresh_token_digest(refresh_token)).await {
            Ok(LookupResult::Epoch(epoch)) => RefreshTokenEpoch::Epoch(epoch),
            Ok(_) => RefreshTokenEpoch::Unknown,
            Err(_) => RefreshTokenEpoch::StoreUnavailable,
        }
    }

    /// The session of a refresh token that this client was given, at this site where one is named, if the gateway has it.
    ///
    /// # Errors
    /// [`StoreError`]: nobody knows whether the token is still the valid one.
    pub async fn find_caller_held(
        &self,
        organization: &OrganizationId,
        client: &ClientId,
        site: Option<&SiteId>,
        refresh_token: &SecretString,
    ) -> Result<PresentedRefreshToken, StoreError> {
        let presented = refresh_token_digest(refresh_token);
        let session = match self.store.find(&presented).await? {
            LookupResult::Session(session, _) => session,
            LookupResult::Revoked => return Ok(PresentedRefreshToken::Revoked),
            LookupResult::Gone | LookupResult::Epoch(_) | LookupResult::Unknown => {
                return Ok(PresentedRefreshToken::Unknown);
            }
        };
        let owner = &session.owner;
        let is_owned = owner.organization == *organization
            && owner.client == *client
            && site.is_none_or(|site| owner.site == *site);
        let is_good = is_owned
            && session.refresh_token_history.as_deref().is_some_and(|handed| handed.accepts(&presented, unix_now()));
        Ok(if is_good {
            PresentedRefreshToken::Session(CallerHeldSession { session, presented })
        } else {
            PresentedRefreshToken::Unknown
        })
    }

    /// Ends the session of a refresh token that SLAS has revoked.
    ///
    /// # Errors
    /// [`SessionError::Store`] if other replicas could not be told yet: here it is over then.
    pub async fn end_caller_held(&self, handed: &CallerHeldSession) -> Result<(), SessionError> {
        let at = self.revocation_time(&handed.session.owner.organization);
        self.revoke_session(&handed.session, at).await.map(|_| ())
    }

    /// A caller's own refresh: `exchange` with the refresh token that is valid now, and SLAS's answer as it
    /// came, or the last one again if that was a moment ago and for the same `proof` of the client. A refusal that ended
    /// nothing is given again to the same `request`. The rest is done even if the caller hangs up.
    ///
    /// # Errors
    /// [`SessionError::Slas`] if no answer came, [`SessionError::Store`] if the lock could not be had.
    pub async fn refresh_caller_held<F, Exchange>(
        self: &Arc<Self>,
        handed: CallerHeldSession,
        proof: &[u8],
        request: &[u8],
        exchange: F,
    ) -> Result<CallerRefresh, SessionError>
    where
        F: FnOnce(SecretString) -> Exchange + Send + 'static,
        Exchange: Future<Output = Result<Response, SalesforceError>> + Send + 'static,
    {
        let sessions = Arc::clone(self);
        let key = last_response_key(&handed.session, proof);
        let request = sha256([&key, b"\0".as_slice(), request].concat());
        if let Some(response) = self.failed_refreshes.response(&request) {
            return Ok(CallerRefresh::Response(response));
        }
        let refreshing = tokio::spawn(correlation::inherit(async move {
            let (session, fencing_token) = match sessions.lock(&handed.session).await {
                Ok(locked) => locked,
                Err(error @ SessionError::Store(_)) => return Err(error),
                Err(_) => return Ok(CallerRefresh::Gone),
            };
            if let Some(response) = sessions.last_response(&session, &key).await {
                sessions.unlock(&session, fencing_token).await;
                return Ok(CallerRefresh::Response(response));
            }
            match exchange(session.refresh_token.clone()).await {
                Ok(response) => {
                    sessions.failed_refreshes.record_response(request, &response);
                    let is_kept =
                        sessions.accept_response(&session, &handed.presented, fencing_token, &response, &key).await;
                    Ok(if is_kept { CallerRefresh::Response(response) } else { CallerRefresh::Revoked })
                }
                Err(error) => {
                    sessions.unlock(&session, fencing_token).await;
                    Err(SessionError::Slas(error))
                }
            }
        }));
        refreshing.await.unwrap_or(Err(SessionError::Store(StoreError::Broken("a refresh was abandoned"))))
    }

    /// The last answer to a caller's own refresh of a session, if it is a moment old and still its newest.
    async fn last_response(&self, session: &Session, key: &[u8]) -> Option<Response> {
        let now = unix_now();
        let margin = CachedSession::refresh_margin(session, self.settings.refresh_ahead);
        if session.refreshed_at + MIN_REFRESH_INTERVAL <= now || session.access_expires_at <= now + margin {
            return None;
        }
        let kept = self.store.get_value(key).await.ok()??;
        let (version, body) = kept.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*version) != session.version {
            return None;
        }
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Some(Response { status: StatusCode::OK, headers, body: Bytes::copy_from_slice(body) })
    }

    /// Takes over what SLAS answered. Says whether the caller may have it: not if the session was ended meanwhile.
    async fn accept_response(
        self: &Arc<Self>,
        session: &Arc<Session>,
        presented: &TokenDigest,
        fencing_token: FencingToken,
        response: &Response,
        key: &[u8],
    ) -> bool {
        if response.status != StatusCode::OK {
            let error = SalesforceError::from_response(response);
            if error.is_refresh_token_rejected() {
                if self.end_rejected(session, fencing_token, error).await.is_err() {
                    self.mark_revoked(session);
                }
            } else {
                self.unlock(session, fencing_token).await;
            }
            return true;
        }
        let now = unix_now();
        let refreshed = match json::read::<TokenResponse>(&response.body) {
            Ok(response) => self.refreshed(session, response).await,
            Err(_) => None,
        };
        let Some(refreshed) = refreshed else {
            self.unlock(session, fencing_token).await;
            return true;
        };
        let name = refresh_token_digest(&refreshed.refresh_token);
        let refreshed = Arc::new(refreshed.with_caller_refresh_token(name, Some(presented), now));
        match self.write(session, Arc::clone(&refreshed), fencing_token).await {
            Ok(newest) => {
                if Arc::ptr_eq(&newest, &refreshed) {
                    let kept = [&newest.version.to_be_bytes(), &response.body[..]].concat();
                    // Without it the next refresh goes to SLAS.
                    let _ = self.store.put_value(key, &kept, Duration::from_secs(MIN_REFRESH_INTERVAL)).await;
                }
                !self.cache_version(newest, now).await
            }
            Err(SessionError::LoggedOut | SessionError::Expired) => false,
            Err(error) => {
                tracing::warn!(%error, "a caller's own refresh is not stored yet");
                true
            }
        }
    }

    /// Makes the newest version known in this process. Says whether it was ended meanwhile.
    async fn cache_version(&self, newest: Arc<Session>, now: u64) -> bool {
        let known = newest.tokens.iter().find_map(|token| match self.cache.get(token) {
            Some(CacheEntry::Session(cached)) => Some(cached),
            _ => None,
        });
        let cached = known.unwrap_or_else(|| Arc::new(CachedSession::new(Arc::clone(&newest), 0)));
        cached.session.store(Arc::clone(&newest));
        for token in &newest.tokens {
            self.cache.insert(*token, CacheEntry::Session(Arc::clone(&cached)));
        }
        self.note_use(&cached, now).await;
        self.is_revoked(&cached)
    }
}

/// Where the last answer to a refresh of a session is kept. Only who proved to be the same client gets it again.
fn last_response_key(session: &Session, proof: &[u8]) -> Vec<u8> {
    let proof = sha256([b"last answer\0", proof].concat());
    [b"answer/".as_slice(), &session.id.0, &proof].concat()
}

/// The name of a refresh token: never an access token's.
fn refresh_token_digest(refresh_token: &SecretString) -> TokenDigest {
    sha256([b"refresh token\0", refresh_token.expose_secret().as_bytes()].concat())
}
