//! Sessions: the refresh tokens of the logins that this gateway performed, put to use.
//!
//! Owns when a session's token is renewed, by whom, and what that means for the request that asked.
//! A session is found only by a verified access token of its own owner. One refresh runs at a time:
//! in this process by one flight per session, among replicas by a leased lock in the store; whoever comes second
//! waits for the first one's result. A refusal of SLAS ends a session; anything else never does.
//! A logout ends a session at SLAS and not a list of tokens: [`store::Revocation`](crate::store::Revocation) says which tokens it covers.
//! The records of ends are in the store and, fed by its news, in this process: no request asks the store for them but the
//! first with a token.

mod handed;
mod in_use;
mod keep;
mod named;
mod refresh;
mod refusals;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

pub(super) use self::in_use::InUse;
pub use self::{
    handed::{HandedSession, Origin, Presented, RefreshTokenEpoch, Refreshed},
    named::{HeldToken, Holder},
};
use self::{refresh::Outcome, refusals::RefreshRefusals};
use super::{flights::Flights, pace::Pace};
use crate::{
    clock::unix_now,
    correlation,
    jwt::{TokenDigest, token_digest},
    metrics::Metrics,
    names::{ByOrganization, CustomerId, OrganizationId, SiteId},
    salesforce::{
        exchange::ExchangeError,
        guard::Class,
        slas::{Slas, TokenAnswer},
    },
    settings::{self, SlasClient},
    shopper::{
        Shopper,
        verify::{ShopperVerifier, VerifiedToken},
    },
    store::{
        Cursor, Epoch, Found, Owner, Revocation, RevocationKey, RevocationKeys, RevocationSet, RevocationTarget,
        Revocations, Session, SessionId, SessionStore, StoreError, StoreState, random_bytes,
    },
};

/// How long writing a revocation record may take in this process, in addition to the store's timeout.
const REVOCATION_WRITE_MARGIN: Duration = Duration::from_millis(150);
/// Life of a guest's refresh token when SLAS does not say it, seconds.
const GUEST_REFRESH_SECONDS: u64 = 30 * 24 * 3600;
/// Life of a registered shopper's refresh token when SLAS does not say it, seconds.
const REGISTERED_REFRESH_SECONDS: u64 = 90 * 24 * 3600;
/// A token without a session is asked for again after this many seconds.
const NOTHING_FOR: u64 = 60;
/// How long a request with a valid token waits for a refresh.
const VALID_WAITS: Duration = Duration::from_millis(500);
/// At most one token that an API refused is replaced in this time, so that an API that refuses everything makes no storm.
const A_REPLACEMENT_EACH: Duration = Duration::from_secs(1);
/// A session whose caller asks for a refresh is refreshed at SLAS no more often than this, seconds. In between the caller
/// gets the newest token again.
pub const A_REFRESH_EACH: u64 = 10;
/// Beside a store in memory, one of so many of its sessions is also known here.
const MEMORY_SHARE: u64 = 16;
/// At least so many tokens are known.
const LEAST_KNOWN: usize = 1000;
/// How long a login that the store did not take is offered to it again.
const INSERT_TRIES: u32 = 60;
/// How long an end that the store did not take is offered to it again.
const END_TRIES: u32 = 3600;

/// The sessions of this gateway.
#[derive(Debug)]
pub struct Sessions {
    store: Arc<dyn SessionStore>,
    issuers: ByOrganization<Issuer>,
    verifier: Arc<ShopperVerifier>,
    known: Arc<Cache<TokenDigest, Known>>,
    /// What was ended, here or elsewhere.
    ends: Arc<RevocationSet>,
    flights: Arc<Flights<SessionId, Outcome>>,
    /// How far the news of other replicas have been read.
    news: Arc<tokio::sync::Mutex<Cursor>>,
    replacements: Pace<SessionId>,
    /// Refreshes that SLAS refused without ending the session.
    refusals: RefreshRefusals,
    settings: settings::Sessions,
    /// How long a refresh may take, at most.
    exchange: Duration,
    metrics: Arc<Metrics>,
}

