//! Sessions of logins that callers performed at SLAS themselves: the caller and the gateway hold a refresh token.
//!
//! SLAS voids a public client's refresh token when it is used. The caller's token may therefore be void because the gateway
//! has refreshed the session. So a caller's refresh token identifies the session, and the gateway sends the current refresh
//! token to SLAS in its place, under the session's lock. The response is stored before the caller gets it.
//!
//! A caller that was given a new refresh token may use the previous one for another minute. A caller that refreshes
//! repeatedly gets the last response again for [`MIN_REFRESH_INTERVAL`] seconds. After a logout, the gateway rejects the
//! refresh token, although SLAS may still accept it.

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
    /// The token identifies this session.
    Session(CallerHeldSession),
    /// The session was logged out or has ended.
    Revoked,
    /// The gateway does not know the token; SLAS decides.
    Unknown,
}

/// How a caller obtained tokens that have no session here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOrigin {
    /// By a login.
    Login,
    /// By a refresh token with this epoch.
    Refresh(RefreshTokenEpoch),
}

/// The epoch of a refresh token that has no session here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokenEpoch {
    /// The token is later than these logouts of its shopper.
    Epoch(Epoch),
    /// No epoch is stored, so the token is earlier than every logout of its shopper.
    Unknown,
    /// The store is unavailable.
    StoreUnavailable,
}

/// The result of a caller's own refresh.
#[derive(Debug)]
pub enum CallerRefresh {
    /// SLAS's response.
    Response(Response),
    /// The session was logged out during the refresh, so the new tokens are rejected.
    Revoked,
    /// The session does not exist any more; SLAS decides about the refresh token.
    Gone,
}

impl CallerHeldSession {
    /// The current refresh token.
    #[must_use]
    pub fn refresh_token(&self) -> &SecretString {
        &self.session.refresh_token
    }

    /// Whether the shopper has refused to be tracked (`dnt`), in the form of a token request.
    #[must_use]
    pub fn do_not_track(&self) -> Option<&'static str> {
        self.session.do_not_track()
    }

    /// Whether the session is this shopper's.
    #[must_use]
    pub fn is_of(&self, shopper: &Shopper) -> bool {
        owns(shopper, &self.session.owner)
    }
}

impl Sessions {
    /// Begins the session of a login whose response the caller gets unchanged. The session has this epoch, or the current one.
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

    /// Stores the epoch of tokens without a session, and returns it: the current epoch for a login, and the refresh token's
    /// epoch for a refresh. `None` if the tokens are of a session that was logged out.
    ///
    /// SLAS continues to issue tokens for a guest's refresh token after a logout. So a refresh token without a stored epoch
    /// counts as earlier than the logout.
    ///
    /// # Errors
    /// [`StoreError`] if the epoch could not be read or stored.
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
                // By its issue time, the token would count as later than the logout.
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

    /// The stored epoch of a refresh token without a session.
    pub async fn refresh_token_epoch(&self, refresh_token: &SecretString) -> RefreshTokenEpoch {
        match self.store.find(&refresh_token_digest(refresh_token)).await {
            Ok(LookupResult::Epoch(epoch)) => RefreshTokenEpoch::Epoch(epoch),
            Ok(_) => RefreshTokenEpoch::Unknown,
            Err(_) => RefreshTokenEpoch::StoreUnavailable,
        }
    }

    /// The session of a refresh token that this client was given. If `site` is present, the session must be of this site.
    ///
    /// # Errors
    /// [`StoreError`] if the store is unavailable.
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

    /// Ends a session whose refresh token SLAS has revoked.
    ///
    /// # Errors
    /// [`SessionError::Store`] if other replicas do not know of the end yet; this process does.
    pub async fn end_caller_held(&self, handed: &CallerHeldSession) -> Result<(), SessionError> {
        let at = self.revocation_time(&handed.session.owner.organization);
        self.revoke_session(&handed.session, at).await.map(|_| ())
    }

    /// Performs a caller's own refresh: calls `exchange` with the current refresh token and returns SLAS's response unchanged.
    ///
    /// A caller with the same `proof` of its client gets the last response again for [`MIN_REFRESH_INTERVAL`] seconds. A
    /// rejection that has not ended the session is repeated for the same `request`. A refresh that has begun is completed
    /// even if the caller hangs up.
    ///
    /// # Errors
    /// - [`SessionError::Slas`] if SLAS has sent no response
    /// - [`SessionError::Store`] if the session could not be locked
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

    /// The last response to a caller's refresh, if it is recent and its token is still the newest.
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

    /// Stores the tokens of SLAS's response. Returns whether the caller may have the response: not if the session was logged out
    /// during the refresh.
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
                    // If this write fails, the next refresh is sent to SLAS.
                    let _ = self.store.put_value(key, &kept, Duration::from_secs(MIN_REFRESH_INTERVAL)).await;
                }
                !self.cache_refreshed(newest, now).await
            }
            Err(SessionError::LoggedOut | SessionError::Expired) => false,
            Err(error) => {
                tracing::warn!(%error, "failed to store a caller's refresh, retrying in background");
                true
            }
        }
    }

    /// Caches the newest version of a session. Returns whether the session was revoked during the refresh.
    async fn cache_refreshed(&self, newest: Arc<Session>, now: u64) -> bool {
        let known = newest.tokens.iter().find_map(|token| match self.cache.get(token) {
            Some(CacheEntry::Session(cached)) => Some(cached),
            _ => None,
        });
        let cached = known.unwrap_or_else(|| Arc::new(CachedSession::new(Arc::clone(&newest), 0)));
        self.cache_version(&cached, newest);
        self.note_use(&cached, now).await;
        self.is_revoked(&cached)
    }
}

/// The key of the last response to a refresh of a session. `proof` is part of it, so only the same client gets the response.
fn last_response_key(session: &Session, proof: &[u8]) -> Vec<u8> {
    let proof = sha256([b"last answer\0", proof].concat());
    [b"answer/".as_slice(), &session.id.0, &proof].concat()
}

/// The digest of a refresh token. It never equals an access token's.
fn refresh_token_digest(refresh_token: &SecretString) -> TokenDigest {
    sha256([b"refresh token\0", refresh_token.expose_secret().as_bytes()].concat())
}
