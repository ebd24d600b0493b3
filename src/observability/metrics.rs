//! All metrics of the gateway, with their names, labels and buckets, in a registry of their own.
//!
//! Label values come from closed sets: names of the configuration and of the policy table, and constants of the code. A client
//! never chooses a label value. The label of a tenant is its organization. Counters with a closed set of labels start at 0, so
//! the first event is an increase.

mod request_counter;
mod sample;

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use self::{
    request_counter::{RequestCounter, RequestLabels},
    sample::Sample,
};
use crate::connect_failure::ConnectFailure;

/// The prefix of every metric name.
const PREFIX: &str = "shopper_gateway_";
/// Buckets of request and token exchange durations, seconds.
const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets of the time spent in the gateway itself, seconds.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

const CERTIFICATE_EXPIRY: &str = "certificate_expiry_timestamp_seconds";

/// The flows of token exchanges, by service. Module `salesforce` makes these calls.
const FLOWS: [(&str, &[&str]); 3] = [
    (
        "slas",
        &[
            "authorize_guest",
            "login",
            "authorization_code_pkce",
            "client_credentials",
            "trusted_system",
            "refresh_token",
            "logout",
            "jwks",
            "passthrough",
            "health_probe",
        ],
    ),
    ("account_manager", &["jwks", "client_credentials"]),
    ("api", &["customer"]),
];
/// The outcomes of token exchanges.
const OUTCOMES: [&str; 8] =
    ["ok", "conflict", "rate_limited", "rejected", "failed", "timeout", "unreachable", "circuit_open"];

/// The metrics of the gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests, by tenant, API, operation, kind of caller, status and source of the response.
    pub requests: RequestCounter,
    /// Request duration, from the first byte read to the last byte written, seconds.
    pub request_duration: Histogram,
    /// Upstream time of forwarded requests: from the complete request sent to the response head or the end of the wait, seconds.
    pub upstream_duration: Histogram,
    /// Gateway overhead: the request duration without upstream time and token exchanges, seconds.
    pub overhead: Histogram,
    /// Rejections by error code, carried out or only reported.
    pub refusals: IntCounterVec,
    /// Requests of pages from other origins, by tenant and result.
    pub cors_requests: IntCounterVec,
    /// Rejections with the code `caller_rejected`, by the reason that the response does not reveal.
    pub caller_rejections: IntCounterVec,
    /// Verifications of shopper tokens, by result.
    pub token_verifications: IntCounterVec,
    /// Cache entries, by kind.
    pub token_cache_entries: IntGaugeVec,
    /// Calls to SLAS and Account Manager, by service, flow and outcome.
    pub token_exchanges: IntCounterVec,
    /// Duration of calls to SLAS and Account Manager, by service and flow, seconds.
    pub token_exchange_duration: HistogramVec,
    /// Rejections of configured clients by SLAS, by tenant and client id.
    pub slas_client_refusals: IntCounterVec,
    /// Connection failures of the gateway's own calls and of forwarded requests, by service and cause.
    pub connect_failures: IntCounterVec,
    /// Key set fetches, by outcome.
    pub jwks_refreshes: IntCounterVec,
    /// Age of the key set in use, seconds, by tenant and issuer.
    pub jwks_age: IntGaugeVec,
    /// Responses aborted after their head was sent, by the side that aborted.
    pub response_aborts: IntCounterVec,
    /// Uses of deprecated endpoints, by endpoint and client id.
    pub legacy_requests: IntCounterVec,
    /// Lookups of tokens that the gateway holds, by kind and result.
    pub token_requests: IntCounterVec,
    /// Sessions that the gateway holds.
    pub sessions: IntGauge,
    /// Requests that SLAS still accepts from a tenant in the current minute, from its rate limit headers.
    pub slas_rate_limit_remaining: IntGaugeVec,
    /// Open circuit breakers of all tenants and priorities, by service.
    pub circuit_breakers_open: IntGaugeVec,
    /// Configuration reloads, by outcome.
    pub config_reloads: IntCounterVec,
    /// Time at which the current configuration was loaded, seconds since 1970.
    pub config_last_reload_success: IntGauge,
    /// 1 if load balancers should send requests to this gateway.
    pub ready: IntGauge,
    /// 1 if the session store works.
    pub store_up: IntGauge,
    /// 1 if the session store belongs to gateways with another encryption key.
    pub store_key_mismatch: IntGauge,
    /// Expiry of certificates, seconds since 1970, by configuration key and tenant.
    certificate_expiry: IntGaugeVec,
    /// Audit lines of rejected requests that the limiter left out.
    pub audit_lines_left_out: IntCounter,
    /// Open client connections.
    pub connections: IntGauge,
    /// Client connections that the gateway closed because of their behaviour or a limit, by reason.
    pub connections_closed: IntCounterVec,
}

