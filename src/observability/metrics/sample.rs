//! The current values of metrics, for the status page.

use std::collections::BTreeMap;

use prometheus::proto::{MetricFamily, MetricType};

/// The current value of one series of the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Returns the value of a label, or an empty string if the label is absent, as in Prometheus.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Returns the value as a count.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
    pub fn count(&self) -> u64 {
        self.value.max(0.0) as u64
    }

    /// Returns the series of a family of gauges or counters. Empty for other families.
    pub(super) fn of_family(family: &MetricFamily) -> Vec<Self> {
        let value = |metric: &prometheus::proto::Metric| match family.get_field_type() {
            MetricType::GAUGE => Some(metric.get_gauge().get_value()),
            MetricType::COUNTER => Some(metric.get_counter().get_value()),
            _ => None,
        };
        let samples = family.get_metric().iter().filter_map(|metric| {
            let labels = metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned()));
            Some(Self { value: value(metric)?, labels: labels.collect() })
        });
        samples.collect()
    }
}
