//! Tokens on behalf of shoppers (TSOB), for trusted systems that may act for them.
//!
//! A token is obtained by one call to SLAS for all concurrent requests, on all replicas, inside SLAS's window of three
//! seconds per shopper. It then has a session, which is found by a name: a digest of the organization, the site, the
//! client and the shopper. The client that obtained the token refreshes it. A token never serves another name.
//!
//! A guest has no login and is identified by a USID. A request without a USID gets a new guest, whose token serves that
//! request only and is not cached.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::{
    polling::poll_until,
    sessions::{CachedSession, ReadyToken, SessionError, Sessions},
    single_flight::{FlightRole, SingleFlight},
    slas_window::ON_BEHALF,
};
use crate::{
    config::SlasClient,
    correlation,
    jwt::TokenDigest,
    observability::metrics::Metrics,
    salesforce::{
        error::SalesforceError,
        slas::{Slas, TokenResponse},
    },
    store::{CallerEntry, StoreError},
    types::{ByOrganization, OrganizationId, SiteId, Usid},
    verify::{shopper::Shopper, shopper_token::TokenError},
};

/// The identity provider of B2C Commerce itself. With any other, SLAS creates unknown shoppers.
pub const ECOM_IDP: &str = "ecom";
/// The login of guests.
pub const GUEST_LOGIN: &str = "guest";

/// How long the rejection of a login is cached: about as long as another call would be a conflict.
const LOGIN_REJECTED_TTL: Duration = Duration::from_secs(4);
/// How long a rejection for an unpublished reason is cached.
const UNEXPLAINED_REJECTION_TTL: Duration = Duration::from_secs(10);
/// How long a rejection of the gateway's client is cached for all shoppers. Its secret may be in rotation.
const CLIENT_REJECTED_TTL: Duration = Duration::from_secs(5);
/// How long a failure of SLAS is cached. It is short, so that the end of an outage is noticed.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// Maximum number of cached failures.
const MAX_REFUSALS: u64 = 10_000;

/// The shopper that a token speaks for, and where.
#[derive(Debug, Clone)]
pub struct OnBehalfSubject {
    /// The organization.
    pub organization: OrganizationId,
    /// The site.
    pub site: SiteId,
    /// The shopper.
    pub shopper: SubjectShopper,
    /// The trusted system that is given the token itself. No other caller's requests share its session.
    pub recipient: Option<CallerEntry>,
}

/// The shopper on whose behalf a trusted system acts.
#[derive(Debug, Clone)]
pub enum SubjectShopper {
    /// A shopper with a login.
    Registered {
        /// The identity provider that knows the login, e.g. [`ECOM_IDP`].
        idp: String,
        /// The login id.
        login: SecretString,
    },
    /// A guest that does not exist yet.
    NewGuest,
    /// The guest with this USID.
    Guest {
        /// The USID.
        usid: Usid,
        /// The trusted system. Other callers do not find its guests.
        caller: String,
    },
}

impl SubjectShopper {
    /// Identity provider, login and USID of the token request.
    fn request_parameters(&self) -> (&str, &str, Option<&Usid>) {
        match self {
            Self::Registered { idp, login } => (idp, login.expose_secret(), None),
            Self::NewGuest => (ECOM_IDP, GUEST_LOGIN, None),
            Self::Guest { usid, .. } => (ECOM_IDP, GUEST_LOGIN, Some(usid)),
        }
    }

    /// The login, or a guest's USID.
    #[must_use]
    pub fn login_or_usid(&self) -> &str {
        match self {
            Self::Registered { login, .. } => login.expose_secret(),
            Self::NewGuest => GUEST_LOGIN,
            Self::Guest { usid, .. } => usid.as_str(),
        }
    }

    /// Whether a token speaks for this shopper, as far as the token shows it. A guest's token never matches a login,
    /// and another guest's or a registered shopper's token never matches a USID.
    fn matches(&self, shopper: &Shopper) -> bool {
        match self {
            Self::Registered { .. } => shopper.is_registered,
            Self::NewGuest => !shopper.is_registered,
            Self::Guest { usid, .. } => !shopper.is_registered && shopper.usid == *usid,
        }
    }
}

