//! `POST /token`: one function for each grant, and the session bridge that shares their rules.

use axum::http::StatusCode;

use super::authorize::new_session;
use super::clients;
use super::issue::{Renewal, tokens};
use super::sessions::Code;
use crate::clock;
use crate::identifiers;
use crate::request::{Fields, ReceivedRequest};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{SlasClient, tenant_of};
use crate::shopper_token::Identity;
use crate::world::World;

/// `POST /token`.
pub(super) fn token(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    match fields.text("grant_type") {
        "authorization_code_pkce" => {
            let client = clients::trusted(world, organization, request, &fields)?;
            exchange(world, organization, client, &fields, !client.is_private())
        }
        "authorization_code" => {
            let client = clients::proven(world, organization, request.basic())?;
            exchange(world, organization, client, &fields, false)
        }
        "client_credentials" => {
            let client = clients::proven(world, organization, request.basic())?;
            guest(world, organization, client, &fields)
        }
        "refresh_token" => {
            let client = clients::trusted(world, organization, request, &fields)?;
            // Servers of storefronts that keep tokens in cookies send the refresh token in a header field.
            let shown = fields.value("refresh_token").or(request.header("sfdc_refresh_token"));
            refresh(world, organization, client, &fields, shown.unwrap_or_default())
        }
        _ => {
            Err(ServiceResponse::slas(StatusCode::BAD_REQUEST, "unsupported_grant_type", "Bad or missing grant_type."))
        }
    }
}

/// Exchanges an authorization code. A code challenge at `/authorize` requires its verifier here.
fn exchange(world: &World, organization: &str, client: &SlasClient, fields: &Fields, needs_verifier: bool) -> Outcome {
    let site = clients::token_site(world, organization, fields)?;
    let code = redeem(world, organization, client, site.as_deref(), fields, needs_verifier)?;
    if code.redirect_uri != fields.text("redirect_uri") {
        return Err(invalid_grant("The redirect_uri is not the one of the authorization."));
    }
    if code.session.marks.iter().any(|(mark, _)| mark == "sesb") {
        return Err(invalid_grant("The code is for the session bridge."));
    }
    let mut session = code.session;
    session.site = session.site.or(site);
    session.do_not_track = do_not_track(fields);
    tokens(world, &session, Renewal::Fresh)
}

fn redeem(
    world: &World,
    organization: &str,
    client: &SlasClient,
    site: Option<&str>,
    fields: &Fields,
    needs_verifier: bool,
) -> Result<Code, ServiceResponse> {
    let code = fields
        .value("code")
        .and_then(|name| world.sessions().take_code(name))
        .ok_or_else(|| invalid_grant("Bad or missing code."))?;
    let session = &code.session;
    if code.expires <= clock::seconds() {
        return Err(invalid_grant("The code is expired."));
    }
    if session.organization != organization || session.client_id != client.id || differs(site, session.site.as_deref())
    {
        return Err(invalid_grant("The code belongs to another client or channel."));
    }
    if fields.value("usid").is_some_and(|usid| usid != session.usid) {
        return Err(invalid_grant("The usid is not the one of the authorization."));
    }
    let verified = match (&code.challenge, fields.value("code_verifier")) {
        (Some(challenge), Some(verifier)) => clients::verifies(verifier, challenge),
        (Some(_), None) | (None, Some(_)) => false,
        (None, None) => !needs_verifier,
    };
    if verified { Ok(code) } else { Err(invalid_grant("Bad or missing code_verifier.")) }
}

/// A guest of a private client; a known USID keeps its guest.
fn guest(world: &World, organization: &str, client: &SlasClient, fields: &Fields) -> Outcome {
    let site = clients::token_site(world, organization, fields)?;
    same_client(client, fields)?;
    let usid = fields.value("usid").map_or_else(identifiers::usid, str::to_owned);
    let guest = world.sessions().guest_of(organization, &usid);
    let mut session = new_session(organization, client, site, &usid, Identity::guest(guest));
    session.do_not_track = do_not_track(fields);
    tokens(world, &session, Renewal::Fresh)
}

