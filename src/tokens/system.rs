//! System tokens: obtained from Account Manager with client credentials, and cached until they expire.
//!
//! One exchange serves all concurrent requests for the same client, tenant and scopes. From about three quarters of a
//! token's lifetime, it is refreshed in the background. If a refresh fails, the token remains usable until it expires.
//! Failures are cached by their kind: rejections for a fixed time, failures of Account Manager with exponential
//! backoff.
//!
//! A keyed hash of the credentials is part of the cache key. So a cached token is never returned for a wrong secret,
//! and no key contains a secret.
//!
//! - `credentials`: a client's credentials, and the cache key of its tokens
//! - `failure`: why there is no token, and how long that is cached
//! - `guess_limiter`: how many unverified secrets are sent to Account Manager
//! - `verified_secrets`: credentials that Account Manager has accepted, in this process or another
//! - `unknown_clients`: the responses to clients that are not configured

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
    credentials::{ClientCredentials, Presenter, TokenKey},
    failure::SystemTokenFailure,
};
use self::{
    failure::{CLIENT_REJECTED_TTL, MAX_BACKOFF, MAX_FAILURES, MIN_BACKOFF},
    guess_limiter::{GuessLimiter, GuessPermit},
    unknown_clients::{UnknownClients, until_rejection_time},
    verified_secrets::VerifiedSecrets,
};
use super::single_flight::{FlightRole, SingleFlight};
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

/// Maximum number of cached tokens.
const MAX_TOKENS: u64 = 10_000;
/// The part of a token's lifetime after which it is refreshed, and a random addition: replicas that started together
/// must not refresh together.
const REFRESH_FROM: f64 = 0.75;
const REFRESH_SPREAD: f64 = 0.05;
/// How long the rejection of a scope is cached.
const SCOPE_REJECTED_TTL: Duration = Duration::from_secs(300);
/// Maximum lifetime of a cached token. Account Manager's tokens are valid for half an hour.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How often a token is replaced because an API rejected it. An API that rejects every token causes no storm.
const REPLACEMENTS: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(1) };

/// A system token.
#[derive(Debug)]
pub struct SystemToken {
    /// `Bearer` and the token.
    pub authorization: HeaderValue,
    /// The token's digest.
    pub digest: TokenDigest,
    /// The granted scopes.
    pub scopes: Scopes,
    expires_at: Instant,
    refresh_at: Instant,
}

#[derive(Debug, Clone)]
struct CachedFailure {
    failure: SystemTokenFailure,
    until: Instant,
    /// The number of consecutive failures before this one.
    times: u32,
}

type SystemTokenResult = Result<Arc<SystemToken>, SystemTokenFailure>;

/// The system tokens of all tenants.
#[derive(Debug)]
pub struct SystemTokens {
    held: Cache<TokenKey, Arc<SystemToken>>,
    failures: Cache<TokenKey, CachedFailure>,
    guess_limiter: GuessLimiter,
    verified_secrets: Arc<VerifiedSecrets>,
    unknown_clients: Arc<UnknownClients>,
    replacements: KeyedRateLimiter<TokenKey>,
    exchanges: Arc<SingleFlight<TokenKey, SystemTokenResult>>,
    hashes: hmac::Key,
    metrics: Arc<Metrics>,
}

/// A token leaves the cache when it expires.
struct TokenExpiry;

impl Expiry<TokenKey, Arc<SystemToken>> for TokenExpiry {
    fn expire_after_create(&self, _: &TokenKey, token: &Arc<SystemToken>, now: Instant) -> Option<Duration> {
        Some(token.expires_at.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &TokenKey,
        token: &Arc<SystemToken>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.expires_at.saturating_duration_since(now))
    }
}

impl SystemToken {
    fn new(response: &SystemTokenResponse, requested: &Scopes, requested_at: Instant) -> Option<Self> {
        let life = Duration::from_secs(response.expires_in).min(MAX_LIFETIME);
        Some(Self {
            authorization: bearer(&response.access_token)?,
            digest: token_digest(response.access_token.expose_secret()),
            scopes: response.granted_scopes(requested),
            expires_at: requested_at + life,
            refresh_at: requested_at + life.mul_f64(REFRESH_FROM + REFRESH_SPREAD * random_fraction()),
        })
    }
}