/// Whether SLAS may read a login as the guest's. The comparison ignores case as Java does, where `ſ` equals `S`.
#[must_use]
pub fn is_guest_login(login: &str) -> bool {
    login.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).eq(GUEST_LOGIN.chars())
}

/// A living token on behalf of a shopper.
#[derive(Debug, Clone)]
pub struct OnBehalfToken {
    /// The token, verified and ready to be forwarded.
    pub ready: Arc<ReadyToken>,
    /// The name of its session; absent for a new guest's token.
    name: Option<TokenDigest>,
    subject: Arc<OnBehalfSubject>,
}

impl OnBehalfToken {
    /// The USID with which the next request continues as this guest; absent for a registered shopper.
    #[must_use]
    pub fn guest(&self) -> Option<&Usid> {
        let shopper = &self.ready.verified.shopper;
        (!shopper.is_registered).then_some(&shopper.usid)
    }
}

/// Why there is no token on behalf of a shopper.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnBehalfError {
    /// The organization has no client for on-behalf tokens configured.
    #[error("the organization has no client that acts on behalf of shoppers")]
    NoClient,
    /// SLAS does not know the login or the guest.
    #[error("no shopper has this login, or no guest this USID")]
    ShopperUnknown,
    /// Too many logins of the organization are waiting for SLAS.
    #[error("too many logins wait already")]
    TooManyWaiting,
    /// SLAS failed, or rejected the client.
    #[error("no token on behalf of the shopper: {0}")]
    Slas(SalesforceError),
    /// The store failed, and was needed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The client that obtains tokens on behalf of shoppers in one organization.
#[derive(Debug, Clone)]
pub struct TsobIssuer {
    /// The organization's SLAS.
    pub slas: Slas,
    /// The private client.
    pub client: SlasClient,
    /// Permits for logins that wait for SLAS at the same time; `None` if there is no limit.
    pub login_permits: Option<Arc<Semaphore>>,
}

type OnBehalfResult = Result<OnBehalfToken, OnBehalfError>;

