//! The guard: whether Salesforce's services may be asked just now, and what their answers mean for the next call.
//!
//! Owns what is known of one tenant's SLAS, Account Manager or API without asking: that it is down (circuits), that it
//! takes no more (rate limits, as it said itself), and how much of the tenant's budget this gateway has in hand. It
//! refuses at once what would fail anyway. Knows no store: whoever shares the budget with other gateways fills
//! the [`PermitLease`]. Key sets and signs of life pass unguarded: they have a pace of their own.

mod call;
mod circuit_breaker;
mod lease;
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
    lease::PermitLease,
};
use crate::{observability::metrics::Metrics, ratelimit::TokenBucket};

/// What one gateway knows of one tenant's services.
#[derive(Debug)]
pub struct CallGuard {
    /// The organization, as metrics and logs name it.
    name: String,
    state: Mutex<State>,
    permit_lease: PermitLease,
    retry_budget: RetryBudget,
    probe_wanted: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    circuits: [CircuitBreaker; CIRCUIT_NAMES.len()],
    rate_limit: RemoteRateLimit,
    /// Of the attempts at what is down or was just rate limited, whichever circuit they are of.
    probes: TokenBucket,
}

impl CallGuard {
    /// Nothing is known yet, and nothing in hand: see [`PermitLease`].
    #[must_use]
    pub fn new(name: &str, metrics: Arc<Metrics>) -> Arc<Self> {
        let is_probed = [true, true, false, false];
        for service in ["slas", "account_manager", "api"] {
            // What is closed is 0, and not absent.
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
            probe_wanted: Notify::new(),
            metrics,
        })
    }

    /// The organization that it is of, as metrics and logs name it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The calls to SLAS that this gateway has in hand.
    #[must_use]
    pub fn permit_lease(&self) -> &PermitLease {
        &self.permit_lease
    }

    /// Whether a call may be made now; then it counts.
    ///
    /// # Errors
    /// [`AdmitError::RateLimited`] with the time to wait, [`AdmitError::CircuitOpen`] while the circuit is open.
    pub async fn admit(&self, priority: Priority) -> Result<(), AdmitError> {
        let Some(circuit) = priority.circuit() else { return Ok(()) };
        {
            let (mut state, now) = (self.state.lock(), Instant::now());
            let State { circuits, rate_limit, probes } = &mut *state;
            if priority.is_budgeted() {
                rate_limit.admit(priority, now, probes).map_err(AdmitError::RateLimited)?;
            }
            if !circuits[circuit].admit(now, probes) {
                return Err(AdmitError::CircuitOpen);
            }
            self.request_probe(&circuits[circuit]);
        }
        if priority.is_budgeted() {
            self.permit_lease.take(priority).await.map_err(AdmitError::RateLimited)
        } else {
            Ok(())
        }
    }

    /// Whether SLAS may be sent a client's own request of this class now; then it counts against the budget.
    ///
    /// # Errors
    /// How long to wait.
    pub async fn admit_forwarded(&self, priority: Priority) -> Result<(), Duration> {
        {
            let mut state = self.state.lock();
            let State { rate_limit, probes, .. } = &mut *state;
            rate_limit.admit(priority, Instant::now(), probes)?;
        }
        self.permit_lease.take(priority).await
    }

    /// Learns from what became of a call that began at `began`.
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
                tracing::warn!(tenant, service, circuit, "fails again and again: not asked until it answers");
            }
            Some(Transition::Closed) => {
                gauge.dec();
                tracing::info!(tenant, service, circuit, "answers again");
            }
            None => {}
        }
    }

    /// Learns from an answer of SLAS how much more it takes of the tenant. A 429 to a client's own request says that only
    /// where its `x-ratelimit` fields do: it may be about one shopper or one operation.
    pub fn on_response(&self, sender: Sender, status: StatusCode, headers: &HeaderMap) {
        if self.state.lock().rate_limit.on_response(sender, status, headers, Instant::now()) {
            tracing::warn!(tenant = self.name, "SLAS takes no more requests for now");
        }
    }

    /// Brings the gauge of what SLAS still takes up to date, which a minute that is over has made wrong.
    pub fn record_remaining(&self) {
        let remaining = self.state.lock().rate_limit.remaining(Instant::now());
        if let Some(remaining) = remaining {
            self.metrics.slas_rate_limit_remaining.with_label_values(&[&self.name]).set(i64::from(remaining));
        }
    }

    /// Whether a call that failed may be made once more.
    #[must_use]
    pub fn try_retry(&self) -> bool {
        self.retry_budget.try_acquire()
    }

    /// Counts a call, a part of which earns the right to repeat one.
    pub fn count_call(&self) {
        self.retry_budget.record_call();
    }

    /// Wakes who asks for signs of life, where one is of use.
    fn request_probe(&self, circuit: &CircuitBreaker) {
        if circuit.needs_probe() {
            self.probe_wanted.notify_one();
        }
    }

    /// Waits until SLAS is worth being asked for a sign of life: it is down, and was not asked for a second.
    pub async fn probe_due(&self) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let is_down = state.circuits.iter().any(CircuitBreaker::needs_probe);
                is_down.then(|| state.probes.try_acquire(PROBES, 1, Instant::now()).err())
            };
            match wait {
                None => self.probe_wanted.notified().await,
                Some(None) => return,
                Some(Some(wait)) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// SLAS gave a sign of life: the next call of each class is tried.
    pub fn probe_succeeded(&self) {
        let now = Instant::now();
        self.state.lock().circuits.iter_mut().for_each(|circuit| circuit.probe_succeeded(now));
    }
}

impl Drop for CallGuard {
    /// A guard that is replaced takes its open circuits off the gauge.
    fn drop(&mut self) {
        let priorities = [Priority::Login, Priority::Refresh, Priority::System, Priority::Profile];
        for (circuit, priority) in self.state.get_mut().circuits.iter().zip(priorities) {
            if circuit.is_open() {
                self.metrics.circuit_breakers_open.with_label_values(&[priority.service()]).dec();
            }
        }
    }
}
