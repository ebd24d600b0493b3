//! Decides whether a call to Salesforce's services may be made now, and learns from the responses.
//!
//! A guard holds the circuit breakers, SLAS's rate limit, the leased permits and the retry budget of one tenant. It rejects
//! calls that would fail anyway, without a request. It never accesses the session store: the task that shares the rate limit
//! with other gateways refills the [`PermitLease`]. Key set fetches and health probes bypass the guard, because they have rates
//! of their own. All state is behind short locks, which are never held across an `await`.

mod call;
mod circuit_breaker;
mod permit_lease;
mod rate_limit;
mod retry_budget;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{
    call::CIRCUIT_NAMES,
    circuit_breaker::{CircuitBreaker, PROBES, Transition},
    rate_limit::RemoteRateLimit,
    retry_budget::RetryBudget,
};
pub use self::{
    call::{AdmitError, Outcome, Priority, Sender},
    permit_lease::PermitLease,
};
use crate::{observability::metrics::Metrics, ratelimit::TokenBucket};

/// The circuit breakers, rate limits and retry budget of one tenant's services.
#[derive(Debug)]
pub struct CallGuard {
    /// The organization, as in metrics and logs.
    name: String,
    state: Mutex<State>,
    permit_lease: PermitLease,
    retry_budget: RetryBudget,
    probe_requested: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    circuits: [CircuitBreaker; CIRCUIT_NAMES.len()],
    rate_limit: RemoteRateLimit,
    /// Limits attempts at services that are down or have just rate limited the gateway. All circuit breakers share it.
    probes: TokenBucket,
}

impl CallGuard {
    /// Creates a guard with closed circuit breakers and without permits: see [`PermitLease`].
    #[must_use]
    pub fn new(name: &str, metrics: Arc<Metrics>) -> Arc<Self> {
        let is_probed = [true, true, false, false];
        for service in ["slas", "account_manager", "api"] {
            // Without open circuit breakers the gauge is 0, not absent.
            metrics.circuit_breakers_open.with_label_values(&[service]).add(0);
        }
        Arc::new(Self {
            name: name.to_owned(),
            state: Mutex::new(State {
                circuits: is_probed.map(CircuitBreaker::new),
                rate_limit: RemoteRateLimit::default(),
                probes: TokenBucket::default(),
            }),
            permit_lease: PermitLease::default(),
            retry_budget: RetryBudget::default(),
            probe_requested: Notify::new(),
            metrics,
        })
    }

    /// Returns the organization, as in metrics and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the leased permits for calls to SLAS.
    #[must_use]
    pub fn permit_lease(&self) -> &PermitLease {
        &self.permit_lease
    }

    /// Admits a call and counts it. May wait briefly for a permit.
    ///
    /// # Errors
    /// [`AdmitError::RateLimited`] if a rate limit is exhausted, [`AdmitError::CircuitOpen`] if the circuit breaker is open.
    pub async fn admit(&self, priority: Priority) -> Result<(), AdmitError> {
        let Some(circuit) = priority.circuit() else { return Ok(()) };
        {
            let (mut state, now) = (self.state.lock(), Instant::now());
            let State { circuits, rate_limit, probes } = &mut *state;
            if priority.is_rate_limited() {
                rate_limit.admit(priority, now, probes).map_err(AdmitError::RateLimited)?;
            }
            if !circuits[circuit].admit(now, probes) {
                return Err(AdmitError::CircuitOpen);
            }
            self.request_probe(&circuits[circuit]);
        }
        if priority.is_rate_limited() {
            self.permit_lease.acquire(priority).await.map_err(AdmitError::RateLimited)
        } else {
            Ok(())
        }
    }

    /// Admits a client's own request to SLAS and counts it. May wait briefly for a permit.
    ///
    /// # Errors
    /// The time to wait, if a rate limit is exhausted.
    pub async fn admit_forwarded(&self, priority: Priority) -> Result<(), Duration> {
        {
            let mut state = self.state.lock();
            let State { rate_limit, probes, .. } = &mut *state;
            rate_limit.admit(priority, Instant::now(), probes)?;
        }
        self.permit_lease.acquire(priority).await
    }

