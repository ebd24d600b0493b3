//! What Salesforce says of its own load, and the part of the least important requests that is left out for it.
//!
//! Owns the reading of `sfdc_load` (0 to 100) and `sfdc_load_status` (`WARN` from 80, `THROTTLE` from 90; then Salesforce
//! begins to refuse by itself). The part grows with the load: half at the beginning of `WARN` would be too much
//! and none too little, so it is a tenth at 80 and all at 90. What was said counts less and less, so that no word of Salesforce's is needed to begin again. Which requests these are is the policy's affair.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use http::HeaderMap;
use parking_lot::Mutex;

/// How long what was said counts in full, and when it counts for nothing any more.
const FRESH_FOR: Duration = Duration::from_secs(2);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// Loads at which the first are left out, and all.
const WARN: f64 = 80.0;
const THROTTLE: f64 = 90.0;
/// The part at the beginning of `WARN`.
const FIRST_PART: f64 = 0.1;
/// The part where `WARN` comes without a number.
const UNSAID_PART: f64 = 0.5;

/// The load of one organization's APIs.
#[derive(Debug, Default)]
pub(super) struct Load {
    is_high: AtomicBool,
    said: Mutex<ReportedLoad>,
}

#[derive(Debug, Default)]
struct ReportedLoad {
    part: f64,
    at: Option<Instant>,
    /// What of a request was not left out yet, as parts are no whole requests.
    carried: f64,
}

impl ReportedLoad {
    fn part_at(&self, now: Instant) -> f64 {
        let since = self.at.map_or(FORGOTTEN_AFTER, |at| now.saturating_duration_since(at));
        let left = FORGOTTEN_AFTER.saturating_sub(since).as_secs_f64();
        self.part * (left / (FORGOTTEN_AFTER - FRESH_FOR).as_secs_f64()).min(1.0)
    }

    fn heed(&mut self, part: f64, now: Instant) {
        if part >= self.part_at(now) {
            (self.part, self.at) = (part, Some(now));
        }
    }

    /// Whether the next one is left out. No chance is involved: of a hundred in a row, just the part is.
    fn sheds(&mut self, now: Instant) -> bool {
        self.carried += self.part_at(now);
        let sheds = self.carried >= 1.0;
        if sheds {
            self.carried -= 1.0;
        }
        sheds
    }
}

impl Load {
    /// Whether something was said a moment ago.
    pub(super) fn is_high(&self) -> bool {
        self.is_high.load(Ordering::Relaxed)
    }

    /// Learns from an answer.
    pub(super) fn heed(&self, headers: &HeaderMap) {
        if let Some(part) = part_said(headers) {
            self.said.lock().heed(part, Instant::now());
            self.is_high.store(true, Ordering::Relaxed);
        }
    }

    /// Whether one of the least important requests is left out now.
    pub(super) fn sheds(&self) -> bool {
        let (mut said, now) = (self.said.lock(), Instant::now());
        if said.part_at(now) <= 0.0 {
            self.is_high.store(false, Ordering::Relaxed);
        }
        said.sheds(now)
    }
}

/// The part that an answer asks to leave out, if it says anything of the kind.
fn part_said(headers: &HeaderMap) -> Option<f64> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let load = text("sfdc_load").and_then(|load| load.parse::<f64>().ok()).filter(|load| load.is_finite());
    let of_load =
        |load: f64| (FIRST_PART + (1.0 - FIRST_PART) * (load - WARN) / (THROTTLE - WARN)).clamp(FIRST_PART, 1.0);
    match (text("sfdc_load_status"), load) {
        (Some(status), _) if status.eq_ignore_ascii_case("THROTTLE") => Some(1.0),
        (Some(status), load) if status.eq_ignore_ascii_case("WARN") => Some(load.map_or(UNSAID_PART, of_load)),
        (_, Some(load)) if load >= WARN => Some(of_load(load)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(load: Option<&'static str>, status: Option<&'static str>) -> Option<f64> {
        let mut headers = HeaderMap::new();
        for (name, value) in [("sfdc_load", load), ("sfdc_load_status", status)] {
            value.map(|value| headers.insert(name, HeaderValue::from_static(value)));
        }
        part_said(&headers)
    }

    fn shed_of_100(state: &mut ReportedLoad, now: Instant) -> usize {
        (0..100).filter(|_| state.sheds(now)).count()
    }

    #[test]
    fn the_part_grows_with_the_load() {
        for (load, status, part) in [
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
            let said = said(load, status);
            assert!(
                said.zip(part).map_or(said == part, |(said, part)| (said - part).abs() < 1e-9),
                "{load:?} {status:?}: {said:?}"
            );
        }
    }

    #[test]
    fn just_the_part_is_left_out_and_less_with_each_second() {
        let (mut state, now) = (ReportedLoad::default(), Instant::now());
        assert_eq!(shed_of_100(&mut state, now), 0);
        state.heed(0.3, now);
        assert!((29..=30).contains(&shed_of_100(&mut state, now)));
        state.heed(1.0, now);
        state.heed(0.1, now);
        assert_eq!(shed_of_100(&mut state, now), 100, "the worse news counts");
        assert!((49..=51).contains(&shed_of_100(&mut state, now + Duration::from_secs(6))));
        assert!(shed_of_100(&mut state, now + Duration::from_secs(10)) <= 1, "what was carried");
        state.heed(0.2, now + Duration::from_secs(9));
        assert!(
            (19..=21).contains(&shed_of_100(&mut state, now + Duration::from_secs(9))),
            "until there is other news"
        );
    }
}
