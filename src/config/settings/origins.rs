//! `[[tenants.origins]]`: the web pages that may call the gateway from another origin (CORS).

use std::time::Duration;

use http::HeaderName;

use crate::{config::OriginPattern, types::SiteId};

/// Pages that may call the gateway from another origin.
#[derive(Debug, Clone)]
pub struct AllowedOrigin {
    /// The origins.
    pub pattern: OriginPattern,
    /// The sites for which they may call; empty: all of the tenant.
    pub sites: Vec<SiteId>,
    /// Whether they may send cookies.
    pub credentials: bool,
    /// How long a browser may cache the answer to a preflight.
    pub max_age: Duration,
    /// Request header fields that they may send in addition to those of Salesforce's SDKs.
    pub headers: Vec<HeaderName>,
    /// Whether a page of a public network may call a gateway in a private network.
    pub private_network: bool,
}

impl AllowedOrigin {
    /// Whether a page of `origin` may call. Without a site, being allowed for any site is enough.
    #[must_use]
    pub fn allows(&self, origin: &[u8], site: Option<&SiteId>) -> bool {
        self.pattern.matches(origin) && (self.sites.is_empty() || site.is_none_or(|site| self.sites.contains(site)))
    }
}
