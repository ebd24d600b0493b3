//! The end of sessions, and questions about tokens: logout, revoke, introspect, userinfo.

use serde_json::{Value, json};

use super::clients;
use crate::answer::{Answer, Outcome};
use crate::clock;
use crate::inbound::Inbound;
use crate::seed::tenant_of;
use crate::shopper_token::ShopperToken;
use crate::world::World;

/// The valid shopper token of the request, of this organization's tenant.
pub(super) fn bearer(world: &World, organization: &str, inbound: &Inbound) -> Result<ShopperToken, Answer> {
    inbound
        .bearer()
        .and_then(|token| world.verify_shopper_token(token).ok())
        .filter(|token| token.tenant == tenant_of(organization))
        .ok_or_else(|| Answer::invalid_client("Bad or missing access token."))
}

/// `GET /logout`: registered shoppers only.
pub(super) fn logout(world: &World, organization: &str, inbound: &Inbound) -> Outcome {
    let fields = inbound.parameters();
    let token = bearer(world, organization, inbound)?;
    let client = clients::named(world, organization, &fields)?;
    if token.client_id != client.id {
        return Err(Answer::invalid_request("Bad or missing client_id."));
    }
    if !token.identity.is_registered() {
        return Err(Answer::invalid_request("Logout is for registered shoppers."));
    }
    clients::site(world, organization, &fields)?;
    let name = fields.text("refresh_token");
    let mut sessions = world.sessions();
    let own = sessions.refresh(name).is_some_and(|refresh| {
        refresh.session.client_id == client.id && refresh.session.identity.customer_id() == token.identity.customer_id()
    });
    if !own {
        return Err(Answer::invalid_request("Bad or missing refresh token."));
    }
    sessions.drop_refresh(name);
    sessions.revoke(&token);
    if fields.text("hint") == "all-sessions" {
        let serial = world.serial();
        let customer = token.identity.customer_id();
        sessions.end_all(&token.tenant, customer, token.has_mark("tsob"), serial);
    }
    Ok(blank(""))
}

/// `POST /revoke`: a refresh token, by a private client.
pub(super) fn revoke(world: &World, organization: &str, inbound: &Inbound) -> Outcome {
    let fields = inbound.form();
    let client = clients::proven(world, organization, inbound.basic())?;
    let name = fields.text("token");
    let mut sessions = world.sessions();
    let own = sessions.refresh(name).is_some_and(|refresh| refresh.session.client_id == client.id);
    if !own {
        return Err(Answer::invalid_request("Bad or missing refresh token."));
    }
    sessions.drop_refresh(name);
    Ok(blank(name))
}

/// The published answer of an ended session: a token answer with nothing in it.
fn blank(refresh_token: &str) -> Answer {
    Answer::ok(&json!({
        "access_token": "", "id_token": "null", "refresh_token": refresh_token, "expires_in": 0,
        "refresh_token_expires_in": 0, "token_type": "Bearer", "usid": "null", "customer_id": "null",
        "enc_user_id": "null", "idp_access_token": "", "idp_refresh_token": "null", "dnt": "null",
    }))
}

/// `POST /introspect`: an access or refresh token, by a private client.
pub(super) fn introspect(world: &World, organization: &str, inbound: &Inbound) -> Outcome {
    let fields = inbound.form();
    clients::proven(world, organization, inbound.basic())?;
    let shown =
        fields.value("token").ok_or_else(|| Answer::invalid_request("Bad or missing access token or refresh token"))?;
    let refresh = world.sessions().refresh(shown).filter(|refresh| refresh.expires > clock::seconds());
    if let Some(refresh) = refresh {
        let (session, identity) = (&refresh.session, &refresh.session.identity);
        return Ok(Answer::ok(&json!({
            "active": true, "client_id": session.client_id, "exp": refresh.expires,
            "iat": refresh.issued / 1_000_000, "scope": "offline_access openid",
            "iss": format!("slas/prod/{}", tenant_of(&session.organization)),
            "sub": format!("usid:{}::uido:{}::upn:{}::uidn:{}",
                session.usid, identity.origin, identity.login, identity.display_name),
            "token_type": "refresh_token",
        })));
    }
    let access = world.verify_shopper_token(shown).ok().filter(|token| token.tenant == tenant_of(organization));
    let Some(token) = access else {
        return Ok(Answer::ok(&json!({"active": false})));
    };
    let claim = |name: &str| token.claims.get(name).cloned().unwrap_or(Value::Null);
    Ok(Answer::ok(&json!({
        "active": true, "client_id": token.client_id, "exp": claim("exp"), "iat": claim("iat"),
        "iss": claim("iss"), "scope": token.scopes.join(" "), "sub": claim("sub"),
        "token_type": "access_token",
    })))
}

/// `GET /userinfo`.
pub(super) fn userinfo(world: &World, organization: &str, inbound: &Inbound) -> Outcome {
    let token =
        bearer(world, organization, inbound).map_err(|_| Answer::invalid_request("Bad or missing access token."))?;
    let identity = &token.identity;
    let profile = world.shop().profile(organization, identity.customer_id());
    let of_profile = |name: &str| {
        let value = profile.as_ref().and_then(|profile| profile.get(name));
        value.cloned().unwrap_or(Value::Null)
    };
    Ok(Answer::ok(&json!({
        "customer_id": identity.customer_id(), "sub": token.usid, "name": identity.display_name,
        "email": of_profile("email"), "given_name": of_profile("firstName"),
        "family_name": of_profile("lastName"),
        "external_id": format!("{}-{}", identity.origin, identity.login),
        "validated": identity.is_registered(),
    })))
}
