//! Questions about tokens: introspection (RFC 7662) and userinfo.

use serde_json::{Value, json};

use super::clients;
use crate::clock;
use crate::request::ReceivedRequest;
use crate::response::{Outcome, ServiceResponse};
use crate::seed::tenant_of;
use crate::shopper_token::ShopperToken;
use crate::world::World;

/// The valid shopper token of the request, of this organization's tenant.
pub(super) fn bearer(
    world: &World,
    organization: &str,
    request: &ReceivedRequest,
) -> Result<ShopperToken, ServiceResponse> {
    request
        .bearer()
        .and_then(|token| world.verify_shopper_token(token).ok())
        .filter(|token| token.tenant == tenant_of(organization))
        .ok_or_else(|| ServiceResponse::invalid_client("Bad or missing access token."))
}

/// `POST /introspect`: an access or refresh token, by a private client.
pub(super) fn introspect(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    clients::proven(world, organization, request.basic())?;
    let shown = fields
        .value("token")
        .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing access token or refresh token"))?;
    let refresh = world.sessions().refresh(shown).filter(|refresh| refresh.expires > clock::seconds());
    if let Some(refresh) = refresh {
        let (session, identity) = (&refresh.session, &refresh.session.identity);
        return Ok(ServiceResponse::ok(&json!({
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
        return Ok(ServiceResponse::ok(&json!({"active": false})));
    };
    let claim = |name: &str| token.claims.get(name).cloned().unwrap_or(Value::Null);
    Ok(ServiceResponse::ok(&json!({
        "active": true, "client_id": token.client_id, "exp": claim("exp"), "iat": claim("iat"),
        "iss": claim("iss"), "scope": token.scopes.join(" "), "sub": claim("sub"),
        "token_type": "access_token",
    })))
}

/// `GET /userinfo`.
pub(super) fn userinfo(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let token = bearer(world, organization, request)
        .map_err(|_| ServiceResponse::invalid_request("Bad or missing access token."))?;
    let identity = &token.identity;
    let profile = world.shop().profile(organization, identity.customer_id());
    let of_profile = |name: &str| {
        let value = profile.as_ref().and_then(|profile| profile.get(name));
        value.cloned().unwrap_or(Value::Null)
    };
    Ok(ServiceResponse::ok(&json!({
        "customer_id": identity.customer_id(), "sub": token.usid, "name": identity.display_name,
        "email": of_profile("email"), "given_name": of_profile("firstName"),
        "family_name": of_profile("lastName"),
        "external_id": format!("{}-{}", identity.origin, identity.login),
        "validated": identity.is_registered(),
    })))
}