/// The expiry of the certificates of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The file: `listener`, `client_ca`, `client_crl`, `api_ca`, `store_ca`, `store_sentinel_ca`, `store_certificate`.
    pub certificate: &'static str,
    /// The organization whose file it is, or [`CertificateExpiry::NO_TENANT`].
    pub tenant: String,
    /// Seconds since 1970.
    pub expires_at: i64,
}

impl CertificateExpiry {
    /// The label of a file without a tenant.
    pub const NO_TENANT: &str = "none";
}

impl Metrics {
    /// Registers all metrics in a new registry.
    ///
    /// # Errors
    /// If two metrics have the same name. Tests exclude this.
    pub fn new(version: &str, commit: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(PREFIX.trim_end_matches('_').to_owned()), None)?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let token_exchange_duration = HistogramVec::new(
            HistogramOpts::new("token_exchange_duration_seconds", "Duration of calls to SLAS and Account Manager")
                .buckets(DURATION_BUCKETS.to_vec()),
            &["service", "flow"],
        )?;
        registry.register(Box::new(token_exchange_duration.clone()))?;
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let store_up = gauge("store_up", "1 if the session store works, for writes too")?;
        store_up.set(1);
        // Starts at 0, so the first event is an increase.
        let labelled_counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let metric = counters(name, help, &[label])?;
            values.iter().for_each(|value| metric.with_label_values(&[value]).inc_by(0));
            Ok::<_, prometheus::Error>(metric)
        };
        let audit_lines_left_out =
            IntCounter::new("audit_lines_left_out_total", "Audit lines of rejected requests that were left out")?;
        registry.register(Box::new(audit_lines_left_out.clone()))?;
        gauges("build_info", "Version and commit of this build; always 1", &["version", "commit"])?
            .with_label_values(&[version, commit])
            .set(1);

        let token_exchanges = counters(
            "token_exchanges_total",
            "Calls to SLAS and Account Manager, by outcome",
            &["service", "flow", "outcome"],
        )?;
        for (service, flow) in FLOWS.iter().flat_map(|(service, flows)| flows.iter().map(move |flow| (service, flow))) {
            OUTCOMES.iter().for_each(|outcome| token_exchanges.with_label_values(&[service, flow, outcome]).inc_by(0));
        }

        let connect_failures = counters(
            "connect_failures_total",
            "Connection failures to Salesforce's services and APIs, by cause",
            &["service", "cause"],
        )?;
        for (service, _) in FLOWS {
            for cause in ConnectFailure::ALL {
                connect_failures.with_label_values(&[service, cause.label()]).inc_by(0);
            }
        }

        Ok(Self {
            requests: RequestCounter::new(&registry)?,
            request_duration: histogram("request_duration_seconds", "Request duration", DURATION_BUCKETS)?,
            upstream_duration: histogram(
                "upstream_duration_seconds",
                "Upstream time of forwarded requests",
                DURATION_BUCKETS,
            )?,
            overhead: histogram(
                "overhead_seconds",
                "Request duration without upstream time and token exchanges",
                OVERHEAD_BUCKETS,
            )?,
            refusals: counters("refusals_total", "Rejections by error code, carried out or only reported", &["code"])?,
            cors_requests: counters(
                "cors_requests_total",
                "Requests of pages from other origins, of tenants that allow such pages",
                &["tenant", "result"],
            )?,
            caller_rejections: counters(
                "caller_rejections_total",
                "Rejected trusted systems, by the reason that the response does not reveal",
                &["reason"],
            )?,
            token_verifications: counters("token_verifications_total", "Verifications of shopper tokens", &["result"])?,
            token_cache_entries: gauges("token_cache_entries", "Cache entries", &["kind"])?,
            token_exchanges,
            token_exchange_duration,
            slas_client_refusals: counters(
                "slas_client_refusals_total",
                "Rejections of configured clients by SLAS",
                &["tenant", "client_id"],
            )?,
            connect_failures,
            jwks_refreshes: labelled_counters(
                "jwks_refreshes_total",
                "Key set fetches",
                "outcome",
                &["ok", "failed", "throttled"],
            )?,
            jwks_age: gauges("jwks_age_seconds", "Age of the key set in use", &["tenant", "issuer"])?,
            response_aborts: labelled_counters(
                "response_aborts_total",
                "Responses aborted after their head was sent, by side",
                "side",
                &["upstream", "client", "gateway"],
            )?,
            legacy_requests: counters(
                "legacy_requests_total",
                "Uses of deprecated endpoints",
                &["endpoint", "client_id"],
            )?,
            token_requests: counters(
                "token_requests_total",
                "Lookups of tokens that the gateway holds",
                &["kind", "result"],
            )?,
            sessions: gauge("sessions", "Sessions that the gateway holds")?,
            slas_rate_limit_remaining: gauges(
                "slas_rate_limit_remaining",
                "Requests that SLAS still accepts in the current minute",
                &["tenant"],
            )?,
            circuit_breakers_open: gauges("circuit_breakers_open", "Open circuit breakers", &["service"])?,
            config_reloads: labelled_counters(
                "config_reloads_total",
                "Configuration reloads",
                "outcome",
                &["ok", "failed"],
            )?,
            config_last_reload_success: gauge(
                "config_last_reload_success_timestamp_seconds",
                "Time at which the current configuration was loaded, seconds since 1970",
            )?,
            ready: gauge("ready", "1 if load balancers should send requests to this gateway")?,
            store_up,
            store_key_mismatch: gauge(
                "store_key_mismatch",
                "1 if the session store belongs to gateways with another encryption key",
            )?,
            certificate_expiry: gauges(
                CERTIFICATE_EXPIRY,
                "Expiry of certificates and revocation lists, seconds since 1970",
                &["certificate", "tenant"],
            )?,
            audit_lines_left_out,
            connections: gauge("connections", "Open client connections")?,
            connections_closed: labelled_counters(
                "connections_closed_total",
                "Client connections closed because of their behaviour or a limit",
                "reason",
                &[
                    "header_timeout",
                    "handshake_timeout",
                    "handshake_failed",
                    "flood",
                    "connection_limit",
                    "per_address_limit",
                ],
            )?,
            registry,
        })
    }

    /// Registers a counter that was created before this registry.
    ///
    /// # Errors
    /// If the counter is registered already.
    pub fn register(&self, counter: IntCounterVec) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(counter))
    }

    /// Returns all metrics in Prometheus's text format, and its content type.
    ///
    /// # Errors
    /// If the library cannot encode a metric.
    pub fn render(&self) -> Result<(Vec<u8>, &'static str), prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }

    /// Returns the series of a gauge or counter by its name without the prefix. Empty if it is not registered or not set.
    #[must_use]
    pub fn samples(&self, name: &str) -> Vec<Sample> {
        let families = self.registry.gather();
        let named = families.iter().filter(|family| family.name().strip_prefix(PREFIX) == Some(name));
        named.flat_map(Sample::of_family).collect()
    }

    /// Sets the expiry of these certificates, and removes those of earlier configurations.
    pub fn set_certificate_expiries(&self, expiries: &[CertificateExpiry]) {
        for CertificateExpiry { certificate, tenant, expires_at } in expiries {
            self.certificate_expiry.with_label_values(&[*certificate, tenant.as_str()]).set(*expires_at);
        }
        for shown in self.samples(CERTIFICATE_EXPIRY) {
            let labels = [shown.label("certificate"), shown.label("tenant")];
            if !expiries.iter().any(|expiry| [expiry.certificate, expiry.tenant.as_str()] == labels) {
                // Fails if another thread has removed it.
                let _ = self.certificate_expiry.remove_label_values(&labels);
            }
        }
    }

    /// Records one call to SLAS or Account Manager, and its duration.
    pub fn record_exchange(
        &self,
        service: &'static str,
        flow: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        self.token_exchanges.with_label_values(&[service, flow, outcome]).inc();
        self.token_exchange_duration.with_label_values(&[service, flow]).observe(duration.as_secs_f64());
    }
}

