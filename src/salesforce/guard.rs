//! The guard: whether Salesforce's services may be asked just now, and what their answers mean for the next call.
//!
//! Owns what is known of one tenant's SLAS, Account Manager or API without asking: that it is down (circuits), that it
//! takes no more (rate limits, as it said itself), and how much of the tenant's budget this gateway has in hand. It
//! refuses at once what would fail anyway. Knows no store: whoever shares the budget with other gateways fills
//! the [`Purse`]. Key sets and signs of life pass unguarded: they have a pace of their own.

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
    call::CIRCUITS,
    circuit_breaker::{Change, Circuit, Pace},
    rate_limit::Quota,
    retry_budget::Repeats,
};
pub use self::{
    call::{Class, NotAdmitted, Outcome, Sender},
    lease::Purse,
};
use crate::observability::metrics::Metrics;

/// What one gateway knows of one tenant's services.
#[derive(Debug)]
pub struct Guard {
    /// The organization, as metrics and logs name it.
    name: String,
    state: Mutex<State>,
    purse: Purse,
    repeats: Repeats,
    sign_wanted: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    circuits: [Circuit; CIRCUITS.len()],
    quota: Quota,
    /// Of the attempts at what is down or was just rate limited, whichever circuit they are of.
    pace: Pace,
}

impl Guard {
    /// Nothing is known yet, and nothing in hand: see [`Purse`].
    #[must_use]
    pub fn new(name: &str, metrics: Arc<Metrics>) -> Arc<Self> {
        let of_slas = [true, true, false, false];
        for service in ["slas", "account_manager", "api"] {
            // What is closed is 0, and not absent.
            metrics.circuit_state.with_label_values(&[service]).add(0);
        }
        Arc::new(Self {
            name: name.to_owned(),
            state: Mutex::new(State {
                circuits: of_slas.map(Circuit::new),
                quota: Quota::default(),
                pace: Pace::default(),
            }),
            purse: Purse::default(),
            repeats: Repeats::default(),
            sign_wanted: Notify::new(),
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
    pub fn purse(&self) -> &Purse {
        &self.purse
    }

    /// Whether a call may be made now; then it counts.
    ///
    /// # Errors
    /// [`NotAdmitted::RateLimited`] with the time to wait, [`NotAdmitted::CircuitOpen`] while the circuit is open.
    pub async fn admit(&self, class: Class) -> Result<(), NotAdmitted> {
        let Some(circuit) = class.circuit() else { return Ok(()) };
        {
            let (mut state, now) = (self.state.lock(), Instant::now());
            let State { circuits, quota, pace } = &mut *state;
            if class.is_budgeted() {
                quota.admit(class, now, pace).map_err(NotAdmitted::RateLimited)?;
            }
            if !circuits[circuit].admit(now, pace) {
                return Err(NotAdmitted::CircuitOpen);
            }
            self.tell(&circuits[circuit]);
        }
        if class.is_budgeted() { self.purse.take(class).await.map_err(NotAdmitted::RateLimited) } else { Ok(()) }
    }

    /// Whether SLAS may be sent a client's own request of this class now; then it counts against the budget.
    ///
    /// # Errors
    /// How long to wait.
    pub async fn admit_forwarded(&self, class: Class) -> Result<(), Duration> {
        {
            let mut state = self.state.lock();
            let State { quota, pace, .. } = &mut *state;
            quota.admit(class, Instant::now(), pace)?;
        }
        self.purse.take(class).await
    }

    /// Learns from what became of a call that began at `began`.
    pub fn learn(&self, class: Class, began: Instant, outcome: Outcome) {
        let Some(circuit) = class.circuit() else { return };
        let mut state = self.state.lock();
        let change = match outcome {
            Outcome::Failed => state.circuits[circuit].failed(began, Instant::now()),
            Outcome::Answered => state.circuits[circuit].answered(Instant::now()),
            Outcome::Unknown => None,
        };
        self.tell(&state.circuits[circuit]);
        drop(state);
        let (tenant, service, class) = (&self.name, class.service(), CIRCUITS[circuit]);
        let gauge = self.metrics.circuit_state.with_label_values(&[service]);
        match change {
            Some(Change::Opened) => {
                gauge.inc();
                tracing::warn!(tenant, service, class, "fails again and again: not asked until it answers");
            }
            Some(Change::Closed) => {
                gauge.dec();
                tracing::info!(tenant, service, class, "answers again");
            }
            None => {}
        }
    }

    /// Learns from an answer of SLAS how much more it takes of the tenant. A 429 to a client's own request says that only
    /// where its `x-ratelimit` fields do: it may be about one shopper or one operation.
    pub fn heed(&self, sender: Sender, status: StatusCode, headers: &HeaderMap) {
        if self.state.lock().quota.heed(sender, status, headers, Instant::now()) {
            tracing::warn!(tenant = self.name, "SLAS takes no more requests for now");
        }
    }

    /// Brings the gauge of what SLAS still takes up to date, which a minute that is over has made wrong.
    pub fn record_remaining(&self) {
        let remaining = self.state.lock().quota.remaining(Instant::now());
        if let Some(remaining) = remaining {
            self.metrics.slas_rate_limit_remaining.with_label_values(&[&self.name]).set(i64::from(remaining));
        }
    }

    /// Whether a call that failed may be made once more.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.repeats.take()
    }

    /// Counts a call, a part of which earns the right to repeat one.
    pub fn count(&self) {
        self.repeats.earn();
    }

    /// Wakes who asks for signs of life, where one is of use.
    fn tell(&self, circuit: &Circuit) {
        if circuit.wants_sign() {
            self.sign_wanted.notify_one();
        }
    }

    /// Waits until SLAS is worth being asked for a sign of life: it is down, and was not asked for a second.
    pub async fn sign_is_due(&self) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let is_down = state.circuits.iter().any(Circuit::wants_sign);
                is_down.then(|| state.pace.may(Instant::now()).err())
            };
            match wait {
                None => self.sign_wanted.notified().await,
                Some(None) => return,
                Some(Some(wait)) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// SLAS gave a sign of life: the next call of each class is tried.
    pub fn gave_sign(&self) {
        let now = Instant::now();
        self.state.lock().circuits.iter_mut().for_each(|circuit| circuit.sign(now));
    }
}

impl Drop for Guard {
    /// A guard that is replaced takes its open circuits off the gauge.
    fn drop(&mut self) {
        let classes = [Class::Login, Class::Refresh, Class::System, Class::Profile];
        for (circuit, class) in self.state.get_mut().circuits.iter().zip(classes) {
            if circuit.is_open() {
                self.metrics.circuit_state.with_label_values(&[class.service()]).dec();
            }
        }
    }
}