/// The tokens on behalf of shoppers of all organizations.
#[derive(Debug)]
pub struct OnBehalfTokens {
    issuers: ByOrganization<TsobIssuer>,
    sessions: Arc<Sessions>,
    requests: Arc<SingleFlight<TokenDigest, OnBehalfResult>>,
    /// Failures, and until when the call is not repeated.
    failures: Cache<TokenDigest, (OnBehalfError, Instant)>,
    /// How long one request may wait in total.
    max_wait: Duration,
    /// The time limit of one call to SLAS.
    request_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl OnBehalfTokens {
    /// Tokens that `issuers` obtain, with their sessions in `sessions`. A request waits at most `max_wait` in total,
    /// and one call to SLAS takes at most `request_timeout`.
    #[must_use]
    pub fn new(
        issuers: ByOrganization<TsobIssuer>,
        sessions: Arc<Sessions>,
        max_wait: Duration,
        request_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            issuers,
            sessions,
            requests: SingleFlight::new(),
            failures: Cache::builder().max_capacity(MAX_REFUSALS).time_to_live(UNEXPLAINED_REJECTION_TTL).build(),
            max_wait,
            request_timeout,
            metrics,
        })
    }

    /// A living token on behalf of a shopper.
    ///
    /// # Errors
    /// [`OnBehalfError`].
    pub async fn token(self: &Arc<Self>, subject: &Arc<OnBehalfSubject>) -> OnBehalfResult {
        let issuer = self.issuers.get(&subject.organization).ok_or(OnBehalfError::NoClient)?;
        let Some(name) = name(issuer, subject) else { return self.new_guest(issuer, subject).await };
        // If the store is unavailable, the session may still be cached. Otherwise a token is requested.
        if let Ok(Some(cached)) = self.sessions.find_by_name(&name).await {
            match self.ready_token_of(&cached).await {
                Ok(ready) => {
                    self.count(if ready.is_ok() { "hit" } else { "error" });
                    return on_behalf(subject, Some(&name), ready);
                }
                Err(error) => self.check_session_error(&name, error)?,
            }
        }
        if let Some(refused) = self.cached_failure(issuer, subject, &name) {
            self.count("error");
            return Err(refused);
        }
        let work = || {
            let (tokens, issuer, subject) = (Arc::clone(self), issuer.clone(), subject.clone());
            async move {
                let permit = issuer.login_permits.as_ref().map(|permits| permits.try_acquire()).transpose();
                let _waiting = permit.map_err(|_| OnBehalfError::TooManyWaiting)?;
                tokens.obtain(&issuer, &subject, &name).await
            }
        };
        let (outcome, role) = self.requests.join(&name, work).await;
        let abandoned = OnBehalfError::Store(StoreError::Broken("obtaining a token was abandoned"));
        let outcome = outcome.unwrap_or(Err(abandoned));
        self.count(match (&outcome, role) {
            (Err(_), _) => "error",
            (Ok(_), FlightRole::Leader) => "miss",
            (Ok(_), FlightRole::Follower) => "coalesced",
        });
        outcome
    }

    /// Obtains the token of a new guest, which serves one request and is not cached.
    async fn new_guest(&self, issuer: &TsobIssuer, subject: &Arc<OnBehalfSubject>) -> OnBehalfResult {
        if let Some(refused) = self.cached_failure(issuer, subject, &new_guests_key(issuer, subject)) {
            self.count("error");
            return Err(refused);
        }
        let outcome = match issuer.login_permits.as_ref().map(|permits| permits.try_acquire()).transpose() {
            Ok(_waiting) => {
                self.request_token(issuer, subject, None, self.latest_start(Instant::now() + self.max_wait)).await
            }
            Err(_) => Err(OnBehalfError::TooManyWaiting),
        };
        self.count(if outcome.is_ok() { "miss" } else { "error" });
        outcome
    }

    /// The cached failure of a name or of the client.
    fn cached_failure(
        &self,
        issuer: &TsobIssuer,
        subject: &OnBehalfSubject,
        name: &TokenDigest,
    ) -> Option<OnBehalfError> {
        let now = Instant::now();
        let of = |key: &TokenDigest| self.failures.get(key).filter(|(_, until)| *until > now);
        of(name).or_else(|| of(&client_key(issuer, subject))).map(|(refused, _)| refused)
    }

    /// Caches a failure, for as long as another call would fail in the same way.
    fn cache_failure(
        &self,
        issuer: &TsobIssuer,
        subject: &OnBehalfSubject,
        name: Option<&TokenDigest>,
        error: &SalesforceError,
    ) {
        let refused = self.classify(subject, error);
        let now = Instant::now();
        if error.is_client_rejected() {
            self.failures.insert(client_key(issuer, subject), (refused.clone(), now + CLIENT_REJECTED_TTL));
        }
        let name = match (name, &subject.shopper) {
            (Some(name), _) => *name,
            // A rejection applies to all new guests, and a failure only to this call.
            (None, SubjectShopper::NewGuest) if matches!(error, SalesforceError::Rejected { .. }) => {
                new_guests_key(issuer, subject)
            }
            (None, _) => return,
        };
        if let Some(time) = failure_ttl(error, &refused) {
            self.failures.insert(name, (refused, now + time));
        }
    }

    /// Caches that SLAS issues tokens that the gateway rejects. Each further request would cost a call to SLAS.
    fn cache_unusable_token(
        &self,
        issuer: &TsobIssuer,
        subject: &OnBehalfSubject,
        name: Option<&TokenDigest>,
        error: &OnBehalfError,
    ) {
        let (key, time) = match (name, error) {
            (Some(name), OnBehalfError::ShopperUnknown) => (*name, LOGIN_REJECTED_TTL),
            (Some(name), OnBehalfError::Slas(_)) => (*name, UNEXPLAINED_REJECTION_TTL),
            (None, OnBehalfError::Slas(_)) => (new_guests_key(issuer, subject), UNEXPLAINED_REJECTION_TTL),
            _ => return,
        };
        self.failures.insert(key, (error.clone(), Instant::now() + time));
    }

    /// Tells an unknown login or USID from a failure that is not about the shopper.
    fn classify(&self, subject: &OnBehalfSubject, error: &SalesforceError) -> OnBehalfError {
        let is_about_shopper = match &subject.shopper {
            SubjectShopper::Registered { idp, .. } => idp == ECOM_IDP,
            SubjectShopper::Guest { .. } => true,
            SubjectShopper::NewGuest => false,
        };
        if is_about_shopper && error.is_login_id_rejected() {
            OnBehalfError::ShopperUnknown
        } else {
            OnBehalfError::Slas(error.clone())
        }
    }

    /// Obtains another token of a guest that is new in this request.
    async fn token_of_same_guest(&self, refused: &OnBehalfToken) -> Option<OnBehalfToken> {
        let OnBehalfToken { ready, subject, .. } = refused;
        let issuer = self.issuers.get(&subject.organization)?;
        let shopper = SubjectShopper::Guest { usid: ready.verified.shopper.usid.clone(), caller: String::new() };
        let subject = Arc::new(OnBehalfSubject { shopper, ..(*refused.subject).clone() });
        self.request_token(issuer, &subject, None, self.latest_start(Instant::now() + self.max_wait)).await.ok()
    }

    /// Another token in place of one that an API has rejected. `None` if there is no other.
    pub async fn replace_rejected(self: &Arc<Self>, refused: &OnBehalfToken) -> Option<OnBehalfToken> {
        let OnBehalfToken { ready, name: Some(name), subject } = refused else {
            return self.token_of_same_guest(refused).await;
        };
        if let Some(cached) = self.sessions.find_by_name(name).await.ok()? {
            match self.sessions.replace_rejected(&cached, &ready.verified.digest).await {
                Ok(newest) => {
                    let newest = newest?;
                    return on_behalf(subject, Some(name), self.sessions.ready_token(&cached, &newest).await).ok();
                }
                Err(error) => self.check_session_error(name, error).ok()?,
            }
        }
        self.token(subject).await.ok()
    }

    /// A valid token of a session. If the newest does not verify any more, the session is refreshed once for all
    /// callers.
    async fn ready_token_of(
        &self,
        cached: &Arc<CachedSession>,
    ) -> Result<Result<Arc<ReadyToken>, TokenError>, SessionError> {
        let newest = self.sessions.refresh_if_expired(cached).await?;
        let ready = self.sessions.ready_token(cached, &newest).await;
        let is_void = matches!(ready, Err(TokenError::UnknownKey | TokenError::InvalidSignature));
        let Some(refused) = newest.tokens.last().filter(|_| is_void) else { return Ok(ready) };
        match self.sessions.replace_rejected(cached, refused).await? {
            Some(other) => Ok(self.sessions.ready_token(cached, &other).await),
            None => Ok(ready),
        }
    }

    /// Forgets the name of a session that has ended, so that a new one begins. Other errors are returned.
    fn check_session_error(&self, name: &TokenDigest, error: SessionError) -> Result<(), OnBehalfError> {
        match error {
            SessionError::Expired | SessionError::LoggedOut | SessionError::RefreshRejected(_) => {
                self.sessions.forget_name(name);
                Ok(())
            }
            SessionError::Slas(error) => Err(OnBehalfError::Slas(error)),
            SessionError::Store(error) => Err(OnBehalfError::Store(error)),
        }
    }

    /// Obtains a token that is not in this process: from another replica that is obtaining it, or from SLAS.
    async fn obtain(&self, issuer: &TsobIssuer, subject: &Arc<OnBehalfSubject>, name: &TokenDigest) -> OnBehalfResult {
        let deadline = Instant::now() + self.max_wait;
        let latest_start = self.latest_start(deadline);
        let locked = poll_until(latest_start.into(), || async {
            match self.sessions.acquire_creation_lock(name).await {
                Ok(None) => self.token_of_other_replica(subject, name).await.map(Err),
                // Without the lock, two replicas may call SLAS, and the window separates them.
                lock => Some(Ok(lock.unwrap_or_default())),
            }
        });
        let creation_lock = match locked.await {
            Some(Err(token)) => return token,
            lock => lock.and_then(Result::ok).flatten(),
        };
        let outcome = match self.token_of_other_replica(subject, name).await {
            Some(token) => token,
            None => self.request_token(issuer, subject, Some(name), latest_start).await,
        };
        if let Some(creation_lock) = creation_lock {
            self.sessions.release_creation_lock(name, creation_lock).await;
        }
        outcome
    }

    /// The token that another replica has obtained since.
    async fn token_of_other_replica(
        &self,
        subject: &Arc<OnBehalfSubject>,
        name: &TokenDigest,
    ) -> Option<OnBehalfResult> {
        let cached = self.sessions.find_by_name(name).await.ok()??;
        let newest = self.sessions.refresh_if_expired(&cached).await.ok()?;
        Some(on_behalf(subject, Some(name), self.sessions.ready_token(&cached, &newest).await))
    }

    /// Requests a token from SLAS in the shopper's login slot, and retries conflicts. Guests have no slots: SLAS's
    /// window is per shopper, and guests share one login.
    async fn request_token(
        &self,
        issuer: &TsobIssuer,
        subject: &Arc<OnBehalfSubject>,
        name: Option<&TokenDigest>,
        latest_start: Instant,
    ) -> OnBehalfResult {
        let (idp, login, usid) = subject.shopper.request_parameters();
        if let SubjectShopper::Registered { .. } = subject.shopper {
            let provider = format!("{}|{idp}", subject.organization);
            let slot = ON_BEHALF.wait_for_slot(&self.sessions, &provider, login, latest_start).await;
            slot.map_err(OnBehalfError::Slas)?;
        }
        let attempt = || issuer.slas.trusted_system_token(&issuer.client, &subject.site, idp, login, usid);
        match ON_BEHALF.retry_conflicts(latest_start, attempt).await {
            Ok(response) => {
                let token = self.accept(subject, name, response).await;
                if let Err(error) = &token {
                    self.cache_unusable_token(issuer, subject, name, error);
                }
                token
            }
            Err(error) => {
                let refused = self.classify(subject, &error);
                if refused != OnBehalfError::ShopperUnknown {
                    let correlation_id = correlation::current_text();
                    tracing::warn!(organization = %subject.organization, %error, correlation_id, "no token on behalf of a shopper");
                }
                self.cache_failure(issuer, subject, name, &error);
                Err(refused)
            }
        }
    }

    /// The latest time at which a call to SLAS may begin, so that it ends before the deadline.
    fn latest_start(&self, deadline: Instant) -> Instant {
        deadline.checked_sub(self.request_timeout).unwrap_or_else(Instant::now)
    }

    async fn accept(
        &self,
        subject: &Arc<OnBehalfSubject>,
        name: Option<&TokenDigest>,
        response: TokenResponse,
    ) -> OnBehalfResult {
        let ready = self.sessions.verify_issued(&response.access_token, &subject.organization).await;
        let token = on_behalf(subject, name, ready.map(Arc::new))?;
        if !token.ready.verified.shopper.delegation.tsob {
            tracing::error!(organization = %subject.organization, "SLAS issued an on-behalf token without the mark tsob");
            return Err(OnBehalfError::Slas(SalesforceError::malformed("a token without the mark tsob")));
        }
        if !subject.shopper.matches(&token.ready.verified.shopper) {
            tracing::warn!(organization = %subject.organization, "SLAS issued another shopper's token, rejected");
            return Err(OnBehalfError::ShopperUnknown);
        }
        if token.ready.verified.shopper.site.as_ref().is_some_and(|site| *site != subject.site) {
            tracing::error!(organization = %subject.organization, "SLAS issued an on-behalf token for another site, rejected");
            return Err(OnBehalfError::Slas(SalesforceError::malformed("a token for another site")));
        }
        if let Some(name) = name {
            self.sessions.begin_named(name, &subject.site, &token.ready, subject.recipient.as_ref(), &response).await;
        }
        Ok(token)
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["on_behalf", result]).inc();
    }
}

