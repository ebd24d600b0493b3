//! Exports spans to an OpenTelemetry collector by OTLP over HTTP, and propagates the W3C trace context.
//!
//! A bounded queue and the exporter's own thread decouple requests from the collector. A slow or missing collector never delays a
//! request. Spans beyond the queue are dropped. `OTEL_EXPORTER_OTLP_HEADERS` sets headers for the collector.
//! `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` set the service's name and attributes. `rate_sampler` limits the traces
//! that callers can request, and `exporter` counts the exported spans.

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
/// The path of traces at a collector (OTLP 1.x, "OTLP/HTTP request").
const TRACES_PATH: &str = "v1/traces";
/// Timeout of the connection that finds the cause of a failed export.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Exports spans until [`TraceExporter::shutdown`].
#[derive(Debug)]
pub struct TraceExporter(SdkTracerProvider);

impl TraceExporter {
    /// Creates an exporter to the configured collector, which counts spans in `exported` by outcome. It connects when the first
    /// span is exported.
    ///
    /// # Errors
    /// If the exporter's client or thread cannot be created.
    pub(super) fn new(endpoint: &Url, traces: &Traces, exported: IntCounterVec) -> Result<Self, ExporterBuildError> {
        let exporter = span_exporter(endpoint)?;
        // The caller that started a trace decides about sampling, within a rate limit. Traces started here are sampled by ratio.
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

    /// Returns the layer that passes spans of the gateway's own target to the exporter.
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

    /// Exports the queued spans, and stops.
    pub fn shutdown(&self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "export of the last spans failed");
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

/// Sends an empty export to the collector, to check whether it accepts spans.
///
/// # Errors
/// The cause of the failure. Of the collector's response the text contains only the status.
pub async fn probe_collector(endpoint: &Url) -> Result<(), String> {
    let exporter = span_exporter(endpoint).map_err(|error| error.to_string())?;
    // The exporter's client blocks its thread.
    let tried = tokio::task::spawn_blocking(move || futures_executor::block_on(exporter.export(Vec::new()))).await;
    let Err(error) = tried.map_err(|error| error.to_string())? else { return Ok(()) };
    // The exporter's network errors have no cause, so a second connection finds it.
    Err(match connect_failure(endpoint).await {
        Some(cause) => format!("no connection could be made: {cause}; {}", cause.advice()),
        None => error.to_string(),
    })
}

/// Connects to the collector with a client like the exporter's, and returns the cause of the failure. `None` on success.
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

/// Makes the span part of the trace in the request's headers (W3C Trace Context). Invalid headers are ignored.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // Fails if the span has started already.
    let _ = span.set_parent(context);
}

/// Renames a span, once its operation is known.
pub fn rename_span(span: &Span, name: &str) {
    if !span.is_disabled() {
        span.context().span().update_name(name.to_owned());
    }
}

/// Returns the trace id of the span, if the trace is sampled.
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

/// Returns the headers with which an upstream server continues the trace below this span. Empty without tracing.
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
