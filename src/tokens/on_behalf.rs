//! Tokens on behalf of shoppers (TSOB), for trusted systems that may act for them.
//!
//! Owns subject token is asked for, and how one that is not there comes to be: by one call to SLAS for all who ask, in
//! this process and among replicas, inside SLAS's window of three seconds for one shopper. Once it is there it is a
//! session like any other, found by a name made of who and where; it is refreshed by its refresh token and the
//! client that began it, and nobody's token ever serves another name.
//!
//! A guest has no login of its own: its USID names it. A request that names none gets a new guest, subject token serves
//! that request alone and is held by nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::{
    retry::poll_until,
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
    store::{CallerEntry, CreationLock, StoreError},
    types::{ByOrganization, OrganizationId, SiteId, Usid},
    verify::{shopper::Shopper, shopper_token::TokenError},
};

/// The identity provider of B2C Commerce itself; any other creates the shoppers that it is asked for.
pub const ECOM_IDP: &str = "ecom";
/// The login that stands for a guest.
pub const GUEST_LOGIN: &str = "guest";

/// How long SLAS's no to a login is not asked for again: about the time in which it would be a conflict anyway.
const LOGIN_REJECTED_TTL: Duration = Duration::from_secs(4);
/// How long a refusal for a reason that SLAS does not publish is not.
const UNEXPLAINED_REJECTION_TTL: Duration = Duration::from_secs(10);
/// How long a refusal of the gateway's own client is remembered for all shoppers: its secret may just be changing.
const CLIENT_REJECTED_TTL: Duration = Duration::from_secs(5);
/// How long a failure is not: an outage must not outlive itself.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// Most refusals remembered.
const MAX_REFUSALS: u64 = 10_000;

/// On subject behalf, and where.
#[derive(Debug, Clone)]
pub struct OnBehalfSubject {
    /// The organization.
    pub organization: OrganizationId,
    /// The site.
    pub site: SiteId,
    /// The shopper.
    pub shopper: SubjectShopper,
    /// The trusted system that is given the token itself. Its session is its own: no other caller's requests go with it.
    pub recipient: Option<CallerEntry>,
}

/// The shopper on subject behalf a trusted system acts.
#[derive(Debug, Clone)]
pub enum SubjectShopper {
    /// One with a login.
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
        /// Its USID.
        usid: Usid,
        /// The trusted system, subject guests are found by no other.
        caller: String,
    },
}

impl SubjectShopper {
    /// Identity provider, login and USID, as SLAS is asked for the token.
    fn request_parameters(&self) -> (&str, &str, Option<&Usid>) {
        match self {
            Self::Registered { idp, login } => (idp, login.expose_secret(), None),
            Self::NewGuest => (ECOM_IDP, GUEST_LOGIN, None),
            Self::Guest { usid, .. } => (ECOM_IDP, GUEST_LOGIN, Some(usid)),
        }
    }

    /// What names the shopper: a login, or a guest's USID.
    #[must_use]
    pub fn login_or_usid(&self) -> &str {
        match self {
            Self::Registered { login, .. } => login.expose_secret(),
            Self::NewGuest => GUEST_LOGIN,
            Self::Guest { usid, .. } => usid.as_str(),
        }
    }

    /// Whether a token speaks for this shopper, as far as it can be told: never a guest's for a login, however it is
    /// spelled, nor another guest's or a registered shopper's for a USID.
    fn matches(&self, shopper: &Shopper) -> bool {
        match self {
            Self::Registered { .. } => shopper.registered,
            Self::NewGuest => !shopper.registered,
            Self::Guest { usid, .. } => !shopper.registered && shopper.usid == *usid,
        }
    }
}

/// Whether SLAS may take a login for the guest's: without regard to case, as Java compares (`ſ` is an `S` to it).
#[must_use]
pub fn is_guest_login(login: &str) -> bool {
    login.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).eq(GUEST_LOGIN.chars())
}

/// A living token on behalf of a shopper.
#[derive(Debug, Clone)]
pub struct OnBehalfToken {
    /// The token, and who it speaks for.
    pub ready: Arc<ReadyToken>,
    /// The name it is held under; a new guest's token is not.
    name: Option<TokenDigest>,
    subject: Arc<OnBehalfSubject>,
}

impl OnBehalfToken {
    /// Whether it is a guest's that was new in this request.
    #[must_use]
    pub fn is_of_new_guest(&self) -> bool {
        self.name.is_none()
    }

