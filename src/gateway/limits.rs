//! Rate limits, concurrency limits and load shedding.
//!
//! The limits are checked before any upstream work. Only the concurrency limit may wait. Report mode does not lift a limit: limits
//! protect what report mode only observes.
//!
//! Each limit has a file of its own. `login_attempt` finds the operations that count as login attempts and the login ids in them;
//! `normalized_login_id` normalizes login ids; `client_address` finds the address that a request counts for.

mod caller_rate;
pub mod client_address;
mod concurrency;
mod count;
mod failed_logins;
mod guest_login;
mod load_shedding;
mod login_attempt;
mod login_permit;
mod normalized_login_id;
mod permit;
mod slas_calls;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};

pub(super) use self::login_permit::LoginPermit;
use self::{
    caller_rate::CallerRates,
    client_address::ClientAddresses,
    concurrency::ConcurrencyLimiter,
    count::Count,
    failed_logins::{FailedLogins, PendingLogin},
    guest_login::begins_guest_session,
    load_shedding::LoadShedder,
    login_attempt::{AttemptKind, LoginAttempt},
    slas_calls::SlasCallLimits,
};
pub use self::{login_permit::LoginCost, permit::Permit};
use super::{
    callers::Caller,
    credential::{Source, UpstreamCredential},
    error::GatewayError,
    policy::{InvalidGlob, OperationGlob, OperationKind},
    request::{Request, Route, RoutedRequest},
    tenant::Tenant,
};
use crate::{
    config::{AddressLimits, Limits, Settings},
    salesforce::guard::{Priority, Sender},
    types::{ByOrganization, OrganizationId},
    verify::shopper::Shopper,
};

/// APIs that load shedding never rejects: their shoppers are about to buy.
const NEVER_SHED_APIS: [&str; 4] = ["shopper-baskets", "shopper-orders", "orders", "auth"];

/// All limits of a gateway.
#[derive(Debug)]
pub struct RateLimits {
    organizations: ByOrganization<OrgLimits>,
    low_priority: Vec<OperationGlob>,
    rates: CallerRates,
    failed_logins: FailedLogins,
    slas_call_limits: SlasCallLimits,
    limits: Limits,
    client_addresses: ClientAddresses,
}

#[derive(Debug)]
struct OrgLimits {
    load: LoadShedder,
    concurrency: ConcurrencyLimiter,
    /// The logins that wait for SLAS.
    logins: Arc<Semaphore>,
}

impl RateLimits {
    /// The limits of a configuration. The counts of calls to SLAS per address continue those of `before`, and so do the counts of
    /// failed logins if their limits have not changed.
    ///
    /// # Errors
    /// The position of each invalid glob in `load.low_priority`.
    pub fn new(settings: &Settings, before: Option<&Self>) -> Result<Self, Vec<(usize, InvalidGlob)>> {
        let org_limits = || OrgLimits {
            load: LoadShedder::default(),
            concurrency: ConcurrencyLimiter::new(
                settings.limits.max_concurrent_requests,
                settings.limits.queue_timeout,
            ),
            logins: Arc::new(Semaphore::new(settings.logins.max_concurrent)),
        };
        let organizations = settings.tenants.iter().map(|tenant| (tenant.organization.clone(), org_limits()));
        Ok(Self {
            organizations: organizations.collect(),
            low_priority: globs(&settings.load.low_priority)?,
            rates: CallerRates::new(settings),
            failed_logins: FailedLogins::new(&settings.logins, before.map(|before| &before.failed_logins)),
            slas_call_limits: before.map(|before| before.slas_call_limits.clone()).unwrap_or_default(),
            limits: settings.limits.clone(),
            client_addresses: ClientAddresses::new(&settings.server.trusted_proxies, &settings.limits.networks),
        })
    }

    /// Returns the limit of an organization's logins that wait for SLAS. Tokens on behalf of shoppers share it.
    #[must_use]
    pub fn logins(&self, organization: &OrganizationId) -> Option<Arc<Semaphore>> {
        self.organizations.get(organization).map(|own| Arc::clone(&own.logins))
    }

    /// Returns the address that a request counts for: an IPv4 address, or the first address of an IPv6 /64.
    pub(super) fn client_address(&self, request: &Request<'_>) -> Option<IpAddr> {
        request.address.map(|peer| self.client_addresses.client(peer, &request.head.headers))
    }

    /// Whether the gateway must read the body to count a login attempt.
    pub(super) fn needs_body(route: &Route, method: &Method) -> bool {
        *method == Method::POST && matches!(AttemptKind::of(route), Some(AttemptKind::Code | AttemptKind::Message))
    }

