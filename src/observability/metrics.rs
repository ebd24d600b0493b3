//! What the gateway counts and times, on a registry of its own.
//!
//! Owns the names, labels and buckets of every metric. Refuses to know how a request is decided.
//! Label values come from closed sets only: names of the configuration and of the policy table,
//! or words written here; never anything that a client can choose. A tenant is named by its organization.

mod request_counter;

use std::{collections::BTreeMap, time::Duration};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, proto::MetricType,
};

pub use self::request_counter::{RequestCounter, RequestLabels};
use crate::connect_failure::ConnectFailure;

/// Stands before every name.
const PREFIX: &str = "shopper_gateway_";
/// Seconds, for whole requests and for exchanges.
const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds, for the time spent in the gateway itself.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

const CERTIFICATE_EXPIRY: &str = "certificate_expiry_timestamp_seconds";

/// The calls that are counted as exchanges, by service: the flows of `salesforce`.
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
/// What becomes of an exchange.
const OUTCOMES: [&str; 8] =
    ["ok", "conflict", "rate_limited", "rejected", "failed", "timeout", "unreachable", "circuit_open"];

/// Every metric of the gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by tenant, API, operation, kind of caller, status and source of the answer.
    pub requests: RequestCounter,
    /// Whole requests, from the first byte read to the last byte written, seconds.
    pub request_duration: Histogram,
    /// Upstream's part of forwarded requests: from the whole request sent to the answer's head, or to the end of waiting for
    /// it, seconds.
    pub upstream_duration: Histogram,
    /// The gateway's own part: the whole less upstream and token exchanges, seconds.
    pub overhead: Histogram,
    /// Refusals by code, carried out or only reported.
    pub refusals: IntCounterVec,
    /// Refusals `caller_rejected`, by the reason that the caller is not told.
    pub caller_rejections: IntCounterVec,
    /// Shopper tokens checked, by result.
    pub token_verifications: IntCounterVec,
    /// Entries of the caches, by kind.
    pub token_cache_entries: IntGaugeVec,
    /// Calls to SLAS and Account Manager, by service, flow and outcome.
    pub token_exchanges: IntCounterVec,
    /// The same calls, seconds.
    pub token_exchange_duration: HistogramVec,
    /// Refusals by SLAS of clients of the configuration, by tenant and client id.
    pub slas_client_refusals: IntCounterVec,
    /// Failures to connect, of the gateway's own calls and of forwarded requests, by service and cause.
    pub connect_failures: IntCounterVec,
    /// Fetches of key sets, by outcome.
    pub jwks_refreshes: IntCounterVec,
    /// Age of the key set in use, seconds, by tenant and issuer.
    pub jwks_age: IntGaugeVec,
    /// Answers that broke off after their head had been sent, by the side that was at fault.
    pub response_aborts: IntCounterVec,
    /// Uses of deprecated endpoints, by endpoint and client id.
    pub legacy_requests: IntCounterVec,
    /// Wishes for a token that the gateway holds, by kind and result.
    pub token_requests: IntCounterVec,
    /// Sessions held.
    pub sessions: IntGauge,
    /// Requests that SLAS takes from a tenant in the minute under way, as far as it has said so.
    pub slas_rate_limit_remaining: IntGaugeVec,
    /// Circuits that are open, of all tenants and classes of calls, by service; 0: all are closed.
    pub circuit_breakers_open: IntGaugeVec,
    /// Changes of the configuration while running, by outcome.
    pub config_reloads: IntCounterVec,
    /// When the configuration in use was taken over, seconds since 1970.
    pub config_last_reload_success: IntGauge,
    /// Whether requests should come here.
    pub ready: IntGauge,
    /// Whether the session store answers.
    pub store_up: IntGauge,
    /// Whether the session store belongs to gateways with another encryption key.
    pub store_key_mismatch: IntGauge,
    /// When certificates end, seconds since 1970, by the key of their file and tenant.
    certificate_expiry: IntGaugeVec,
    /// Refused lines of the audit log that were left out, because an address or all addresses had too many.
    pub audit_lines_left_out: IntCounter,
    /// Connections of clients that are open.
    pub connections: IntGauge,
    /// Connections of clients that the gateway closed for their behaviour, by reason.
    pub connections_closed: IntCounterVec,
}

/// When the certificates of one file end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// Which file: `listener`, `client_ca`, `client_crl`, `api_ca`, `store_ca`, `store_sentinel_ca`, `store_certificate`.
    pub certificate: &'static str,
    /// The organization whose file it is, or [`CertificateExpiry::NO_TENANT`].
    pub tenant: String,
    /// Seconds since 1970.
    pub expires_at: i64,
}

