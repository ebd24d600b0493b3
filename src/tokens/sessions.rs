//! Sessions: the refresh tokens of the logins that this gateway performed, put to use.
//!
//! Owns when a session's token is renewed, by whom, and what that means for the request that asked.
//! A session is found only by a verified access token of its own owner. One refresh runs at a time:
//! in this process by one refresh_task per session, among replicas by a leased lock in the store; whoever comes second
//! waits for the first one's result. A refusal of SLAS ends a session; anything else never does.
//! A logout ends a session at SLAS and not a list of tokens: [`store::Revocation`](crate::store::Revocation) says which tokens it covers.
//! The records of ends are in the store and, fed by its news, in this process: no request asks the store for them but the
//! first with a token.

mod background;
mod by_name;
mod cache;
mod caller_held;
mod error;
mod failed_refreshes;
mod ready_token;
mod refresh;
mod state;

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

pub(super) use self::cache::CachedSession;
use self::state::CacheEntry;
pub use self::{
    by_name::TokenRecipient,
    caller_held::{CallerHeldSession, CallerRefresh, PresentedRefreshToken, RefreshTokenEpoch, TokenOrigin},
    error::SessionError,
    ready_token::ReadyToken,
    state::{Sessions, SlasEndpoint},
};
use crate::{
    config::SlasClient,
    correlation,
    salesforce::{guard::Priority, slas::TokenResponse},
    store::{
        Epoch, LookupResult, Revocation, RevocationKey, RevocationTarget, Session, SessionStore, StoreError, StoreState,
    },
    time::unix_now,
    tokens::retry::{RetrySchedule, retry_in_background},
    types::{CustomerId, OrganizationId, SiteId},
    verify::shopper_token::VerifiedToken,
};

/// How long a request with a valid token waits for a refresh.
const VALID_WAITS: Duration = Duration::from_millis(500);
/// A session whose caller asks for a refresh is refreshed at SLAS no more often than this, seconds. In between the caller
/// gets the newest token again.
pub const A_REFRESH_EACH: u64 = 10;
/// How an end that the store did not take is offered to it again.
const END_RETRIES: RetrySchedule = RetrySchedule {
    interval: Duration::from_secs(1),
    attempts: 3600,
    failure_message: "an ended session was never ended in the store",
};

/// An end that the store has not taken yet.
#[derive(Debug)]
enum PendingRevocation {
    Session(Arc<Session>),
    Token(VerifiedToken),
    Customer(OrganizationId, CustomerId),
}

/// What a verified token is good for.
#[derive(Debug)]
pub enum TokenChoice {
    /// It goes upstream itself.
    AsPresented,
    /// Its session has a newer one, which goes upstream in its place.
    Refreshed(SecretString),
}

/// An ended session: what SLAS's logout needs.
#[derive(Debug)]
pub struct LoggedOutSession<'s> {
    /// The client of the login.
    pub client: &'s SlasClient,
    /// The site of the login.
    pub site: SiteId,
    /// Its newest access token.
    pub access_token: SecretString,
    /// Its refresh token.
    pub refresh_token: SecretString,
    /// Whether the shopper is registered.
    pub registered: bool,
}

impl Sessions {
    /// Whether other gateways share them.
    #[must_use]
    pub fn are_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// How their store is.
    #[must_use]
    pub fn store_state(&self) -> StoreState {
        self.store.state()
    }

    /// Begins the session of a login. `token` is the answer's access token, verified. An answer
    /// without a refresh token (a trusted agent's) gives no session.
    ///
    /// If the store cannot take it, the login succeeds all the same and the store is asked again for a while.
    pub async fn begin(self: &Arc<Self>, site: &SiteId, token: &VerifiedToken, answer: &TokenResponse) {
        if let Some(session) = self.new_session(site, token, answer, None) {
            self.insert_session(session, None).await;
        }
    }

