//! The request fields of PWA Kit's pages.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::gateway::error::GatewayError;

/// The field that names the site whose cookies a request uses.
pub(super) const SITE_ID: HeaderName = HeaderName::from_static("x-site-id");
/// The field by which a page asks for a refresh with the refresh cookie.
pub(super) const GRANT_TYPE: HeaderName = HeaderName::from_static("x-grant-type");
/// The field by which a page says that it runs in Storefront Preview.
pub(super) const PREVIEW_PARENT: HeaderName = HeaderName::from_static("x-pwakit-preview-parent");

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
