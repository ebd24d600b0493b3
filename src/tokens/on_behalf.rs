//! Tokens on behalf of shoppers (TSOB), for trusted systems that may act for them.
//!
//! A token is obtained by one call to SLAS for all concurrent requests, on all replicas, inside SLAS's window of three
//! seconds per shopper. It then has a session, which is found by a name: a digest of the organization, the site, the
//! client and the shopper. The client that obtained the token refreshes it. A token never serves another name.
//!
//! A guest has no login and is identified by a USID. A request without a USID gets a new guest, whose token serves that
//! request only and is not cached.

mod failures;
mod subject;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use self::failures::Failures;
pub use self::{
    failures::OnBehalfError,
    subject::{ECOM_IDP, GUEST_LOGIN, OnBehalfSubject, SubjectShopper, is_guest_login},
};
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
    store::StoreError,
    types::{ByOrganization, Usid},
    verify::shopper_token::TokenError,
};

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

impl TsobIssuer {
    fn login_permit(&self) -> Result<Option<SemaphorePermit<'_>>, OnBehalfError> {
        let permit = self.login_permits.as_ref().map(|permits| permits.try_acquire()).transpose();
        permit.map_err(|_| OnBehalfError::TooManyWaiting)
    }
}

type OnBehalfResult = Result<OnBehalfToken, OnBehalfError>;

/// The tokens on behalf of shoppers of all organizations.
#[derive(Debug)]
pub struct OnBehalfTokens {
    issuers: ByOrganization<TsobIssuer>,
    sessions: Arc<Sessions>,
    requests: Arc<SingleFlight<TokenDigest, OnBehalfResult>>,
    failures: Failures,
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
            failures: Failures::new(),
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
        let Some(name) = subject.name(&issuer.client.id) else { return self.new_guest(issuer, subject).await };
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
        if let Some(failure) = self.failures.find(&issuer.client.id, subject, &name) {
            self.count("error");
            return Err(failure);
        }
        let work = || {
            let (tokens, issuer, subject) = (Arc::clone(self), issuer.clone(), subject.clone());
            async move {
                let _permit = issuer.login_permit()?;
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
        if let Some(failure) =
            self.failures.find(&issuer.client.id, subject, &subject.new_guests_key(&issuer.client.id))
        {
            self.count("error");
            return Err(failure);
        }
        let outcome = match issuer.login_permit() {
            Ok(_permit) => self.request_token(issuer, subject, None, self.latest_start()).await,
            Err(error) => Err(error),
        };
        self.count(if outcome.is_ok() { "miss" } else { "error" });
        outcome
    }

    /// Obtains another token of a guest that is new in this request.
    async fn token_of_same_guest(&self, refused: &OnBehalfToken) -> Option<OnBehalfToken> {
        let OnBehalfToken { ready, subject, .. } = refused;
        let issuer = self.issuers.get(&subject.organization)?;
        let shopper = SubjectShopper::Guest { usid: ready.verified.shopper.usid.clone(), caller: String::new() };
        let subject = Arc::new(OnBehalfSubject { shopper, ..(*refused.subject).clone() });
        self.request_token(issuer, &subject, None, self.latest_start()).await.ok()
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
        let latest_start = self.latest_start();
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
                    self.failures.record_unusable_token(&issuer.client.id, subject, name, error);
                }
                token
            }
            Err(error) => {
                let failure = OnBehalfError::new(subject, &error);
                if failure != OnBehalfError::ShopperUnknown {
                    let correlation_id = correlation::current_text();
                    tracing::warn!(organization = %subject.organization, %error, correlation_id, "no token on behalf of a shopper");
                }
                self.failures.record(&issuer.client.id, subject, name, &error);
                Err(failure)
            }
        }
    }

    /// The latest time at which a call to SLAS may begin for a request that begins now.
    fn latest_start(&self) -> Instant {
        Instant::now() + self.max_wait.saturating_sub(self.request_timeout)
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
