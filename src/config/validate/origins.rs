//! Validates `[[tenants.origins]]`.

use std::time::Duration;

use http::HeaderName;
use url::Url;

use super::{
    shared_domains::is_shared,
    table::{Table, is_loopback},
};
use crate::{
    config::{AllowedOrigin, InvalidOrigin, OriginPattern, diagnostics::closest_match, file},
    types::SiteId,
};

/// The longest time that any browser caches the answer to a preflight.
const MAX_PREFLIGHT_AGE: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of `headers` of one entry.
const MAX_HEADERS: usize = 64;

/// The allowed origins of a tenant with these sites.
pub(super) fn origins(raw: Vec<file::Origin>, sites: &[SiteId], tenant: &mut Table<'_>) -> Vec<AllowedOrigin> {
    let mut origins: Vec<AllowedOrigin> = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let table = &mut tenant.table(&format!("origins[{position}]"));
        let Some(origin) = origin(raw, sites, table) else { continue };
        if let Some(first) = origins.iter().position(|earlier| is_hidden_by(&origin, earlier)) {
            table.error(
                "origin",
                format!(
                    "the same as origins[{first}].origin for a site of both, and the first entry applies; merge the two"
                ),
            );
        }
        origins.push(origin);
    }
    origins
}

fn origin(raw: file::Origin, sites: &[SiteId], table: &mut Table<'_>) -> Option<AllowedOrigin> {
    let pattern = raw.origin.unwrap_or_default().parse::<OriginPattern>();
    let pattern = pattern.map_err(|invalid: InvalidOrigin| table.error("origin", invalid.to_string())).ok();
    let sites = sites_of(raw.sites, sites, table);
    let max_age = table.duration("max_age", &raw.max_age, MAX_PREFLIGHT_AGE);
    let headers = header_names(raw.headers, table);
    if let Some(pattern) = &pattern {
        warn_of_strangers(pattern, raw.credentials, table);
    }
    Some(AllowedOrigin {
        pattern: pattern?,
        sites,
        credentials: raw.credentials,
        max_age: max_age?,
        headers,
        private_network: raw.private_network,
    })
}

/// Whether an entry never applies to one of its sites, because an earlier entry has the same origin and site.
fn is_hidden_by(origin: &AllowedOrigin, earlier: &AllowedOrigin) -> bool {
    let share_site = origin.sites.is_empty()
        || earlier.sites.is_empty()
        || origin.sites.iter().any(|site| earlier.sites.contains(site));
    origin.pattern == earlier.pattern && share_site
}

/// The sites of an entry. Each must be one of the tenant's.
fn sites_of(list: file::List, known: &[SiteId], table: &mut Table<'_>) -> Vec<SiteId> {
    let named: Vec<SiteId> = table.names("sites", list);
    for site in named.iter().filter(|site| !known.is_empty() && !known.contains(site)) {
        let meant = closest_match(site.as_str(), known.iter().map(SiteId::as_str));
        let hint = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        table.error("sites", format!("{site} is not a site of this tenant{hint}"));
    }
    named
}

/// The names of header fields, in lower case.
fn header_names(list: file::List, table: &mut Table<'_>) -> Vec<HeaderName> {
    let texts = list.into_texts();
    if texts.len() > MAX_HEADERS {
        table.error("headers", format!("must have at most {MAX_HEADERS} names"));
    }
    let mut names = Vec::new();
    for (position, text) in texts.iter().enumerate() {
        let key = format!("headers[{position}]");
        match HeaderName::from_bytes(text.as_bytes()) {
            _ if text.contains('*') => {
                table.error(&key, "* is no name; name each field (names that begin with c_ are always allowed)");
            }
            Ok(name) => names.push(name),
            Err(_) => table.error(&key, "not the name of a header field; expected e.g. x-experiment"),
        }
    }
    names
}

/// Adds warnings for origins at which others can place pages.
fn warn_of_strangers(pattern: &OriginPattern, credentials: bool, table: &mut Table<'_>) {
    if pattern.is_insecure() {
        table.warn(
            "origin",
            "http: anyone on the way can change these pages, which may then act for the shopper; serve the pages over https",
        );
    }
    if pattern.parent_domain().is_some_and(is_shared) {
        let cookies = if credentials { ", with the shopper's cookies" } else { "" };
        table.warn(
            "origin",
            format!("anyone can get a host below this domain, and its pages could call the gateway{cookies}; name your own hosts"),
        );
    }
}

/// Whether a redirect URI is a web page of another machine than the browser's.
pub(super) fn is_web_page(redirect_uri: &str) -> bool {
    Url::parse(redirect_uri).is_ok_and(|url| url.scheme() == "https" && !is_loopback(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_to_a_page_is_recognized() {
        assert!(is_web_page("https://www.shop.example/callback"));
        for other in ["http://localhost:3000/callback", "https://localhost:3000/callback", "com.example.app://callback"]
        {
            assert!(!is_web_page(other), "{other}");
        }
    }
}