    /// What a verified token is good for, renewing its session if that is due.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn resolve(self: &Arc<Self>, token: &VerifiedToken) -> Result<TokenChoice, SessionError> {
        let now = unix_now();
        // Where a session can make up for it, a token is over at its very end; without one, the clocks'
        // difference is granted.
        let is_over = now >= token.shopper.expires_at;
        let cached = match self.lookup(token, now).await {
            Ok(CacheEntry::Session(cached)) => cached,
            Ok(CacheEntry::Revoked) => return Err(SessionError::LoggedOut),
            Ok(CacheEntry::Unknown(_) | CacheEntry::Epoch(_)) if token.has_ended(now) => {
                return Err(SessionError::Expired);
            }
            Err(error) if is_over => return Err(error.into()),
            Ok(CacheEntry::Unknown(_) | CacheEntry::Epoch(_)) | Err(_) => return Ok(TokenChoice::AsPresented),
        };
        let session = cached.session.load_full();
        let ahead = CachedSession::ahead(&session, self.settings.refresh_ahead);
        if token.shopper.expires_at > now + ahead {
            self.note_use(&cached, now).await;
            return Ok(TokenChoice::AsPresented);
        }
        match self.is_idle(&cached, now).await {
            Ok(false) => {}
            Ok(true) | Err(_) if !is_over => return Ok(TokenChoice::AsPresented),
            Ok(true) => return Err(SessionError::Expired),
            Err(error) => return Err(error.into()),
        }
        let renewed = if session.access_expires_at > now + ahead {
            self.count("hit");
            Ok(Arc::clone(&session))
        } else if is_over {
            self.refresh_session(&cached, session.version, Priority::Refresh).await
        } else {
            match self.refresh_with_timeout(&cached, session.version, now).await {
                Some(renewed) => renewed,
                None => return Ok(TokenChoice::AsPresented),
            }
        };
        match renewed {
            Ok(newest) => {
                self.note_use(&cached, now).await;
                Ok(self.choose(token, &newest))
            }
            Err(error) if !is_over => {
                let correlation_id = correlation::current_text();
                tracing::warn!(%error, correlation_id, "a session was not renewed; its token is still valid");
                Ok(TokenChoice::AsPresented)
            }
            // Somebody holds an old token, and the newest that we have still lives.
            Err(SessionError::Slas(_) | SessionError::Store(_)) if session.access_expires_at > now => {
                Ok(self.choose(token, &session))
            }
            Err(error) => Err(error),
        }
    }

    /// A refresh for a token that is still valid: it waits a moment, and not at all while SLAS or the store
    /// are known to fail. The refresh itself goes on.
    async fn refresh_with_timeout(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        seen: u64,
        now: u64,
    ) -> Option<Result<Arc<Session>, SessionError>> {
        if cached.has_just_failed(now) {
            return None;
        }
        let renewed =
            tokio::time::timeout(VALID_WAITS, self.refresh_session(cached, seen, Priority::Refresh)).await.ok();
        if renewed.is_none() {
            cached.note_failure(now);
        }
        renewed
    }

    /// A token that ends later than this one, for a caller who asks for just that. A caller who asks again within
    /// [`A_REFRESH_EACH`] seconds with the newest token gets that token.
    ///
    /// # Errors
    /// [`SessionError`].
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
        let ahead = CachedSession::ahead(&session, self.settings.refresh_ahead);
        let is_other = session.tokens.last() != Some(&token.digest);
        let is_good =
            (is_other || session.refreshed_at + A_REFRESH_EACH > now) && session.access_expires_at > now + ahead;
        let newest =
            if is_good { session } else { self.refresh_session(&cached, session.version, Priority::Refresh).await? };
        self.note_use(&cached, now).await;
        Ok(newest.access_token.clone())
    }

    /// Ends the session of a token, everywhere: none of its tokens is accepted any more, whatever refresh of it is under
    /// way. `None` if the token, which still lives, has no session here; it is refused from now on all the same, with every
    /// token of its session at SLAS that was issued before.
    ///
    /// # Errors
    /// [`SessionError::LoggedOut`] and [`SessionError::Expired`] if it was over before, [`SessionError::Store`]
    /// if other replicas could not be told yet: here it is over then.
    pub async fn log_out(&self, token: &VerifiedToken) -> Result<Option<LoggedOutSession<'_>>, SessionError> {
        let now = unix_now();
        let at = self.revocation_time_of(token);
        let epoch = match self.lookup(token, now).await {
            Ok(CacheEntry::Session(cached)) => return self.revoke_session(&cached.session.load_full(), at).await,
            Ok(CacheEntry::Revoked) => return Err(SessionError::LoggedOut),
            Ok(CacheEntry::Unknown(_) | CacheEntry::Epoch(_)) if token.has_ended(now) => {
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
        match self.store.revoke(ending_of(token, epoch), at).await {
            Ok(end) => {
                self.ends.note(token.shopper.revocation_keys.session, end);
                Ok(None)
            }
            Err(error) => {
                self.revoke_locally(token.shopper.revocation_keys.session, epoch.unwrap_or_default().session, at);
                self.revoke_in_background(PendingRevocation::Token(token.clone()), at);
                Err(error.into())
            }
        }
    }

    async fn revoke_session(
        &self,
        session: &Arc<Session>,
        at: u64,
    ) -> Result<Option<LoggedOutSession<'_>>, SessionError> {
        self.mark_revoked(session);
        let key = session.revocation_keys().session;
        match self.store.revoke(RevocationTarget::Session(session), at).await {
            Ok(end) => self.ends.note(key, end),
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

    /// The time of an end that is now, by SLAS's clock: no token of the session that anyone has seen was issued later.
    fn revocation_time_of(&self, token: &VerifiedToken) -> u64 {
        self.revocation_time(&token.shopper.organization).max(token.shopper.issued_at)
    }

    /// Ends in this process what came after the end of this number, while the store cannot be told. The store's own number
    /// is higher.
    fn revoke_locally(&self, key: RevocationKey, epoch: u64, at: u64) {
        self.ends.update(key, |known| Revocation { number: known.number.max(epoch) + 1, at: known.at.max(at) });
    }

    /// Offers an end to the store until it takes it. Here the token is refused already, so whoever
    /// tries again would learn that all is done, while other replicas still accept it.
    fn revoke_in_background(&self, untold: PendingRevocation, at: u64) {
        let (store, ends, untold) = (Arc::clone(&self.store), Arc::clone(&self.ends), Arc::new(untold));
        retry_in_background(END_RETRIES, move || {
            let (store, ends, untold) = (Arc::clone(&store), Arc::clone(&ends), Arc::clone(&untold));
            async move {
                let (key, end) = write_revocation(&*store, &untold, at).await?;
                ends.note(key, end);
                tracing::info!("an ended session was ended in the store late");
                Ok::<_, StoreError>(())
            }
        });
    }

    /// Ends every session of a token's customer, everywhere.
    ///
    /// # Errors
    /// As [`Sessions::log_out`].
    pub async fn log_out_customer(&self, token: &VerifiedToken) -> Result<(), SessionError> {
        let ended = match self.log_out(token).await {
            Ok(_) | Err(SessionError::LoggedOut | SessionError::Expired) => Ok(()),
            Err(error) => Err(error),
        };
        let shopper = &token.shopper;
        let Some(customer) = &shopper.customer else { return ended };
        let key = RevocationKey::of_customer(&shopper.organization, customer);
        let at = self.revocation_time_of(token);
        match self.store.revoke_customer(&shopper.organization, customer, at).await {
            Ok(end) => {
                self.ends.note(key, end);
                ended
            }
            Err(error) => {
                // Whatever number a session of his came after, it is lower than the store's next.
                self.revoke_locally(key, 0, at);
                self.revoke_in_background(
                    PendingRevocation::Customer(shopper.organization.clone(), customer.clone()),
                    at,
                );
                Err(error.into())
            }
        }
    }

    /// Whether this process holds the record of any logout: what SLAS gives then may be for a session that has ended.
    #[must_use]
    pub fn knows_of_logouts(&self) -> bool {
        !self.ends.is_empty()
    }

    /// How long this login has to wait for its turn; `None` if longer than `longest`.
    pub async fn turn(&self, who: &str, window: Duration, longest: Duration) -> Option<Duration> {
        // Without the store nobody queues: SLAS's own conflict is then waited out.
        self.store.reserve_login_slot(who.as_bytes(), window, longest).await.unwrap_or(Some(Duration::ZERO))
    }

    fn choose(&self, token: &VerifiedToken, newest: &Session) -> TokenChoice {
        if newest.tokens.last() == Some(&token.digest) {
            TokenChoice::AsPresented
        } else {
            TokenChoice::Refreshed(newest.access_token.clone())
        }
    }
}

/// The end of a token without a session.
fn ending_of(token: &VerifiedToken, epoch: Option<Epoch>) -> RevocationTarget<'static> {
    RevocationTarget::Token {
        digest: token.digest,
        keys: token.shopper.revocation_keys,
        issued_at: token.shopper.issued_at,
        epoch,
    }
}

/// Ends in the store what could not be ended there at first.
async fn write_revocation(
    store: &dyn SessionStore,
    untold: &PendingRevocation,
    at: u64,
) -> Result<(RevocationKey, Revocation), StoreError> {
    match untold {
        PendingRevocation::Session(session) => {
            Ok((session.revocation_keys().session, store.revoke(RevocationTarget::Session(session), at).await?))
        }
        PendingRevocation::Token(token) => {
            let end = match store.find(&token.digest).await? {
                LookupResult::Session(session, _) => store.revoke(RevocationTarget::Session(&session), at).await?,
                LookupResult::Epoch(epoch) => store.revoke(ending_of(token, Some(epoch)), at).await?,
                LookupResult::Gone | LookupResult::Revoked | LookupResult::Unknown => {
                    store.revoke(ending_of(token, None), at).await?
                }
            };
            Ok((token.shopper.revocation_keys.session, end))
        }
        PendingRevocation::Customer(organization, customer) => {
            let end = store.revoke_customer(organization, customer, at).await?;
            Ok((RevocationKey::of_customer(organization, customer), end))
        }
    }
}