/// Public clients get a new refresh token and lose the old one; private clients keep theirs.
fn refresh(world: &World, organization: &str, client: &SlasClient, fields: &Fields, name: &str) -> Outcome {
    let site = clients::token_site(world, organization, fields)?;
    let known = world.sessions().refresh(name);
    let refresh = known
        .filter(|refresh| {
            let session = &refresh.session;
            session.organization == organization
                && session.client_id == client.id
                && !differs(site.as_deref(), session.site.as_deref())
        })
        .filter(|refresh| refresh.expires > clock::seconds())
        .ok_or_else(invalid_refresh_token)?;
    let mut session = refresh.session;
    session.site = session.site.or(site);
    // The choice belongs to the access token. A refresh without it gets the default again.
    session.do_not_track = do_not_track(fields);
    let tenant = tenant_of(organization);
    let customer = session.identity.customer_id();
    if world.sessions().is_stale(tenant, customer, session.is_tsob(), refresh.issued) {
        return Err(invalid_grant("The shopper's credentials changed after the token was issued."));
    }
    if client.is_private() {
        let renewal = Renewal::Same { token: name.to_owned(), expires: refresh.expires };
        return tokens(world, &session, renewal);
    }
    // Only one of two simultaneous requests succeeds.
    if !world.sessions().drop_refresh(name) {
        return Err(invalid_refresh_token());
    }
    tokens(world, &session, Renewal::Fresh)
}

/// `POST /session-bridge/token`: continues the session of a storefront.
pub(super) fn session_bridge(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let site = clients::token_site(world, organization, &fields)?;
    let (client, code) = match fields.text("grant_type") {
        "session_bridge" => {
            let client = clients::named(world, organization, &fields)?;
            let code = redeem(world, organization, client, site.as_deref(), &fields, true)?;
            (client, Some(code))
        }
        "client_credentials" => {
            let client = clients::proven(world, organization, request.basic())?;
            same_client(client, &fields)?;
            (client, None)
        }
        _ => return Err(ServiceResponse::invalid_request("Bad or missing grant_type.")),
    };
    if client.is_private() != code.is_none() {
        return Err(ServiceResponse::invalid_client("Authorization failed."));
    }
    let usid = match (&code, fields.value("usid")) {
        (Some(code), _) => code.session.usid.clone(),
        (None, Some(usid)) => usid.to_owned(),
        (None, None) => identifiers::usid(),
    };
    let guest = world.sessions().guest_of(organization, &usid);
    let login = fields.text("login_id");
    let identity = if login.eq_ignore_ascii_case("guest") {
        fields.value("dwsgst").ok_or_else(|| ServiceResponse::invalid_request("Bad or missing dwsgst."))?;
        Identity::guest(guest)
    } else {
        fields
            .value("dwsid")
            .or(fields.value("dwsrst"))
            .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing dwsid or dwsrst."))?;
        world
            .shop()
            .identity(organization, "ecom", login, guest)
            .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing login_id."))?
    };
    let mut session = new_session(organization, client, site, &usid, identity);
    session.marks = vec![("sesb".into(), "session_bridge".into())];
    if let Some(commerce_session) = fields.value("dwsid") {
        session.commerce_session = commerce_session.to_owned();
    }
    session.do_not_track = do_not_track(&fields);
    tokens(world, &session, Renewal::Fresh)
}

/// Whether a request names another site than the session has.
fn differs(requested: Option<&str>, own: Option<&str>) -> bool {
    requested.is_some_and(|requested| own.is_some_and(|own| own != requested))
}

/// An authenticated client may name itself, and no other client.
pub(super) fn same_client(client: &SlasClient, fields: &Fields) -> Result<(), ServiceResponse> {
    match fields.value("client_id") {
        Some(id) if id != client.id => Err(ServiceResponse::invalid_request("Bad or missing client_id.")),
        _ => Ok(()),
    }
}

pub(super) fn do_not_track(fields: &Fields) -> Option<bool> {
    fields.value("dnt").map(|choice| choice == "true")
}

pub(super) fn invalid_grant(description: &str) -> ServiceResponse {
    ServiceResponse::slas(StatusCode::BAD_REQUEST, "invalid_grant", description)
}

fn invalid_refresh_token() -> ServiceResponse {
    let description = "Bad or missing refresh token.";
    ServiceResponse::slas_with_message(StatusCode::BAD_REQUEST, "invalid_grant", description, "invalid refresh_token")
}