/// SLAS of one organization and the clients that sessions may be of.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its SLAS.
    pub slas: Slas,
    /// Its clients.
    pub clients: Vec<SlasClient>,
}

/// What this process knows of a token without asking the store.
#[derive(Debug, Clone)]
enum Known {
    Session(Arc<InUse>),
    /// The store had nothing, at that time.
    Nothing(u64),
    /// It has no session, and came after these ends.
    Epoch(Arc<Epoch>),
    Ended,
}

/// An end that the store has not taken yet.
#[derive(Debug)]
enum Untold {
    Session(Arc<Session>),
    Token(VerifiedToken),
    Customer(OrganizationId, CustomerId),
}

/// What a verified token is good for.
#[derive(Debug)]
pub enum Standing {
    /// It goes upstream itself.
    Own,
    /// Its session has a newer one, which goes upstream in its place.
    Renewed(SecretString),
}

/// Why a verified token is good for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It has ended, and no session makes up for it.
    #[error("the token has ended and has no session here")]
    Lapsed,
    /// Its session was logged out.
    #[error("the session was logged out")]
    LoggedOut,
    /// SLAS refused the refresh token: the session is over.
    #[error("the session is over: {0}")]
    Over(ExchangeError),
    /// SLAS could not be asked, or does not know the client any more; the session stays.
    #[error("the session could not be refreshed: {0}")]
    Slas(ExchangeError),
    /// The store could not be asked; the session stays.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An ended session: what SLAS's logout needs.
