//! Load shedding: rejects a share of the requests of low priority while Salesforce reports a high load.
//!
//! Salesforce reports `sfdc_load` (0 to 100) and `sfdc_load_status`: `WARN` from 80, and `THROTTLE` from 90, when Salesforce begins to
//! reject requests itself. The share grows with the load, from a tenth at 80 to all at 90. A report loses weight with its age, so the
//! gateway forwards requests again without a report of a lower load. The policy decides which requests have low priority.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use http::HeaderMap;
use parking_lot::Mutex;

/// The age up to which a report has its full weight, and the age from which it has none.
const FULL_WEIGHT_TTL: Duration = Duration::from_secs(2);
const REPORT_TTL: Duration = Duration::from_secs(10);
/// The loads at which shedding begins, and at which it is complete.
const WARN: f64 = 80.0;
const THROTTLE: f64 = 90.0;
/// The share at the beginning of `WARN`.
const MIN_SHARE: f64 = 0.1;
/// The share if `WARN` comes without a number.
const DEFAULT_SHARE: f64 = 0.5;

/// Sheds load by the reports of one organization's APIs.
#[derive(Debug, Default)]
pub(super) struct LoadShedder {
    is_load_high: AtomicBool,
    reported: Mutex<ReportedLoad>,
}

#[derive(Debug, Default)]
struct ReportedLoad {
    /// The share of requests to shed when the report arrived.
    share: f64,
    at: Option<Instant>,
    /// The fractions of requests that are not shed yet.
    carry: f64,
}

impl ReportedLoad {
    fn share_at(&self, now: Instant) -> f64 {
        let age = self.at.map_or(REPORT_TTL, |at| now.saturating_duration_since(at));
        let left = REPORT_TTL.saturating_sub(age).as_secs_f64();
        self.share * (left / (REPORT_TTL - FULL_WEIGHT_TTL).as_secs_f64()).min(1.0)
    }

    fn report(&mut self, share: f64, now: Instant) {
        if share >= self.share_at(now) {
            (self.share, self.at) = (share, Some(now));
        }
    }

    /// Whether to shed the next request. The result is deterministic: exactly the share of consecutive requests is shed.
    fn should_shed(&mut self, now: Instant) -> bool {
        self.carry += self.share_at(now);
        let should_shed = self.carry >= 1.0;
        if should_shed {
            self.carry -= 1.0;
        }
        should_shed
    }
}

impl LoadShedder {
    /// Whether a report of a high load may still have weight.
    pub(super) fn is_load_high(&self) -> bool {
        self.is_load_high.load(Ordering::Relaxed)
    }

    /// Reads the load that a response reports.
    pub(super) fn on_response(&self, headers: &HeaderMap) {
        if let Some(share) = share_to_shed(headers) {
            self.reported.lock().report(share, Instant::now());
            self.is_load_high.store(true, Ordering::Relaxed);
        }
    }

    /// Whether to shed a request of low priority now.
    pub(super) fn should_shed(&self) -> bool {
        let (mut reported, now) = (self.reported.lock(), Instant::now());
        if reported.share_at(now) <= 0.0 {
            self.is_load_high.store(false, Ordering::Relaxed);
        }
        reported.should_shed(now)
    }
}

/// Returns the share of requests to shed by a response. `None` if it reports no high load.
fn share_to_shed(headers: &HeaderMap) -> Option<f64> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let load = text("sfdc_load").and_then(|load| load.parse::<f64>().ok()).filter(|load| load.is_finite());
    let share = |load: f64| (MIN_SHARE + (1.0 - MIN_SHARE) * (load - WARN) / (THROTTLE - WARN)).clamp(MIN_SHARE, 1.0);
    match (text("sfdc_load_status"), load) {
        (Some(status), _) if status.eq_ignore_ascii_case("THROTTLE") => Some(1.0),
        (Some(status), load) if status.eq_ignore_ascii_case("WARN") => Some(load.map_or(DEFAULT_SHARE, share)),
        (_, Some(load)) if load >= WARN => Some(share(load)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn share_of(load: Option<&'static str>, status: Option<&'static str>) -> Option<f64> {
        let mut headers = HeaderMap::new();
        for (name, value) in [("sfdc_load", load), ("sfdc_load_status", status)] {
            value.map(|value| headers.insert(name, HeaderValue::from_static(value)));
        }
        share_to_shed(&headers)
    }

    fn shed_of_100(reported: &mut ReportedLoad, now: Instant) -> usize {
        (0..100).filter(|_| reported.should_shed(now)).count()
    }

    #[test]
    fn share_grows_with_the_load() {
        for (load, status, expected) in [
            (None, None, None),
            (Some("79"), None, None),
            (Some("?"), None, None),
            (Some("NaN"), Some("other"), None),
            (Some("80"), Some("WARN"), Some(0.1)),
            (Some("85"), Some("warn"), Some(0.55)),
            (Some("85"), None, Some(0.55)),
            (None, Some("WARN"), Some(0.5)),
            (Some("1"), Some("WARN"), Some(0.1)),
            (Some("100"), None, Some(1.0)),
            (Some("90"), Some("THROTTLE"), Some(1.0)),
        ] {
            let share = share_of(load, status);
            let is_equal = share.zip(expected).map_or(share == expected, |(share, other)| (share - other).abs() < 1e-9);
            assert!(is_equal, "{load:?} {status:?}: {share:?}");
        }
    }

    #[test]
    fn reported_share_is_shed_and_loses_weight_with_age() {
        let (mut reported, now) = (ReportedLoad::default(), Instant::now());
        assert_eq!(shed_of_100(&mut reported, now), 0);
        reported.report(0.3, now);
        assert!((29..=30).contains(&shed_of_100(&mut reported, now)));
        // The higher of two reports counts.
        reported.report(1.0, now);
        reported.report(0.1, now);
        assert_eq!(shed_of_100(&mut reported, now), 100);
        assert!((49..=51).contains(&shed_of_100(&mut reported, now + Duration::from_secs(6))));
        assert!(shed_of_100(&mut reported, now + Duration::from_secs(10)) <= 1, "the carry");
        // A later report of a lower load counts when the earlier one has lost weight.
        let later = now + Duration::from_secs(9);
        reported.report(0.2, later);
        assert!((19..=21).contains(&shed_of_100(&mut reported, later)));
    }
}
