//! `/status` for people: one page of HTML that needs nothing but itself.
//!
//! Owns the words and the look. Nothing is loaded, nothing runs: the content security policy allows the page's own style by
//! its digest and its own form, and forbids everything else. Every value is escaped by the template.

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;

use super::{
    report::{Filter, Row, clients, endpoints, rfc3339},
    status::{Status, in_words},
};
use crate::{gateway::Gateway, jwt::sha256, time::unix_now};

const STYLE: &str = include_str!("status.css");

/// What the page may load and do: its own style, its own form.
pub(super) static SECURITY_POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let style = STANDARD.encode(sha256(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
});

#[derive(Template)]
#[template(path = "admin/status.html")]
struct Page<'a> {
    style: &'static str,
    status: &'a Status,
    filter: &'a Filter,
    choices: Choices,
    /// Whether the filter asks for what the form offers.
    knows_filter: bool,
    rows: Vec<PageRow<'a>>,
    uptime: String,
    since: String,
    now: String,
}

/// What the form offers.
struct Choices {
    organizations: Vec<String>,
    clients: Vec<String>,
    endpoints: Vec<&'static str>,
}

struct PageRow<'a> {
    organization: &'a str,
    client_id: &'a str,
    endpoint: &'static str,
    uses: u64,
    first_seen: Moment<'a>,
    last_seen: Moment<'a>,
}

/// A moment for people.
struct Moment<'a> {
    /// RFC 3339.
    at: &'a str,
    shown: String,
    ago: String,
}

/// The page.
///
/// # Errors
/// If the template cannot be written, which memory does not refuse.
pub(super) fn page(gate: &Gateway, status: &Status, filter: &Filter) -> Result<String, askama::Error> {
    let now = unix_now();
    let of_tenants = gate.tenants.values().flat_map(|tenant| &tenant.settings.slas_clients);
    let choices = Choices {
        organizations: status.tenants.iter().map(|tenant| tenant.organization.clone()).collect(),
        clients: clients(of_tenants.map(|client| client.id.to_string())),
        endpoints: endpoints(),
    };
    let page = Page {
        style: STYLE,
        status,
        filter,
        knows_filter: filter.is_among(&choices.organizations, &choices.clients, &choices.endpoints),
        choices,
        rows: status.migration.uses.iter().map(|row| PageRow::of(row, now)).collect(),
        uptime: in_words(status.uptime_seconds),
        since: to_the_minute(&status.migration.since),
        now: rfc3339(now),
    };
    page.render()
}

impl<'a> PageRow<'a> {
    fn of(row: &'a Row, now: u64) -> Self {
        Self {
            organization: &row.organization,
            client_id: &row.client_id,
            endpoint: row.endpoint,
            uses: row.uses,
            first_seen: Moment::of(&row.first_seen, row.first_seen_at, now),
            last_seen: Moment::of(&row.last_seen, row.last_seen_at, now),
        }
    }
}

impl<'a> Moment<'a> {
    fn of(at: &'a str, seconds: u64, now: u64) -> Self {
        let ago = match now.saturating_sub(seconds) {
            0 => "just now".to_owned(),
            passed => format!("{} ago", in_words(passed)),
        };
        Self { at, shown: to_the_minute(at), ago }
    }
}

/// `2026-07-01 12:00 UTC`, of RFC 3339.
fn to_the_minute(at: &str) -> String {
    at.get(..16).map_or_else(|| at.to_owned(), |minute| format!("{} UTC", minute.replace('T', " ")))
}