/// Creates the counter of exported spans, by outcome. Like [`log_lines_dropped`] it exists before the registry.
///
/// # Errors
/// If the metric name is invalid. Tests exclude this.
pub fn spans_exported() -> Result<IntCounterVec, prometheus::Error> {
    let name = Opts::new("spans_exported_total", "Spans sent to the trace collector, by outcome");
    let spans = IntCounterVec::new(name, &["outcome"])?;
    ["ok", "failed"].iter().for_each(|outcome| spans.with_label_values(&[outcome]).inc_by(0));
    Ok(spans)
}

/// Creates the counter of dropped log lines, by log. Logging starts before the registry exists, so the caller registers it
/// later.
///
/// # Errors
/// If the metric name is invalid. Tests exclude this.
pub fn log_lines_dropped() -> Result<IntCounterVec, prometheus::Error> {
    let name = Opts::new("log_lines_dropped_total", "Log lines dropped because their reader was too slow");
    IntCounterVec::new(name, &["log"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_metrics_have_prefix_and_labels() {
        let metrics = Metrics::new("1.2.3", "abc").unwrap();
        metrics.record_exchange("slas", "login", "ok", Duration::from_millis(3));
        metrics.refusals.with_label_values(&["token_missing"]).inc();
        let text = String::from_utf8(metrics.render().unwrap().0).unwrap();
        for line in [
            r#"shopper_gateway_build_info{commit="abc",version="1.2.3"} 1"#,
            r#"shopper_gateway_token_exchanges_total{flow="login",outcome="ok",service="slas"} 1"#,
            r#"shopper_gateway_refusals_total{code="token_missing"} 1"#,
            "shopper_gateway_sessions 0",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
