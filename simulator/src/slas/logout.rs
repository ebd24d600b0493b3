//! The end of sessions: logout and revocation of refresh tokens.

use serde_json::{Value, json};

use super::clients;
use super::introspection::bearer;
use crate::request::ReceivedRequest;
use crate::response::{Outcome, ServiceResponse};
use crate::world::World;

/// `GET /logout`: registered shoppers only.
pub(super) fn logout(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.parameters();
    let token = bearer(world, organization, request)?;
    let client = clients::named(world, organization, &fields)?;
    if token.client_id != client.id {
        return Err(ServiceResponse::invalid_request("Bad or missing client_id."));
    }
    if !token.identity.is_registered() {
        return Err(ServiceResponse::invalid_request("Logout is for registered shoppers."));
    }
    // B2C Commerce's own shoppers need it, others may leave it out.
    if token.identity.origin == "ecom" {
        clients::site(world, organization, &fields)?;
    } else {
        clients::optional_site(world, organization, &fields)?;
    }
    let name = fields.text("refresh_token");
    let mut sessions = world.sessions();
    let own = sessions.refresh(name).is_some_and(|refresh| {
        refresh.session.client_id == client.id && refresh.session.identity.customer_id() == token.identity.customer_id()
    });
    if !own {
        return Err(ServiceResponse::invalid_request("Bad or missing refresh token."));
    }
    sessions.drop_refresh(name);
    sessions.revoke(&token);
    if fields.text("hint") == "all-sessions" {
        let serial = world.serial();
        let customer = token.identity.customer_id();
        sessions.end_all(&token.tenant, customer, token.has_mark("tsob"), serial);
    }
    let mut document = blank("");
    document["idp_refresh_token"] = "null".into();
    document["dnt"] = "null".into();
    Ok(ServiceResponse::ok(&document))
}

/// `POST /revoke`: a refresh token, by a private client.
pub(super) fn revoke(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::proven(world, organization, request.basic())?;
    let name = fields.text("token");
    let mut sessions = world.sessions();
    let own = sessions.refresh(name).is_some_and(|refresh| refresh.session.client_id == client.id);
    if !own {
        return Err(ServiceResponse::invalid_request("Bad or missing refresh token."));
    }
    sessions.drop_refresh(name);
    Ok(ServiceResponse::ok(&blank(name)))
}

/// The published response for an ended session: a token response with empty members.
fn blank(refresh_token: &str) -> Value {
    json!({
        "access_token": "", "id_token": "null", "refresh_token": refresh_token, "expires_in": 0,
        "refresh_token_expires_in": 0, "token_type": "Bearer", "usid": "null", "customer_id": "null",
        "enc_user_id": "null", "idp_access_token": "",
    })
}
