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
pub(super) struct RateLimitedSampler {
    per_second: u32,
    window: Arc<Mutex<Window>>,
}

/// Those kept since a second began.
#[derive(Debug)]
struct Window {
    start: Instant,
    sampled: u32,
}

impl RateLimitedSampler {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, window: Arc::new(Mutex::new(Window { start: Instant::now(), sampled: 0 })) }
    }

    fn try_acquire(&self, now: Instant) -> bool {
        let mut window = self.window.lock();
        if now.saturating_duration_since(window.start) >= Duration::from_secs(1) {
            *window = Window { start: now, sampled: 0 };
        }
        let is_below_limit = window.sampled < self.per_second;
        window.sampled += u32::from(is_below_limit);
        is_below_limit
    }
}

impl ShouldSample for RateLimitedSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let decision = if self.try_acquire(Instant::now()) { Sampler::AlwaysOn } else { Sampler::AlwaysOff };
        decision.should_sample(parent, trace, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own() {
        let (sampler, now) = (RateLimitedSampler::new(2), Instant::now());
        let taken = |now| [sampler.try_acquire(now), sampler.try_acquire(now), sampler.try_acquire(now)];
        assert_eq!(taken(now), [true, true, false]);
        assert_eq!(taken(now + Duration::from_millis(1500)), [true, true, false]);
        assert!(!RateLimitedSampler::new(0).try_acquire(now));
    }
}
