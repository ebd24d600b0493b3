//! Storefront Preview: Salesforce's tools show the storefront in a frame of another site, where browsers send only cookies with
//! `SameSite=None; Partitioned`.
//!
//! PWA Kit's server marks such a frame with a cookie when it loads the page, and the page says so in `x-pwakit-preview-parent`. The
//! gateway reads both. It sees no page loads, so it never writes the mark, and removes it at a logout.

use http::HeaderMap;

use super::fields::PREVIEW_PARENT;
use crate::gateway::cookies::{CookieValue, PREVIEW_MARKER, RequestCookies, SiteAttributes};

/// The pages of Salesforce that may show a storefront.
const PARENTS: [&str; 5] = [
    "https://runtime.commercecloud.com",
    "https://runtime-admin-staging.mobify-storefront.com",
    "https://runtime-admin-preview.mobify-storefront.com",
    "https://runtime-admin-soak.mobify-storefront.com",
    "https://runtime-admin-testing.mobify-storefront-staging.com",
];

/// Returns the attributes of the cookies for a request: those of a preview if a trusted parent shows the page.
pub(super) fn site_attributes(headers: &HeaderMap, cookies: &RequestCookies<'_>, more: &[String]) -> SiteAttributes {
    let is_trusted = |parent: &str| PARENTS.contains(&parent) || more.iter().any(|own| own == parent);
    let is_marked = matches!(cookies.get(PREVIEW_MARKER), CookieValue::One(parent) if is_trusted(parent));
    let named = headers.get(PREVIEW_PARENT).and_then(|parent| parent.to_str().ok());
    if is_marked || named.is_some_and(is_trusted) { SiteAttributes::Preview } else { SiteAttributes::Lax }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(name: &'static str, value: &str) -> SiteAttributes {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
        site_attributes(&headers, &RequestCookies::read(&headers), &["https://preview.shop.example".to_owned()])
    }

    #[test]
    fn trusted_parents_get_partitioned_cookies() {
        for parent in PARENTS.into_iter().chain(["https://preview.shop.example"]) {
            assert_eq!(attributes("x-pwakit-preview-parent", parent), SiteAttributes::Preview, "{parent}");
            assert_eq!(
                attributes("cookie", &format!("a=b; {PREVIEW_MARKER}={parent}")),
                SiteAttributes::Preview,
                "{parent}"
            );
        }
        for parent in ["https://evil.example", "https://runtime.commercecloud.com.evil.example", ""] {
            assert_eq!(attributes("x-pwakit-preview-parent", parent), SiteAttributes::Lax, "{parent}");
            assert_eq!(attributes("cookie", &format!("{PREVIEW_MARKER}={parent}")), SiteAttributes::Lax, "{parent}");
        }
    }
}
