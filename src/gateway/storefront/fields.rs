//! The request fields of PWA Kit's pages.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::gateway::error::GatewayError;

/// The field that names the site whose cookies a request uses.
pub(super) const SITE_ID: HeaderName = HeaderName::from_static("x-site-id");
/// The field by which a page asks for a refresh with the refresh cookie.
pub(super) const GRANT_TYPE: HeaderName = HeaderName::from_static("x-grant-type");
/// The field by which a page says that it runs in Storefront Preview.
pub(super) const PREVIEW_PARENT: HeaderName = HeaderName::from_static("x-pwakit-preview-parent");

/// The fields between a page and the gateway. None of them goes upstream.
pub(super) const PAGE_FIELDS: [HeaderName; 3] = [SITE_ID, GRANT_TYPE, PREVIEW_PARENT];

/// Returns those of [`PAGE_FIELDS`] that a request has.
pub(super) fn received_page_fields(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    PAGE_FIELDS.into_iter().filter(|name| headers.contains_key(name))
}

/// Returns the value of a field that a request may have once.
///
/// # Errors
/// [`GatewayError::Ambiguous`].
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, GatewayError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(GatewayError::Ambiguous(format!("the field {name} occurs twice"))),
    }
}
