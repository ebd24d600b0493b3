//! Sessions that are found by a name: those of shoppers on whose behalf trusted systems act.
//!
//! [`on_behalf`](super::super::on_behalf) makes the names, checks permissions, and obtains the first token. Concurrent
//! requests for a name share one session, on all replicas.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::{
    cache::CachedSession,
    error::{RefreshResult, SessionError},
    ready_token::ReadyToken,
    state::{CacheEntry, Sessions, owns},
};
use crate::{
    jwt::TokenDigest,
    salesforce::{guard::Priority, slas::TokenResponse},
    store::{CallerEntry, CreationLock, LookupResult, Session, StoreError},
    time::unix_now,
    types::{OrganizationId, SiteId},
    verify::{
        HashedToken,
        shopper_token::{TokenError, VerifiedToken},
    },
};

/// Lease of the lock on creating a named session, in time limits of one request to SLAS. If its holder dies, other replicas
/// still have time for a request of their own.
const CREATION_LEASE_REQUESTS: u32 = 2;

/// The caller that was given a token on behalf of a shopper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRecipient {
    /// A trusted system that logged in at this site through the gateway.
    TrustedSystem(CallerEntry, SiteId),
    /// A client that logged in at SLAS through the gateway, with its own credential.
    Client,
    /// The gateway has given the token to no caller, or does not know it.
    Unknown,
}

impl Sessions {
    /// Begins a session with a name. A response without a refresh token begins no session.
    pub(in crate::tokens) async fn begin_named(
        self: &Arc<Self>,
        name: &TokenDigest,
        site: &SiteId,
        ready: &Arc<ReadyToken>,
        caller: Option<&CallerEntry>,
        response: &TokenResponse,
    ) {
        if let Some(mut session) = self.new_session(site, &ready.verified, response, Some(name)) {
            session.caller = caller.cloned().map(Box::new);
            self.insert_session(session, None).await.ready.store(Some(Arc::clone(ready)));
        }
    }

    /// The session of a name, from the cache or the store. `None` if the store's entry is of a session with another name.
    pub(in crate::tokens) async fn find_by_name(
        &self,
        name: &TokenDigest,
    ) -> Result<Option<Arc<CachedSession>>, StoreError> {
        if let Some(CacheEntry::Session(cached)) = self.cache.get(name) {
            return Ok(Some(cached).filter(|cached| !self.is_revoked(cached)));
        }
        match self.store.find(name).await? {
            LookupResult::Session(session, used_at) if session.is_named && session.tokens.first() == Some(name) => {
                let cached = Arc::new(CachedSession::new(session, used_at));
                self.cache.insert(*name, CacheEntry::Session(Arc::clone(&cached)));
                Ok(Some(cached))
            }
            LookupResult::Session(..)
            | LookupResult::Gone
            | LookupResult::Epoch(_)
            | LookupResult::Revoked
            | LookupResult::Unknown => Ok(None),
        }
    }

    /// The session with a newest token that has not expired. A refresh that is due runs in the background, and the caller
    /// waits only if the token has expired.
    pub(in crate::tokens) async fn refresh_if_expired(self: &Arc<Self>, cached: &Arc<CachedSession>) -> RefreshResult {
        let now = unix_now();
        let session = cached.session.load_full();
        if self.is_idle(cached, now).await.unwrap_or(false) {
            return Err(SessionError::Expired);
        }
        self.note_use(cached, now).await;
        let margin = CachedSession::refresh_margin(&session, self.settings.refresh_ahead);
        if session.access_expires_at > now {
            if session.access_expires_at <= now + margin && !cached.has_recently_failed(now) {
                self.refresh_in_background(cached);
            }
            return Ok(session);
        }
        self.refresh_session(cached, session.version, Priority::Refresh).await
    }

