//! Client authentication: SLAS clients, their credentials, PKCE, and the site that they request.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::request::{Fields, ReceivedRequest};
use crate::response::ServiceResponse;
use crate::seed::SlasClient;
use crate::world::World;

/// The client named in the request.
pub(super) fn named<'w>(
    world: &'w World,
    organization: &str,
    fields: &Fields,
) -> Result<&'w SlasClient, ServiceResponse> {
    fields
        .value("client_id")
        .and_then(|id| world.seed.slas_client(organization, id))
        .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing client_id."))
}

/// The private client with these credentials.
pub(super) fn proven<'w>(
    world: &'w World,
    organization: &str,
    credentials: Option<(String, String)>,
) -> Result<&'w SlasClient, ServiceResponse> {
    let proven = credentials.and_then(|(id, secret)| {
        let client = world.seed.slas_client(organization, &id)?;
        (client.secret.as_deref() == Some(secret.as_str())).then_some(client)
    });
    proven.ok_or_else(|| ServiceResponse::invalid_client("Basic Authorization failed."))
}

/// The client named in the request; a private one must also authenticate by Basic.
pub(super) fn trusted<'w>(
    world: &'w World,
    organization: &str,
    request: &ReceivedRequest,
    fields: &Fields,
) -> Result<&'w SlasClient, ServiceResponse> {
    let credentials = request.basic();
    let id = fields.value("client_id").map(str::to_owned).or_else(|| credentials.as_ref().map(|(id, _)| id.clone()));
    let client = id
        .and_then(|id| world.seed.slas_client(organization, &id))
        .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing client_id."))?;
    if client.is_private() {
        let other = proven(world, organization, credentials)?;
        if other.id != client.id {
            return Err(ServiceResponse::invalid_client("Basic Authorization failed."));
        }
    }
    Ok(client)
}

/// Strict clients authenticate on the front channel too; a wrong credential is refused for every client.
pub(super) fn front_channel(
    world: &World,
    organization: &str,
    client: &SlasClient,
    request: &ReceivedRequest,
) -> Result<(), ServiceResponse> {
    let shown = request.header("x-slas-client-auth").is_some();
    if !client.is_private() || (!shown && !client.strict_client_auth) {
        return Ok(());
    }
    let other = proven(world, organization, request.bare_basic("x-slas-client-auth"))?;
    if other.id == client.id { Ok(()) } else { Err(ServiceResponse::invalid_client("Basic Authorization failed.")) }
}

/// The requested site, which must belong to the organization.
pub(super) fn site(world: &World, organization: &str, fields: &Fields) -> Result<String, ServiceResponse> {
    optional_site(world, organization, fields)?
        .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing channel_id."))
}

/// The requested site of an operation that may lack it. A named site must belong to the organization.
pub(super) fn optional_site(
    world: &World,
    organization: &str,
    fields: &Fields,
) -> Result<Option<String>, ServiceResponse> {
    let Some(site) = fields.value("channel_id") else {
        return Ok(None);
    };
    let known = world.seed.organization(organization);
    if known.is_some_and(|known| known.sites.iter().any(|one| one == site)) {
        Ok(Some(site.to_owned()))
    } else {
        Err(ServiceResponse::invalid_request("Bad or missing channel_id."))
    }
}

/// The requested site of a token request.
pub(super) fn token_site(
    world: &World,
    organization: &str,
    fields: &Fields,
) -> Result<Option<String>, ServiceResponse> {
    if world.behaviour().tokens_need_channel_id {
        site(world, organization, fields).map(Some)
    } else {
        optional_site(world, organization, fields)
    }
}

/// The redirect URI, which must equal a registered one of the client.
pub(super) fn redirect_uri(client: &SlasClient, fields: &Fields) -> Result<String, ServiceResponse> {
    let uri = fields.text("redirect_uri");
    if client.redirect_uris.iter().any(|known| known == uri) {
        Ok(uri.to_owned())
    } else {
        let description = "Bad or missing redirect_uri.";
        let message = "redirect_uri doesn't match the registered redirects";
        Err(ServiceResponse::slas_with_message(StatusCode::BAD_REQUEST, "invalid_request", description, message))
    }
}

/// The code challenge, which a private client may leave out.
pub(super) fn challenge_of(
    world: &World,
    client: &SlasClient,
    fields: &Fields,
) -> Result<Option<String>, ServiceResponse> {
    if client.is_private() && fields.value("code_challenge").is_none() {
        return Ok(None);
    }
    challenge(world, fields).map(Some)
}

/// A code challenge of allowed length and alphabet that was never used before.
pub(super) fn challenge(world: &World, fields: &Fields) -> Result<String, ServiceResponse> {
    let challenge = fields.text("code_challenge");
    if !is_pkce(challenge) {
        return Err(ServiceResponse::invalid_request("Bad or missing code_challenge."));
    }
    if !world.sessions().claim_challenge(challenge) {
        return Err(ServiceResponse::invalid_request("The code_challenge has been used before."));
    }
    Ok(challenge.to_owned())
}

/// Whether the code verifier belongs to the challenge (RFC 7636).
pub(super) fn verifies(verifier: &str, challenge: &str) -> bool {
    is_pkce(verifier) && URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes())) == challenge
}

fn is_pkce(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&text.len()) && text.bytes().all(allowed)
}
