//! Traces: spans for an OpenTelemetry collector, by OTLP over HTTP, and the W3C context that ties them to others'.
//!
//! Owns the exporter and the propagation. Spans wait in a bounded queue for a thread of the exporter's own: a collector that is
//! slow or gone costs requests nothing, and spans beyond the queue are dropped. Headers that a collector wants come from
//! the standard's `OTEL_EXPORTER_OTLP_HEADERS`, the service's name and attributes from `OTEL_SERVICE_NAME` and
//! `OTEL_RESOURCE_ATTRIBUTES`. `asked` bounds what callers may have kept, `told` says whether the collector takes it.

mod exporter;
mod rate_sampler;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider as _},
};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider, SpanExporter as _},
};
use prometheus::IntCounterVec;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};
use url::Url;

use self::{exporter::CountingExporter, rate_sampler::RateLimitedSampler};
use crate::{config::Traces, connect_failure::ConnectFailure, host::url_without_root_dot, observability::spans};

const SERVICE_NAME: &str = "shopper-gateway";
/// Where a collector takes traces, below its address (OTLP 1.x, "OTLP/HTTP request").
const TRACES_PATH: &str = "v1/traces";
/// How long a collector is tried for the cause of a failure.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Exports spans until it is stopped.
#[derive(Debug)]
pub struct TraceExporter(SdkTracerProvider);

impl TraceExporter {
    /// Sends to the configured collector, and counts in `exported` by outcome; calls nobody before there is a span.
    ///
    /// # Errors
    /// If the exporter's client or thread cannot be made.
    pub(super) fn new(endpoint: &Url, traces: &Traces, exported: IntCounterVec) -> Result<Self, ExporterBuildError> {
        let exporter = span_exporter(endpoint)?;
        // Whoever began the trace has decided whether it is kept, within bounds; for those begun here, the share decides.
        let root_sampler = Sampler::TraceIdRatioBased(traces.sample_ratio);
        let sampler = Sampler::parent_based(root_sampler)
            .with_remote_parent_sampled(RateLimitedSampler::new(traces.parent_sampled_per_second));
        let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource = if std::env::var_os("OTEL_SERVICE_NAME").is_some() {
            resource
        } else {
            resource.with_service_name(SERVICE_NAME)
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(CountingExporter::new(exporter, exported))
            .with_sampler(sampler)
            .with_resource(resource.build())
            .build();
        Ok(Self(provider))
    }

    /// What makes spans of the gateway's own target known to the exporter.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == spans::TARGET))
    }

    /// Sends what is left.
    pub fn shutdown(&self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

fn span_exporter(endpoint: &Url) -> Result<SpanExporter, ExporterBuildError> {
    let endpoint = url_without_root_dot(endpoint);
    let base = endpoint.as_str().trim_end_matches('/');
    SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/{TRACES_PATH}"))
        .build()
}

/// Exports no span to a collector, and so finds out whether it takes any.
///
/// # Errors
/// Why it does not; nothing of its answer but the status.
pub async fn probe_collector(endpoint: &Url) -> Result<(), String> {
    let exporter = span_exporter(endpoint).map_err(|error| error.to_string())?;
    // Its client blocks a thread, which with spans is one of the exporter's own.
    let tried = tokio::task::spawn_blocking(move || futures_executor::block_on(exporter.export(Vec::new()))).await;
    let Err(error) = tried.map_err(|error| error.to_string())? else { return Ok(()) };
    // The exporter says of a network error nothing but that it was one.
    Err(match connect_failure(endpoint).await {
        Some(cause) => format!("no connection could be made: {cause}; {}", cause.advice()),
        None => error.to_string(),
    })
}

/// Why no connection to a collector can be made, by a client like the exporter's; `None` if one can.
async fn connect_failure(endpoint: &Url) -> Option<ConnectFailure> {
    let client =
        reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(CONNECT_TIMEOUT * 2).build().ok()?;
    let error = client.head(url_without_root_dot(endpoint)).send().await.err()?;
    if error.is_dns() {
        Some(ConnectFailure::Unresolved)
    } else if error.is_connect() && error.is_timeout() {
        Some(ConnectFailure::TimedOut)
    } else {
        error.is_connect().then(|| ConnectFailure::from_error(&error))
    }
}

/// Makes a span part of the trace that a request's header names (W3C Trace Context). What is not such a name is ignored.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // A span that has begun already stays where it is.
    let _ = span.set_parent(context);
}

/// Gives a span its name once that is known.
pub fn rename_span(span: &Span, name: &str) {
    if !span.is_disabled() {
        span.context().span().update_name(name.to_owned());
    }
}

/// The id of the trace that a span belongs to, where that is exported: what a collector's user searches for.
#[must_use]
pub fn sampled_trace_id(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let named = span.span_context();
    named.is_sampled().then(|| named.trace_id().to_string())
}

/// The header fields by which a server continues the trace below this span; none where nothing is traced.
#[must_use]
pub fn trace_headers(span: &Span) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = HeaderInjector(Vec::new());
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut fields);
    }
    fields.0
}

struct HeaderExtractor<'h>(&'h HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeaderInjector(Vec<(HeaderName, HeaderValue)>);

impl Injector for HeaderInjector {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(key.as_bytes()), HeaderValue::from_str(&value)) {
            self.0.push((name, value));
        }
    }
}
