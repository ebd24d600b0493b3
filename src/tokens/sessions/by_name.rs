//! Sessions that the gateway finds by a name of its own: those of shoppers on whose behalf trusted systems act.
//!
//! Owns the way from a name to a living token. Who may ask for which name, and how a session that is not there
//! comes to be, is [`on_behalf`](super::super::on_behalf)'s affair.

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

/// So many exchanges long nobody else makes a session that somebody has begun to make. Whoever dies meanwhile holds
/// up the others for no longer, and they still have time for a call of their own.
const CREATION_LEASE_REQUESTS: u32 = 2;

/// Who was given a token on behalf of a shopper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRecipient {
    /// A trusted system, by the gateway, after a login at this site.
    TrustedSystem(CallerEntry, SiteId),
    /// Whoever logged in at SLAS through the gateway, with the client's own credential.
    Client,
    /// Nobody, as far as the gateway knows: it never gave this token to anyone, or never had it.
    Unknown,
}

impl Sessions {
    /// Begins a session under a name. An answer without a refresh token gives none.
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

    /// The session of a name, asking the store where this process has not seen it. What the store has under this name and
    /// another wrote there is none.
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

    /// A named session whose newest token lives. One that is due is renewed behind the request; only one that has ended
    /// is waited for.
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

    /// The newest token of a session, which is verified when this process has not yet, and anew when keys or configuration
    /// have changed. It was not given to this gateway just now, so of an unknown key it proves nothing.
    pub(in crate::tokens) async fn ready_token(
        &self,
        cached: &CachedSession,
        session: &Session,
    ) -> Result<Arc<ReadyToken>, TokenError> {
        let is_newest = |ready: &ReadyToken| session.tokens.last() == Some(&ready.verified.digest);
        if let Some(ready) =
            cached.ready.load_full().filter(|ready| is_newest(ready) && self.verifier.still_verifies(&ready.verified))
        {
            return Ok(ready);
        }
        let token = HashedToken::new(session.access_token.expose_secret());
        let verified = self.verifier.verify(&token, &session.owner.organization).await?;
        if !owns(&verified.shopper, &session.owner) {
            tracing::error!(organization = %session.owner.organization, "a session holds another shopper's token");
            return Err(TokenError::NotAShoppers);
        }
        let ready = Arc::new(ReadyToken::new(&session.access_token, verified)?);
        cached.ready.store(Some(Arc::clone(&ready)));
        Ok(ready)
    }

    /// A token that SLAS has just given for a shopper of this organization, verified.
    pub(in crate::tokens) async fn verify_issued(
        &self,
        token: &SecretString,
        organization: &OrganizationId,
    ) -> Result<ReadyToken, TokenError> {
        ReadyToken::new(token, self.verifier.verify_issued(token.expose_secret(), organization).await?)
    }

    /// Another token in place of one that an API refused: a newer one that is there or on its way, or a fresh one for all
    /// who were refused. No more than one a second is fetched for it; `None` if there is no other.
    pub(in crate::tokens) async fn replace_rejected(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        rejected: &TokenDigest,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let session = self.refresh_rejected(cached, rejected).await?;
        Ok(Some(session).filter(|session| session.tokens.last() != Some(rejected)))
    }

    /// The same for a session that is known here by the refused token.
    pub async fn replace_rejected_token(self: &Arc<Self>, rejected: &TokenDigest) -> Option<SecretString> {
        let Some(CacheEntry::Session(cached)) = self.cache.get(rejected) else { return None };
        if self.is_revoked(&cached) {
            return None;
        }
        let session = self.replace_rejected(&cached, rejected).await.ok()??;
        Some(session.access_token.clone())
    }

    /// Ends a named session that its own shopper or SLAS has ended, so that the name is free again.
    pub(in crate::tokens) fn forget_name(&self, name: &TokenDigest) {
        self.cache.remove(name);
    }

    /// Who was given a token on behalf of a shopper.
    ///
    /// # Errors
    /// [`SessionError::LoggedOut`], and [`SessionError::Store`]: nobody knows.
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

    /// Whether a token lives by itself, without the session that it may have.
    ///
    /// # Errors
    /// [`SessionError::LoggedOut`], [`SessionError::Expired`], [`SessionError::Store`].
    pub async fn check_active(&self, token: &VerifiedToken) -> Result<(), SessionError> {
        let now = unix_now();
        match self.lookup(token, now).await? {
            CacheEntry::Revoked => Err(SessionError::LoggedOut),
            _ if token.has_ended(now) => Err(SessionError::Expired),
            CacheEntry::Session(_) | CacheEntry::Unknown(_) | CacheEntry::Epoch(_) => Ok(()),
        }
    }

    /// Asks for the right to make the session of a name.
    pub(in crate::tokens) async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
    ) -> Result<Option<CreationLock>, StoreError> {
        self.store.acquire_creation_lock(name, self.request_timeout * CREATION_LEASE_REQUESTS).await
    }

    /// Gives that right back.
    pub(in crate::tokens) async fn release_creation_lock(&self, name: &TokenDigest, claim: CreationLock) {
        // A right that is not given back ends with its lease.
        let _ = self.store.release_creation_lock(name, claim).await;
    }
}
