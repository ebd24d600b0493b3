//! Tokens on behalf of shoppers (TSOB), for trusted systems that may act for them.
//!
//! Owns whose token is asked for, and how one that is not there comes to be: by one call to SLAS for all who ask, in
//! this process and among replicas, inside SLAS's window of three seconds for one shopper. Once it is there it is a
//! session like any other, found by a name made of who and where; it is refreshed by its refresh token and the
//! client that began it, and nobody's token ever serves another name.
//!
//! A guest has no login of its own: its USID names it. A request that names none gets a new guest, whose token serves
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
    sessions::{InUse, ReadyToken, SessionError, Sessions},
    single_flight::{Flights, Joined},
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
    store::{CallerEntry, Claim, StoreError},
    types::{ByOrganization, OrganizationId, SiteId, Usid},
    verify::{shopper::Shopper, shopper_token::TokenError},
};

/// The identity provider of B2C Commerce itself; any other creates the shoppers that it is asked for.
pub const ECOM: &str = "ecom";
/// The login that stands for a guest.
pub const GUEST: &str = "guest";

/// How long SLAS's no to a login is not asked for again: about the time in which it would be a conflict anyway.
const REFUSED_FOR: Duration = Duration::from_secs(4);
/// How long a refusal for a reason that SLAS does not publish is not.
const UNEXPLAINED_FOR: Duration = Duration::from_secs(10);
/// How long a refusal of the gateway's own client is remembered for all shoppers: its secret may just be changing.
const CLIENT_REFUSED_FOR: Duration = Duration::from_secs(5);
/// How long a failure is not: an outage must not outlive itself.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Most refusals remembered.
const MOST_REFUSALS: u64 = 10_000;

/// On whose behalf, and where.
#[derive(Debug, Clone)]
pub struct OnBehalfOf {
    /// The organization.
    pub organization: OrganizationId,
    /// The site.
    pub site: SiteId,
    /// The shopper.
    pub whose: Whose,
    /// The trusted system that is given the token itself. Its session is its own: no other caller's requests go with it.
    pub handed_to: Option<CallerEntry>,
}

/// The shopper on whose behalf a trusted system acts.
#[derive(Debug, Clone)]
pub enum Whose {
    /// One with a login.
    Registered {
        /// The identity provider that knows the login, e.g. [`ECOM`].
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
        /// The trusted system, whose guests are found by no other.
        caller: String,
    },
}

impl Whose {
    /// Identity provider, login and USID, as SLAS is asked for the token.
    fn asked_for(&self) -> (&str, &str, Option<&Usid>) {
        match self {
            Self::Registered { idp, login } => (idp, login.expose_secret(), None),
            Self::NewGuest => (ECOM, GUEST, None),
            Self::Guest { usid, .. } => (ECOM, GUEST, Some(usid)),
        }
    }

    /// What names the shopper: a login, or a guest's USID.
    #[must_use]
    pub fn named_by(&self) -> &str {
        match self {
            Self::Registered { login, .. } => login.expose_secret(),
            Self::NewGuest => GUEST,
            Self::Guest { usid, .. } => usid.as_str(),
        }
    }

    /// Whether a token speaks for this shopper, as far as it can be told: never a guest's for a login, however it is
    /// spelled, nor another guest's or a registered shopper's for a USID.
    fn is(&self, shopper: &Shopper) -> bool {
        match self {
            Self::Registered { .. } => shopper.registered,
            Self::NewGuest => !shopper.registered,
            Self::Guest { usid, .. } => !shopper.registered && shopper.usid == *usid,
        }
    }
}

/// Whether SLAS may take a login for the guest's: without regard to case, as Java compares (`ſ` is an `S` to it).
#[must_use]
pub fn is_guest(login: &str) -> bool {
    login.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).eq(GUEST.chars())
}

