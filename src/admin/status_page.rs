//! `/status` as a self-contained HTML page.
//!
//! The page loads nothing and runs no scripts. Its content security policy allows only its own style, by digest, and its own form.
//! The template escapes every value.

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;

use super::{
    migration_report::{UsageFilter, client_ids, endpoints, rfc3339},
    snapshot::Snapshot,
    status::{Status, format_duration},
};
use crate::{jwt::sha256, time::unix_now};

const STYLESHEET: &str = include_str!("status.css");

/// Allows the page's own style and form, and nothing else.
pub(super) static CONTENT_SECURITY_POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let style = STANDARD.encode(sha256(STYLESHEET));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
});

#[derive(Template)]
#[template(path = "admin/status.html")]
struct StatusPage<'a> {
    style: &'static str,
    status: &'a Status,
    filter: &'a UsageFilter,
    /// Values that the form offers.
    organizations: Vec<String>,
    clients: Vec<String>,
    endpoints: Vec<&'static str>,
    /// Whether the form offers the filter's values.
    is_filter_known: bool,
    uptime: String,
    since: String,
    now: u64,
}

/// Renders the page.
///
/// # Errors
/// Returns the template's error. Writing to memory does not fail in practice.
pub(super) fn render(snapshot: &Snapshot, status: &Status, filter: &UsageFilter) -> Result<String, askama::Error> {
    let of_tenants = snapshot.tenants.values().flat_map(|tenant| &tenant.settings.slas_clients);
    let organizations: Vec<_> = status.tenants.iter().map(|tenant| tenant.organization.clone()).collect();
    let clients = client_ids(of_tenants.map(|client| client.id.to_string()));
    let endpoints = endpoints();
    let page = StatusPage {
        style: STYLESHEET,
        status,
        filter,
        is_filter_known: filter.is_known(&organizations, &clients, &endpoints),
        organizations,
        clients,
        endpoints,
        uptime: format_duration(status.uptime_seconds),
        since: format_minute(&status.migration.since),
        now: unix_now(),
    };
    page.render()
}

impl StatusPage<'_> {
    /// How long ago a time in seconds since 1970 was.
    fn ago(&self, at: &u64) -> String {
        match self.now.saturating_sub(*at) {
            0 => "just now".to_owned(),
            passed => format!("{} ago", format_duration(passed)),
        }
    }

    /// The time of the page (RFC 3339).
    fn time(&self) -> String {
        rfc3339(self.now)
    }
}

/// `2026-07-01 12:00 UTC`, from RFC 3339.
fn format_minute(at: &str) -> String {
    at.get(..16).map_or_else(|| at.to_owned(), |minute| format!("{} UTC", minute.replace('T', " ")))
}
