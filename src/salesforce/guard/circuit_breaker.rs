//! A circuit breaker for one kind of calls to one service.
//!
//! Consecutive failures open it, and the first response closes it. While it is open, calls fail at once instead of waiting for a
//! service that is down. A background task probes SLAS once a second, and each successful probe admits one call. Other services
//! have no cheap probe, so the circuit breaker admits one call a second.

use std::time::{Duration, Instant};

use crate::ratelimit::{BucketConfig, TokenBucket};

/// Number of consecutive failures that open a circuit breaker.
const FAILURE_THRESHOLD: u32 = 5;
/// Rate of attempts at a service that is down, or that has just rate limited the gateway.
pub(super) const PROBES: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(1) };
/// Interval of calls admitted without a successful probe, in case only the probe fails.
const UNPROBED_TRIAL_INTERVAL: Duration = Duration::from_secs(30);

/// The state of one circuit breaker.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    is_probed: bool,
    failures: u32,
    /// Failures of calls that started before this time do not count.
    last_recovery: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Whether a probe succeeded since the last failure.
    probe_succeeded: bool,
    last_attempt: Instant,
}

/// A change of the circuit breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// The circuit breaker rejects calls from now on.
    Opened,
    /// The circuit breaker admits calls again.
    Closed,
}

impl CircuitBreaker {
    pub(super) fn new(is_probed: bool) -> Self {
        Self { is_probed, failures: 0, last_recovery: None, open: None }
    }

    /// Returns whether a call is admitted. If the circuit breaker is open, an admitted call counts as an attempt.
    pub(super) fn admit(&mut self, now: Instant, probes: &mut TokenBucket) -> bool {
        let Some(open) = &mut self.open else { return true };
        let admitted = if open.probe_succeeded {
            // The probe was an attempt too, so the next attempt is delayed by both.
            probes.debit(PROBES, 1, now);
            true
        } else if self.is_probed && now.saturating_duration_since(open.last_attempt) < UNPROBED_TRIAL_INTERVAL {
            false
        } else {
            probes.try_acquire(PROBES, 1, now).is_ok()
        };
        if admitted {
            *open = Open { probe_succeeded: false, last_attempt: now };
        }
        admitted
    }

    /// Records the failure of a call that started at `began`.
    pub(super) fn on_failure(&mut self, began: Instant, now: Instant) -> Option<Transition> {
        if self.last_recovery.is_some_and(|since| began < since) {
            return None;
        }
        self.failures += 1;
        if let Some(open) = &mut self.open {
            open.probe_succeeded = false;
            return None;
        }
        if self.failures < FAILURE_THRESHOLD {
            return None;
        }
        self.open = Some(Open { probe_succeeded: false, last_attempt: now });
        Some(Transition::Opened)
    }

    /// Records a response of the service, whatever its status.
    pub(super) fn on_success(&mut self, now: Instant) -> Option<Transition> {
        self.failures = 0;
        self.open.take().map(|_| {
            self.last_recovery = Some(now);
            Transition::Closed
        })
    }

    /// Records a successful probe.
    pub(super) fn probe_succeeded(&mut self, now: Instant) {
        if let Some(open) = self.open.as_mut().filter(|_| self.is_probed) {
            open.probe_succeeded = true;
            self.last_recovery = Some(now);
        }
    }

    /// Returns whether the circuit breaker waits for a probe.
    pub(super) fn needs_probe(&self) -> bool {
        self.is_probed && self.open.as_ref().is_some_and(|open| !open.probe_succeeded)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(circuit: &mut CircuitBreaker, now: Instant) {
        for _ in 1..FAILURE_THRESHOLD {
            assert_eq!(circuit.on_failure(now, now), None);
        }
        assert_eq!(circuit.on_failure(now, now), Some(Transition::Opened));
    }

    #[test]
    fn circuit_opens_after_consecutive_failures_only() {
        let (mut circuit, mut probes, now) = (CircuitBreaker::new(false), TokenBucket::default(), Instant::now());
        for _ in 0..3 {
            for _ in 1..FAILURE_THRESHOLD {
                assert_eq!(circuit.on_failure(now, now), None);
            }
            assert_eq!(circuit.on_success(now), None);
        }
        assert!(circuit.admit(now, &mut probes));
        opened(&mut circuit, now);
    }

    #[test]
    fn circuit_without_probe_admits_one_call_a_second_until_a_response() {
        let (mut circuit, mut probes, now) = (CircuitBreaker::new(false), TokenBucket::default(), Instant::now());
        opened(&mut circuit, now);
        let tried =
            (0..100).filter(|tenth| circuit.admit(now + Duration::from_millis(100 * tenth), &mut probes)).count();
        assert_eq!(tried, 10);
        assert_eq!(circuit.on_success(now), Some(Transition::Closed));
        assert!((0..5).all(|_| circuit.admit(now, &mut probes)));
    }

    #[test]
    fn circuit_with_probe_admits_one_call_per_successful_probe() {
        let (mut circuit, mut probes, start) = (CircuitBreaker::new(true), TokenBucket::default(), Instant::now());
        opened(&mut circuit, start);
        let at = |second| start + Duration::from_secs(second);
        assert!(!(0..29).any(|second| circuit.admit(at(second), &mut probes)));
        assert!(circuit.needs_probe() && probes.try_acquire(PROBES, 1, at(29)).is_ok());
        circuit.probe_succeeded(at(29));
        assert!(!circuit.needs_probe());
        assert!(circuit.admit(at(29), &mut probes), "immediately after the probe");
        assert!(!circuit.admit(at(29), &mut probes), "only one call");
        assert_eq!(circuit.on_failure(at(29), at(30)), None);
        assert!(
            probes.check(PROBES, 1, at(30)).is_err() && probes.try_acquire(PROBES, 1, at(31)).is_ok(),
            "two attempts delay the next one by two seconds"
        );
        assert!(circuit.admit(at(60), &mut probes), "without a successful probe");
    }

    #[test]
    fn circuit_ignores_failures_of_calls_started_before_recovery() {
        let (mut circuit, start) = (CircuitBreaker::new(false), Instant::now());
        opened(&mut circuit, start);
        circuit.on_success(start + Duration::from_secs(1));
        for _ in 0..2 * FAILURE_THRESHOLD {
            assert_eq!(circuit.on_failure(start, start + Duration::from_secs(3)), None);
        }
        assert!(!circuit.is_open());
    }
}