    /// Records the outcome of a call that started at `began`.
    pub fn record_outcome(&self, priority: Priority, began: Instant, outcome: Outcome) {
        let Some(circuit) = priority.circuit() else { return };
        let mut state = self.state.lock();
        let transition = match outcome {
            Outcome::Failure => state.circuits[circuit].on_failure(began, Instant::now()),
            Outcome::Success => state.circuits[circuit].on_success(Instant::now()),
            Outcome::Ignored => None,
        };
        self.request_probe(&state.circuits[circuit]);
        drop(state);
        let (tenant, service, circuit) = (&self.name, priority.service(), CIRCUIT_NAMES[circuit]);
        let gauge = self.metrics.circuit_breakers_open.with_label_values(&[service]);
        match transition {
            Some(Transition::Opened) => {
                gauge.inc();
                tracing::warn!(
                    tenant,
                    service,
                    circuit,
                    "circuit breaker opened, rejecting calls until the service recovers"
                );
            }
            Some(Transition::Closed) => {
                gauge.dec();
                tracing::info!(tenant, service, circuit, "circuit breaker closed");
            }
            None => {}
        }
    }

    /// Reads the rate limit headers of SLAS's response. A 429 to a client's own request counts only if its `x-ratelimit` headers
    /// report an exhausted limit. Otherwise it can concern a single shopper or operation.
    pub fn on_response(&self, sender: Sender, status: StatusCode, headers: &HeaderMap) {
        if self.state.lock().rate_limit.on_response(sender, status, headers, Instant::now()) {
            tracing::warn!(tenant = self.name, "SLAS rate limit exhausted, waiting");
        }
    }

    /// Updates the gauge of remaining requests, which is outdated once SLAS's minute is over.
    pub fn record_remaining(&self) {
        let remaining = self.state.lock().rate_limit.remaining(Instant::now());
        if let Some(remaining) = remaining {
            self.metrics.slas_rate_limit_remaining.with_label_values(&[&self.name]).set(i64::from(remaining));
        }
    }

    /// Acquires a retry from the budget. Returns false if the budget is used up.
    #[must_use]
    pub fn try_retry(&self) -> bool {
        self.retry_budget.try_acquire()
    }

    /// Counts a call for the retry budget.
    pub fn count_call(&self) {
        self.retry_budget.record_call();
    }

    /// Wakes the task that sends health probes, if the circuit breaker needs one.
    fn request_probe(&self, circuit: &CircuitBreaker) {
        if circuit.needs_probe() {
            self.probe_requested.notify_one();
        }
    }

    /// Waits until a health probe of SLAS is due: a circuit breaker needs one, and the last attempt is a second ago.
    pub async fn probe_due(&self) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let is_down = state.circuits.iter().any(CircuitBreaker::needs_probe);
                is_down.then(|| state.probes.try_acquire(PROBES, 1, Instant::now()).err())
            };
            match wait {
                None => self.probe_requested.notified().await,
                Some(None) => return,
                Some(Some(wait)) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Records a successful health probe: each open circuit breaker admits one call.
    pub fn probe_succeeded(&self) {
        let now = Instant::now();
        self.state.lock().circuits.iter_mut().for_each(|circuit| circuit.probe_succeeded(now));
    }
}

impl Drop for CallGuard {
    /// Removes the open circuit breakers from the gauge.
    fn drop(&mut self) {
        let priorities = [Priority::Login, Priority::Refresh, Priority::System, Priority::Profile];
        for (circuit, priority) in self.state.get_mut().circuits.iter().zip(priorities) {
            if circuit.is_open() {
                self.metrics.circuit_breakers_open.with_label_values(&[priority.service()]).dec();
            }
        }
    }
}