#[derive(Debug)]
pub struct EndedSession<'s> {
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
    /// Sessions in `store`, refreshed at `issuers`; `exchange` is the time limit of one call to SLAS.
    #[must_use]
    pub fn new(
        store: Arc<dyn SessionStore>,
        issuers: ByOrganization<Issuer>,
        verifier: Arc<ShopperVerifier>,
        settings: settings::Sessions,
        exchange: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        // What is in the same process is soon asked for; what is not is kept here in full.
        let share = if store.is_shared() { 1 } else { MEMORY_SHARE };
        let capacity = usize::try_from(settings.capacity / share).unwrap_or(usize::MAX).max(LEAST_KNOWN);
        Arc::new(Self {
            store,
            issuers,
            verifier,
            known: Arc::new(Cache::new(capacity)),
            ends: Arc::default(),
            flights: Flights::new(),
            news: Arc::default(),
            replacements: Pace::new(1, A_REPLACEMENT_EACH),
            refusals: RefreshRefusals::new(),
            settings,
            exchange,
            metrics,
        })
    }

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

    /// The same sessions by other settings: what is known and under way stays, if they live in the same store.
    #[must_use]
    pub fn after(self: Arc<Self>, before: &Self) -> Arc<Self> {
        self.verifier.learn_clocks_of(&before.verifier);
        if !Arc::ptr_eq(&self.store, &before.store) {
            return self;
        }
        Arc::new(Self {
            store: Arc::clone(&self.store),
            issuers: self.issuers.clone(),
            verifier: Arc::clone(&self.verifier),
            known: Arc::clone(&before.known),
            ends: Arc::clone(&before.ends),
            flights: Arc::clone(&before.flights),
            news: Arc::clone(&before.news),
            replacements: Pace::new(1, A_REPLACEMENT_EACH),
            refusals: RefreshRefusals::new(),
            settings: self.settings.clone(),
            exchange: self.exchange,
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// Begins the session of a login. `token` is the answer's access token, verified. An answer
    /// without a refresh token (a trusted agent's) gives no session.
    ///
    /// If the store cannot take it, the login succeeds all the same and the store is asked again for a while.
    pub async fn begin(self: &Arc<Self>, site: &SiteId, token: &VerifiedToken, answer: &TokenAnswer) {
        if let Some(session) = self.session_of(site, token, answer, None) {
            self.put(session, None).await;
        }
    }

    /// The session of a login, not begun yet; `None` if the answer has no refresh token.
    fn session_of(
        &self,
        site: &SiteId,
        token: &VerifiedToken,
        answer: &TokenAnswer,
        name: Option<&TokenDigest>,
    ) -> Option<Session> {
        let shopper = &token.shopper;
        let usual = if shopper.registered { REGISTERED_REFRESH_SECONDS } else { GUEST_REFRESH_SECONDS };
        Some(Session {
            id: SessionId(random_bytes().ok()?),
            owner: self.owner(shopper, site),
            access_token: answer.access_token.clone(),
            access_ends_at: ends_at(shopper.expires_at, answer.expires_in),
            access_life: answer.expires_in,
            refresh_token: answer.refresh_token.clone()?,
            ends_at: unix_now().saturating_add(answer.refresh_token_expires_in.unwrap_or(usual)),
            tokens: name.copied().into_iter().chain([token.digest]).collect(),
            is_named: name.is_some(),
            handed: None,
            after: Epoch::default(),
            renewed_at: 0,
            caller: None,
            version: 0,
        })
    }

    /// Keeps a new session. It came after these ends, or after every end that is known now.
    async fn put(self: &Arc<Self>, mut session: Session, after: Option<Epoch>) -> Arc<InUse> {
        let now = unix_now();
        let keys = session.revocation_keys();
        let after = match after {
            Some(after) => Ok(after),
            None => self.revocations_of(&keys).await.map(|ends| ends.after()),
        };
        session.after = after.clone().unwrap_or_else(|_| self.ends.of_both(&keys).after());
        let session = Arc::new(session);
        let in_use = Arc::new(InUse::new(Arc::clone(&session), now));
        for digest in &session.tokens {
            self.known.insert(*digest, Known::Session(Arc::clone(&in_use)));
        }
        let stored = match after {
            Ok(_) => self.store.insert(session, now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "a session could not be stored; trying again");
            let (sessions, in_use) = (Arc::clone(self), Arc::clone(&in_use));
            tokio::spawn(async move {
                for attempt in 1..=INSERT_TRIES {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if sessions.put_again(&in_use).await.is_ok() {
                        return;
                    }
                    tracing::debug!(attempt, "a session could still not be stored");
                }
                tracing::error!("a session was never stored; it ends with its access token");
            });
        }
        in_use
    }

    /// Offers a session to the store that did not take it. The store may know an end before it that this process did not,
    /// and this process an end of it that the store does not: the latter counts.
    async fn put_again(&self, in_use: &InUse) -> Result<(), StoreError> {
        let session = in_use.session.load_full();
        if self.has_ended(in_use) {
            return Ok(());
        }
        let after = self.store.ends(&in_use.revocation_keys).await?.after();
        let session = if session.version == 0 && session.after != after {
            let later = Arc::new(Session { after, ..Session::clone(&session) });
            in_use.session.store(Arc::clone(&later));
            later
        } else {
            session
        };
        self.store.insert(session, unix_now()).await
    }

    /// The records of ends, as the store and this process know them.
    async fn revocations_of(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        let Revocations { session, customer } = self.store.ends(keys).await?;
        let note = |key: RevocationKey, end: Revocation| {
            if end.number > 0 { self.ends.note(key, end) } else { self.ends.of(key) }
        };
        Ok(Revocations {
            session: note(keys.session, session),
            customer: keys.customer.map(|key| note(key, customer)).unwrap_or_default(),
        })
    }

    /// Whether a session was ended, as far as this process knows.
    fn has_ended(&self, in_use: &InUse) -> bool {
        !self.ends.is_empty() && self.ends.of_both(&in_use.revocation_keys).cover(in_use.session.load().after)
    }

    /// What a verified token is good for, renewing its session if that is due.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn standing(self: &Arc<Self>, token: &VerifiedToken) -> Result<Standing, SessionError> {
        let now = unix_now();
        // Where a session can make up for it, a token is over at its very end; without one, the clocks'
        // difference is granted.
        let is_over = now >= token.shopper.expires_at;
        let in_use = match self.known(token, now).await {
            Ok(Known::Session(in_use)) => in_use,
            Ok(Known::Ended) => return Err(SessionError::LoggedOut),
            Ok(Known::Nothing(_) | Known::Epoch(_)) if token.has_ended(now) => return Err(SessionError::Lapsed),
            Err(error) if is_over => return Err(error.into()),
            Ok(Known::Nothing(_) | Known::Epoch(_)) | Err(_) => return Ok(Standing::Own),
        };
        let session = in_use.session.load_full();
        let ahead = InUse::ahead(&session, self.settings.refresh_ahead);
        if token.shopper.expires_at > now + ahead {
            self.used(&in_use, now).await;
            return Ok(Standing::Own);
        }
        match self.is_idle(&in_use, now).await {
            Ok(false) => {}
            Ok(true) | Err(_) if !is_over => return Ok(Standing::Own),
            Ok(true) => return Err(SessionError::Lapsed),
            Err(error) => return Err(error.into()),
        }
        let renewed = if session.access_ends_at > now + ahead {
            self.count("hit");
            Ok(Arc::clone(&session))
        } else if is_over {
            self.renew(&in_use, session.version, Class::Refresh).await
        } else {
            match self.renew_without_delay(&in_use, session.version, now).await {
                Some(renewed) => renewed,
                None => return Ok(Standing::Own),
            }
        };
        match renewed {
            Ok(newest) => {
                self.used(&in_use, now).await;
                Ok(self.standing_of(token, &newest))
            }
            Err(error) if !is_over => {
                let correlation_id = correlation::current_text();
                tracing::warn!(%error, correlation_id, "a session was not renewed; its token is still valid");
                Ok(Standing::Own)
            }
            // Somebody holds an old token, and the newest that we have still lives.
            Err(SessionError::Slas(_) | SessionError::Store(_)) if session.access_ends_at > now => {
                Ok(self.standing_of(token, &session))
            }
            Err(error) => Err(error),
        }
    }

    /// A refresh for a token that is still valid: it waits a moment, and not at all while SLAS or the store
    /// are known to fail. The refresh itself goes on.
    async fn renew_without_delay(
        self: &Arc<Self>,
        in_use: &Arc<InUse>,
        seen: u64,
        now: u64,
    ) -> Option<Result<Arc<Session>, SessionError>> {
        if in_use.has_just_failed(now) {
            return None;
        }
        let renewed = tokio::time::timeout(VALID_WAITS, self.renew(in_use, seen, Class::Refresh)).await.ok();
        if renewed.is_none() {
            in_use.note_failure(now);
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
        let in_use = match self.known(token, now).await? {
            Known::Session(in_use) => in_use,
            Known::Ended => return Err(SessionError::LoggedOut),
            Known::Nothing(_) | Known::Epoch(_) => return Err(SessionError::Lapsed),
        };
        if self.is_idle(&in_use, now).await? {
            return Err(SessionError::Lapsed);
        }
        let session = in_use.session.load_full();
        let ahead = InUse::ahead(&session, self.settings.refresh_ahead);
        let is_other = session.tokens.last() != Some(&token.digest);
        let is_good = (is_other || session.renewed_at + A_REFRESH_EACH > now) && session.access_ends_at > now + ahead;
        let newest = if is_good { session } else { self.renew(&in_use, session.version, Class::Refresh).await? };
        self.used(&in_use, now).await;
        Ok(newest.access_token.clone())
    }

    /// Ends the session of a token, everywhere: none of its tokens is accepted any more, whatever refresh of it is under
    /// way. `None` if the token, which still lives, has no session here; it is refused from now on all the same, with every
    /// token of its session at SLAS that was issued before.
    ///
    /// # Errors
    /// [`SessionError::LoggedOut`] and [`SessionError::Lapsed`] if it was over before, [`SessionError::Store`]
    /// if other replicas could not be told yet: here it is over then.
    pub async fn end(&self, token: &VerifiedToken) -> Result<Option<EndedSession<'_>>, SessionError> {
        let now = unix_now();
        let at = self.end_of_now(token);
        let after = match self.known(token, now).await {
            Ok(Known::Session(in_use)) => return self.end_session(&in_use.session.load_full(), at).await,
            Ok(Known::Ended) => return Err(SessionError::LoggedOut),
            Ok(Known::Nothing(_) | Known::Epoch(_)) if token.has_ended(now) => return Err(SessionError::Lapsed),
            Ok(Known::Epoch(after)) => Some(*after),
            Ok(Known::Nothing(_)) => None,
            Err(error) => {
                self.end_here(token.shopper.revocation_keys.session, 0, at);
                self.known.insert(token.digest, Known::Ended);
                self.end_later(Untold::Token(token.clone()), at);
                return Err(error.into());
            }
        };
        self.known.insert(token.digest, Known::Ended);
        match self.store.end(ending_of(token, after), at).await {
            Ok(end) => {
                self.ends.note(token.shopper.revocation_keys.session, end);
                Ok(None)
            }
            Err(error) => {
                self.end_here(token.shopper.revocation_keys.session, after.unwrap_or_default().session, at);
                self.end_later(Untold::Token(token.clone()), at);
                Err(error.into())
            }
        }
    }

    async fn end_session(&self, session: &Arc<Session>, at: u64) -> Result<Option<EndedSession<'_>>, SessionError> {
        self.forget(session);
        let key = session.revocation_keys().session;
        match self.store.end(RevocationTarget::Session(session), at).await {
            Ok(end) => self.ends.note(key, end),
            Err(error) => {
                self.end_here(key, session.after.session, at);
                self.end_later(Untold::Session(Arc::clone(session)), at);
                return Err(error.into());
            }
        };
        Ok(self.client_of(session).map(|client| EndedSession {
            client,
            site: session.owner.site.clone(),
            access_token: session.access_token.clone(),
            refresh_token: session.refresh_token.clone(),
            registered: session.owner.registered,
        }))
    }

    /// The time of an end that is now, by SLAS's clock: no token of the session that anyone has seen was issued later.
    fn end_of_now(&self, token: &VerifiedToken) -> u64 {
        self.end_time(&token.shopper.organization).max(token.shopper.issued_at)
    }

    /// The time for a revocation record that is about to be written. Until it is written, refreshes find no record and pass
    /// their tokens on, and SLAS may issue those tokens in the next second.
    fn end_time(&self, organization: &OrganizationId) -> u64 {
        self.verifier.slas_time_in(self.store.write_timeout() + REVOCATION_WRITE_MARGIN, organization)
    }

    /// Ends in this process what came after the end of this number, while the store cannot be told. The store's own number
    /// is higher.
    fn end_here(&self, key: RevocationKey, after: u64, at: u64) {
        self.ends.update(key, |known| Revocation { number: known.number.max(after) + 1, at: known.at.max(at) });
    }

    /// Offers an end to the store until it takes it. Here the token is refused already, so whoever
    /// tries again would learn that all is done, while other replicas still accept it.
    fn end_later(&self, untold: Untold, at: u64) {
        let (store, ends) = (Arc::clone(&self.store), Arc::clone(&self.ends));
        tokio::spawn(async move {
            for _ in 0..END_TRIES {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Ok((key, end)) = tell(&*store, &untold, at).await {
                    ends.note(key, end);
                    tracing::info!("an ended session was ended in the store late");
                    return;
                }
            }
            tracing::error!("an ended session was never ended in the store");
        });
    }

    /// Ends every session of a token's customer, everywhere.
    ///
    /// # Errors
    /// As [`Sessions::end`].
    pub async fn end_all(&self, token: &VerifiedToken) -> Result<(), SessionError> {
        let ended = match self.end(token).await {
            Ok(_) | Err(SessionError::LoggedOut | SessionError::Lapsed) => Ok(()),
            Err(error) => Err(error),
        };
        let shopper = &token.shopper;
        let Some(customer) = &shopper.customer else { return ended };
        let key = RevocationKey::of_customer(&shopper.organization, customer);
        let at = self.end_of_now(token);
        match self.store.end_all(&shopper.organization, customer, at).await {
            Ok(end) => {
                self.ends.note(key, end);
                ended
            }
            Err(error) => {
                // Whatever number a session of his came after, it is lower than the store's next.
                self.end_here(key, 0, at);
                self.end_later(Untold::Customer(shopper.organization.clone(), customer.clone()), at);
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
        self.store.turn(who.as_bytes(), window, longest).await.unwrap_or(Some(Duration::ZERO))
    }

    /// What is known of a token, asking the store where this process has not seen it. Once a token is known here, the
    /// news of other replicas keep it true.
    async fn known(&self, token: &VerifiedToken, now: u64) -> Result<Known, StoreError> {
        let shopper = &token.shopper;
        let known = match self.known.get(&token.digest) {
            Some(Known::Nothing(at)) if at.saturating_add(NOTHING_FOR) <= now => None,
            Some(Known::Session(in_use)) if !owns(shopper, &in_use.session.load().owner) => Some(Known::Nothing(now)),
            known => known,
        };
        let Some(known) = known else { return self.asked(token, now).await };
        if self.ends.is_empty() {
            return Ok(known);
        }
        Ok(known.unless(&self.ends.of_both(&shopper.revocation_keys), shopper))
    }

    /// What the store knows of a token.
    async fn asked(&self, token: &VerifiedToken, now: u64) -> Result<Known, StoreError> {
        let shopper = &token.shopper;
        let (found, ends) =
            tokio::try_join!(self.store.find(&token.digest), self.revocations_of(&shopper.revocation_keys))?;
        let known = match found {
            Found::Session(session, used_at) if owns(shopper, &session.owner) => {
                Known::Session(Arc::new(InUse::new(session, used_at)))
            }
            // Of a session that is gone without an end, which a store that lost it is to blame for, the token goes on.
            Found::Gone if ends != Revocations::default() => Known::Ended,
            Found::Session(..) | Found::Gone | Found::Nothing => Known::Nothing(now),
            Found::Epoch(after) => Known::Epoch(Arc::new(after)),
            Found::Ended => Known::Ended,
        };
        let known = known.unless(&ends, shopper);
        self.known.insert(token.digest, known.clone());
        Ok(known)
    }

    /// Whether nobody used it for too long. What other replicas saw counts as well, so the store is asked
    /// before that is said.
    async fn is_idle(&self, in_use: &InUse, now: u64) -> Result<bool, StoreError> {
        let idle = self.settings.idle_timeout.as_secs();
        let is_idle = |used_at: u64| used_at.saturating_add(idle) <= now;
        if !is_idle(in_use.used_at.load(Ordering::Relaxed)) {
            return Ok(false);
        }
        let session = in_use.session.load_full();
        let Some(token) = session.tokens.last() else { return Ok(true) };
        let Found::Session(_, used_at) = self.store.find(token).await? else { return Ok(true) };
        in_use.used_at.fetch_max(used_at, Ordering::Relaxed);
        Ok(is_idle(used_at))
    }

    /// Notes a use, and tells the store now and then.
    async fn used(&self, in_use: &Arc<InUse>, now: u64) {
        in_use.used_at.fetch_max(now, Ordering::Relaxed);
        let every = (self.settings.idle_timeout.as_secs() / 20).clamp(1, 60);
        let told_at = in_use.told_at.load(Ordering::Relaxed);
        let is_due = told_at.saturating_add(every) <= now;
        if !is_due || in_use.told_at.compare_exchange(told_at, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let session = in_use.session.load_full();
        let store = Arc::clone(&self.store);
        let tell = async move {
            // A use that is not told is told with the next.
            let _ = store.touch(&session, now).await;
        };
        if self.store.is_shared() {
            tokio::spawn(tell);
        } else {
            tell.await;
        }
    }

    fn standing_of(&self, token: &VerifiedToken, newest: &Session) -> Standing {
        if newest.tokens.last() == Some(&token.digest) {
            Standing::Own
        } else {
            Standing::Renewed(newest.access_token.clone())
        }
    }

    /// The owner that a shopper is. Names that many sessions share are shared in memory as well.
    fn owner(&self, shopper: &Shopper, site: &SiteId) -> Owner {
        let issuer = self.issuers.get_key_value(&shopper.organization);
        let client = issuer.and_then(|(_, issuer)| issuer.clients.iter().find(|client| client.id == shopper.client));
        Owner {
            organization: issuer.map_or(&shopper.organization, |(organization, _)| organization).clone(),
            site: shopper.site.as_ref().filter(|own| *own != site).unwrap_or(site).clone(),
            client: client.map_or(&shopper.client, |client| &client.id).clone(),
            usid: shopper.usid.clone(),
            customer: shopper.customer.clone(),
            registered: shopper.registered,
        }
    }

    fn client_of(&self, session: &Session) -> Option<&SlasClient> {
        let issuer = self.issuers.get(&session.owner.organization)?;
        issuer.clients.iter().find(|client| client.id == session.owner.client)
    }

    fn forget(&self, session: &Session) {
        for digest in &session.tokens {
            self.known.insert(*digest, Known::Ended);
        }
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["session", result]).inc();
    }
}

impl Known {
    /// The same, unless one of these ends covers it.
    fn unless(self, ends: &Revocations, shopper: &Shopper) -> Self {
        let is_over = match &self {
            Self::Session(in_use) => ends.cover(in_use.session.load().after),
            Self::Epoch(after) => ends.cover(**after),
            Self::Nothing(_) => ends.cover_issued(shopper.issued_at),
            Self::Ended => false,
        };
        if is_over { Self::Ended } else { self }
    }
}

/// The end of a token without a session.
fn ending_of(token: &VerifiedToken, after: Option<Epoch>) -> RevocationTarget<'static> {
    RevocationTarget::Token {
        digest: token.digest,
        keys: token.shopper.revocation_keys,
        issued_at: token.shopper.issued_at,
        after,
    }
}

/// Ends in the store what could not be ended there at first.
async fn tell(store: &dyn SessionStore, untold: &Untold, at: u64) -> Result<(RevocationKey, Revocation), StoreError> {
    match untold {
        Untold::Session(session) => {
            Ok((session.revocation_keys().session, store.end(RevocationTarget::Session(session), at).await?))
        }
        Untold::Token(token) => {
            let end = match store.find(&token.digest).await? {
                Found::Session(session, _) => store.end(RevocationTarget::Session(&session), at).await?,
                Found::Epoch(after) => store.end(ending_of(token, Some(after)), at).await?,
                Found::Gone | Found::Ended | Found::Nothing => store.end(ending_of(token, None), at).await?,
            };
            Ok((token.shopper.revocation_keys.session, end))
        }
        Untold::Customer(organization, customer) => {
            let end = store.end_all(organization, customer, at).await?;
            Ok((RevocationKey::of_customer(organization, customer), end))
        }
    }
}

/// When a token ends that SLAS has just given, by the gateway's clock. It says so itself, by SLAS's clock; where the two
/// differ by much, its life counts, which needs no clock in common (RFC 6749, 5.1): else a token could look ended as soon
/// as it is here, and each request would renew it.
fn ends_at(says: u64, life: u64) -> u64 {
    let now = unix_now();
    if life == 0 { says } else { says.clamp(now.saturating_add(life / 2), now.saturating_add(life)) }
}

/// Whether a token speaks for the owner of a session: organization, client, shopper and site alike.
fn owns(shopper: &Shopper, owner: &Owner) -> bool {
    shopper.organization == owner.organization
        && shopper.client == owner.client
        && shopper.usid == owner.usid
        && shopper.customer == owner.customer
        && shopper.site.as_ref().is_none_or(|site| *site == owner.site)
}

/// The digest of a token that SLAS gave.
fn digest_of(token: &SecretString) -> TokenDigest {
    token_digest(token.expose_secret())
}