/// A living token on behalf of a shopper.
#[derive(Debug, Clone)]
pub struct OnBehalfToken {
    /// The token, and who it speaks for.
    pub held: Arc<ReadyToken>,
    /// The name it is held under; a new guest's token is not.
    name: Option<TokenDigest>,
    whose: Arc<OnBehalfOf>,
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
        let shopper = &self.held.verified.shopper;
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
    TooMany,
    /// SLAS could not be asked or refused the client.
    #[error("no token on behalf of the shopper: {0}")]
    Slas(SalesforceError),
    /// The store could not be asked when that was needed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who obtains tokens on behalf of shoppers in one organization.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its SLAS.
    pub slas: Slas,
    /// The private client.
    pub client: SlasClient,
    /// How many logins may wait for SLAS at a time; `None`: no limit.
    pub waiting: Option<Arc<Semaphore>>,
}

type Outcome = Result<OnBehalfToken, OnBehalfError>;

/// How the wait for the right to obtain a token ended.
enum Claimed {
    /// This replica has the right.
    Here(Claim),
    /// Another replica has obtained the token.
    MadeElsewhere(Outcome),
    /// The store could not be asked.
    StoreUnavailable,
}

/// The tokens on behalf of shoppers of every organization.
#[derive(Debug)]
pub struct OnBehalfTokens {
    agents: ByOrganization<Agent>,
    sessions: Arc<Sessions>,
    flights: Arc<Flights<TokenDigest, Outcome>>,
    /// What went wrong, and until when it is not tried again.
    refused: Cache<TokenDigest, (OnBehalfError, Instant)>,
    /// How long one request may wait for all of it.
    patience: Duration,
    /// Time limit of one call to SLAS.
    exchange: Duration,
    metrics: Arc<Metrics>,
}

