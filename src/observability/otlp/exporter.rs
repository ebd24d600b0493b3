//! An exporter that tells whether its collector takes the spans.
//!
//! Owns the counter and the words in the log: one line when it begins to fail, and one when it works again. Spans that do not
//! fit into the queue before it are not seen here.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_otlp::SpanExporter as Otlp;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use prometheus::IntCounterVec;

/// Sends spans by OTLP, and tells.
#[derive(Debug)]
pub(super) struct CountingExporter {
    otlp: Otlp,
    exported: IntCounterVec,
    is_failing: AtomicBool,
}

impl CountingExporter {
    pub(super) fn new(otlp: Otlp, exported: IntCounterVec) -> Self {
        Self { otlp, exported, is_failing: AtomicBool::new(false) }
    }

    fn record(&self, spans: usize, sent: &OTelSdkResult) {
        let outcome = if sent.is_ok() { "ok" } else { "failed" };
        self.exported.with_label_values(&[outcome]).inc_by(spans as u64);
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        match sent {
            Err(error) if !was_failing => {
                tracing::warn!(key = "traces.endpoint", %error, "spans cannot be exported, and are dropped; `shopper-gateway check --online` says why");
            }
            Ok(()) if was_failing => tracing::info!("spans are exported again"),
            _ => {}
        }
    }
}

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.otlp.export(batch).await;
        self.record(spans, &sent);
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.otlp.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}
