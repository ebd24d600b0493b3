//! Logouts: ends sessions on all replicas.
//!
//! A logout takes effect in this process at once. If the store is unavailable, the caller gets the error, and the revocation
//! is written in the background: a caller that repeats the logout would learn that it is done, while other replicas still
//! accept the tokens.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

use super::{
    error::SessionError,
    state::{CacheEntry, Sessions},
};
use crate::{
    config::SlasClient,
    store::{
        Epoch, LookupResult, Revocation, RevocationKey, RevocationSet, RevocationTarget, Session, SessionStore,
        StoreError,
    },
    time::unix_now,
    tokens::background_retry::{RetrySchedule, retry_in_background},
    types::{CustomerId, OrganizationId, SiteId},
    verify::shopper_token::VerifiedToken,
};

/// How a revocation is written that the store did not accept at first.
const REVOCATION_RETRIES: RetrySchedule = RetrySchedule {
    interval: Duration::from_secs(1),
    attempts: 3600,
    failure_message: "revocation never written to the store, other replicas accept the session",
};

/// What a logout ends.
#[derive(Debug)]
enum Target {
    Session(Arc<Session>),
    /// A token without a session here, and its epoch if known.
    Token(VerifiedToken, Option<Epoch>),
    Customer(OrganizationId, CustomerId),
}

/// A session that was logged out, with what SLAS's logout needs.
#[derive(Debug)]
pub struct LoggedOutSession<'s> {
    /// The client of the login.
    pub client: &'s SlasClient,
    /// The site of the login.
    pub site: SiteId,
    /// The newest access token.
    pub access_token: SecretString,
    /// The refresh token.
    pub refresh_token: SecretString,
    /// Whether the shopper is registered.
    pub registered: bool,
}

impl Sessions {
    /// Logs out the session of a token. All replicas reject its tokens from now on, including those of a refresh in
    /// progress.
    ///
    /// `None` if the token is valid but has no session. The token is rejected from now on, and with it every token of its
    /// session at SLAS that was issued before.
    ///
    /// # Errors
    /// - [`SessionError::LoggedOut`], [`SessionError::Expired`] if the session had ended before
    /// - [`SessionError::Store`] if other replicas do not know of the logout yet; this process does
    pub async fn log_out(&self, token: &VerifiedToken) -> Result<Option<LoggedOutSession<'_>>, SessionError> {
        let now = unix_now();
        let at = self.revocation_time_of(token);
        let epoch = match self.lookup(token, now).await {
            Ok(CacheEntry::Session(cached)) => return self.revoke_session(&cached.session.load_full(), at).await,
            Ok(CacheEntry::Revoked) => return Err(SessionError::LoggedOut),
            Ok(CacheEntry::Unknown(_) | CacheEntry::Epoch(_)) if token.is_expired(now) => {
                return Err(SessionError::Expired);
            }
            Ok(CacheEntry::Epoch(epoch)) => Some(*epoch),
            Ok(CacheEntry::Unknown(_)) => None,
            Err(error) => {
                self.cache.insert(token.digest, CacheEntry::Revoked);
                self.revoke_later(Target::Token(token.clone(), None), at);
                return Err(error.into());
            }
        };
        self.cache.insert(token.digest, CacheEntry::Revoked);
        self.revoke(Target::Token(token.clone(), epoch), at).await?;
        Ok(None)
    }

    /// Logs out a session. The result is `None` if its client is not configured any more.
    pub(super) async fn revoke_session(
        &self,
        session: &Arc<Session>,
        at: u64,
    ) -> Result<Option<LoggedOutSession<'_>>, SessionError> {
        self.mark_revoked(session);
        self.revoke(Target::Session(Arc::clone(session)), at).await?;
        Ok(self.client_of(session).map(|client| LoggedOutSession {
            client,
            site: session.owner.site.clone(),
            access_token: session.access_token.clone(),
            refresh_token: session.refresh_token.clone(),
            registered: session.owner.registered,
        }))
    }

    /// Logs out every session of a token's customer.
    ///
    /// # Errors
    /// [`SessionError::Store`] if other replicas do not know of the logout yet; this process does.
    pub async fn log_out_customer(&self, token: &VerifiedToken) -> Result<(), SessionError> {
        let own = match self.log_out(token).await {
            Ok(_) | Err(SessionError::LoggedOut | SessionError::Expired) => Ok(()),
            Err(error) => Err(error),
        };
        let shopper = &token.shopper;
        let Some(customer) = &shopper.customer else { return own };
        let target = Target::Customer(shopper.organization.clone(), customer.clone());
        self.revoke(target, self.revocation_time_of(token)).await?;
        own
    }

    /// Whether this process knows of any logout. If so, SLAS may issue tokens for a session that was logged out.
    #[must_use]
    pub fn knows_of_logouts(&self) -> bool {
        !self.revocations.is_empty()
    }

    /// The time of a revocation that is written now, by SLAS's clock. It is not earlier than the issue time of `token`.
    fn revocation_time_of(&self, token: &VerifiedToken) -> u64 {
        self.revocation_time(&token.shopper.organization).max(token.shopper.issued_at)
    }

    /// Writes a revocation to the store, or in the background if the store is unavailable.
    async fn revoke(&self, target: Target, at: u64) -> Result<(), StoreError> {
        let written = target.revoke(&*self.store, &self.revocations, at).await;
        if written.is_err() {
            self.revoke_later(target, at);
        }
        written
    }

    /// Revokes in this process, and in the store as soon as it accepts the revocation. The store's number is higher then.
    fn revoke_later(&self, target: Target, at: u64) {
        let (key, epoch) = target.key_and_epoch();
        self.revocations.update(key, |known| Revocation { number: known.number.max(epoch) + 1, at: known.at.max(at) });
        let state = (Arc::clone(&self.store), Arc::clone(&self.revocations), Arc::new(target));
        retry_in_background(REVOCATION_RETRIES, state, move |(store, revocations, target)| async move {
            target.revoke(&*store, &revocations, at).await?;
            tracing::info!("delayed revocation written to the store");
            Ok::<_, StoreError>(())
        });
    }
}