impl OnBehalfTokens {
    /// Tokens that `agents` obtain, kept among `sessions`. `patience` is what a request may wait in all, `exchange`
    /// the time limit of one call to SLAS.
    #[must_use]
    pub fn new(
        agents: ByOrganization<Agent>,
        sessions: Arc<Sessions>,
        patience: Duration,
        exchange: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            agents,
            sessions,
            flights: Flights::new(),
            refused: Cache::builder().max_capacity(MOST_REFUSALS).time_to_live(UNEXPLAINED_FOR).build(),
            patience,
            exchange,
            metrics,
        })
    }

    /// A living token on behalf of a shopper.
    ///
    /// # Errors
    /// [`OnBehalfError`].
    pub async fn token(self: &Arc<Self>, whose: &Arc<OnBehalfOf>) -> Outcome {
        let agent = self.agents.get(&whose.organization).ok_or(OnBehalfError::NoClient)?;
        let Some(name) = name(agent, whose) else { return self.new_guest(agent, whose).await };
        // Without the store there may still be one that this process knows; without that, SLAS is asked.
        if let Ok(Some(in_use)) = self.sessions.named(&name).await {
            match self.held(&in_use).await {
                Ok(held) => {
                    self.count(if held.is_ok() { "hit" } else { "error" });
                    return on_behalf(whose, Some(&name), held);
                }
                Err(error) => self.over(&name, error)?,
            }
        }
        if let Some(refused) = self.refusal(agent, whose, &name) {
            self.count("error");
            return Err(refused);
        }
        let work = || {
            let (tokens, agent, whose) = (Arc::clone(self), agent.clone(), whose.clone());
            async move {
                let waiting = agent.waiting.as_ref().map(|waiting| waiting.try_acquire()).transpose();
                let _waiting = waiting.map_err(|_| OnBehalfError::TooMany)?;
                tokens.obtain(&agent, &whose, &name).await
            }
        };
        let (outcome, joined) = self.flights.join(&name, work).await;
        let abandoned = OnBehalfError::Store(StoreError::Broken("obtaining a token was abandoned"));
        let outcome = outcome.unwrap_or(Err(abandoned));
        self.count(match (&outcome, joined) {
            (Err(_), _) => "error",
            (Ok(_), Joined::First) => "miss",
            (Ok(_), Joined::Later) => "coalesced",
        });
        outcome
    }

    /// A guest's token that serves one request: nobody waits with it, and nothing holds it.
    async fn new_guest(&self, agent: &Agent, whose: &Arc<OnBehalfOf>) -> Outcome {
        if let Some(refused) = self.refusal(agent, whose, &of_new_guests(agent, whose)) {
            self.count("error");
            return Err(refused);
        }
        let outcome = match agent.waiting.as_ref().map(|waiting| waiting.try_acquire()).transpose() {
            Ok(_waiting) => self.ask(agent, whose, None, self.latest_start(Instant::now() + self.patience)).await,
            Err(_) => Err(OnBehalfError::TooMany),
        };
        self.count(if outcome.is_ok() { "miss" } else { "error" });
        outcome
    }

    /// Why SLAS is not worth asking for this name now.
    fn refusal(&self, agent: &Agent, whose: &OnBehalfOf, name: &TokenDigest) -> Option<OnBehalfError> {
        let now = Instant::now();
        let of = |key: &TokenDigest| self.refused.get(key).filter(|(_, until)| *until > now);
        of(name).or_else(|| of(&of_client(agent, whose))).map(|(refused, _)| refused)
    }

    /// Remembers why SLAS gave no token, for as long as it would do so again.
    fn note_refusal(&self, agent: &Agent, whose: &OnBehalfOf, name: Option<&TokenDigest>, error: &SalesforceError) {
        let refused = self.meaning(whose, error);
        let now = Instant::now();
        if error.is_client_rejected() {
            self.refused.insert(of_client(agent, whose), (refused.clone(), now + CLIENT_REFUSED_FOR));
        }
        let name = match (name, &whose.whose) {
            (Some(name), _) => *name,
            // What SLAS refuses one new guest it refuses the next, but a call that failed says nothing of the next.
            (None, Whose::NewGuest) if matches!(error, SalesforceError::Rejected { .. }) => of_new_guests(agent, whose),
            (None, _) => return,
        };
        if let Some(time) = remembered_for(error, &refused) {
            self.refused.insert(name, (refused, now + time));
        }
    }

    /// What SLAS's no means: a login or USID that nobody has, or something that is not about the shopper.
    fn meaning(&self, whose: &OnBehalfOf, error: &SalesforceError) -> OnBehalfError {
        let is_about_shopper = match &whose.whose {
            Whose::Registered { idp, .. } => idp == ECOM,
            Whose::Guest { .. } => true,
            Whose::NewGuest => false,
        };
        if is_about_shopper && error.is_login_id_rejected() {
            OnBehalfError::ShopperUnknown
        } else {
            OnBehalfError::Slas(error.clone())
        }
    }

    /// Another token of a guest that was new in this request.
    async fn same_guest(&self, refused: &OnBehalfToken) -> Option<OnBehalfToken> {
        let OnBehalfToken { held, whose, .. } = refused;
        let agent = self.agents.get(&whose.organization)?;
        let whose = Whose::Guest { usid: held.verified.shopper.usid.clone(), caller: String::new() };
        let whose = Arc::new(OnBehalfOf { whose, ..(*refused.whose).clone() });
        self.ask(agent, &whose, None, self.latest_start(Instant::now() + self.patience)).await.ok()
    }

    /// Another token in place of one that an API refused, dropping exactly that one; `None` if there is no other.
    pub async fn replace(self: &Arc<Self>, refused: &OnBehalfToken) -> Option<OnBehalfToken> {
        let OnBehalfToken { held, name: Some(name), whose } = refused else { return self.same_guest(refused).await };
        if let Some(in_use) = self.sessions.named(name).await.ok()? {
            match self.sessions.replace_refused(&in_use, &held.verified.digest).await {
                Ok(newest) => {
                    let newest = newest?;
                    return on_behalf(whose, Some(name), self.sessions.held(&in_use, &newest).await).ok();
                }
                Err(error) => self.over(name, error).ok()?,
            }
        }
        self.token(whose).await.ok()
    }

    /// A living token of a session. If the key of its newest is gone, another one is worth a refresh, for all who ask.
    async fn held(&self, in_use: &Arc<InUse>) -> Result<Result<Arc<ReadyToken>, TokenError>, SessionError> {
        let newest = self.sessions.newest_of(in_use).await?;
        let held = self.sessions.held(in_use, &newest).await;
        let is_void = matches!(held, Err(TokenError::KeyUnknown | TokenError::SignatureWrong));
        let Some(refused) = newest.tokens.last().filter(|_| is_void) else { return Ok(held) };
        match self.sessions.replace_refused(in_use, refused).await? {
            Some(other) => Ok(self.sessions.held(in_use, &other).await),
            None => Ok(held),
        }
    }

    /// Whether a session's failure means that a new one must be begun, or that nothing can be done now.
    fn over(&self, name: &TokenDigest, error: SessionError) -> Result<(), OnBehalfError> {
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
    async fn obtain(&self, agent: &Agent, whose: &Arc<OnBehalfOf>, name: &TokenDigest) -> Outcome {
        let deadline = Instant::now() + self.patience;
        let latest_start = self.latest_start(deadline);
        let claimed = poll_until(latest_start.into(), || async {
            match self.sessions.claim(name).await {
                Ok(Some(claim)) => Some(Claimed::Here(claim)),
                Ok(None) => self.made_elsewhere(whose, name).await.map(Claimed::MadeElsewhere),
                Err(_) => Some(Claimed::StoreUnavailable),
            }
        });
        let claim = match claimed.await {
            Some(Claimed::Here(claim)) => Some(claim),
            Some(Claimed::MadeElsewhere(token)) => return token,
            // One call too many is better than none.
            Some(Claimed::StoreUnavailable) | None => None,
        };
        let outcome = match self.made_elsewhere(whose, name).await {
            Some(token) => token,
            None => self.ask(agent, whose, Some(name), latest_start).await,
        };
        if let Some(claim) = claim {
            self.sessions.release(name, claim).await;
        }
        outcome
    }

    /// The token that another replica got meanwhile.
    async fn made_elsewhere(&self, whose: &Arc<OnBehalfOf>, name: &TokenDigest) -> Option<Outcome> {
        let in_use = self.sessions.named(name).await.ok()??;
        let newest = self.sessions.newest_of(&in_use).await.ok()?;
        Some(on_behalf(whose, Some(name), self.sessions.held(&in_use, &newest).await))
    }

    /// Asks SLAS, in this shopper's turn; a conflict, with whoever else asked for him, is waited out. Guests have no turns:
    /// their common login is no shopper's, and SLAS's window is one shopper's.
    async fn ask(
        &self,
        agent: &Agent,
        whose: &Arc<OnBehalfOf>,
        name: Option<&TokenDigest>,
        latest_start: Instant,
    ) -> Outcome {
        let (idp, login, usid) = whose.whose.asked_for();
        if let Whose::Registered { .. } = whose.whose {
            let provider = format!("{}|{idp}", whose.organization);
            let slot = ON_BEHALF.wait_for_slot(&self.sessions, &provider, login, latest_start).await;
            slot.map_err(OnBehalfError::Slas)?;
        }
        let attempt = || agent.slas.trusted_system_token(&agent.client, &whose.site, idp, login, usid);
        match ON_BEHALF.retry_conflicts(latest_start, attempt).await {
            Ok(answer) => {
                let token = self.keep(whose, name, answer).await;
                if let (Some(name), Err(error @ OnBehalfError::ShopperUnknown)) = (name, &token) {
                    self.refused.insert(*name, (error.clone(), Instant::now() + REFUSED_FOR));
                }
                token
            }
            Err(error) => {
                let refused = self.meaning(whose, &error);
                if refused != OnBehalfError::ShopperUnknown {
                    let correlation_id = correlation::current_text();
                    tracing::warn!(organization = %whose.organization, %error, correlation_id, "no token on behalf of a shopper");
                }
                self.note_refusal(agent, whose, name, &error);
                Err(refused)
            }
        }
    }

    /// The latest time at which a call to SLAS may begin, so that it ends before the deadline.
    fn latest_start(&self, deadline: Instant) -> Instant {
        deadline.checked_sub(self.exchange).unwrap_or_else(Instant::now)
    }

    async fn keep(&self, whose: &Arc<OnBehalfOf>, name: Option<&TokenDigest>, answer: TokenResponse) -> Outcome {
        let held = self.sessions.issued(&answer.access_token, &whose.organization).await;
        let token = on_behalf(whose, name, held.map(Arc::new))?;
        if !token.held.verified.shopper.marks.tsob {
            tracing::error!(organization = %whose.organization, "SLAS gave a token on behalf that does not say so");
            return Err(OnBehalfError::Slas(SalesforceError::malformed("a token without the mark tsob")));
        }
        if !whose.whose.is(&token.held.verified.shopper) {
            tracing::warn!(organization = %whose.organization, "SLAS gave another shopper's token on behalf; refused");
            return Err(OnBehalfError::ShopperUnknown);
        }
        if let Some(name) = name {
            self.sessions.begin_named(name, &whose.site, &token.held, whose.handed_to.as_ref(), &answer).await;
        }
        Ok(token)
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["on_behalf", result]).inc();
    }
}

