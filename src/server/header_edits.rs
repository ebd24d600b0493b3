//! Edits the heads that Pingora forwards: requests to the API, and responses to the client.

use http::{
    HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, SET_COOKIE, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
};

use super::{context::RequestContext, http10::is_http10};
use crate::gateway::{
    cookies,
    cors::ResponseSource,
    decision::StorefrontEdits,
    headers::{self, HeaderEdits},
    on_behalf_header::GUEST_USID,
    slas,
};

/// Edits the head of a request: fields, credential, framing and target.
pub(super) fn edit_request(session: &mut Session, request: &mut RequestHeader, context: &RequestContext) -> Result<()> {
    let authority = context.upstream()?.authority();
    let edits = headers::request_edits(&session.req_header().headers, authority, &context.correlation_id);
    for name in edits.remove {
        request.remove_header(&name);
    }
    for (name, value) in edits.set {
        request.insert_header(name, value)?;
    }
    let storefront = context.forward.as_ref().and_then(|forward| forward.storefront.as_deref());
    if let Some(edits) = storefront {
        for name in &edits.request.remove {
            request.remove_header(name);
        }
        for (name, value) in &edits.request.set {
            request.insert_header(name, value.clone())?;
        }
    }
    if let Some(credential) = context.forward.as_ref().map(|forward| &forward.credential) {
        if credential.strips_authorization() {
            request.remove_header(&AUTHORIZATION);
        }
        if let Some(authorization) = credential.authorization() {
            request.insert_header(AUTHORIZATION, authorization)?;
        }
        if let Some((field, proof)) = credential.slas_client_field() {
            request.insert_header(field, proof)?;
        }
    }
    if context.is_body_buffered || is_http10(session) {
        // The body is buffered, or the client is HTTP/1.0: no client waits for a 100 (Continue) (RFC 9110, 10.1.1).
        request.remove_header(&EXPECT);
    }
    if session.as_downstream_mut().is_body_empty() && requires_content_length(&request.method) {
        request.insert_header(CONTENT_LENGTH, 0)?;
    }
    let of_logout = context.forward.as_ref().and_then(|forward| forward.logout.as_ref()?.target.as_deref());
    let of_storefront = storefront.and_then(|edits| edits.target.as_deref());
    let own_target =
        of_logout.or(of_storefront).or(context.route.as_ref().and_then(|route| route.upstream_target.as_deref()));
    // An origin server gets the path only (RFC 9112, 3.2.1), even if the client sent an absolute URI.
    let head = session.req_header();
    let is_absolute = !head.raw_path().starts_with(b"/");
    let path = head.uri.path_and_query().filter(|_| is_absolute).map(PathAndQuery::as_str);
    if let Some(target) = own_target.or(path) {
        request.set_raw_path(target.as_bytes())?;
    }
    Ok(())
}

/// Whether a request without content must have `Content-Length: 0` (RFC 9110, 8.6). Some servers answer 411 without it.
fn requires_content_length(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Edits the head of any response, informational ones included.
pub(super) fn edit_response(response: &mut ResponseHeader, correlation_id: &HeaderValue) -> Result<()> {
    apply(headers::response_edits(&response.headers, correlation_id), response)?;
    if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
        // Responses without content must not have framing headers (RFC 9110, 8.6; RFC 9112, 6.1).
        response.remove_header(&CONTENT_LENGTH);
        response.remove_header(&TRANSFER_ENCODING);
    }
    if response.status.is_informational() {
        response.remove_header(&CONNECTION);
    }
    Ok(())
}

/// Edits the head of the final response: what the operation requires, and the tokens that the client receives.
pub(super) fn edit_final_response(response: &mut ResponseHeader, context: &mut RequestContext) -> Result<()> {
    let operation = context.route.as_ref().and_then(|route| route.operation.as_deref());
    let edits = operation.and_then(|operation| slas::response_edits(operation, response.status, &response.headers));
    if let Some(edits) = edits {
        context.drops_response_body = edits.drops_body;
        if let Some(status) = edits.status {
            response.set_status(status)?;
            response.set_reason_phrase(None)?;
        }
        apply(edits.header, response)?;
    }
    if let Some(edits) = context.forward.as_ref().and_then(|forward| forward.storefront.as_deref()) {
        set_cookies(response, edits)?;
    }
    let Some(credential) = context.forward.as_ref().map(|forward| &forward.credential) else { return Ok(()) };
    // Token and USID are for this client only, so no cache may store the response.
    if let Some(authorization) = credential.response_authorization() {
        response.insert_header(AUTHORIZATION, authorization)?;
        response.insert_header(CACHE_CONTROL, "no-store")?;
    }
    if let Some(usid) = credential.guest_usid() {
        response.insert_header(GUEST_USID, usid)?;
        response.insert_header(CACHE_CONTROL, "no-store")?;
    }
    Ok(())
}

/// Sets the cookies of a storefront's session. Salesforce's own cookies get the storefront's domain.
pub(super) fn set_cookies(response: &mut ResponseHeader, edits: &StorefrontEdits) -> Result<()> {
    let localized = cookies::localize(&response.headers, edits.domain.as_deref());
    if !localized.is_empty() {
        response.remove_header(&SET_COOKIE);
    }
    if edits.has_session {
        response.remove_header(&AUTHORIZATION);
    }
    for cookie in localized.into_iter().chain(edits.set.iter().cloned()) {
        response.append_header(SET_COOKIE, cookie)?;
    }
    if !edits.set.is_empty() {
        response.insert_header(CACHE_CONTROL, "no-store")?;
    } else if edits.has_session && !headers::has_cache_scope(&response.headers) {
        // A shared cache keeps no response to a request with Authorization (RFC 9111, 3.5), but one to a request with cookies.
        response.append_header(CACHE_CONTROL, "private")?;
    }
    Ok(())
}

/// Sets the fields that let pages of allowed origins read the response.
pub(super) fn edit_cors(
    session: &Session,
    response: &mut ResponseHeader,
    context: &RequestContext,
    source: ResponseSource,
) -> Result<()> {
    let gateway = &context.runtime.gateway;
    match gateway.cors_edits(session.req_header(), context.route.as_ref(), &response.headers, source) {
        Some(edits) => apply(edits, response),
        None => Ok(()),
    }
}

fn apply(HeaderEdits { remove, set }: HeaderEdits, response: &mut ResponseHeader) -> Result<()> {
    for name in remove {
        response.remove_header(&name);
    }
    for (name, value) in set {
        response.insert_header(name, value)?;
    }
    Ok(())
}