impl Target {
    /// The key of the revocation, and the number in the epoch of what it ends. No session of a customer has a higher number
    /// than the store's next one.
    fn key_and_epoch(&self) -> (RevocationKey, u64) {
        match self {
            Self::Session(session) => (session.revocation_keys().session, session.epoch.session),
            Self::Token(token, epoch) => (token.shopper.revocation_keys.session, epoch.unwrap_or_default().session),
            Self::Customer(organization, customer) => (RevocationKey::of_customer(organization, customer), 0),
        }
    }

    /// Writes the revocation to the store, and notes it in this process.
    async fn revoke(&self, store: &dyn SessionStore, known: &RevocationSet, at: u64) -> Result<(), StoreError> {
        let revocation = match self {
            Self::Session(session) => store.revoke(RevocationTarget::Session(session), at).await?,
            // The session may have been stored, or become known to the store again, since the lookup.
            Self::Token(token, epoch) => match store.find(&token.digest).await? {
                LookupResult::Session(session, _) => store.revoke(RevocationTarget::Session(&session), at).await?,
                LookupResult::Epoch(stored) => store.revoke(of_token(token, epoch.or(Some(stored))), at).await?,
                LookupResult::Gone | LookupResult::Revoked | LookupResult::Unknown => {
                    store.revoke(of_token(token, *epoch), at).await?
                }
            },
            Self::Customer(organization, customer) => store.revoke_customer(organization, customer, at).await?,
        };
        known.merge(self.key_and_epoch().0, revocation);
        Ok(())
    }
}

fn of_token(token: &VerifiedToken, epoch: Option<Epoch>) -> RevocationTarget<'static> {
    let (keys, issued_at) = (token.shopper.revocation_keys, token.shopper.issued_at);
    RevocationTarget::Token { digest: token.digest, keys, issued_at, epoch }
}
