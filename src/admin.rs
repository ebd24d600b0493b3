//! The admin listener: `/livez`, `/readyz`, `/metrics`, `/status`, `/log-level`. The public listener never serves them.
//!
//! The endpoints are for orchestrators, Prometheus and operators. They are read-only, except for the log level.

mod host_check;
mod log_level;
mod migration_report;
mod readiness;
mod response;
mod snapshot;
mod status;
mod status_page;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, VARY},
    request::Parts,
};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use url::form_urlencoded;

pub use self::snapshot::Snapshot;
use self::{
    migration_report::{MigrationReport, UsageFilter},
    readiness::Readiness,
    response::{json_response, respond},
    status::Status,
};
use crate::shutdown::RequestTracker;

/// Makes browsers save the report as a file.
const REPORT_DISPOSITION: HeaderValue = HeaderValue::from_static("attachment; filename=\"migration-report.csv\"");

/// Format of `/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusFormat {
    Html,
    Json,
    Csv,
}

/// The admin endpoints.
#[derive(Debug)]
pub struct Admin {
    snapshot: Arc<ArcSwap<Snapshot>>,
    in_flight: Arc<RequestTracker>,
}

impl Admin {
    /// Serves the snapshot of the running configuration.
    #[must_use]
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, in_flight: Arc<RequestTracker>) -> Self {
        Self { snapshot, in_flight }
    }

    fn readiness(&self) -> Readiness {
        Readiness::new(&self.snapshot.load(), &self.in_flight)
    }

    /// The state as HTML or JSON, or the migration report as CSV. The query's `format` decides, or else whether `Accept` has HTML.
    async fn status(&self, head: &Parts) -> Response<Vec<u8>> {
        let snapshot = self.snapshot.load_full();
        self.refresh_gauges(&snapshot).await;
        let query = head.uri.query().unwrap_or_default();
        let filter = UsageFilter::from_query(query);
        let status = Status::new(
            &snapshot,
            self.readiness(),
            &self.in_flight,
            MigrationReport::new(&snapshot.deprecated_usage, &filter),
        );
        let mut response = match StatusFormat::from_request(query, &head.headers) {
            Some(StatusFormat::Json) => json_response(StatusCode::OK, &status),
            Some(StatusFormat::Csv) => match status.migration.csv() {
                Ok(csv) => {
                    let mut file = respond(StatusCode::OK, "text/csv; charset=utf-8; header=present", csv);
                    file.headers_mut().insert(CONTENT_DISPOSITION, REPORT_DISPOSITION);
                    file
                }
                Err(error) => internal_error("failed to write the migration report", &error),
            },
            Some(StatusFormat::Html) => match status_page::render(&snapshot, &status, &filter) {
                Ok(page) => respond(StatusCode::OK, "text/html; charset=utf-8", page.into_bytes()),
                Err(error) => internal_error("failed to render the status page", &error),
            },
            None => respond(StatusCode::BAD_REQUEST, "text/plain", b"format: html, json or csv\n".to_vec()),
        };
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from(ACCEPT));
        headers.extend(status_page::CONTENT_SECURITY_POLICY.clone().map(|policy| (CONTENT_SECURITY_POLICY, policy)));
        response
    }

    /// Updates the gauges that are not updated on each change.
    async fn refresh_gauges(&self, snapshot: &Snapshot) {
        snapshot.sessions.sweep().await;
        for ring in &snapshot.key_rings {
            ring.record_age();
        }
        for tenant in snapshot.tenants.values() {
            tenant.slas.guard().record_remaining();
        }
        snapshot.metrics.ready.set(i64::from(self.readiness().ready));
        let (sessions, on_behalf) = snapshot.sessions.count_cached();
        let system = usize::try_from(snapshot.system_tokens.cached_tokens()).unwrap_or(usize::MAX);
        let verified = snapshot.shoppers.cached_tokens();
        for (kind, held) in
            [("verified", verified), ("session", sessions), ("on_behalf", on_behalf), ("system", system)]
        {
            let held = i64::try_from(held).unwrap_or(i64::MAX);
            snapshot.metrics.token_cache_entries.with_label_values(&[kind]).set(held);
        }
    }

    async fn metrics(&self) -> Response<Vec<u8>> {
        let snapshot = self.snapshot.load_full();
        self.refresh_gauges(&snapshot).await;
        match snapshot.metrics.render() {
            Ok((text, content_type)) => respond(StatusCode::OK, content_type, text),
            Err(error) => internal_error("failed to render the metrics", &error),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let reached_at = session.server_addr().and_then(|address| address.as_inet()).copied();
        if !host_check::is_allowed(&session.req_header().headers, reached_at) {
            let why = b"Host: expected an address, localhost or a name without a dot\n".to_vec();
            return respond(StatusCode::MISDIRECTED_REQUEST, "text/plain", why);
        }
        if session.req_header().uri.path() == "/log-level" && session.req_header().method != Method::HEAD {
            return log_level::handle(session, &self.snapshot.load_full().audit).await;
        }
        let head = session.req_header();
        if head.method != Method::GET && head.method != Method::HEAD {
            return respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"only GET\n".to_vec());
        }
        match head.uri.path() {
            "/livez" => respond(StatusCode::OK, "text/plain", b"ok\n".to_vec()),
            "/readyz" => {
                let readiness = self.readiness();
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json_response(status, &readiness)
            }
            "/metrics" => self.metrics().await,
            "/status" => self.status(head).await,
            _ => respond(StatusCode::NOT_FOUND, "text/plain", b"/livez /readyz /metrics /status /log-level\n".to_vec()),
        }
    }
}

impl StatusFormat {
    /// The requested format; `None` for an unknown one.
    fn from_request(query: &str, headers: &HeaderMap) -> Option<Self> {
        let format = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "format");
        match format.as_ref().map(|(_, format)| &**format) {
            Some("html") => Some(Self::Html),
            Some("json") => Some(Self::Json),
            Some("csv") => Some(Self::Csv),
            Some(_) => None,
            None => {
                let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
                Some(if accepts.contains("text/html") { Self::Html } else { Self::Json })
            }
        }
    }
}

/// Logs an unexpected error and responds 500.
fn internal_error(message: &'static str, error: &dyn std::error::Error) -> Response<Vec<u8>> {
    tracing::error!(%error, "{message}");
    respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", message.as_bytes().to_vec())
}
