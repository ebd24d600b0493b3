//! System tokens: Account Manager's answers to client credentials, held for as long as they are good.
//!
//! Owns when a client's credentials are exchanged, and how often at most. One exchange serves all who ask for
//! the same client, tenant and scopes; renewal runs behind the requests from about three quarters of a token's life; a
//! token is kept when its renewal fails, and is over when its time is. Failures are remembered by their kind: what
//! Account Manager has refused is not asked again soon, and what failed is asked again later and later.
//!
//! A token is found only by the very credentials that got it: their keyed hash is part of its name, so that
//! neither does a cached token excuse a wrong secret nor does a secret stand in a key.
//!
//! - `credentials`: a client's credentials, and the slot that its tokens are held under
//! - `failure`: why there is no token, and how long that is remembered
//! - `guess_limiter`: how many unverified secrets are sent to Account Manager
//! - `verified_secrets`: credentials that Account Manager has accepted, in this process or another
//! - `unknown_clients`: the answers for clients that are not configured

mod credentials;
mod failure;
mod guess_limiter;
mod unknown_clients;
mod verified_secrets;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{hmac, rand};
use http::HeaderValue;
use moka::{Expiry, sync::Cache};
use secrecy::ExposeSecret;

pub use self::{
    credentials::{ClientCredentials, Presenter, Slot},
    failure::SystemTokenFailure,
};
use self::{
    failure::{CLIENT_REFUSED_FOR, FIRST_PAUSE, LONGEST_PAUSE, MOST_FAILURES},
    guess_limiter::{GuessLimiter, GuessPermit},
    unknown_clients::{UnknownClients, until_refused},
    verified_secrets::VerifiedSecrets,
};
use super::single_flight::{Flights, Joined};
use crate::{
    correlation,
    jwt::{TokenDigest, bearer, token_digest},
    observability::metrics::Metrics,
    ratelimit::{BucketConfig, KeyedRateLimiter},
    salesforce::{
        account_manager::{AccountManager, SystemTokenResponse},
        error::SalesforceError,
    },
    store::SessionStore,
    time::random_fraction,
    types::{Scope, Scopes, TENANT_SCOPE_PREFIX, TenantId},
};

/// Most tokens held, of all clients, tenants and sets of scopes.
const MOST_TOKENS: u64 = 10_000;
/// Renewal begins at this part of a token's life, and up to [`RENEWAL_SPREAD`] later: replicas that began
/// together must not renew together.
const RENEWAL_FROM: f64 = 0.75;
const RENEWAL_SPREAD: f64 = 0.05;
/// How long a scope that the client has not is not asked for again.
const SCOPE_REFUSED_FOR: Duration = Duration::from_secs(300);
/// Longest life of a token that is believed; Account Manager gives half an hour.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// At most one replacement of a refused token in this time, so that an API that refuses everything makes no storm.
const REPLACEMENTS: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(1) };

/// A system token that the gateway got.
#[derive(Debug)]
pub struct SystemToken {
    /// `Bearer` and the token.
    pub authorization: HeaderValue,
    /// The token's name.
    pub digest: TokenDigest,
    /// What it may do.
    pub scopes: Scopes,
    ends_at: Instant,
    renew_at: Instant,
}

#[derive(Debug, Clone)]
struct Remembered {
    failure: SystemTokenFailure,
    until: Instant,
    /// How often in a row.
    times: u32,
}

type Outcome = Result<Arc<SystemToken>, SystemTokenFailure>;

/// The system tokens of every tenant.
#[derive(Debug)]
pub struct MachineTokens {
    held: Cache<Slot, Arc<SystemToken>>,
    failures: Cache<Slot, Remembered>,
    guess_limiter: GuessLimiter,
    verified_secrets: Arc<VerifiedSecrets>,
    unknown_clients: Arc<UnknownClients>,
    replacements: KeyedRateLimiter<Slot>,
    flights: Arc<Flights<Slot, Outcome>>,
    hashes: hmac::Key,
    metrics: Arc<Metrics>,
}

/// A token leaves the cache at its end, a failure when it is forgotten.
struct AtItsEnd;

impl Expiry<Slot, Arc<SystemToken>> for AtItsEnd {
    fn expire_after_create(&self, _: &Slot, token: &Arc<SystemToken>, now: Instant) -> Option<Duration> {
        Some(token.ends_at.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &Slot,
        token: &Arc<SystemToken>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.ends_at.saturating_duration_since(now))
    }
}

