//! One circuit: whether a service is asked at all, for one class of calls.
//!
//! Owns the counting of failures in a row, and the way back. While it is open nobody waits for a service that is down.
//! SLAS is asked for a sign of life once a second by nobody's request, and only its sign lets one call try; other
//! services have nothing so cheap, so there a call tries once a second. The first answer closes the circuit.

use std::time::{Duration, Instant};

use crate::ratelimit::{BucketConfig, TokenBucket};

/// So many failures in a row open it.
const FAILURE_THRESHOLD: u32 = 5;
/// One attempt in a second at a service that is down, or that has just rate limited the gateway.
pub(super) const PROBES: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(1) };
/// How often a call tries without a sign of life, in case it is the sign that fails.
const UNPROBED_TRIAL_INTERVAL: Duration = Duration::from_secs(30);

/// One class of calls to one service.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    is_probed: bool,
    failures: u32,
    /// What began earlier tells nothing of now.
    last_recovery: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Whether a sign of life came since the last failure.
    probe_succeeded: bool,
    last_attempt: Instant,
}

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// The service is not asked any more.
    Opened,
    /// It is again.
    Closed,
}

impl CircuitBreaker {
    pub(super) fn new(is_probed: bool) -> Self {
        Self { is_probed, failures: 0, last_recovery: None, open: None }
    }

    /// Whether a call may be made; if the circuit is open, it is an attempt.
    pub(super) fn admit(&mut self, now: Instant, probes: &mut TokenBucket) -> bool {
        let Some(open) = &mut self.open else { return true };
        let admitted = if open.probe_succeeded {
            // The sign was just an attempt too; the next one is the later for it.
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

    /// A call that began at `began` failed.
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

    /// The service answered, whatever.
    pub(super) fn on_success(&mut self, now: Instant) -> Option<Transition> {
        self.failures = 0;
        self.open.take().map(|_| {
            self.last_recovery = Some(now);
            Transition::Closed
        })
    }

    /// The service gave a sign of life.
    pub(super) fn probe_succeeded(&mut self, now: Instant) {
        if let Some(open) = self.open.as_mut().filter(|_| self.is_probed) {
            open.probe_succeeded = true;
            self.last_recovery = Some(now);
        }
    }

    /// Whether a sign of life would be of use.
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
    fn failures_in_a_row_open_it_and_an_answer_in_between_begins_anew() {
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
    fn without_signs_one_call_a_second_tries_and_its_answer_closes() {
        let (mut circuit, mut probes, now) = (CircuitBreaker::new(false), TokenBucket::default(), Instant::now());
        opened(&mut circuit, now);
        let tried =
            (0..100).filter(|tenth| circuit.admit(now + Duration::from_millis(100 * tenth), &mut probes)).count();
        assert_eq!(tried, 10);
        assert_eq!(circuit.on_success(now), Some(Transition::Closed));
        assert!((0..5).all(|_| circuit.admit(now, &mut probes)));
    }

    #[test]
    fn with_signs_nobody_tries_until_one_comes() {
        let (mut circuit, mut probes, start) = (CircuitBreaker::new(true), TokenBucket::default(), Instant::now());
        opened(&mut circuit, start);
        let at = |second| start + Duration::from_secs(second);
        assert!(!(0..29).any(|second| circuit.admit(at(second), &mut probes)));
        assert!(circuit.needs_probe() && probes.try_acquire(PROBES, 1, at(29)).is_ok());
        circuit.probe_succeeded(at(29));
        assert!(!circuit.needs_probe());
        assert!(circuit.admit(at(29), &mut probes), "at once");
        assert!(!circuit.admit(at(29), &mut probes), "one");
        assert_eq!(circuit.on_failure(at(29), at(30)), None);
        assert!(
            probes.check(PROBES, 1, at(30)).is_err() && probes.try_acquire(PROBES, 1, at(31)).is_ok(),
            "two attempts, so two seconds"
        );
        assert!(circuit.admit(at(60), &mut probes), "and blindly, if the signs stay away");
    }

    #[test]
    fn what_began_before_the_end_of_an_outage_says_nothing_of_now() {
        let (mut circuit, start) = (CircuitBreaker::new(false), Instant::now());
        opened(&mut circuit, start);
        circuit.on_success(start + Duration::from_secs(1));
        for _ in 0..2 * FAILURE_THRESHOLD {
            assert_eq!(circuit.on_failure(start, start + Duration::from_secs(3)), None);
        }
        assert!(!circuit.is_open());
    }
}
