//! The counter of requests, whose labels have the most combinations.
//!
//! Owns the cap: each label comes from a closed set, but six of them together, and a status that the API chooses, could make
//! more series than anybody wants to store. Beyond the cap, what has no series yet is counted in one series of "other".
//! Counting a known combination is one look into a table.

use std::{collections::HashMap, hash::BuildHasher};

use foldhash::quality::RandomState;
use parking_lot::RwLock;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Most combinations of labels: all operations of one tenant with a dozen outcomes each, and room for more.
const MOST_SERIES: usize = 10_000;
const LABELS: [&str; 6] = ["tenant", "api", "operation", "caller", "status", "source"];
/// What stands in each label of the series for everything beyond the cap.
const OTHER: &str = "other";

/// Requests answered.
#[derive(Debug)]
pub struct Requests {
    counters: IntCounterVec,
    /// By the hash of the labels under a key of this process. No text of them is of a caller's choosing.
    known: RwLock<HashMap<u64, IntCounter, foldhash::fast::RandomState>>,
    hashes: RandomState,
    most: usize,
}

/// What is counted of a request. Every text is a name of the configuration or of the policy table, or a word of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answered<'a> {
    /// The organization.
    pub tenant: &'a str,
    /// The API.
    pub api: &'a str,
    /// The operation.
    pub operation: &'a str,
    /// The caller's name, or a kind.
    pub caller: &'a str,
    /// The status, three digits.
    pub status: &'a str,
    /// `gateway` or `upstream`.
    pub source: &'a str,
}

impl Requests {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::with_cap(registry, MOST_SERIES)
    }

    fn with_cap(registry: &Registry, most: usize) -> Result<Self, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new("requests_total", "Requests answered"), &LABELS)?;
        registry.register(Box::new(counters.clone()))?;
        Ok(Self { counters, known: RwLock::default(), hashes: RandomState::default(), most })
    }

    /// Counts one.
    pub fn count(&self, answered: Answered<'_>) {
        let name = self.hashes.hash_one(answered);
        if let Some(counter) = self.known.read().get(&name) {
            counter.inc();
            return;
        }
        let mut known = self.known.write();
        let Answered { tenant, api, operation, caller, status, source } = answered;
        if known.contains_key(&name) || known.len() < self.most {
            let labels = [tenant, api, operation, caller, status, source];
            known.entry(name).or_insert_with(|| self.counters.with_label_values(&labels)).inc();
        } else {
            self.counters.with_label_values(&[OTHER; LABELS.len()]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn beyond_the_cap_one_series_takes_all() {
        let requests = Requests::with_cap(&Registry::new(), 3).unwrap();
        let of = |status: &str| {
            requests.count(Answered { tenant: "t", api: "a", operation: "o", caller: "c", status, source: "s" });
        };
        for _ in 0..2 {
            (0..100).for_each(|status| of(&status.to_string()));
        }
        let series = requests.counters.collect().remove(0);
        let mut counts: Vec<_> = series
            .get_metric()
            .iter()
            .map(|one| (one.get_label()[4].value().to_owned(), one.get_counter().get_value()))
            .collect();
        counts.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [("0", 2.0), ("1", 2.0), ("2", 2.0), ("other", 194.0)];
        assert_eq!(counts, expected.map(|(status, count)| (status.to_owned(), count)));
    }
}
