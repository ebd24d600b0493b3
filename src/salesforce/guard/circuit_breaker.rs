//! One circuit: whether a service is asked at all, for one class of calls.
//!
//! Owns the counting of failures in a row, and the way back. While it is open nobody waits for a service that is down.
//! SLAS is asked for a sign of life once a second by nobody's request, and only its sign lets one call try; other
//! services have nothing so cheap, so there a call tries once a second. The first answer closes the circuit.

use std::time::{Duration, Instant};

/// So many failures in a row open it.
const FAILURES: u32 = 5;
/// Between two attempts at a service that is down.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// How often a call tries without a sign of life, in case it is the sign that fails.
const BLINDLY_EVERY: Duration = Duration::from_secs(30);

/// When the next attempt may be made, of all that share it.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<Instant>);

/// One class of calls to one service.
#[derive(Debug)]
pub(super) struct Circuit {
    has_signs: bool,
    failures: u32,
    /// What began earlier tells nothing of now.
    since: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Whether a sign of life came since the last failure.
    sign: bool,
    last_attempt: Instant,
}

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The service is not asked any more.
    Opened,
    /// It is again.
    Closed,
}

impl Pace {
    /// Whether an attempt may be made now; then it counts.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn may(&mut self, now: Instant) -> Result<(), Duration> {
        match self.0 {
            Some(next) if next > now => Err(next - now),
            _ => {
                self.count(now);
                Ok(())
            }
        }
    }

    /// Counts an attempt that was made anyway.
    fn count(&mut self, now: Instant) {
        self.0 = Some(self.0.map_or(now, |next| next.max(now)) + BETWEEN_ATTEMPTS);
    }
}

impl Circuit {
    pub(super) fn new(has_signs: bool) -> Self {
        Self { has_signs, failures: 0, since: None, open: None }
    }

    /// Whether a call may be made; if the circuit is open, it is an attempt.
    pub(super) fn admit(&mut self, now: Instant, pace: &mut Pace) -> bool {
        let Some(open) = &mut self.open else { return true };
        let may = if open.sign {
            // The sign was just an attempt too; the next one is the later for it.
            pace.count(now);
            true
        } else if self.has_signs && now.saturating_duration_since(open.last_attempt) < BLINDLY_EVERY {
            false
        } else {
            pace.may(now).is_ok()
        };
        if may {
            *open = Open { sign: false, last_attempt: now };
        }
        may
    }

    /// A call that began at `began` failed.
    pub(super) fn failed(&mut self, began: Instant, now: Instant) -> Option<Change> {
        if self.since.is_some_and(|since| began < since) {
            return None;
        }
        self.failures += 1;
        if let Some(open) = &mut self.open {
            open.sign = false;
            return None;
        }
        if self.failures < FAILURES {
            return None;
        }
        self.open = Some(Open { sign: false, last_attempt: now });
        Some(Change::Opened)
    }

    /// The service answered, whatever.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Change> {
        self.failures = 0;
        self.open.take().map(|_| {
            self.since = Some(now);
            Change::Closed
        })
    }

    /// The service gave a sign of life.
    pub(super) fn sign(&mut self, now: Instant) {
        if let Some(open) = self.open.as_mut().filter(|_| self.has_signs) {
            open.sign = true;
            self.since = Some(now);
        }
    }

    /// Whether a sign of life would be of use.
    pub(super) fn wants_sign(&self) -> bool {
        self.has_signs && self.open.as_ref().is_some_and(|open| !open.sign)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(circuit: &mut Circuit, now: Instant) {
        for _ in 1..FAILURES {
            assert_eq!(circuit.failed(now, now), None);
        }
        assert_eq!(circuit.failed(now, now), Some(Change::Opened));
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_in_between_begins_anew() {
        let (mut circuit, mut pace, now) = (Circuit::new(false), Pace::default(), Instant::now());
        for _ in 0..3 {
            for _ in 1..FAILURES {
                assert_eq!(circuit.failed(now, now), None);
            }
            assert_eq!(circuit.answered(now), None);
        }
        assert!(circuit.admit(now, &mut pace));
        opened(&mut circuit, now);
    }

    #[test]
    fn without_signs_one_call_a_second_tries_and_its_answer_closes() {
        let (mut circuit, mut pace, now) = (Circuit::new(false), Pace::default(), Instant::now());
        opened(&mut circuit, now);
        let tried = (0..100).filter(|tenth| circuit.admit(now + Duration::from_millis(100 * tenth), &mut pace)).count();
        assert_eq!(tried, 10);
        assert_eq!(circuit.answered(now), Some(Change::Closed));
        assert!((0..5).all(|_| circuit.admit(now, &mut pace)));
    }

    #[test]
    fn with_signs_nobody_tries_until_one_comes() {
        let (mut circuit, mut pace, start) = (Circuit::new(true), Pace::default(), Instant::now());
        opened(&mut circuit, start);
        let at = |second| start + Duration::from_secs(second);
        assert!(!(0..29).any(|second| circuit.admit(at(second), &mut pace)));
        assert!(circuit.wants_sign() && pace.may(at(29)).is_ok());
        circuit.sign(at(29));
        assert!(!circuit.wants_sign());
        assert!(circuit.admit(at(29), &mut pace), "at once");
        assert!(!circuit.admit(at(29), &mut pace), "one");
        assert_eq!(circuit.failed(at(29), at(30)), None);
        assert!(pace.may(at(30)).is_err() && pace.may(at(31)).is_ok(), "two attempts, so two seconds");
        assert!(circuit.admit(at(60), &mut pace), "and blindly, if the signs stay away");
    }

    #[test]
    fn what_began_before_the_end_of_an_outage_says_nothing_of_now() {
        let (mut circuit, start) = (Circuit::new(false), Instant::now());
        opened(&mut circuit, start);
        circuit.answered(start + Duration::from_secs(1));
        for _ in 0..2 * FAILURES {
            assert_eq!(circuit.failed(start, start + Duration::from_secs(3)), None);
        }
        assert!(!circuit.is_open());
    }
}
