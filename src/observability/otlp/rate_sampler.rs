//! A sampler with a rate limit, for traces that callers request.
//!
//! Any client can send a `traceparent` header with the sampled flag. Without the limit, clients could fill the collector and the
//! exporter's queue.

use std::sync::Arc;

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceId},
};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

use crate::ratelimit::{BucketConfig, RateLimiter};

/// Samples traces up to a rate per second.
#[derive(Debug, Clone)]
pub(super) struct RateLimitedSampler(Arc<RateLimiter>);

impl RateLimitedSampler {
    pub(super) fn new(per_second: u32) -> Self {
        Self(Arc::new(RateLimiter::new(BucketConfig::per_second(per_second))))
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
        let decision = if self.0.try_acquire().is_ok() { Sampler::AlwaysOn } else { Sampler::AlwaysOff };
        decision.should_sample(parent, trace, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn sampler_refills_every_second() {
        let (sampler, now) = (RateLimitedSampler::new(2), Instant::now());
        let taken = |now| [(); 3].map(|()| sampler.0.try_acquire_at(now).is_ok());
        assert_eq!(taken(now), [true, true, false]);
        assert_eq!(taken(now + Duration::from_millis(1500)), [true, true, false]);
        assert!(RateLimitedSampler::new(0).0.try_acquire_at(now).is_err());
    }
}
