//! RateLimits: what is refused for being too much, whoever asks and however rightly.
//!
//! Owns the order of the questions, and what each organization and each client has used up. It refuses at once and
//! early, so that a refusal costs nothing; it never waits but for a seat. Report mode does not lift a bound: they
//! protect what report mode would only watch.
//!
//! - `load`: what Salesforce says of its own load, and what is left out for it
//! - `seats`: how many requests are upstream at a time
//! - `rates`: how often a caller or a SLAS client may ask
//! - `attempts`: how many logins may fail
//! - `login_id`: one form for all spellings of a login id
//! - `subject`: which requests are attempts, and at which shopper's login
//! - `slas_calls`: how many calls to SLAS, and guests, one address may cause
//! - `address`: whose address a request is counted under

mod caller_rate;
pub mod client_address;
mod concurrency;
mod failed_logins;
mod load_shedding;
mod login_attempt;
mod login_id;
mod slas_calls;

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

pub(super) use self::login_attempt::is_read_in_body;
use self::{
    caller_rate::Rates,
    client_address::TrustedProxies,
    concurrency::ConcurrencyLimiter,
    failed_logins::{Attempt, Attempts},
    load_shedding::Load,
    login_attempt::{Kind, LoginAttempt},
    slas_calls::SlasCallLimits,
};
use super::{
    Forward, Gateway, Request, Route, Tenant,
    authn::callers::Caller,
    authorization_header::BasicCredentials,
    error::GatewayError,
    headers::UpstreamCredential,
    policy::{InvalidGlob, OperationGlob, OperationKind},
};
use crate::{
    config::{AddressLimits, Limits, Logins, Settings},
    salesforce::guard::{Priority, Sender},
    types::{ByOrganization, OrganizationId},
};

/// APIs that are never left out under load: whoever has come that far is about to buy.
const NEVER_LOW: [&str; 4] = ["shopper-baskets", "shopper-orders", "orders", "auth"];

/// All bounds of a gateway.
#[derive(Debug)]
pub struct RateLimits {
    organizations: ByOrganization<OrgLimits>,
    low_priority: Vec<OperationGlob>,
    rates: Rates,
    attempts: Attempts,
    slas_call_limits: SlasCallLimits,
    limits: Limits,
    logins: Logins,
    proxies: TrustedProxies,
}

#[derive(Debug)]
struct OrgLimits {
    load: Load,
    seats: ConcurrencyLimiter,
    logins: Arc<Semaphore>,
}

/// What a request was let in with.
#[derive(Debug, Default)]
pub struct Permit {
    /// Held only while Salesforce has the whole request and has not begun to answer: for what a client sends or takes
    /// slowly, nobody else has to stand.
    seat: Option<OwnedSemaphorePermit>,
    /// Whether the seat is taken only when the body is there.
    is_seated_later: bool,
    attempt: Option<Attempt>,
}

impl RateLimits {
    /// The bounds of the configuration. Nothing is used up yet, but what addresses request of SLAS, and what failed at logins
    /// under bounds that stay as they were `before`.
    ///
    /// # Errors
    /// The position of each glob of `load.low_priority` that is none.
    pub fn new(settings: &Settings, before: Option<&Self>) -> Result<Self, Vec<(usize, InvalidGlob)>> {
        let of_organization = || OrgLimits {
            load: Load::default(),
            seats: ConcurrencyLimiter::new(settings.limits.max_concurrent_requests, settings.limits.queue_timeout),
            logins: Arc::new(Semaphore::new(settings.logins.max_concurrent)),
        };
        let attempts = match before.filter(|before| before.logins == settings.logins) {
            Some(before) => before.attempts.clone(),
            None => Attempts::new(&settings.logins),
        };
        let organizations = settings.tenants.iter().map(|tenant| (tenant.organization.clone(), of_organization()));
        Ok(Self {
            organizations: organizations.collect(),
            low_priority: globs(&settings.load.low_priority)?,
            rates: Rates::new(settings),
            attempts,
            slas_call_limits: before.map(|before| before.slas_call_limits.clone()).unwrap_or_default(),
            limits: settings.limits.clone(),
            logins: settings.logins.clone(),
            proxies: TrustedProxies(settings.server.trusted_proxies.clone()),
        })
    }