    /// The newest token of a session, verified once, and again when keys or configuration have changed. The token does not
    /// come from SLAS directly, so an unknown key is an error.
    pub(in crate::tokens) async fn ready_token(
        &self,
        cached: &CachedSession,
        session: &Session,
    ) -> Result<Arc<ReadyToken>, TokenError> {
        let is_newest = |ready: &ReadyToken| session.tokens.last() == Some(&ready.verified.digest);
        if let Some(ready) =
            cached.ready.load_full().filter(|ready| is_newest(ready) && self.verifier.is_current(&ready.verified))
        {
            return Ok(ready);
        }
        let token = HashedToken::new(session.access_token.expose_secret());
        let verified = self.verifier.verify(&token, &session.owner.organization).await?;
        if !owns(&verified.shopper, &session.owner) {
            tracing::error!(organization = %session.owner.organization, "session has another shopper's token");
            return Err(TokenError::NotAShopperToken);
        }
        let ready = Arc::new(ReadyToken::new(&session.access_token, verified)?);
        cached.ready.store(Some(Arc::clone(&ready)));
        Ok(ready)
    }

    /// Verifies a token that SLAS has just issued for a shopper of this organization.
    pub(in crate::tokens) async fn verify_issued(
        &self,
        token: &SecretString,
        organization: &OrganizationId,
    ) -> Result<ReadyToken, TokenError> {
        ReadyToken::new(token, self.verifier.verify_issued(token.expose_secret(), organization).await?)
    }

    /// A session whose newest token is not `rejected`, which an API has rejected. All callers with this token share one
    /// refresh. `None` if the token was replaced less than a second ago.
    pub(in crate::tokens) async fn replace_rejected(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        rejected: &TokenDigest,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let session = self.refresh_rejected(cached, rejected).await?;
        Ok(Some(session).filter(|session| session.tokens.last() != Some(rejected)))
    }

    /// The newest token of the cached session of `rejected`, which an API has rejected. `None` if there is no other token.
    pub async fn replace_rejected_token(self: &Arc<Self>, rejected: &TokenDigest) -> Option<SecretString> {
        let Some(CacheEntry::Session(cached)) = self.cache.get(rejected) else { return None };
        if self.is_revoked(&cached) {
            return None;
        }
        let session = self.replace_rejected(&cached, rejected).await.ok()??;
        Some(session.access_token.clone())
    }

    /// Removes a name from the cache whose session has ended, so that a new session can have it.
    pub(in crate::tokens) fn forget_name(&self, name: &TokenDigest) {
        self.cache.remove(name);
    }

    /// The caller that was given a token on behalf of a shopper.
    ///
    /// # Errors
    /// - [`SessionError::LoggedOut`] if the session was logged out
    /// - [`SessionError::Store`] if the store is unavailable
    pub async fn recipient(&self, token: &VerifiedToken) -> Result<TokenRecipient, SessionError> {
        match self.lookup(token, unix_now()).await? {
            CacheEntry::Session(cached) => {
                let session = cached.session.load();
                Ok(match session.caller.as_deref() {
                    Some(entry) => TokenRecipient::TrustedSystem(entry.clone(), session.owner.site.clone()),
                    None if session.is_named => TokenRecipient::Unknown,
                    None => TokenRecipient::Client,
                })
            }
            CacheEntry::Revoked => Err(SessionError::LoggedOut),
            CacheEntry::Unknown(_) | CacheEntry::Epoch(_) => Ok(TokenRecipient::Unknown),
        }
    }

    /// Checks that the token itself is valid, whether it has a session or not.
    ///
    /// # Errors
    /// - [`SessionError::LoggedOut`] if its session was logged out
    /// - [`SessionError::Expired`] if the token has expired
    /// - [`SessionError::Store`] if the store is unavailable
    pub async fn check_active(&self, token: &VerifiedToken) -> Result<(), SessionError> {
        let now = unix_now();
        match self.lookup(token, now).await? {
            CacheEntry::Revoked => Err(SessionError::LoggedOut),
            _ if token.is_expired(now) => Err(SessionError::Expired),
            CacheEntry::Session(_) | CacheEntry::Unknown(_) | CacheEntry::Epoch(_) => Ok(()),
        }
    }

    /// Acquires the lock on creating the session of a name. `None` if another replica holds the lock.
    pub(in crate::tokens) async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
    ) -> Result<Option<CreationLock>, StoreError> {
        self.store.acquire_creation_lock(name, self.request_timeout * CREATION_LEASE_REQUESTS).await
    }

    /// Releases that lock.
    pub(in crate::tokens) async fn release_creation_lock(&self, name: &TokenDigest, claim: CreationLock) {
        // A lock that is not released expires with its lease.
        let _ = self.store.release_creation_lock(name, claim).await;
    }
}
