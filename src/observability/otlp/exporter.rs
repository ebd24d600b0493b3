//! A span exporter that counts the exported spans, and logs failures.
//!
//! It logs one line when exports begin to fail, and one when they succeed again. It never sees spans that the queue dropped.

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

/// Sends spans by OTLP, and counts them by outcome.
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
                tracing::warn!(key = "traces.endpoint", %error, "span export failed, dropping spans; run `shopper-gateway check --online` for the cause");
            }
            Ok(()) if was_failing => tracing::info!("span export recovered"),
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