impl SystemToken {
    fn new(answer: &SystemTokenResponse, asked: &Scopes, asked_at: Instant) -> Option<Self> {
        let life = Duration::from_secs(answer.expires_in).min(LONGEST_LIFE);
        Some(Self {
            authorization: bearer(&answer.access_token)?,
            digest: token_digest(answer.access_token.expose_secret()),
            scopes: answer.granted_scopes(asked),
            ends_at: asked_at + life,
            renew_at: asked_at + life.mul_f64(RENEWAL_FROM + RENEWAL_SPREAD * random_fraction()),
        })
    }
}

impl MachineTokens {
    /// No token yet.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub fn new(metrics: Arc<Metrics>) -> Result<Arc<Self>, aws_lc_rs::error::Unspecified> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        Ok(Arc::new(Self {
            held: Cache::builder().max_capacity(MOST_TOKENS).expire_after(AtItsEnd).build(),
            failures: Cache::builder().max_capacity(MOST_FAILURES).time_to_live(SCOPE_REFUSED_FOR).build(),
            guess_limiter: GuessLimiter::new(),
            verified_secrets: Arc::new(VerifiedSecrets::new()),
            unknown_clients: Arc::new(UnknownClients::new()),
            replacements: KeyedRateLimiter::default(),
            flights: Flights::new(),
            hashes: hmac::Key::new(hmac::HMAC_SHA256, &key),
            metrics,
        }))
    }

    /// Leaves proofs of callers' credentials in this store for other gateways, and finds theirs there.
    pub fn share_proofs(&self, store: &Arc<dyn SessionStore>) {
        self.verified_secrets.share(store);
    }

    /// How many tokens are held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.run_pending_tasks();
        self.held.entry_count()
    }

    /// A token of these credentials for a tenant, with these scopes, and the slot that it is held under.
    ///
    /// # Errors
    /// [`SystemTokenFailure`].
    pub async fn token(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        presenter: Presenter,
        scopes: &Scopes,
    ) -> (Slot, Outcome) {
        let slot = self.slot(tenant, credentials, scopes);
        let outcome = self.in_slot(account_manager, credentials, presenter, &slot).await;
        (slot, outcome)
    }

    /// A token for which no scope is asked, not even the tenant's: Account Manager gives what the client has by default, and
    /// Salesforce judges by its roles.
    ///
    /// # Errors
    /// [`SystemTokenFailure`].
    pub async fn token_by_role(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        presenter: Presenter,
    ) -> (Slot, Outcome) {
        let slot = Slot { scopes: String::new(), ..self.slot(tenant, credentials, &Scopes::default()) };
        let outcome = self.in_slot(account_manager, credentials, presenter, &slot).await;
        (slot, outcome)
    }

    /// A token with any one of these scopes: they are alternatives, and a client may have just one of them.
    ///
    /// # Errors
    /// [`SystemTokenFailure`]; [`SystemTokenFailure::ScopeRefused`] if the client has none of them.
    pub async fn token_with_any(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        presenter: Presenter,
        alternatives: &Scopes,
    ) -> Result<(Slot, Arc<SystemToken>), SystemTokenFailure> {
        if alternatives.is_empty() {
            let (slot, outcome) = self.token(account_manager, tenant, credentials, presenter, &Scopes::default()).await;
            return outcome.map(|token| (slot, token));
        }
        for scope in alternatives.iter() {
            let scopes: Scopes = [scope.clone()].into_iter().collect();
            match self.token(account_manager, tenant, credentials, presenter, &scopes).await {
                (_, Err(SystemTokenFailure::ScopeRefused)) => {}
                (slot, outcome) => return outcome.map(|token| (slot, token)),
            }
        }
        Err(SystemTokenFailure::ScopeRefused)
    }

    /// Refuses a client that is not configured as Account Manager refuses a wrong secret, without a call. `alternatives`
    /// are the scopes that a configured client would be asked for.
    pub async fn refuse_unknown(
        &self,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        address: Option<IpAddr>,
        alternatives: &Scopes,
    ) -> SystemTokenFailure {
        let first: Scopes = alternatives.iter().take(1).cloned().collect();
        let slot = self.slot(tenant, credentials, &first);
        self.unknown_clients
            .refuse(&self.verified_secrets, (credentials.client.clone(), address), credentials, &slot)
            .await
    }

    /// Another token in place of one that an API refused: the one that somebody else got meanwhile, or a fresh one for all
    /// who were refused. Drops exactly the refused one, and no more than one a second; `None` if there is no other.
    pub async fn replace(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        credentials: &ClientCredentials,
        slot: &Slot,
        refused: &TokenDigest,
    ) -> Option<Arc<SystemToken>> {
        let work = || {
            let (tokens, account_manager) = (Arc::clone(self), account_manager.clone());
            let (credentials, slot, refused) = (credentials.clone(), slot.clone(), *refused);
            async move {
                match tokens.held.get(&slot) {
                    Some(held) if held.digest != refused => return Ok(held),
                    Some(_) => tokens
                        .replacements
                        .try_acquire(&slot, REPLACEMENTS, 1)
                        .map_err(|retry_after| SystemTokenFailure::Unavailable { retry_after })?,
                    None => {}
                }
                tokens.held.invalidate(&slot);
                tokens.exchange(account_manager, credentials, Presenter::Gateway, slot).await
            }
        };
        let (outcome, _) = self.flights.join(slot, work).await;
        outcome?.ok().filter(|token| token.digest != *refused)
    }

    async fn in_slot(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        credentials: &ClientCredentials,
        presenter: Presenter,
        slot: &Slot,
    ) -> Outcome {
        let now = Instant::now();
        if let Some(token) = self.held.get(slot).filter(|token| token.ends_at > now) {
            self.count("hit");
            if token.renew_at <= now && !self.has_just_failed(slot, now) {
                self.flights.begin(slot, || {
                    Arc::clone(self).exchange(account_manager.clone(), credentials.clone(), presenter, slot.clone())
                });
            }
            return Ok(token);
        }
        if let Some(remembered) = self.failures.get(slot).filter(|remembered| remembered.until > now) {
            self.count("error");
            return Err(remembered.failure_at(now));
        }
        let (outcome, joined) = self
            .flights
            .join(slot, || {
                Arc::clone(self).exchange(account_manager.clone(), credentials.clone(), presenter, slot.clone())
            })
            .await;
        let outcome = outcome.unwrap_or(Err(SystemTokenFailure::Unavailable { retry_after: FIRST_PAUSE }));
        self.count(match (&outcome, joined) {
            (Err(_), _) => "error",
            (Ok(_), Joined::First) => "miss",
            (Ok(_), Joined::Later) => "coalesced",
        });
        outcome
    }

    /// One exchange, whose outcome is remembered either way.
    async fn exchange(
        self: Arc<Self>,
        account_manager: AccountManager,
        credentials: ClientCredentials,
        presenter: Presenter,
        slot: Slot,
    ) -> Outcome {
        // Whoever looked before the last flight landed finds here what it brought.
        if let Some(token) = self.held.get(&slot).filter(|token| token.renew_at > Instant::now()) {
            return Ok(token);
        }
        let trial = self.trial(presenter, &credentials, &slot).await?;
        let Ok(scopes) = slot.scopes.parse::<Scopes>() else { return Err(SystemTokenFailure::ScopeRefused) };
        let asked_at = Instant::now();
        let answer = account_manager.client_credentials(&credentials.client, &credentials.secret, &scopes).await;
        let token = answer.and_then(|answer| {
            SystemToken::new(&answer, &scopes, asked_at)
                .ok_or(SalesforceError::malformed("a token that is no header value"))
        });
        match token {
            Ok(token) => {
                let token = Arc::new(token);
                self.failures.invalidate(&slot);
                self.verified_secrets.accepted(&slot.credentials, &credentials);
                self.unknown_clients.observe_success(&slot.tenant);
                self.held.insert(slot, Arc::clone(&token));
                Ok(token)
            }
            // The guard knows when it will be asked again; that is no failure of these credentials.
            Err(SalesforceError::CircuitOpen) => {
                self.unknown_clients.observe_failure(&slot.tenant);
                Err(SystemTokenFailure::Unavailable { retry_after: FIRST_PAUSE })
            }
            Err(error) => {
                let correlation_id = correlation::current_text();
                tracing::warn!(client = %slot.client, tenant = %slot.tenant, %error, correlation_id, "no system token");
                if refuses_secret(&error) {
                    self.unknown_clients.observe_refusal(&slot.tenant, asked_at.elapsed());
                    self.verified_secrets.refused(&slot.credentials, &credentials);
                    if let Some(trial) = trial {
                        self.guess_limiter.refused(&trial);
                        drop(trial);
                        until_refused(asked_at).await;
                    }
                }
                Err(self.remember(slot, &error))
            }
        }
    }

    /// The right to show these credentials to Account Manager; none is needed for proved ones, so that nobody's guesses
    /// hold them up.
    async fn trial(
        &self,
        presenter: Presenter,
        credentials: &ClientCredentials,
        slot: &Slot,
    ) -> Result<Option<GuessPermit>, SystemTokenFailure> {
        let Presenter::Client(address) = presenter else { return Ok(None) };
        if self.verified_secrets.is_known(&slot.credentials) {
            return Ok(None);
        }
        match self.guess_limiter.begin(&(slot.client.clone(), address), &slot.credentials).await {
            Ok(trial) => Ok(Some(trial)),
            Err(_) if self.verified_secrets.is_shared(&slot.credentials, credentials).await => Ok(None),
            Err(retry_after) => Err(SystemTokenFailure::TooManyGuesses { retry_after }),
        }
    }

    fn remember(&self, slot: Slot, error: &SalesforceError) -> SystemTokenFailure {
        let times = self.failures.get(&slot).map_or(0, |remembered| remembered.times.saturating_add(1));
        let pause = LONGEST_PAUSE
            .min(FIRST_PAUSE * 2_u32.saturating_pow(times.min(16)))
            .mul_f64(1.0 + 0.25 * random_fraction());
        let (failure, lasts) = match error {
            SalesforceError::Rejected { code, .. } if code == "invalid_scope" => {
                (SystemTokenFailure::ScopeRefused, SCOPE_REFUSED_FOR)
            }
            error if refuses_secret(error) => (SystemTokenFailure::CredentialsRefused, CLIENT_REFUSED_FOR),
            SalesforceError::RateLimited { retry_after: Some(wait) } => {
                (SystemTokenFailure::Unavailable { retry_after: *wait }, *wait)
            }
            _ => (SystemTokenFailure::Unavailable { retry_after: pause }, pause),
        };
        // Where the client's secret was changed at Account Manager, its token is over as well (fail closed).
        if failure == SystemTokenFailure::CredentialsRefused {
            self.held.invalidate(&slot);
        }
        if matches!(failure, SystemTokenFailure::Unavailable { .. }) {
            self.unknown_clients.observe_failure(&slot.tenant);
        }
        self.failures.insert(slot, Remembered { failure: failure.clone(), until: Instant::now() + lasts, times });
        failure
    }

    fn has_just_failed(&self, slot: &Slot, now: Instant) -> bool {
        self.failures.get(slot).is_some_and(|remembered| remembered.until > now)
    }

    fn slot(&self, tenant: &TenantId, credentials: &ClientCredentials, scopes: &Scopes) -> Slot {
        let mut hash = hmac::Context::with_key(&self.hashes);
        hash.update(credentials.client.as_str().as_bytes());
        // No client id holds a colon.
        hash.update(b":");
        hash.update(credentials.secret.expose_secret().as_bytes());
        let mut name = [0; 32];
        name.copy_from_slice(hash.sign().as_ref());
        let mut words: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        words.sort_unstable();
        let mut scopes = format!("{TENANT_SCOPE_PREFIX}{tenant}");
        for word in words {
            scopes.push(' ');
            scopes.push_str(word);
        }
        Slot { tenant: tenant.clone(), client: credentials.client.clone(), credentials: name, scopes }
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["system", result]).inc();
    }
}

/// Whether Account Manager refused the client or its secret.
fn refuses_secret(error: &SalesforceError) -> bool {
    matches!(error, SalesforceError::Rejected { code, .. } if code != "invalid_scope") && error.is_client_rejected()
}

impl Remembered {
    fn failure_at(&self, now: Instant) -> SystemTokenFailure {
        match &self.failure {
            SystemTokenFailure::Unavailable { .. } => SystemTokenFailure::Unavailable { retry_after: self.until - now },
            other => other.clone(),
        }
    }
}
