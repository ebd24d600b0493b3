//! Validates `[[tenants.storefronts]]`.

use std::time::Duration;

use url::Host;

use super::{shared_domains::is_shared, table::Table};
use crate::{
    config::{
        CookieMode, InvalidOrigin, OriginPattern, PartialSlasClient, Storefront, diagnostics::closest_match, file,
    },
    types::{ClientId, SiteId},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// SLAS's maximum for the refresh token of a guest.
const MAX_REFRESH_GUEST: Duration = Duration::from_secs(30 * DAY.as_secs());
/// SLAS's maximum for the refresh token of a registered shopper.
const MAX_REFRESH_REGISTERED: Duration = Duration::from_secs(90 * DAY.as_secs());
/// Maximum number of `preview_origins` of one storefront.
const MAX_PREVIEW_ORIGINS: usize = 64;
/// Maximum length of the segment in `base_path`, bytes.
const MAX_BASE_PATH_SEGMENT: usize = 63;
/// First segments of other paths that the gateway serves.
const RESERVED_SEGMENTS: [&str; 18] = [
    "callback",
    "cdn",
    "checkout",
    "configuration",
    "custom",
    "customer",
    "dx",
    "experience",
    "mobify",
    "observability",
    "operation",
    "organizations",
    "pricing",
    "product",
    "search",
    "shopper",
    "site",
    "store",
];

/// The storefronts of a tenant with these sites and clients.
pub(super) fn storefronts(
    raw: Vec<file::Storefront>,
    sites: &[SiteId],
    clients: &[PartialSlasClient],
    tenant: &mut Table<'_>,
) -> Vec<Storefront> {
    let mut storefronts: Vec<Storefront> = Vec::new();
    let mut seen: Vec<(usize, SiteId)> = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let table = &mut tenant.table(&format!("storefronts[{position}]"));
        let site = site(raw.site.as_deref().unwrap_or_default(), sites, table);
        if let Some(site) = &site {
            if let Some((first, _)) = seen.iter().find(|(_, other)| other == site) {
                table.error("site", format!("the same as storefronts[{first}].site; a site has one storefront"));
            }
            seen.push((position, site.clone()));
        }
        storefronts.extend(storefront(raw, site, clients, table));
    }
    storefronts
}

fn storefront(
    raw: file::Storefront,
    site: Option<SiteId>,
    clients: &[PartialSlasClient],
    table: &mut Table<'_>,
) -> Option<Storefront> {
    let client_id = client_id(raw.client_id.as_deref().unwrap_or_default(), clients, table);
    let names_domain = raw.cookie_domain.as_ref().is_some_and(|domain| !domain.is_empty());
    let cookie_domain = raw.cookie_domain.filter(|domain| !domain.is_empty());
    let cookie_domain = cookie_domain.and_then(|domain| check_cookie_domain(domain, table));
    let can_have_prefix = raw.cookies == CookieMode::Reference && !names_domain;
    if raw.host_prefix == Some(true) && !can_have_prefix {
        let message = if names_domain {
            "browsers accept no domain for cookies whose name begins with __Host-; remove host_prefix or cookie_domain"
        } else {
            "PWA Kit's names have no prefix; remove the key, or set cookies = \"reference\""
        };
        table.error("host_prefix", message);
    }
    let refresh_guest = refresh("refresh_guest", raw.refresh_guest, MAX_REFRESH_GUEST, table);
    let refresh_registered = refresh("refresh_registered", raw.refresh_registered, MAX_REFRESH_REGISTERED, table);
    let preview_origins = preview_origins(raw.preview_origins, table);
    let base_path = raw.base_path.unwrap_or_default();
    if let Some(message) = base_path_error(&base_path) {
        table.error("base_path", message);
    }
    Some(Storefront {
        site: site?,
        client_id: client_id?,
        cookies: raw.cookies,
        cookie_domain,
        host_prefix: can_have_prefix && raw.host_prefix.unwrap_or(true),
        refresh_guest,
        refresh_registered,
        preview_origins,
        base_path,
    })
}

/// The site of a storefront. It must be one of the tenant's. `known` is empty if the tenant's sites are invalid.
fn site(text: &str, known: &[SiteId], table: &mut Table<'_>) -> Option<SiteId> {
    let site: SiteId = table.name("site", text)?;
    if !known.is_empty() && !known.contains(&site) {
        let meant = closest_match(site.as_str(), known.iter().map(SiteId::as_str));
        let hint = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        table.error("site", format!("{site} is not a site of this tenant{hint}"));
    }
    Some(site)
}

/// The client of a storefront. It must be one of the tenant's.
fn client_id(text: &str, clients: &[PartialSlasClient], table: &mut Table<'_>) -> Option<ClientId> {
    let id: ClientId = table.name("client_id", text)?;
    let is_known = clients.iter().any(|client| client.id.as_ref() == Some(&id));
    if !is_known && clients.iter().all(|client| client.id.is_some()) {
        table.error("client_id", "not one of this tenant's slas_clients");
    }
    Some(id)
}