fn on_behalf(
    whose: &Arc<OnBehalfOf>,
    name: Option<&TokenDigest>,
    held: Result<Arc<ReadyToken>, TokenError>,
) -> Outcome {
    let held = held.map_err(|error| {
        tracing::error!(%error, organization = %whose.organization, "SLAS gave a token that does not verify");
        OnBehalfError::Slas(SalesforceError::malformed("a token that does not verify"))
    })?;
    Ok(OnBehalfToken { held, name: name.copied(), whose: Arc::clone(whose) })
}

/// How long the same shopper is not asked for again. What was not sent is the guard's affair.
fn remembered_for(error: &SalesforceError, refused: &OnBehalfError) -> Option<Duration> {
    match error {
        error if error.is_client_rejected() => Some(CLIENT_REFUSED_FOR),
        SalesforceError::Rejected { .. } if *refused != OnBehalfError::ShopperUnknown => Some(UNEXPLAINED_FOR),
        SalesforceError::Rejected { .. } | SalesforceError::Conflict => Some(REFUSED_FOR),
        SalesforceError::ServerError(_) | SalesforceError::Transport(_) | SalesforceError::Malformed(_) => {
            Some(FAILED_FOR)
        }
        SalesforceError::RateLimited { .. } | SalesforceError::CircuitOpen | SalesforceError::Random(_) => None,
    }
}

