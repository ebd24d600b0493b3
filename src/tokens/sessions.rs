//! Sessions: the refresh tokens of the logins that this gateway performed, put to use.
//!
//! Owns when a session's token is renewed, by whom, and what that means for the request that asked.
//! A session is found only by a verified access token of its own owner. One refresh runs at a time:
//! in this process by one flight per session, among replicas by a leased lock in the store; whoever comes second
//! waits for the first one's result. A refusal of SLAS ends a session; anything else never does.

mod handed;
mod in_use;
mod keep;
mod named;
mod refresh;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

pub(super) use self::in_use::InUse;
use self::refresh::Outcome;
pub use self::{handed::HandedSession, named::HeldToken};
use super::{flights::Flights, pace::Pace};
use crate::{
    clock::unix_now,
    jwt::{TokenDigest, token_digest},
    metrics::Metrics,
    names::{ByOrganization, SiteId},
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
    store::{Cursor, Found, Owner, Session, SessionId, SessionStore, StoreError, random_bytes},
};

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
    flights: Arc<Flights<SessionId, Outcome>>,
    /// How far the news of other replicas have been read.
    news: Arc<tokio::sync::Mutex<Cursor>>,
    replacements: Pace<SessionId>,
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
    Ended,
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
            flights: Flights::new(),
            news: Arc::default(),
            replacements: Pace::new(1, A_REPLACEMENT_EACH),
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

    /// The same sessions by other settings: what is known and under way stays, if they live in the same store.
    #[must_use]
    pub fn after(self: Arc<Self>, before: &Self) -> Arc<Self> {
        if !Arc::ptr_eq(&self.store, &before.store) {
            return self;
        }
        Arc::new(Self {
            store: Arc::clone(&self.store),
            issuers: self.issuers.clone(),
            verifier: Arc::clone(&self.verifier),
            known: Arc::clone(&before.known),
            flights: Arc::clone(&before.flights),
            news: Arc::clone(&before.news),
            replacements: Pace::new(1, A_REPLACEMENT_EACH),
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
            self.put(session).await;
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
            version: 0,
        })
    }

    async fn put(self: &Arc<Self>, session: Session) -> Arc<InUse> {
        let (session, now) = (Arc::new(session), unix_now());
        let in_use = Arc::new(InUse::new(Arc::clone(&session), now));
        for digest in &session.tokens {
            self.known.insert(*digest, Known::Session(Arc::clone(&in_use)));
        }
        if let Err(error) = self.store.insert(Arc::clone(&session), now).await {
            tracing::warn!(%error, "a session could not be stored; trying again");
            let sessions = Arc::clone(self);
            tokio::spawn(async move {
                for attempt in 1..=INSERT_TRIES {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if sessions.store.insert(Arc::clone(&session), unix_now()).await.is_ok() {
                        return;
                    }
                    tracing::debug!(attempt, "a session could still not be stored");
                }
                tracing::error!("a session was never stored; it ends with its access token");
            });
        }
        in_use
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
            Ok(Known::Nothing(_)) if token.has_ended(now) => return Err(SessionError::Lapsed),
            Err(error) if is_over => return Err(error.into()),
            Ok(Known::Nothing(_)) | Err(_) => return Ok(Standing::Own),
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
                tracing::warn!(%error, "a session was not renewed; its token is still valid");
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

    /// A token that ends later than this one, for a caller who asks for just that.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn refresh(self: &Arc<Self>, token: &VerifiedToken) -> Result<SecretString, SessionError> {
        let now = unix_now();
        let in_use = match self.known(token, now).await? {
            Known::Session(in_use) => in_use,
            Known::Ended => return Err(SessionError::LoggedOut),
            Known::Nothing(_) => return Err(SessionError::Lapsed),
        };
        if self.is_idle(&in_use, now).await? {
            return Err(SessionError::Lapsed);
        }
        let session = in_use.session.load_full();
        let ahead = InUse::ahead(&session, self.settings.refresh_ahead);
        let has_newer = session.tokens.last() != Some(&token.digest) && session.access_ends_at > now + ahead;
        let newest = if has_newer { session } else { self.renew(&in_use, session.version, Class::Refresh).await? };
        self.used(&in_use, now).await;
        Ok(newest.access_token.clone())
    }

    /// Ends the session of a token, everywhere: none of its tokens is accepted any more. `None` if
    /// the token, which still lives, has no session here; it is refused from now on all the same.
    ///
    /// # Errors
    /// [`SessionError::LoggedOut`] and [`SessionError::Lapsed`] if it was over before, [`SessionError::Store`]
    /// if other replicas could not be told yet: here it is over then.
    pub async fn end(&self, token: &VerifiedToken) -> Result<Option<EndedSession<'_>>, SessionError> {
        let now = unix_now();
        let in_use = match self.known(token, now).await {
            Ok(Known::Session(in_use)) => Some(in_use),
            Ok(Known::Ended) => return Err(SessionError::LoggedOut),
            Ok(Known::Nothing(_)) if token.has_ended(now) => return Err(SessionError::Lapsed),
            Ok(Known::Nothing(_)) => None,
            Err(error) => {
                self.known.insert(token.digest, Known::Ended);
                self.end_later(token.digest, None);
                return Err(error.into());
            }
        };
        self.known.insert(token.digest, Known::Ended);
        let Some(in_use) = in_use else {
            let refused = self.store.refuse(&token.digest).await;
            refused.inspect_err(|_| self.end_later(token.digest, None))?;
            return Ok(None);
        };
        let session = in_use.session.load_full();
        self.forget(&session);
        let ended = self.store.end(&session).await;
        ended.inspect_err(|_| self.end_later(token.digest, Some(Arc::clone(&session))))?;
        Ok(self.client_of(&session).map(|client| EndedSession {
            client,
            site: session.owner.site.clone(),
            access_token: session.access_token.clone(),
            refresh_token: session.refresh_token.clone(),
            registered: session.owner.registered,
        }))
    }

    /// Offers an end to the store until it takes it. Here the token is refused already, so whoever
    /// tries again would learn that all is done, while other replicas still accept it.
    fn end_later(&self, token: TokenDigest, session: Option<Arc<Session>>) {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            for _ in 0..END_TRIES {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let ended = match (&session, store.find(&token).await) {
                    (Some(session), _) => store.end(session).await,
                    (None, Ok(Found::Session(session, _))) => store.end(&session).await,
                    (None, Ok(Found::Nothing)) => store.refuse(&token).await,
                    (None, Ok(Found::Ended)) => Ok(()),
                    (None, Err(error)) => Err(error),
                };
                if ended.is_ok() {
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
        match self.end(token).await {
            Ok(_) | Err(SessionError::LoggedOut | SessionError::Lapsed) => {}
            Err(error) => return Err(error),
        }
        if let Some(customer) = &token.shopper.customer {
            for (digest, known) in self.known.iter() {
                let Known::Session(in_use) = known else { continue };
                let owner = &in_use.session.load().owner;
                if owner.organization == token.shopper.organization && owner.customer.as_ref() == Some(customer) {
                    self.known.insert(digest, Known::Ended);
                }
            }
            self.store.end_all(&token.shopper.organization, customer).await?;
        }
        Ok(())
    }

    /// How long this login has to wait for its turn; `None` if longer than `longest`.
    pub async fn turn(&self, who: &str, window: Duration, longest: Duration) -> Option<Duration> {
        // Without the store nobody queues: SLAS's own conflict is then waited out.
        self.store.turn(who.as_bytes(), window, longest).await.unwrap_or(Some(Duration::ZERO))
    }

    /// What is known of a token, asking the store where this process has not seen it. Once a token's
    /// session is known here, the news of other replicas keep it true.
    async fn known(&self, token: &VerifiedToken, now: u64) -> Result<Known, StoreError> {
        match self.known.get(&token.digest) {
            Some(Known::Nothing(at)) if at.saturating_add(NOTHING_FOR) <= now => {}
            Some(Known::Session(in_use)) => {
                let session = in_use.session.load();
                let ours = owns(&token.shopper, &session.owner);
                return Ok(if ours { Known::Session(Arc::clone(&in_use)) } else { Known::Nothing(now) });
            }
            Some(known) => return Ok(known),
            None => {}
        }
        let known = match self.store.find(&token.digest).await? {
            Found::Session(session, used_at) if owns(&token.shopper, &session.owner) => {
                Known::Session(Arc::new(InUse::new(session, used_at)))
            }
            Found::Session(..) | Found::Nothing => Known::Nothing(now),
            Found::Ended => Known::Ended,
        };
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