/// The lifetime of a refresh cookie.
fn refresh(key: &str, text: Option<String>, max: Duration, table: &mut Table<'_>) -> Option<Duration> {
    let too_long = |duration: &Duration| *duration > max;
    let text = text?;
    if humantime::parse_duration(&text).as_ref().is_ok_and(too_long) {
        let days = max.as_secs() / DAY.as_secs();
        table.error(key, format!("must be at most {days} days, the maximum of SLAS's refresh token"));
        return None;
    }
    table.duration(key, &text, max)
}

/// The domain, if browsers accept it in `Domain` (RFC 6265, 5.2.3 and 5.3). A leading dot has no meaning and is kept.
fn check_cookie_domain(domain: String, table: &mut Table<'_>) -> Option<String> {
    let name = domain.strip_prefix('.').unwrap_or(&domain);
    let label_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(label_byte);
    let message = if domain
        .contains(|character: char| matches!(character, '*' | ',' | ';' | '=') || character.is_whitespace())
    {
        "must not have a wildcard, separator or space; every host below the domain receives the cookies, e.g. shop.example"
    } else if matches!(Host::parse(name), Ok(Host::Ipv4(_) | Host::Ipv6(_))) {
        "an IP address has no hosts below it; remove the key"
    } else if !name.is_ascii() {
        "must be in punycode (xn--…), as browsers compare it"
    } else if !name.split('.').all(is_label) {
        "not a domain; expected e.g. shop.example"
    } else if !name.contains('.') {
        "a single label, for which browsers accept no cookies; expected e.g. shop.example, or remove the key"
    } else {
        if is_shared(&name.to_ascii_lowercase()) {
            table.warn(
                "cookie_domain",
                "anyone can get a host below this domain, and would receive the shoppers' cookies; browsers ignore cookies for most such domains; name a domain that is yours",
            );
        }
        return Some(domain);
    };
    table.error("cookie_domain", message);
    None
}

/// Origins that browsers send, without wildcards.
fn preview_origins(list: file::List, table: &mut Table<'_>) -> Vec<String> {
    let texts = list.into_texts();
    if texts.len() > MAX_PREVIEW_ORIGINS {
        table.error("preview_origins", format!("must have at most {MAX_PREVIEW_ORIGINS} origins"));
    }
    for (position, text) in texts.iter().enumerate() {
        let message = match text.parse::<OriginPattern>() {
            _ if text.contains('*') => "must not have a wildcard; name each origin",
            Ok(pattern) if pattern.is_insecure() => "must be https, except on this machine (http://localhost:3000)",
            Ok(_) => continue,
            Err(invalid) => {
                let invalid: InvalidOrigin = invalid;
                table.error(&format!("preview_origins[{position}]"), invalid.to_string());
                continue;
            }
        };
        table.error(&format!("preview_origins[{position}]"), message);
    }
    texts
}

/// Why a text is no path before `/mobify`.
fn base_path_error(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return None;
    }
    let segment = path.strip_prefix('/').unwrap_or_default();
    let segment_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+$~\"'@:-".contains(&byte);
    if !(1..=MAX_BASE_PATH_SEGMENT).contains(&segment.len()) || !segment.bytes().all(segment_byte) {
        return Some("expected / and one segment of letters, digits and _.+$~\"'@:-, at most 63 of them, e.g. /shop");
    }
    if matches!(segment, "." | "..") {
        return Some("must not be a dot segment");
    }
    let is_reserved = RESERVED_SEGMENTS.iter().any(|reserved| segment.eq_ignore_ascii_case(reserved));
    is_reserved.then_some("other paths of the gateway begin so; set another base path, e.g. /shop")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn base_path_is_one_segment_that_no_other_path_begins_with() {
        for path in ["", "/shop", "/a", "/de-DE", "/~a.b+c$d\"e'f@g:h_i", "/stores"] {
            assert_eq!(base_path_error(path), None, "{path}");
        }
        let long = format!("/{}", "a".repeat(64));
        for path in [
            "/",
            "shop",
            "//",
            "/shop/",
            "/a/b",
            "/a b",
            "/a%20b",
            "/a?b",
            "/a;b",
            "/.",
            "/..",
            "/\u{e9}",
            "/mobify",
            "/Mobify",
            "/checkout",
            "/CALLBACK",
            &long,
        ] {
            assert!(base_path_error(path).is_some(), "{path}");
        }
    }

    #[test]
    fn first_segments_of_all_operations_are_reserved() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/operations");
        let mut first = BTreeSet::new();
        for file in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let paths = text.lines().filter_map(|line| line.strip_prefix("base_path = \"/"));
            first.extend(paths.filter_map(|path| path.split('/').next()).map(str::to_owned));
        }
        assert!(first.len() > 10, "{first:?}");
        let missing: Vec<_> = first.iter().filter(|segment| !RESERVED_SEGMENTS.contains(&segment.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
