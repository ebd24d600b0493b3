//! `/status` as a self-contained HTML page.
//!
//! The page loads nothing and runs no scripts. Its content security policy allows only its own style, by digest, and its own form.
//! The template escapes every value.

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;

use super::snapshot::Snapshot;
use super::{
    migration_report::{ReportRow, UsageFilter, client_ids, endpoints, rfc3339},
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
    choices: FilterOptions,
    /// Whether the form offers the filter's values.
    is_filter_known: bool,
    rows: Vec<TableRow<'a>>,
    uptime: String,
    since: String,
    now: String,
}

/// Values that the form offers.
struct FilterOptions {
    organizations: Vec<String>,
    clients: Vec<String>,
    endpoints: Vec<&'static str>,
}

struct TableRow<'a> {
    organization: &'a str,
    client_id: &'a str,
    endpoint: &'static str,
    uses: u64,
    first_seen: Timestamp<'a>,
    last_seen: Timestamp<'a>,
}

/// A time as the page shows it.
struct Timestamp<'a> {
    /// RFC 3339.
    at: &'a str,
    text: String,
    ago: String,
}

/// Renders the page.
///
/// # Errors
/// Returns the template's error. Writing to memory does not fail in practice.
pub(super) fn render(snapshot: &Snapshot, status: &Status, filter: &UsageFilter) -> Result<String, askama::Error> {
    let now = unix_now();
    let of_tenants = snapshot.tenants.values().flat_map(|tenant| &tenant.settings.slas_clients);
    let choices = FilterOptions {
        organizations: status.tenants.iter().map(|tenant| tenant.organization.clone()).collect(),
        clients: client_ids(of_tenants.map(|client| client.id.to_string())),
        endpoints: endpoints(),
    };
    let page = StatusPage {
        style: STYLESHEET,
        status,
        filter,
        is_filter_known: filter.is_known(&choices.organizations, &choices.clients, &choices.endpoints),
        choices,
        rows: status.migration.uses.iter().map(|row| TableRow::of(row, now)).collect(),
        uptime: format_duration(status.uptime_seconds),
        since: format_minute(&status.migration.since),
        now: rfc3339(now),
    };
    page.render()
}

impl<'a> TableRow<'a> {
    fn of(row: &'a ReportRow, now: u64) -> Self {
        Self {
            organization: &row.organization,
            client_id: &row.client_id,
            endpoint: row.endpoint,
            uses: row.uses,
            first_seen: Timestamp::of(&row.first_seen, row.first_seen_at, now),
            last_seen: Timestamp::of(&row.last_seen, row.last_seen_at, now),
        }
    }
}

impl<'a> Timestamp<'a> {
    fn of(at: &'a str, seconds: u64, now: u64) -> Self {
        let ago = match now.saturating_sub(seconds) {
            0 => "just now".to_owned(),
            passed => format!("{} ago", format_duration(passed)),
        };
        Self { at, text: format_minute(at), ago }
    }
}

/// `2026-07-01 12:00 UTC`, from RFC 3339.
fn format_minute(at: &str) -> String {
    at.get(..16).map_or_else(|| at.to_owned(), |minute| format!("{} UTC", minute.replace('T', " ")))
}