fn on_behalf(
    subject: &Arc<OnBehalfSubject>,
    name: Option<&TokenDigest>,
    ready: Result<Arc<ReadyToken>, TokenError>,
) -> OnBehalfResult {
    let ready = ready.map_err(|error| {
        tracing::error!(%error, organization = %subject.organization, "SLAS issued a token that does not verify");
        OnBehalfError::Slas(SalesforceError::malformed("a token that does not verify"))
    })?;
    Ok(OnBehalfToken { ready, name: name.copied(), subject: Arc::clone(subject) })
}

/// How long a failure is cached. Calls that were not sent are not cached, because the call guard decides about them.
fn failure_ttl(error: &SalesforceError, refused: &OnBehalfError) -> Option<Duration> {
    match error {
        error if error.is_client_rejected() => Some(CLIENT_REJECTED_TTL),
        SalesforceError::Rejected { .. } if *refused != OnBehalfError::ShopperUnknown => {
            Some(UNEXPLAINED_REJECTION_TTL)
        }
        SalesforceError::Rejected { .. } | SalesforceError::Conflict => Some(LOGIN_REJECTED_TTL),
        SalesforceError::ServerError(_) | SalesforceError::Transport(_) | SalesforceError::Malformed(_) => {
            Some(FAILURE_TTL)
        }
        SalesforceError::RateLimited { .. } | SalesforceError::CircuitOpen | SalesforceError::Random(_) => None,
    }
}

