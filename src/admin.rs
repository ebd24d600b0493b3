//! The operators' listener: `/livez`, `/readyz`, `/metrics`, `/status`; never on the public one.
//!
//! Owns what an orchestrator and an operator may ask. It decides nothing and changes nothing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use serde::Serialize;

use crate::{gate::Gate, in_flight::InFlight, keys::KeyRing};

/// What operators may ask.
#[derive(Debug)]
pub struct Admin {
    gate: Arc<ArcSwap<Gate>>,
    in_flight: Arc<InFlight>,
}

/// Whether requests should come here, and what is missing if not.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    keys: bool,
    /// The rings without usable keys. Those of Account Manager do not keep a gateway from being ready: shoppers
    /// can be served without.
    keys_missing: Vec<Ring>,
    draining: bool,
}

/// Whose keys a ring has.
#[derive(Debug, Serialize)]
struct Ring {
    tenant: String,
    issuer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    readiness: Readiness,
    organizations: Vec<String>,
    keys: Vec<Ring>,
    operations: usize,
    callers: Vec<String>,
    requests_in_flight: usize,
    tokens_remembered: usize,
}

impl Admin {
    /// Answers for the gate that serves at the moment.
    #[must_use]
    pub fn new(gate: Arc<ArcSwap<Gate>>, in_flight: Arc<InFlight>) -> Self {
        Self { gate, in_flight }
    }

    fn readiness(&self) -> Readiness {
        let gate = self.gate.load();
        let (keys, draining) = (gate.shoppers.has_all_keys(), self.in_flight.is_draining());
        let keys_missing = gate.rings.iter().filter(|ring| !ring.is_filled()).map(|ring| Ring::of(ring)).collect();
        Readiness { ready: keys && !draining, keys, keys_missing, draining }
    }

    fn status(&self) -> Status {
        let gate = self.gate.load();
        let mut organizations: Vec<_> = gate.tenants.keys().map(ToString::to_string).collect();
        organizations.sort();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            readiness: self.readiness(),
            organizations,
            keys: gate.rings.iter().map(|ring| Ring::of(ring)).collect(),
            operations: gate.operations.iter().len(),
            callers: gate.callers.iter().map(|caller| caller.settings.name.clone()).collect(),
            requests_in_flight: self.in_flight.count(),
            tokens_remembered: gate.shoppers.remembered(),
        }
    }

    async fn metrics(&self) -> Response<Vec<u8>> {
        let gate = self.gate.load_full();
        gate.sessions.sweep().await;
        for ring in &gate.rings {
            ring.record_age();
        }
        let remembered = i64::try_from(gate.shoppers.remembered()).unwrap_or(i64::MAX);
        gate.metrics.token_cache_entries.with_label_values(&["verified"]).set(remembered);
        gate.metrics.ready.set(i64::from(self.readiness().ready));
        match gate.metrics.render() {
            Ok((text, content_type)) => answer(StatusCode::OK, content_type, text),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written");
                answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", b"metrics cannot be written\n".to_vec())
            }
        }
    }
}

impl Ring {
    fn of(ring: &KeyRing) -> Self {
        Self {
            tenant: ring.tenant().to_owned(),
            issuer: ring.issuer(),
            age_seconds: ring.age().map(|age| age.as_secs()),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        if head.method != Method::GET && head.method != Method::HEAD {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"only GET\n".to_vec());
        }
        match head.uri.path() {
            "/livez" => answer(StatusCode::OK, "text/plain", b"ok\n".to_vec()),
            "/readyz" => {
                let readiness = self.readiness();
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(status, &readiness)
            }
            "/metrics" => self.metrics().await,
            "/status" => json(StatusCode::OK, &self.status()),
            _ => answer(StatusCode::NOT_FOUND, "text/plain", b"/livez /readyz /metrics /status\n".to_vec()),
        }
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Vec<u8>> {
    answer(status, "application/json", serde_json::to_vec(value).unwrap_or_default())
}

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
