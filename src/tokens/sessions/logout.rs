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
    store::{Epoch, LookupResult, Revocation, RevocationKey, RevocationTarget, Session, SessionStore, StoreError},
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

/// A revocation that the store has not accepted yet.
#[derive(Debug)]
enum PendingRevocation {
    Session(Arc<Session>),
    Token(VerifiedToken),
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
                self.revoke_locally(token.shopper.revocation_keys.session, 0, at);
                self.cache.insert(token.digest, CacheEntry::Revoked);
                self.revoke_in_background(PendingRevocation::Token(token.clone()), at);
                return Err(error.into());
            }
        };
        self.cache.insert(token.digest, CacheEntry::Revoked);
        match self.store.revoke(target_without_session(token, epoch), at).await {
            Ok(revocation) => {
                self.revocations.merge(token.shopper.revocation_keys.session, revocation);
                Ok(None)
            }
            Err(error) => {
                self.revoke_locally(token.shopper.revocation_keys.session, epoch.unwrap_or_default().session, at);
                self.revoke_in_background(PendingRevocation::Token(token.clone()), at);
                Err(error.into())
            }
        }
    }

    /// Logs out a session. The result is `None` if its client is not configured any more.
    pub(super) async fn revoke_session(
        &self,
        session: &Arc<Session>,
        at: u64,
    ) -> Result<Option<LoggedOutSession<'_>>, SessionError> {
        self.mark_revoked(session);
        let key = session.revocation_keys().session;
        match self.store.revoke(RevocationTarget::Session(session), at).await {
            Ok(revocation) => self.revocations.merge(key, revocation),
            Err(error) => {
                self.revoke_locally(key, session.epoch.session, at);
                self.revoke_in_background(PendingRevocation::Session(Arc::clone(session)), at);
                return Err(error.into());
            }
        };
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
        let key = RevocationKey::of_customer(&shopper.organization, customer);
        let at = self.revocation_time_of(token);
        match self.store.revoke_customer(&shopper.organization, customer, at).await {
            Ok(revocation) => {
                self.revocations.merge(key, revocation);
                own
            }
            Err(error) => {
                // The store's next number is higher than the epoch of any session of this customer.
                self.revoke_locally(key, 0, at);
                let pending = PendingRevocation::Customer(shopper.organization.clone(), customer.clone());
                self.revoke_in_background(pending, at);
                Err(error.into())
            }
        }
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

    /// Revokes tokens of this epoch in this process, while the store is unavailable. The number that the store assigns later
    /// is higher.
    fn revoke_locally(&self, key: RevocationKey, epoch: u64, at: u64) {
        self.revocations.update(key, |known| Revocation { number: known.number.max(epoch) + 1, at: known.at.max(at) });
    }

    /// Writes a revocation to the store as soon as the store accepts it.
    fn revoke_in_background(&self, pending: PendingRevocation, at: u64) {
        let (store, revocations, pending) = (Arc::clone(&self.store), Arc::clone(&self.revocations), Arc::new(pending));
        retry_in_background(REVOCATION_RETRIES, move || {
            let (store, revocations, pending) = (Arc::clone(&store), Arc::clone(&revocations), Arc::clone(&pending));
            async move {
                let (key, revocation) = write_revocation(&*store, &pending, at).await?;
                revocations.merge(key, revocation);
                tracing::info!("delayed revocation written to the store");
                Ok::<_, StoreError>(())
            }
        });
    }
}

fn target_without_session(token: &VerifiedToken, epoch: Option<Epoch>) -> RevocationTarget<'static> {
    RevocationTarget::Token {
        digest: token.digest,
        keys: token.shopper.revocation_keys,
        issued_at: token.shopper.issued_at,
        epoch,
    }
}

async fn write_revocation(
    store: &dyn SessionStore,
    pending: &PendingRevocation,
    at: u64,
) -> Result<(RevocationKey, Revocation), StoreError> {
    match pending {
        PendingRevocation::Session(session) => {
            let revocation = store.revoke(RevocationTarget::Session(session), at).await?;
            Ok((session.revocation_keys().session, revocation))
        }
        PendingRevocation::Token(token) => {
            let revocation = match store.find(&token.digest).await? {
                LookupResult::Session(session, _) => store.revoke(RevocationTarget::Session(&session), at).await?,
                LookupResult::Epoch(epoch) => store.revoke(target_without_session(token, Some(epoch)), at).await?,
                LookupResult::Gone | LookupResult::Revoked | LookupResult::Unknown => {
                    store.revoke(target_without_session(token, None), at).await?
                }
            };
            Ok((token.shopper.revocation_keys.session, revocation))
        }
        PendingRevocation::Customer(organization, customer) => {
            let revocation = store.revoke_customer(organization, customer, at).await?;
            Ok((RevocationKey::of_customer(organization, customer), revocation))
        }
    }
}
