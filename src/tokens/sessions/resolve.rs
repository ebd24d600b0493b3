//! Chooses the access token that is forwarded for the one that a caller presented.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

use super::{
    cache::CachedSession,
    error::{RefreshResult, SessionError},
    refresh::MIN_REFRESH_INTERVAL,
    state::{CacheEntry, Sessions},
};
use crate::{
    correlation,
    salesforce::{guard::Priority, slas::TokenResponse},
    store::{Session, StoreState},
    time::unix_now,
    types::SiteId,
    verify::shopper_token::VerifiedToken,
};

/// Maximum time that a request with a valid token waits for a refresh.
const VALID_TOKEN_WAIT: Duration = Duration::from_millis(500);

/// The access token that is forwarded.
#[derive(Debug)]
pub enum TokenChoice {
    /// The token that the caller presented.
    AsPresented,
    /// The newest token of its session.
    Refreshed(SecretString),
}

impl TokenChoice {
    fn newest_of(session: &Session, presented: &VerifiedToken) -> Self {
        if session.tokens.last() == Some(&presented.digest) {
            Self::AsPresented
        } else {
            Self::Refreshed(session.access_token.clone())
        }
    }
}

impl Sessions {
    /// Whether other replicas share the sessions.
    #[must_use]
    pub fn are_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// The state of the session store.
    #[must_use]
    pub fn store_state(&self) -> StoreState {
        self.store.state()
    }

    /// Begins the session of a login. `token` is the response's access token, verified. A response without a refresh token
    /// (a trusted agent's) begins no session.
    ///
    /// If the store is unavailable, the login succeeds, and the session is stored in the background.
    pub async fn begin(self: &Arc<Self>, site: &SiteId, token: &VerifiedToken, response: &TokenResponse) {
        if let Some(session) = self.new_session(site, token, response, None) {
            self.insert_session(session, None).await;
        }
    }

    /// Returns the access token to forward for `token`, and refreshes the session if the token is about to expire.
    ///
    /// # Errors
    /// - [`SessionError::LoggedOut`] if the token's session was logged out
    /// - [`SessionError::Expired`] if the token has expired and has no session, or its session was idle for too long
    /// - [`SessionError::RefreshRejected`], [`SessionError::Slas`], [`SessionError::Store`] if the token has expired and the
    ///   refresh failed
    pub async fn resolve(self: &Arc<Self>, token: &VerifiedToken) -> Result<TokenChoice, SessionError> {
        let now = unix_now();
        // A token with a session expires without the leeway that is granted to others: the session has a newer one.
        let is_expired = now >= token.shopper.expires_at;
        let cached = match self.lookup(token, now).await {
            Ok(CacheEntry::Session(cached)) => cached,
            Ok(CacheEntry::Revoked) => return Err(SessionError::LoggedOut),
            Ok(CacheEntry::Unknown(_) | CacheEntry::Epoch(_)) if token.is_expired(now) => {
                return Err(SessionError::Expired);
            }
            Err(error) if is_expired => return Err(error.into()),
            Ok(CacheEntry::Unknown(_) | CacheEntry::Epoch(_)) | Err(_) => return Ok(TokenChoice::AsPresented),
        };
        let session = cached.session.load_full();
        let margin = CachedSession::refresh_margin(&session, self.settings.refresh_ahead);
        if token.shopper.expires_at > now + margin {
            self.note_use(&cached, now).await;
            return Ok(TokenChoice::AsPresented);
        }
        match self.is_idle(&cached, now).await {
            Ok(false) => {}
            Ok(true) | Err(_) if !is_expired => return Ok(TokenChoice::AsPresented),
            Ok(true) => return Err(SessionError::Expired),
            Err(error) => return Err(error.into()),
        }
        let refreshed = if session.access_expires_at > now + margin {
            self.count("hit");
            Ok(Arc::clone(&session))
        } else if is_expired {
            self.refresh_session(&cached, session.version, Priority::Refresh).await
        } else {
            match self.refresh_with_timeout(&cached, session.version, now).await {
                Some(refreshed) => refreshed,
                None => return Ok(TokenChoice::AsPresented),
            }
        };
        match refreshed {
            Ok(newest) => {
                self.note_use(&cached, now).await;
                Ok(TokenChoice::newest_of(&newest, token))
            }
            Err(error) if !is_expired => {
                let correlation_id = correlation::current_text();
                tracing::warn!(%error, correlation_id, "session not refreshed, forwarding the valid token");
                Ok(TokenChoice::AsPresented)
            }
            // The caller presented an old token, and the newest one is still valid.
            Err(SessionError::Slas(_) | SessionError::Store(_)) if session.access_expires_at > now => {
                Ok(TokenChoice::newest_of(&session, token))
            }
            Err(error) => Err(error),
        }
    }

    /// Refreshes a session whose token is still valid. `None` after [`VALID_TOKEN_WAIT`], and at once if a refresh has just
    /// failed. A refresh that has begun continues in the background.
    async fn refresh_with_timeout(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        seen_version: u64,
        now: u64,
    ) -> Option<RefreshResult> {
        if cached.has_recently_failed(now) {
            return None;
        }
        let refresh = self.refresh_session(cached, seen_version, Priority::Refresh);
        let refreshed = tokio::time::timeout(VALID_TOKEN_WAIT, refresh).await.ok();
        if refreshed.is_none() {
            cached.note_failure(now);
        }
        refreshed
    }

    /// Returns an access token that expires later than `token`, for a caller that asks for a refresh. A caller that asks
    /// again with the newest token within [`MIN_REFRESH_INTERVAL`] seconds gets the same token.
    ///
    /// # Errors
    /// - [`SessionError::LoggedOut`] if the session was logged out
    /// - [`SessionError::Expired`] if the token has no session, or the session was idle for too long
    /// - [`SessionError::RefreshRejected`], [`SessionError::Slas`], [`SessionError::Store`] if the refresh failed
    pub async fn refresh(self: &Arc<Self>, token: &VerifiedToken) -> Result<SecretString, SessionError> {
        let now = unix_now();
        let cached = match self.lookup(token, now).await? {
            CacheEntry::Session(cached) => cached,
            CacheEntry::Revoked => return Err(SessionError::LoggedOut),
            CacheEntry::Unknown(_) | CacheEntry::Epoch(_) => return Err(SessionError::Expired),
        };
        if self.is_idle(&cached, now).await? {
            return Err(SessionError::Expired);
        }
        let session = cached.session.load_full();
        let margin = CachedSession::refresh_margin(&session, self.settings.refresh_ahead);
        let is_superseded = session.tokens.last() != Some(&token.digest);
        let is_recent = is_superseded || session.refreshed_at + MIN_REFRESH_INTERVAL > now;
        let newest = if is_recent && session.access_expires_at > now + margin {
            session
        } else {
            self.refresh_session(&cached, session.version, Priority::Refresh).await?
        };
        self.note_use(&cached, now).await;
        Ok(newest.access_token.clone())
    }
}