    /// Whether an address is one of `server.trusted_proxies`.
    #[must_use]
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.includes(peer.to_canonical())
    }

    /// The client that a request is counted under: an IPv4 address, or the first of an IPv6 /64. `peer` has the connection.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        client_address::owner(self.proxies.client(peer, headers))
    }

    /// Leaves out what matters least while Salesforce says that it is under load.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub(super) fn shed(&self, route: &Route) -> Result<(), GatewayError> {
        let Some(own) = self.organizations.get(&route.organization) else { return Ok(()) };
        if own.load.is_high() && self.is_low(route) && own.load.sheds() {
            Err(GatewayError::Overloaded)
        } else {
            Ok(())
        }
    }

    /// The room for logins of one organization that wait for SLAS, which those on behalf of shoppers share.
    #[must_use]
    pub fn logins(&self, organization: &OrganizationId) -> Option<Arc<Semaphore>> {
        self.organizations.get(organization).map(|own| Arc::clone(&own.logins))
    }

    /// Whether a trusted system may ask; then it counts.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`].
    pub(super) fn caller(&self, caller: &Caller) -> Result<(), GatewayError> {
        self.rates.admit_caller(caller).map_err(|retry_after| GatewayError::CallerRateLimited { retry_after })
    }

    /// Counts one among the logins that wait for SLAS, until it is dropped.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`] if too many do.
    pub(super) fn waiting_login(&self, route: &Route) -> Result<Option<SemaphorePermit<'_>>, GatewayError> {
        let own = self.organizations.get(&route.organization);
        own.map(|own| own.logins.try_acquire().map_err(|_| GatewayError::Overloaded)).transpose()
    }

    /// The address that a request counts for, if it is known: of IPv6 the /64.
    pub(super) fn client_address(&self, request: &Request<'_>) -> Option<IpAddr> {
        request.address.map(|peer| self.client(peer, &request.head.headers))
    }

    /// Begins a password login with these credentials; see [`Attempt::end`].
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`].
    pub(super) fn attempt(
        &self,
        route: &Route,
        request: &Request<'_>,
        credentials: &BasicCredentials,
    ) -> Result<Attempt, GatewayError> {
        let logins = credentials.users().map(str::to_owned).collect();
        self.begin(route, request, &LoginAttempt { kind: Kind::Password, logins })
    }

    fn begin(&self, route: &Route, request: &Request<'_>, subject: &LoginAttempt) -> Result<Attempt, GatewayError> {
        let begun = self.attempts.begin(&route.organization, &self.limits, self.client_address(request), subject);
        begun.map_err(|retry_after| GatewayError::CallerRateLimited { retry_after })
    }

    /// Whether any caller or client has a rate.
    pub(super) fn has_rates(&self) -> bool {
        self.rates.are_any()
    }

    /// Performs work that causes calls to SLAS, counting them under the client's address. Calls that SLAS's own limit
    /// refuses were not made: they are given back.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`], and those of `work`.
    pub(super) async fn within_slas_calls<T>(
        &self,
        tenant: &Tenant,
        request: &Request<'_>,
        calls: u32,
        work: impl Future<Output = Result<T, GatewayError>>,
    ) -> Result<T, GatewayError> {
        let Some((client, limit)) = self.limit_of_client(request, |limits| limits.slas_calls) else {
            return work.await;
        };
        let per_minute = limit.of_tenant(tenant.settings.slas_requests_per_minute);
        let permit = self.slas_call_limits.take_calls(&tenant.settings.organization, client, calls, per_minute)?;
        let result = work.await;
        if matches!(result, Err(GatewayError::SlasRateLimited { .. })) {
            permit.give_back();
        }
        result
    }

    /// Performs a deprecated guest login that causes calls to SLAS, counting both under the client's address. A login
    /// that a limit refuses is given back.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`], and those of `work`.
    pub(super) async fn within_guests<T>(
        &self,
        tenant: &Tenant,
        request: &Request<'_>,
        calls: u32,
        work: impl Future<Output = Result<T, GatewayError>>,
    ) -> Result<T, GatewayError> {
        let work = self.within_slas_calls(tenant, request, calls, work);
        let Some((client, per_minute)) = self.limit_of_client(request, |limits| limits.guests) else {
            return work.await;
        };
        let permit = self.slas_call_limits.take_guest(&tenant.settings.organization, client, per_minute)?;
        let result = work.await;
        if matches!(result, Err(GatewayError::SlasRateLimited { .. } | GatewayError::CallerRateLimited { .. })) {
            permit.give_back();
        }
        result
    }

    /// The client's address, and its limit if it has one.
    fn limit_of_client<L>(
        &self,
        request: &Request<'_>,
        limit: impl Fn(&AddressLimits) -> Option<L>,
    ) -> Option<(IpAddr, L)> {
        let client = self.client_address(request)?;
        Some((client, limit(self.limits.of_address(client))?))
    }

    /// Lets a decided request go upstream.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`], [`GatewayError::SlasRateLimited`], [`GatewayError::Overloaded`]; for an attempt at a login
    /// whose shopper cannot be read, the errors of [`LoginAttempt::read`].
    pub(super) async fn admit(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        credential: &UpstreamCredential,
    ) -> Result<Permit, GatewayError> {
        self.rates.admit(credential).map_err(|retry_after| GatewayError::CallerRateLimited { retry_after })?;
        let mut admission = Permit::default();
        if is_budgeted(route) {
            // In a box: few requests are for SLAS, and every request would have the room for it.
            admission.attempt = Box::pin(self.admit_to_slas(tenant, route, request, credential)).await?;
        }
        let seat = self.seat(route).await?;
        admission.is_seated_later = request.body_follows;
        admission.seat = seat.filter(|_| !request.body_follows);
        Ok(admission)
    }

    /// Lets a request go to SLAS: within the failed logins and the calls of its client's address, and what SLAS takes.
    async fn admit_to_slas(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        credential: &UpstreamCredential,
    ) -> Result<Option<Attempt>, GatewayError> {
        let attempt = match Kind::of(route) {
            Some(kind) => Some(self.begin(route, request, &LoginAttempt::read(kind, request)?)?),
            None => None,
        };
        let priority = slas_calls::priority(route, credential);
        let limited = |wait| GatewayError::SlasRateLimited { retry_after: Some(wait) };
        let admitted = async { tenant.slas.guard().admit_forwarded(priority).await.map_err(limited) };
        let admitted = match priority {
            Priority::Login => admitted.await,
            _ => self.within_slas_calls(tenant, request, 1, admitted).await,
        };
        match admitted {
            Ok(()) => Ok(attempt),
            Err(refusal) => {
                // What was not tried did not fail.
                attempt.into_iter().for_each(|attempt| attempt.end(false));
                Err(refusal)
            }
        }
    }

    async fn seat(&self, route: &Route) -> Result<Option<OwnedSemaphorePermit>, GatewayError> {
        let Some(own) = self.organizations.get(&route.organization) else { return Ok(None) };
        own.seats.take(|| self.is_low(route)).await.map(Some).ok_or(GatewayError::Overloaded)
    }

    fn is_low(&self, route: &Route) -> bool {
        route.operation.as_ref().is_some_and(|operation| {
            matches!(operation.kind, OperationKind::Standard | OperationKind::Merchant)
                && !NEVER_LOW.iter().any(|never| operation.api.starts_with(never))
                && self.low_priority.iter().any(|glob| glob.matches(operation))
        })
    }
}