    /// Rejects a request of low priority while Salesforce reports a high load.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub(super) fn shed_load(&self, route: &Route) -> Result<(), GatewayError> {
        let Some(own) = self.organizations.get(&route.organization) else { return Ok(()) };
        if own.load.is_load_high() && self.is_low_priority(route) && own.load.should_shed() {
            Err(GatewayError::Overloaded)
        } else {
            Ok(())
        }
    }

    /// Counts a request of a trusted system, before the gateway makes a call for it.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`].
    pub(super) fn acquire_caller(&self, caller: &Caller) -> Result<(), GatewayError> {
        self.rates.acquire_caller(caller).map_err(rate_limited)
    }

    /// Counts a request of a shopper for its SLAS client.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`].
    pub(super) fn acquire_shopper(&self, shopper: &Shopper) -> Result<(), GatewayError> {
        self.rates.acquire_shopper(shopper).map_err(rate_limited)
    }

    /// Whether any caller or SLAS client has a rate limit.
    pub(super) fn has_caller_rates(&self) -> bool {
        !self.rates.is_empty()
    }

    /// Counts a deprecated login among the organization's logins that wait for SLAS, until the permit is dropped.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub(super) fn begin_login(&self, route: &Route) -> Result<Option<SemaphorePermit<'_>>, GatewayError> {
        let own = self.organizations.get(&route.organization);
        own.map(|own| own.logins.try_acquire().map_err(|_| GatewayError::Overloaded)).transpose()
    }

    /// Counts a deprecated login as an attempt at a login id and as calls to SLAS.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`]. The login then counts nowhere.
    pub(super) fn count_login(
        &self,
        routed: RoutedRequest<'_>,
        cost: &LoginCost<'_>,
    ) -> Result<LoginPermit, GatewayError> {
        let mut permit = LoginPermit::default();
        let calls = match cost {
            LoginCost::Guest { calls } => {
                permit.guest = self.count_guest(routed)?;
                *calls
            }
            LoginCost::Password(credentials) => {
                let logins = credentials.users().map(str::to_owned).collect();
                permit.login = self.begin(routed, &LoginAttempt { kind: AttemptKind::Password, logins })?;
                2
            }
            LoginCost::Refresh => 1,
        };
        match self.count_calls(routed, calls) {
            Ok(calls) => permit.calls = calls,
            Err(error) => {
                permit.settle(Some(&error));
                return Err(error);
            }
        }
        Ok(permit)
    }

    /// Counts a login attempt as failed until it is settled.
    fn begin(&self, routed: RoutedRequest<'_>, attempt: &LoginAttempt) -> Result<PendingLogin, GatewayError> {
        let address = self.client_address(routed.request);
        let begun = self.failed_logins.begin(&routed.route.organization, &self.limits, address, attempt);
        begun.map_err(rate_limited)
    }

    /// Counts calls to SLAS for the address of the client.
    fn count_calls(&self, routed: RoutedRequest<'_>, calls: u32) -> Result<Option<Count>, GatewayError> {
        let limit = self.address_limit(routed.request, |limits| limits.slas_calls);
        let counted = limit.map(|(client, limit)| {
            let per_minute = limit.for_tenant(routed.tenant.settings.slas_requests_per_minute);
            self.slas_call_limits.acquire_calls(&routed.route.organization, client, calls, per_minute)
        });
        counted.transpose().map_err(rate_limited)
    }

    /// Counts a guest login for the address of the client.
    fn count_guest(&self, routed: RoutedRequest<'_>) -> Result<Option<Count>, GatewayError> {
        let limit = self.address_limit(routed.request, |limits| limits.guests);
        let counted = limit.map(|(client, per_minute)| {
            self.slas_call_limits.acquire_guest(&routed.route.organization, client, per_minute)
        });
        counted.transpose().map_err(rate_limited)
    }

    /// Returns the address of the client, and one of its limits.
    fn address_limit<L>(
        &self,
        request: &Request<'_>,
        limit: impl Fn(&AddressLimits) -> Option<L>,
    ) -> Option<(IpAddr, L)> {
        let client = self.client_address(request)?;
        Some((client, limit(self.limits.for_address(client))?))
    }

    /// Counts a request that goes upstream, and waits for a concurrency permit of the organization.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`], [`GatewayError::SlasRateLimited`], [`GatewayError::Overloaded`]; the errors of
    /// [`LoginAttempt::read`] for a login attempt without a readable login id.
    pub(super) async fn acquire(
        &self,
        routed: RoutedRequest<'_>,
        credential: &UpstreamCredential,
    ) -> Result<Permit, GatewayError> {
        if let Source::Shopper(shopper) | Source::Session { shopper, .. } = credential.source() {
            self.acquire_shopper(shopper)?;
        }
        let mut permit = Permit::default();
        let RoutedRequest { route, request, .. } = routed;
        if spends_slas_budget(route) {
            // Boxed: few requests go to SLAS, and every request would pay for the size of this future.
            if let Err(error) = Box::pin(self.acquire_slas(routed, credential, &mut permit)).await {
                permit.give_back();
                return Err(error);
            }
        }
        self.acquire_concurrency(route, &mut permit).await?;
        if request.body_follows {
            permit.concurrency = None;
            permit.is_deferred = true;
        }
        Ok(permit)
    }

    /// Counts a request for SLAS: as a login attempt, as a call of its client's address, and in the budget of the organization.
    async fn acquire_slas(
        &self,
        routed: RoutedRequest<'_>,
        credential: &UpstreamCredential,
        permit: &mut Permit,
    ) -> Result<(), GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        if let Some(kind) = AttemptKind::of(route) {
            permit.login = self.begin(routed, &LoginAttempt::read(kind, request)?)?;
        }
        if begins_guest_session(routed)? {
            permit.guest = self.count_guest(routed)?.map(Box::new);
        }
        let priority = slas_calls::priority(route, credential);
        if priority != Priority::Login {
            permit.slas_call = self.count_calls(routed, 1)?.map(Box::new);
        }
        let admitted = tenant.slas.guard().admit_forwarded(priority).await;
        admitted.map_err(|wait| GatewayError::SlasRateLimited { retry_after: Some(wait) })
    }

    /// Acquires a concurrency permit. Without one, the request is not sent, and a login has not failed. The call to SLAS stays counted
    /// for the address, because the organization's budget has paid for it: an address must not use that up for free.
    async fn acquire_concurrency(&self, route: &Route, permit: &mut Permit) -> Result<(), GatewayError> {
        let Some(own) = self.organizations.get(&route.organization) else { return Ok(()) };
        permit.concurrency = own.concurrency.acquire(|| self.is_low_priority(route)).await;
        if permit.concurrency.is_none() {
            permit.give_back_login();
            return Err(GatewayError::Overloaded);
        }
        Ok(())
    }

    fn is_low_priority(&self, route: &Route) -> bool {
        route.operation.as_ref().is_some_and(|operation| {
            matches!(operation.kind, OperationKind::Standard | OperationKind::Merchant)
                && !NEVER_SHED_APIS.iter().any(|never| operation.api.starts_with(never))
                && self.low_priority.iter().any(|glob| glob.matches(operation))
        })
    }

    /// Acquires the deferred concurrency permit of a request whose body is complete.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub(super) async fn body_complete(&self, route: &Route, permit: &mut Permit) -> Result<(), GatewayError> {
        if std::mem::take(&mut permit.is_deferred) {
            self.acquire_concurrency(route, permit).await?;
        }
        Ok(())
    }

    /// Observes the response of an API or of SLAS: its load, its rate limits, and the outcome of a login attempt. Without a response, a
    /// password or code has not failed, but SLAS may have sent a message.
    pub(super) fn response_received(
        &self,
        tenant: Option<&Tenant>,
        route: &Route,
        permit: &mut Permit,
        response: Option<(StatusCode, &HeaderMap)>,
    ) {
        if let Some((status, headers)) = response {
            if let Some(own) = self.organizations.get(&route.organization) {
                own.load.on_response(headers);
            }
            if let Some(tenant) = tenant.filter(|_| spends_slas_budget(route)) {
                tenant.slas.guard().on_response(Sender::Client, status, headers);
            }
        }
        permit.settle_login(route, response.map(|(status, _)| status));
        permit.release_concurrency();
    }
}

/// Parses globs of operations.
///
/// # Errors
/// The position of each invalid glob.
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

/// Whether a request counts in the SLAS budget of its organization. SLAS has a separate limit for its published documents.
fn spends_slas_budget(route: &Route) -> bool {
    route.kind() == OperationKind::Slas
        && !route.has_operation_id("getJwksUri")
        && !route.has_operation_id("getWellknownOpenidConfiguration")
}

fn rate_limited(retry_after: Duration) -> GatewayError {
    GatewayError::CallerRateLimited { retry_after }
}
