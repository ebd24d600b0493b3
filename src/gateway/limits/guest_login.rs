//! Guest logins on SLAS's paths.
//!
//! A guest login proves nothing, and the gateway keeps its session for as long as its refresh token lives. So it counts like a deprecated
//! guest login, if the gateway keeps its session.

use crate::gateway::{error::GatewayError, form::Form, query::Query, request::RoutedRequest};

/// Whether a request begins a guest's session that the gateway will keep.
///
/// # Errors
/// [`GatewayError::Ambiguous`] for a field with two values.
pub(super) fn begins_guest_session(routed: RoutedRequest<'_>) -> Result<bool, GatewayError> {
    let RoutedRequest { tenant, route, request, registers_session } = routed;
    // A guest of a private client.
    if route.has_operation_id("getAccessToken") {
        let form = request.body.as_deref().filter(|_| registers_session).map(Form::parse).transpose()?;
        let grant = form.as_ref().map(|form| form.single("grant_type")).transpose()?.flatten();
        return Ok(grant.as_deref() == Some("client_credentials"));
    }
    // A guest of a public client, who gets the session with the code of this response.
    if route.has_operation_id("authorizeCustomer") {
        let query = Query::parse(request.head.uri.query())?;
        if query.single("hint")?.as_deref() != Some("guest") {
            return Ok(false);
        }
        let client = query.single("client_id")?;
        let mut storefronts = tenant.settings.storefronts.iter();
        return Ok(registers_session || storefronts.any(|own| client.as_deref() == Some(own.client_id.as_str())));
    }
    Ok(false)
}