impl Gateway {
    /// Its whole body is there: from now on Salesforce has to do with a request.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub async fn has_body(&self, route: &Route, forward: &mut Forward) -> Result<(), GatewayError> {
        if std::mem::take(&mut forward.admission.is_seated_later) {
            forward.admission.seat = self.bounds.seat(route).await?;
        }
        Ok(())
    }

    /// Learns from an API's answer, or SLAS's, what it says of its load and limits, and how a login ended.
    pub fn heed(&self, route: &Route, forward: &mut Forward, status: StatusCode, headers: &HeaderMap) {
        if let Some(own) = self.bounds.organizations.get(&route.organization) {
            own.load.heed(headers);
        }
        if is_budgeted(route)
            && let Some(tenant) = self.tenants.get(&route.organization)
        {
            tenant.slas.guard().on_response(Sender::Client, status, headers);
        }
        forward.admission.end(route, Some(status));
        forward.admission.leave();
    }

    /// Learns that no answer came from an API or from SLAS: a login there did not fail, but a message may have been sent.
    pub fn on_no_response(&self, route: &Route, forward: &mut Forward) {
        forward.admission.end(route, None);
        forward.admission.leave();
    }
}

impl Permit {
    /// Salesforce has answered: what is left is between the client and us.
    fn leave(&mut self) {
        self.seat = None;
        self.is_seated_later = false;
    }

    /// Says what SLAS made of it, if it is a login; `None` if no answer came.
    pub(super) fn end(&mut self, route: &Route, status: Option<StatusCode>) {
        if let Some(attempt) = self.attempt.take() {
            attempt.end(Kind::of(route).unwrap_or(Kind::Password).counts(status));
        }
    }
}

/// Reads globs over operations.
///
/// # Errors
/// The position of each that is none.
pub fn globs(texts: &[String]) -> Result<Vec<OperationGlob>, Vec<(usize, InvalidGlob)>> {
    let (mut globs, mut errors) = (Vec::new(), Vec::new());
    for (position, text) in texts.iter().enumerate() {
        match OperationGlob::parse(text) {
            Ok(glob) => globs.push(glob),
            Err(error) => errors.push((position, error)),
        }
    }
    if errors.is_empty() { Ok(globs) } else { Err(errors) }
}

/// Whether a request spends of what SLAS takes of the tenant. Its published documents have a limit of their own.
fn is_budgeted(route: &Route) -> bool {
    route.kind() == OperationKind::Slas && !route.is("getJwksUri") && !route.is("getWellknownOpenidConfiguration")
}