    /// The USID by which the next request continues a guest; absent for a registered shopper.
    #[must_use]
    pub fn guest(&self) -> Option<&Usid> {
        let shopper = &self.ready.verified.shopper;
        (!shopper.registered).then_some(&shopper.usid)
    }
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnBehalfError {
    /// The tenant has no private client for it.
    #[error("the organization has no client that acts on behalf of shoppers")]
    NoClient,
    /// SLAS knows no such login, or no such guest.
    #[error("no shopper has this login, or no guest this USID")]
    ShopperUnknown,
    /// Too many logins of the organization wait for SLAS already.
    #[error("too many logins wait already")]
    TooManyWaiting,
    /// SLAS could not be asked or refused the client.
    #[error("no token on behalf of the shopper: {0}")]
    Slas(SalesforceError),
    /// The store could not be asked when that was needed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who obtains tokens on behalf of shoppers in one organization.
#[derive(Debug, Clone)]
pub struct TsobIssuer {
    /// Its SLAS.
    pub slas: Slas,
    /// The private client.
    pub client: SlasClient,
    /// How many logins may wait for SLAS at a time; `None`: no limit.
    pub login_permits: Option<Arc<Semaphore>>,
}

type OnBehalfResult = Result<OnBehalfToken, OnBehalfError>;

/// How the wait for the right to obtain a token ended.
enum Claimed {
    /// This replica has the right.
    Here(CreationLock),
    /// Another replica has obtained the token.
    ByOtherReplica(OnBehalfResult),
    /// The store could not be asked.
    StoreUnavailable,
}

/// The tokens on behalf of shoppers of every organization.
#[derive(Debug)]
pub struct OnBehalfTokens {
    issuers: ByOrganization<TsobIssuer>,
    sessions: Arc<Sessions>,
    requests: Arc<SingleFlight<TokenDigest, OnBehalfResult>>,
    /// What went wrong, and until when it is not tried again.
    failures: Cache<TokenDigest, (OnBehalfError, Instant)>,
    /// How long one request may wait for all of it.
    max_wait: Duration,
    /// Time limit of one call to SLAS.
    request_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl OnBehalfTokens {
    /// Tokens that `issuers` obtain, kept among `sessions`. `max_wait` is what a request may wait in all, `exchange`
    /// the time limit of one call to SLAS.
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
        // Without the store there may still be one that this process knows; without that, SLAS is asked.
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

    /// A guest's token that serves one request: nobody waits with it, and nothing holds it.
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

    /// Why SLAS is not worth asking for this name now.
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

    /// Remembers why SLAS gave no token, for as long as it would do so again.
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
            // What SLAS refuses one new guest it refuses the next, but a call that failed says nothing of the next.
            (None, SubjectShopper::NewGuest) if matches!(error, SalesforceError::Rejected { .. }) => {
                new_guests_key(issuer, subject)
            }
            (None, _) => return,
        };
        if let Some(time) = failure_ttl(error, &refused) {
            self.failures.insert(name, (refused, now + time));
        }
    }

    /// What SLAS's no means: a login or USID that nobody has, or something that is not about the shopper.
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

    /// Another token of a guest that was new in this request.
    async fn token_of_same_guest(&self, refused: &OnBehalfToken) -> Option<OnBehalfToken> {
        let OnBehalfToken { ready, subject, .. } = refused;
        let issuer = self.issuers.get(&subject.organization)?;
        let shopper = SubjectShopper::Guest { usid: ready.verified.shopper.usid.clone(), caller: String::new() };
        let subject = Arc::new(OnBehalfSubject { shopper, ..(*refused.subject).clone() });
        self.request_token(issuer, &subject, None, self.latest_start(Instant::now() + self.max_wait)).await.ok()
    }

    /// Another token in place of one that an API refused, dropping exactly that one; `None` if there is no other.
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

    /// A living token of a session. If the key of its newest is gone, another one is worth a refresh, for all who ask.
    async fn ready_token_of(
        &self,
        cached: &Arc<CachedSession>,
    ) -> Result<Result<Arc<ReadyToken>, TokenError>, SessionError> {
        let newest = self.sessions.refresh_if_expired(cached).await?;
        let ready = self.sessions.ready_token(cached, &newest).await;
        let is_void = matches!(ready, Err(TokenError::KeyUnknown | TokenError::SignatureWrong));
        let Some(refused) = newest.tokens.last().filter(|_| is_void) else { return Ok(ready) };
        match self.sessions.replace_rejected(cached, refused).await? {
            Some(other) => Ok(self.sessions.ready_token(cached, &other).await),
            None => Ok(ready),
        }
    }

    /// Whether a session's failure means that a new one must be begun, or that nothing can be done now.
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

    /// Gets a token that nobody here has: from another replica that is about to get it, or from SLAS.
    async fn obtain(&self, issuer: &TsobIssuer, subject: &Arc<OnBehalfSubject>, name: &TokenDigest) -> OnBehalfResult {
        let deadline = Instant::now() + self.max_wait;
        let latest_start = self.latest_start(deadline);
        let claimed = poll_until(latest_start.into(), || async {
            match self.sessions.acquire_creation_lock(name).await {
                Ok(Some(creation_lock)) => Some(Claimed::Here(creation_lock)),
                Ok(None) => self.token_of_other_replica(subject, name).await.map(Claimed::ByOtherReplica),
                Err(_) => Some(Claimed::StoreUnavailable),
            }
        });
        let creation_lock = match claimed.await {
            Some(Claimed::Here(creation_lock)) => Some(creation_lock),
            Some(Claimed::ByOtherReplica(token)) => return token,
            // One call too many is better than none.
            Some(Claimed::StoreUnavailable) | None => None,
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

    /// The token that another replica got meanwhile.
    async fn token_of_other_replica(
        &self,
        subject: &Arc<OnBehalfSubject>,
        name: &TokenDigest,
    ) -> Option<OnBehalfResult> {
        let cached = self.sessions.find_by_name(name).await.ok()??;
        let newest = self.sessions.refresh_if_expired(&cached).await.ok()?;
        Some(on_behalf(subject, Some(name), self.sessions.ready_token(&cached, &newest).await))
    }

    /// Asks SLAS, in this shopper's turn; a conflict, with whoever else asked for him, is waited out. Guests have no turns:
    /// their common login is no shopper's, and SLAS's window is one shopper's.
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
                if let (Some(name), Err(error @ OnBehalfError::ShopperUnknown)) = (name, &token) {
                    self.failures.insert(*name, (error.clone(), Instant::now() + LOGIN_REJECTED_TTL));
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
        if !token.ready.verified.shopper.marks.tsob {
            tracing::error!(organization = %subject.organization, "SLAS gave a token on behalf that does not say so");
            return Err(OnBehalfError::Slas(SalesforceError::malformed("a token without the mark tsob")));
        }
        if !subject.shopper.matches(&token.ready.verified.shopper) {
            tracing::warn!(organization = %subject.organization, "SLAS gave another shopper's token on behalf; refused");
            return Err(OnBehalfError::ShopperUnknown);
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
        tracing::error!(%error, organization = %subject.organization, "SLAS gave a token that does not verify");
        OnBehalfError::Slas(SalesforceError::malformed("a token that does not verify"))
    })?;
    Ok(OnBehalfToken { ready, name: name.copied(), subject: Arc::clone(subject) })
}

/// How long the same shopper is not asked for again. What was not sent is the guard's affair.
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

/// The name under which refusals of new guests are remembered.
fn new_guests_key(issuer: &TsobIssuer, subject: &OnBehalfSubject) -> TokenDigest {
    digest(issuer, subject, ["new guests", "", ""])
}

/// The name under which refusals of the client itself are remembered.
fn client_key(issuer: &TsobIssuer, subject: &OnBehalfSubject) -> TokenDigest {
    digest(issuer, subject, ["client", "", ""])
}

/// The name of a session on behalf: where, for whom and by which client. Each part ends with a byte that none of them
/// can hold, so that no two of them share a name; a new guest has none.
fn name(issuer: &TsobIssuer, subject: &OnBehalfSubject) -> Option<TokenDigest> {
    let (kind, who, of) = match &subject.shopper {
        SubjectShopper::Registered { idp, login } => ("on behalf", idp.as_str(), login.expose_secret()),
        SubjectShopper::Guest { usid, caller } => ("on behalf of a guest", caller.as_str(), usid.as_str()),
        SubjectShopper::NewGuest => return None,
    };
    Some(digest(issuer, subject, [kind, who, of]))
}

/// A digest of where, by which client, and these words.
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