/// The cache key of rejections of new guests.
fn new_guests_key(issuer: &TsobIssuer, subject: &OnBehalfSubject) -> TokenDigest {
    digest(issuer, subject, ["new guests", "", ""])
}

/// The cache key of rejections of the client.
fn client_key(issuer: &TsobIssuer, subject: &OnBehalfSubject) -> TokenDigest {
    digest(issuer, subject, ["client", "", ""])
}

/// The name of a session: a digest of where, for which shopper and by which client. Each part ends with a byte that no
/// part contains, so that names are distinct. A new guest has no name.
fn name(issuer: &TsobIssuer, subject: &OnBehalfSubject) -> Option<TokenDigest> {
    let (kind, who, of) = match &subject.shopper {
        SubjectShopper::Registered { idp, login } => ("on behalf", idp.as_str(), login.expose_secret()),
        SubjectShopper::Guest { usid, caller } => ("on behalf of a guest", caller.as_str(), usid.as_str()),
        SubjectShopper::NewGuest => return None,
    };
    Some(digest(issuer, subject, [kind, who, of]))
}

/// A digest of the organization, the site, the client and these parts.
fn digest(issuer: &TsobIssuer, subject: &OnBehalfSubject, [kind, who, of]: [&str; 3]) -> TokenDigest {
    let mut context = Context::new(&SHA256);
    let parts = [kind, subject.organization.as_str(), subject.site.as_str(), issuer.client.id.as_str(), who, of];
    let caller = subject.recipient.iter().flat_map(|caller| ["handed to", &caller.name, &caller.identity]);
    for part in parts.into_iter().chain(caller) {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let mut name = [0; 32];
    name.copy_from_slice(context.finish().as_ref());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_login_is_recognised_in_every_spelling() {
        for login in ["guest", "Guest", "GUEST", "gue\u{17f}t", "GUE\u{17f}T"] {
            assert!(is_guest_login(login), "{login}");
        }
        for login in ["", "guests", "guest1", "gues", "gu\u{e9}st", "guest@example.com"] {
            assert!(!is_guest_login(login), "{login}");
        }
    }
}
