//! How many traces are kept because a caller says so.
//!
//! Owns the count of each second. `traceparent` is anybody's to send: without a bound strangers would fill the collector, and
//! the exporter's queue before it, with what nobody else wants to see.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceId},
};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};
use parking_lot::Mutex;

/// Keeps so many a second of those that are asked to be kept.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    most: u32,
    kept: Arc<Mutex<Second>>,
}

/// Those kept since a second began.
#[derive(Debug)]
struct Second {
    began: Instant,
    kept: u32,
}

impl Asked {
    pub(super) fn new(per_second: u32) -> Self {
        Self { most: per_second, kept: Arc::new(Mutex::new(Second { began: Instant::now(), kept: 0 })) }
    }

    fn takes_one(&self, now: Instant) -> bool {
        let mut second = self.kept.lock();
        if now.saturating_duration_since(second.began) >= Duration::from_secs(1) {
            *second = Second { began: now, kept: 0 };
        }
        let has_room = second.kept < self.most;
        second.kept += u32::from(has_room);
        has_room
    }
}

impl ShouldSample for Asked {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let decision = if self.takes_one(Instant::now()) { Sampler::AlwaysOn } else { Sampler::AlwaysOff };
        decision.should_sample(parent, trace, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own() {
        let (asked, now) = (Asked::new(2), Instant::now());
        let taken = |now| [asked.takes_one(now), asked.takes_one(now), asked.takes_one(now)];
        assert_eq!(taken(now), [true, true, false]);
        assert_eq!(taken(now + Duration::from_millis(1500)), [true, true, false]);
        assert!(!Asked::new(0).takes_one(now));
    }
}