/// The name under which refusals of new guests are remembered.
fn of_new_guests(agent: &Agent, whose: &OnBehalfOf) -> TokenDigest {
    digest(agent, whose, ["new guests", "", ""])
}

/// The name under which refusals of the client itself are remembered.
fn of_client(agent: &Agent, whose: &OnBehalfOf) -> TokenDigest {
    digest(agent, whose, ["client", "", ""])
}

/// The name of a session on behalf: where, for whom and by which client. Each part ends with a byte that none of them
/// can hold, so that no two of them share a name; a new guest has none.
fn name(agent: &Agent, whose: &OnBehalfOf) -> Option<TokenDigest> {
    let (kind, who, of) = match &whose.whose {
        Whose::Registered { idp, login } => ("on behalf", idp.as_str(), login.expose_secret()),
        Whose::Guest { usid, caller } => ("on behalf of a guest", caller.as_str(), usid.as_str()),
        Whose::NewGuest => return None,
    };
    Some(digest(agent, whose, [kind, who, of]))
}

/// A digest of where, by which client, and these words.
fn digest(agent: &Agent, whose: &OnBehalfOf, [kind, who, of]: [&str; 3]) -> TokenDigest {
    let mut context = Context::new(&SHA256);
    let parts = [kind, whose.organization.as_str(), whose.site.as_str(), agent.client.id.as_str(), who, of];
    let caller = whose.handed_to.iter().flat_map(|caller| ["handed to", &caller.name, &caller.identity]);
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
    fn every_spelling_of_guest_is_the_guests() {
        for login in ["guest", "Guest", "GUEST", "gue\u{17f}t", "GUE\u{17f}T"] {
            assert!(is_guest(login), "{login}");
        }
        for login in ["", "guests", "guest1", "gues", "gu\u{e9}st", "guest@example.com"] {
            assert!(!is_guest(login), "{login}");
        }
    }
}
