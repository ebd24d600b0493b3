//! The allowed origins of one tenant, and the counters of requests from other origins.

use prometheus::IntCounter;

use crate::{config::AllowedOrigin, observability::metrics::Metrics, types::SiteId};

/// What became of a request from another origin, as in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CorsResult {
    /// A preflight after which the browser sends the request.
    PreflightAllowed,
    /// A preflight after which the browser does not send the request.
    PreflightRefused,
    /// A request whose response the page can read.
    Allowed,
    /// A request whose response the page cannot read.
    Refused,
}

impl CorsResult {
    const ALL: [Self; 4] = [Self::PreflightAllowed, Self::PreflightRefused, Self::Allowed, Self::Refused];

    /// The value of the label.
    fn as_str(self) -> &'static str {
        match self {
            Self::PreflightAllowed => "preflight_allowed",
            Self::PreflightRefused => "preflight_refused",
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }
}

/// The counters of one tenant, all of them at 0 from the start.
#[derive(Debug)]
pub(super) struct CorsCounters([IntCounter; 4]);

impl CorsCounters {
    pub(super) fn new(tenant: &str, metrics: &Metrics) -> Self {
        Self(CorsResult::ALL.map(|result| metrics.cors_requests.with_label_values(&[tenant, result.as_str()])))
    }

    pub(super) fn count(&self, result: CorsResult) {
        let [preflight_allowed, preflight_refused, allowed, refused] = &self.0;
        match result {
            CorsResult::PreflightAllowed => preflight_allowed,
            CorsResult::PreflightRefused => preflight_refused,
            CorsResult::Allowed => allowed,
            CorsResult::Refused => refused,
        }
        .inc();
    }
}

/// The allowed origins of one tenant.
#[derive(Debug)]
pub(super) struct TenantOrigins {
    entries: Vec<AllowedOrigin>,
    /// Whether an entry is for some sites only.
    pub(super) depends_on_site: bool,
    pub(super) counters: CorsCounters,
}

impl TenantOrigins {
    pub(super) fn new(entries: Vec<AllowedOrigin>, counters: CorsCounters) -> Self {
        let depends_on_site = entries.iter().any(|entry| !entry.sites.is_empty());
        Self { entries, depends_on_site, counters }
    }

    /// The first entry that allows an origin for a site.
    pub(super) fn find(&self, origin: &[u8], site: Option<&SiteId>) -> Option<&AllowedOrigin> {
        self.entries.iter().find(|entry| entry.allows(origin, site))
    }
}
