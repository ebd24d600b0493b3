//! The counter of requests, which has the most label combinations, and its limit on series.
//!
//! Each label has a closed set of values. But six labels, and a status that the API chooses, can make more combinations than
//! Prometheus should store. Beyond the limit, a new combination counts by status and source alone, with `other` in the other
//! labels, so failures remain visible. A second counter counts these cases. Counting a known combination is one table lookup.

use std::{collections::HashMap, hash::BuildHasher};

use foldhash::quality::RandomState;
use parking_lot::RwLock;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Maximum label combinations: all operations of one tenant with a dozen outcomes each, and a margin.
const MAX_SERIES: usize = 10_000;
const LABELS: [&str; 6] = ["tenant", "api", "operation", "caller", "status", "source"];
/// The value of the other labels in the series beyond the limit.
const OTHER: &str = "other";

/// Counts requests by their labels.
#[derive(Debug)]
pub struct RequestCounter {
    counters: IntCounterVec,
    /// Requests counted beyond the limit.
    overflows: IntCounter,
    /// Keyed by a hash of the labels, with a random key of this process. Callers choose no label value.
    known: RwLock<HashMap<u64, IntCounter, foldhash::fast::RandomState>>,
    hashes: RandomState,
    max_series: usize,
}

/// The labels of a request. Each value is a name of the configuration or of the policy table, or a constant of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestLabels<'a> {
    /// The organization.
    pub tenant: &'a str,
    /// The API.
    pub api: &'a str,
    /// The operation.
    pub operation: &'a str,
    /// The caller's name, or its kind.
    pub caller: &'a str,
    /// The status, three digits.
    pub status: &'a str,
    /// `gateway` or `upstream`.
    pub source: &'a str,
}

impl RequestCounter {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::with_limit(registry, MAX_SERIES)
    }

    fn with_limit(registry: &Registry, max_series: usize) -> Result<Self, prometheus::Error> {
        let counters =
            IntCounterVec::new(Opts::new("requests_total", "Requests, by status and source of the response"), &LABELS)?;
        registry.register(Box::new(counters.clone()))?;
        let overflows = IntCounter::new(
            "requests_label_overflow_total",
            "Requests counted as other, because the series limit is reached",
        )?;
        registry.register(Box::new(overflows.clone()))?;
        Ok(Self { counters, overflows, known: RwLock::default(), hashes: RandomState::default(), max_series })
    }

    /// Counts one request.
    pub fn count(&self, labels: RequestLabels<'_>) {
        let hash = self.hashes.hash_one(labels);
        if let Some(counter) = self.known.read().get(&hash) {
            counter.inc();
            return;
        }
        let mut known = self.known.write();
        let RequestLabels { tenant, api, operation, caller, status, source } = labels;
        if known.contains_key(&hash) || known.len() < self.max_series {
            let values = [tenant, api, operation, caller, status, source];
            known.entry(hash).or_insert_with(|| self.counters.with_label_values(&values)).inc();
        } else {
            self.overflows.inc();
            self.counters.with_label_values(&[OTHER, OTHER, OTHER, OTHER, status, source]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn requests_beyond_series_limit_count_by_status_and_source() {
        let requests = RequestCounter::with_limit(&Registry::new(), 3).unwrap();
        for _ in 0..2 {
            for operation in (0..100).map(|number| number.to_string()) {
                for (status, source) in [("200", "upstream"), ("503", "gateway")] {
                    let (api, operation, caller) = ("a", operation.as_str(), "c");
                    requests.count(RequestLabels { tenant: "t", api, operation, caller, status, source });
                }
            }
        }
        let series = requests.counters.collect().remove(0);
        let mut counts: Vec<_> = series
            .get_metric()
            .iter()
            .map(|one| {
                let label = |name: &str| one.get_label().iter().find(|label| label.name() == name).unwrap().value();
                let text = ["tenant", "operation", "status", "source"].map(label).join(" ");
                (text, one.get_counter().get_value())
            })
            .collect();
        counts.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [
            ("other other 200 upstream", 196.0),
            ("other other 503 gateway", 198.0),
            ("t 0 200 upstream", 2.0),
            ("t 0 503 gateway", 2.0),
            ("t 1 200 upstream", 2.0),
        ];
        assert_eq!(counts, expected.map(|(labels, count)| (labels.to_owned(), count)));
        assert_eq!(requests.overflows.get(), 394);
    }
}