impl CertificateExpiry {
    /// Label of a file that is no tenant's.
    pub const NO_TENANT: &str = "none";
}

/// What one series of the registry says at the moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty if it has no such label, as in Prometheus.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The value as a number of things.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
    pub fn count(&self) -> u64 {
        self.value.max(0.0) as u64
    }
}

impl Metrics {
    /// Registers everything on a fresh registry.
    ///
    /// # Errors
    /// Only if two metrics were given one name, which the tests would show.
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
            HistogramOpts::new("token_exchange_duration_seconds", "Calls to SLAS and Account Manager")
                .buckets(DURATION_BUCKETS.to_vec()),
            &["service", "flow"],
        )?;
        registry.register(Box::new(token_exchange_duration.clone()))?;
        let sessions = IntGauge::new("sessions", "Sessions held")?;
        registry.register(Box::new(sessions.clone()))?;
        let ready = IntGauge::new("ready", "Whether requests should come here")?;
        registry.register(Box::new(ready.clone()))?;
        let store_up = IntGauge::new("store_up", "Whether the session store can be used, for writes too")?;
        store_up.set(1);
        registry.register(Box::new(store_up.clone()))?;
        let store_key_mismatch =
            IntGauge::new("store_key_mismatch", "Whether the store belongs to gateways with another encryption key")?;
        registry.register(Box::new(store_key_mismatch.clone()))?;
        // What has not happened yet is 0, so that its first time is an increase.
        let labelled_counters = |name: &str, help: &str, label: &str, words: &[&str]| {
            let metric = counters(name, help, &[label])?;
            words.iter().for_each(|word| metric.with_label_values(&[word]).inc_by(0));
            Ok::<_, prometheus::Error>(metric)
        };
        let config_last_reload_success = IntGauge::new(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in use was taken over, seconds since 1970",
        )?;
        registry.register(Box::new(config_last_reload_success.clone()))?;
        let connections = IntGauge::new("connections", "Connections of clients that are open")?;
        registry.register(Box::new(connections.clone()))?;
        let audit_lines_left_out =
            IntCounter::new("audit_lines_left_out_total", "Refused lines of the audit log that were left out")?;
        registry.register(Box::new(audit_lines_left_out.clone()))?;
        gauges("build_info", "Version and commit of this build; always 1", &["version", "commit"])?
            .with_label_values(&[version, commit])
            .set(1);

        let token_exchanges =
            counters("token_exchanges_total", "Calls to SLAS and Account Manager", &["service", "flow", "outcome"])?;
        for (service, flow) in FLOWS.iter().flat_map(|(service, flows)| flows.iter().map(move |flow| (service, flow))) {
            OUTCOMES.iter().for_each(|outcome| token_exchanges.with_label_values(&[service, flow, outcome]).inc_by(0));
        }

        let connect_failures = counters(
            "connect_failures_total",
            "Failures to connect to Salesforce's services and APIs",
            &["service", "cause"],
        )?;
        for (service, _) in FLOWS {
            for cause in ConnectFailure::ALL {
                connect_failures.with_label_values(&[service, cause.label()]).inc_by(0);
            }
        }

        Ok(Self {
            requests: RequestCounter::new(&registry)?,
            request_duration: histogram("request_duration_seconds", "Whole requests", DURATION_BUCKETS)?,
            upstream_duration: histogram("upstream_duration_seconds", "Upstream's part of requests", DURATION_BUCKETS)?,
            overhead: histogram("overhead_seconds", "The gateway's own part of requests", OVERHEAD_BUCKETS)?,
            refusals: counters("refusals_total", "Refusals, carried out or only reported", &["code"])?,
            caller_rejections: counters(
                "caller_rejections_total",
                "Trusted systems that were rejected, by the reason that they are not told",
                &["reason"],
            )?,
            token_verifications: counters("token_verifications_total", "Shopper tokens checked", &["result"])?,
            token_cache_entries: gauges("token_cache_entries", "Entries of the caches", &["kind"])?,
            token_exchanges,
            token_exchange_duration,
            slas_client_refusals: counters(
                "slas_client_refusals_total",
                "Refusals by SLAS of clients of the configuration",
                &["tenant", "client_id"],
            )?,
            connect_failures,
            jwks_refreshes: labelled_counters(
                "jwks_refreshes_total",
                "Fetches of key sets",
                "outcome",
                &["ok", "failed", "throttled"],
            )?,
            jwks_age: gauges("jwks_age_seconds", "Age of the key set in use", &["tenant", "issuer"])?,
            response_aborts: labelled_counters(
                "response_aborts_total",
                "Answers that broke off after their head",
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
                "Wishes for a token that the gateway holds",
                &["kind", "result"],
            )?,
            sessions,
            slas_rate_limit_remaining: gauges(
                "slas_rate_limit_remaining",
                "Requests that SLAS takes in the minute under way",
                &["tenant"],
            )?,
            circuit_breakers_open: gauges(
                "circuit_breakers_open",
                "Circuits that are open; 0: all are closed",
                &["service"],
            )?,
            config_reloads: labelled_counters(
                "config_reloads_total",
                "Changes of the configuration while running",
                "outcome",
                &["ok", "failed"],
            )?,
            config_last_reload_success,
            ready,
            store_up,
            store_key_mismatch,
            certificate_expiry: gauges(
                CERTIFICATE_EXPIRY,
                "When certificates and revocation lists end, seconds since 1970",
                &["certificate", "tenant"],
            )?,
            audit_lines_left_out,
            connections,
            connections_closed: labelled_counters(
                "connections_closed_total",
                "Connections of clients closed for their behaviour or their number",
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

    /// Shows a counter that was there before this registry.
    ///
    /// # Errors
    /// If it is shown already.
    pub fn register(&self, counter: IntCounterVec) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(counter))
    }

    /// Everything in Prometheus's text format, and its content type.
    ///
    /// # Errors
    /// If a metric cannot be written, which the library does not expect.
    pub fn render(&self) -> Result<(Vec<u8>, &'static str), prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }

    /// The series of a gauge or counter, by its name without the prefix: none if it is not registered or not set yet.
    #[must_use]
    pub fn samples(&self, name: &str) -> Vec<Sample> {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name().strip_prefix(PREFIX) == Some(name));
        let series =
            series.flat_map(|family| family.get_metric().iter().map(move |one| (family.get_field_type(), one)));
        let samples = series.filter_map(|(kind, one)| {
            let value = match kind {
                MetricType::GAUGE => one.get_gauge().get_value(),
                MetricType::COUNTER => one.get_counter().get_value(),
                _ => return None,
            };
            let labels = one.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned()));
            Some(Sample { labels: labels.collect(), value })
        });
        samples.collect()
    }

    /// Shows when these certificates end, and those of earlier configurations no more.
    pub fn set_certificate_expiries(&self, expiries: &[CertificateExpiry]) {
        for CertificateExpiry { certificate, tenant, expires_at } in expiries {
            self.certificate_expiry.with_label_values(&[*certificate, tenant.as_str()]).set(*expires_at);
        }
        for shown in self.samples(CERTIFICATE_EXPIRY) {
            let labels = [shown.label("certificate"), shown.label("tenant")];
            if !expiries.iter().any(|expiry| [expiry.certificate, expiry.tenant.as_str()] == labels) {
                // It is there, unless another thread took it away just now.
                let _ = self.certificate_expiry.remove_label_values(&labels);
            }
        }
    }

    /// Counts and times one call to SLAS or Account Manager.
    pub fn record_exchange(&self, service: &'static str, flow: &'static str, outcome: &'static str, took: Duration) {
        self.token_exchanges.with_label_values(&[service, flow, outcome]).inc();
        self.token_exchange_duration.with_label_values(&[service, flow]).observe(took.as_secs_f64());
    }
}

/// Spans handed to the collector, by what became of them. Of the process, as [`log_lines_dropped`] is.
///
/// # Errors
/// Only if its name were none, which the tests would show.
pub fn spans_exported() -> Result<IntCounterVec, prometheus::Error> {
    let name = Opts::new("spans_exported_total", "Spans handed to the collector of traces");
    let spans = IntCounterVec::new(name, &["outcome"])?;
    ["ok", "failed"].iter().for_each(|outcome| spans.with_label_values(&[outcome]).inc_by(0));
    Ok(spans)
}

/// Lines of the log that were lost, by log. Of the process and on no registry yet, because logging begins first.
///
/// # Errors
/// Only if its name were none, which the tests would show.
pub fn log_lines_dropped() -> Result<IntCounterVec, prometheus::Error> {
    let name = Opts::new("log_lines_dropped_total", "Lines of the log that nobody took in time");
    IntCounterVec::new(name, &["log"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_prefix() {
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