impl SystemTokens {
    /// A cache without tokens.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub fn new(metrics: Arc<Metrics>) -> Result<Arc<Self>, aws_lc_rs::error::Unspecified> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        Ok(Arc::new(Self {
            held: Cache::builder().max_capacity(MAX_TOKENS).expire_after(TokenExpiry).build(),
            failures: Cache::builder().max_capacity(MAX_FAILURES).time_to_live(SCOPE_REJECTED_TTL).build(),
            guess_limiter: GuessLimiter::new(),
            verified_secrets: Arc::new(VerifiedSecrets::new()),
            unknown_clients: Arc::new(UnknownClients::new()),
            replacements: KeyedRateLimiter::default(),
            exchanges: SingleFlight::new(),
            hashes: hmac::Key::new(hmac::HMAC_SHA256, &key),
            metrics,
        }))
    }

    /// Shares the verification of callers' credentials with other replicas through this store.
    pub fn use_store(&self, store: &Arc<dyn SessionStore>) {
        self.verified_secrets.share(store);
    }

    /// The number of cached tokens.
    #[must_use]
    pub fn cached_tokens(&self) -> u64 {
        self.held.run_pending_tasks();
        self.held.entry_count()
    }

    /// Returns a token of these credentials for a tenant, with these scopes, and its cache key.
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
    ) -> (TokenKey, SystemTokenResult) {
        let key = self.key(tenant, credentials, scopes);
        let outcome = self.token_for_key(account_manager, credentials, presenter, &key).await;
        (key, outcome)
    }

    /// Returns a token without requested scopes, not even the tenant's. Account Manager grants the client's default
    /// scopes, and Salesforce authorizes by its roles.
    ///
    /// # Errors
    /// [`SystemTokenFailure`].
    pub async fn token_by_role(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        presenter: Presenter,
    ) -> (TokenKey, SystemTokenResult) {
        let key = TokenKey { scopes: String::new(), ..self.key(tenant, credentials, &Scopes::default()) };
        let outcome = self.token_for_key(account_manager, credentials, presenter, &key).await;
        (key, outcome)
    }

    /// Returns a token with one of these alternative scopes.
    ///
    /// # Errors
    /// [`SystemTokenFailure`]; [`SystemTokenFailure::ScopeRejected`] if the client has none of them.
    pub async fn token_with_any(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        presenter: Presenter,
        alternatives: &Scopes,
    ) -> Result<(TokenKey, Arc<SystemToken>), SystemTokenFailure> {
        if alternatives.is_empty() {
            let (key, outcome) = self.token(account_manager, tenant, credentials, presenter, &Scopes::default()).await;
            return outcome.map(|token| (key, token));
        }
        for scope in alternatives.iter() {
            let scopes: Scopes = [scope.clone()].into_iter().collect();
            match self.token(account_manager, tenant, credentials, presenter, &scopes).await {
                (_, Err(SystemTokenFailure::ScopeRejected)) => {}
                (key, outcome) => return outcome.map(|token| (key, token)),
            }
        }
        Err(SystemTokenFailure::ScopeRejected)
    }

    /// Rejects a client that is not configured, in the same way and time as Account Manager rejects a wrong secret, but
    /// without a call. `alternatives` are the scopes that would be requested for a configured client.
    pub async fn reject_unknown_client(
        &self,
        tenant: &TenantId,
        credentials: &ClientCredentials,
        address: Option<IpAddr>,
        alternatives: &Scopes,
    ) -> SystemTokenFailure {
        let first: Scopes = alternatives.iter().take(1).cloned().collect();
        let key = self.key(tenant, credentials, &first);
        self.unknown_clients
            .refuse(&self.verified_secrets, (credentials.client.clone(), address), credentials, &key)
            .await
    }

    /// Another token in place of one that an API has rejected: one that was obtained since, or a new one for all
    /// callers. `None` if there is no other, or the token was replaced less than a second ago.
    pub async fn replace_rejected(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        credentials: &ClientCredentials,
        key: &TokenKey,
        refused: &TokenDigest,
    ) -> Option<Arc<SystemToken>> {
        let work = || {
            let (tokens, account_manager) = (Arc::clone(self), account_manager.clone());
            let (credentials, key, refused) = (credentials.clone(), key.clone(), *refused);
            async move {
                match tokens.held.get(&key) {
                    Some(held) if held.digest != refused => return Ok(held),
                    Some(_) => tokens
                        .replacements
                        .try_acquire(&key, REPLACEMENTS, 1)
                        .map_err(|retry_after| SystemTokenFailure::Unavailable { retry_after })?,
                    None => {}
                }
                tokens.held.invalidate(&key);
                tokens.exchange(account_manager, credentials, Presenter::Gateway, key).await
            }
        };
        let (outcome, _) = self.exchanges.join(key, work).await;
        outcome?.ok().filter(|token| token.digest != *refused)
    }

    async fn token_for_key(
        self: &Arc<Self>,
        account_manager: &AccountManager,
        credentials: &ClientCredentials,
        presenter: Presenter,
        key: &TokenKey,
    ) -> SystemTokenResult {
        let now = Instant::now();
        if let Some(token) = self.held.get(key).filter(|token| token.expires_at > now) {
            self.count("hit");
            if token.refresh_at <= now && !self.has_recent_failure(key, now) {
                self.exchanges.start(key, || {
                    Arc::clone(self).exchange(account_manager.clone(), credentials.clone(), presenter, key.clone())
                });
            }
            return Ok(token);
        }
        if let Some(cached) = self.failures.get(key).filter(|cached| cached.until > now) {
            self.count("error");
            return Err(cached.failure_at(now));
        }
        let (outcome, role) = self
            .exchanges
            .join(key, || {
                Arc::clone(self).exchange(account_manager.clone(), credentials.clone(), presenter, key.clone())
            })
            .await;
        let outcome = outcome.unwrap_or(Err(SystemTokenFailure::Unavailable { retry_after: MIN_BACKOFF }));
        self.count(match (&outcome, role) {
            (Err(_), _) => "error",
            (Ok(_), FlightRole::Leader) => "miss",
            (Ok(_), FlightRole::Follower) => "coalesced",
        });
        outcome
    }

    /// One exchange at Account Manager, whose result is cached.
    async fn exchange(
        self: Arc<Self>,
        account_manager: AccountManager,
        credentials: ClientCredentials,
        presenter: Presenter,
        key: TokenKey,
    ) -> SystemTokenResult {
        // The token may have been cached after the caller's lookup.
        if let Some(token) = self.held.get(&key).filter(|token| token.refresh_at > Instant::now()) {
            return Ok(token);
        }
        let permit = self.guess_permit(presenter, &credentials, &key).await?;
        let Ok(scopes) = key.scopes.parse::<Scopes>() else { return Err(SystemTokenFailure::ScopeRejected) };
        let requested_at = Instant::now();
        let response = account_manager.client_credentials(&credentials.client, &credentials.secret, &scopes).await;
        let token = response.and_then(|response| {
            SystemToken::new(&response, &scopes, requested_at)
                .ok_or(SalesforceError::malformed("a token that is not a valid header value"))
        });
        match token {
            Ok(token) => {
                let token = Arc::new(token);
                self.failures.invalidate(&key);
                self.verified_secrets.accepted(&key.credentials, &credentials);
                self.unknown_clients.observe_success(&key.tenant);
                self.held.insert(key, Arc::clone(&token));
                Ok(token)
            }
            // The call guard decides about the next call, and the credentials are not at fault.
            Err(SalesforceError::CircuitOpen) => {
                self.unknown_clients.observe_failure(&key.tenant);
                Err(SystemTokenFailure::Unavailable { retry_after: MIN_BACKOFF })
            }
            Err(error) => {
                let correlation_id = correlation::current_text();
                tracing::warn!(client = %key.client, tenant = %key.tenant, %error, correlation_id, "system token not obtained");
                if is_secret_rejected(&error) {
                    self.unknown_clients.observe_rejection(&key.tenant, requested_at.elapsed());
                    self.verified_secrets.refused(&key.credentials, &credentials);
                    if let Some(permit) = permit {
                        self.guess_limiter.refused(&permit);
                        drop(permit);
                        until_rejection_time(requested_at).await;
                    }
                }
                Err(self.cache_failure(key, &error))
            }
        }
    }

    /// A permit to send these credentials to Account Manager. Verified credentials need none, so that guesses cannot
    /// delay them.
    async fn guess_permit(
        &self,
        presenter: Presenter,
        credentials: &ClientCredentials,
        key: &TokenKey,
    ) -> Result<Option<GuessPermit>, SystemTokenFailure> {
        let Presenter::Client(address) = presenter else { return Ok(None) };
        if self.verified_secrets.is_known(&key.credentials) {
            return Ok(None);
        }
        match self.guess_limiter.begin(&(key.client.clone(), address), &key.credentials).await {
            Ok(permit) => Ok(Some(permit)),
            Err(_) if self.verified_secrets.is_shared(&key.credentials, credentials).await => Ok(None),
            Err(retry_after) => Err(SystemTokenFailure::TooManyGuesses { retry_after }),
        }
    }

    fn cache_failure(&self, key: TokenKey, error: &SalesforceError) -> SystemTokenFailure {
        let times = self.failures.get(&key).map_or(0, |cached| cached.times.saturating_add(1));
        let pause =
            MAX_BACKOFF.min(MIN_BACKOFF * 2_u32.saturating_pow(times.min(16))).mul_f64(1.0 + 0.25 * random_fraction());
        let (failure, lasts) = match error {
            SalesforceError::Rejected { code, .. } if code == "invalid_scope" => {
                (SystemTokenFailure::ScopeRejected, SCOPE_REJECTED_TTL)
            }
            error if is_secret_rejected(error) => (SystemTokenFailure::CredentialsRejected, CLIENT_REJECTED_TTL),
            SalesforceError::RateLimited { retry_after: Some(wait) } => {
                (SystemTokenFailure::Unavailable { retry_after: *wait }, *wait)
            }
            _ => (SystemTokenFailure::Unavailable { retry_after: pause }, pause),
        };
        // If the client's secret was changed at Account Manager, its token is dropped too (fail closed).
        if failure == SystemTokenFailure::CredentialsRejected {
            self.held.invalidate(&key);
        }
        if matches!(failure, SystemTokenFailure::Unavailable { .. }) {
            self.unknown_clients.observe_failure(&key.tenant);
        }
        self.failures.insert(key, CachedFailure { failure: failure.clone(), until: Instant::now() + lasts, times });
        failure
    }

    fn has_recent_failure(&self, key: &TokenKey, now: Instant) -> bool {
        self.failures.get(key).is_some_and(|cached| cached.until > now)
    }

    fn key(&self, tenant: &TenantId, credentials: &ClientCredentials, scopes: &Scopes) -> TokenKey {
        let mut hash = hmac::Context::with_key(&self.hashes);
        hash.update(credentials.client.as_str().as_bytes());
        // No client id contains a colon.
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
        TokenKey { tenant: tenant.clone(), client: credentials.client.clone(), credentials: name, scopes }
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_requests.with_label_values(&["system", result]).inc();
    }
}

/// Whether Account Manager rejected the client or its secret.
fn is_secret_rejected(error: &SalesforceError) -> bool {
    matches!(error, SalesforceError::Rejected { code, .. } if code != "invalid_scope") && error.is_client_rejected()
}

impl CachedFailure {
    fn failure_at(&self, now: Instant) -> SystemTokenFailure {
        match &self.failure {
            SystemTokenFailure::Unavailable { .. } => SystemTokenFailure::Unavailable { retry_after: self.until - now },
            other => other.clone(),
        }
    }
}
