//! The token response: signs the access token and decides about the refresh token.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::sessions::{Refresh, Session};
use crate::clock;
use crate::jwt;
use crate::response::{Outcome, ServiceResponse};
use crate::seed::tenant_of;
use crate::shopper_token::{Claims, issuer_subject};
use crate::world::{World, members};

/// The refresh token beside the access token.
pub(super) enum Renewal {
    /// A new refresh token.
    Fresh,
    /// The refresh token of the request, until it expires.
    Same { token: String, expires: u64 },
    /// None: trusted agents.
    Never,
}

/// The response to a successful token request.
pub(super) fn tokens(world: &World, session: &Session, renewal: Renewal) -> Outcome {
    let behaviour = world.behaviour();
    let client = world
        .seed
        .slas_client(&session.organization, &session.client_id)
        .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing client_id."))?;
    let isb = issuer_subject(&session.identity, &session.marks, session.site.as_deref())
        .ok_or_else(|| ServiceResponse::invalid_request("Issuer Subject length must be less than 256 characters"))?;
    let lifetime = match renewal {
        Renewal::Never => behaviour.trusted_agent_token_seconds,
        _ => behaviour.shopper_token_seconds,
    };
    let serial = world.serial();
    let access_token = world.sign_shopper_token(&Claims {
        organization: &session.organization,
        client_id: &session.client_id,
        usid: &session.usid,
        isb: &isb,
        scopes: &world.shopper_scopes(client, &session.marks),
        lifetime_seconds: i64::try_from(lifetime).unwrap_or(i64::MAX),
        now: world.now(),
        serial,
        do_not_track: Some(session.do_not_track.unwrap_or(session.is_taob())),
    });
    let now = clock::seconds();
    let refresh = match renewal {
        Renewal::Never => None,
        Renewal::Same { token, expires } => Some((token, expires)),
        Renewal::Fresh => {
            let seconds = if session.identity.is_registered() {
                behaviour.registered_refresh_token_seconds
            } else {
                behaviour.guest_refresh_token_seconds
            };
            let expires = now + seconds;
            let refresh = Refresh { session: session.clone(), issued: serial, expires };
            Some((world.sessions().keep_refresh(refresh), expires))
        }
    };
    let identity = &session.identity;
    let mut document = json!({
        "access_token": access_token,
        "id_token": id_token(world, session, lifetime),
        "expires_in": lifetime,
        "token_type": "Bearer",
        "usid": session.usid,
        "customer_id": identity.customer_id(),
        "enc_user_id": hashed(identity.customer_id()),
        "idp_access_token": session.provider_tokens.as_ref().map_or("", |tokens| &tokens.access),
    });
    if let Some(token) = session.provider_tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref()) {
        document["idp_refresh_token"] = token.clone().into();
    }
    if let Some((token, expires)) = refresh {
        document["refresh_token"] = token.into();
        document["refresh_token_expires_in"] = expires.saturating_sub(now).into();
    }
    if let Some(choice) = session.do_not_track {
        document["dnt"] = choice.to_string().into();
    }
    let response = ServiceResponse::json(StatusCode::OK, &document).with("cache-control", "no-store");
    Ok(commerce_cookie(world, &session.commerce_session, response))
}

/// The response with the cookie `dwsid`, for hybrid storefronts.
pub(super) fn commerce_cookie(world: &World, commerce_session: &str, response: ServiceResponse) -> ServiceResponse {
    let Some(domain) = world.behaviour().session_cookie_domain else {
        return response;
    };
    let domain = if domain.is_empty() { domain } else { format!("; Domain={domain}") };
    response.with("set-cookie", format!("dwsid={commerce_session}; Path=/{domain}; HttpOnly; Secure; SameSite=None"))
}

fn id_token(world: &World, session: &Session, lifetime: u64) -> String {
    let now = clock::seconds();
    let claims = json!({
        "sub": format!("usid:{}", session.usid), "aud": session.client_id,
        "iss": format!("slas/prod/{}", tenant_of(&session.organization)),
        "name": session.identity.display_name, "iat": now, "exp": now + lifetime,
    });
    let ring = world.slas_keys();
    let key = ring.current();
    let header = json!({"kid": key.kid, "alg": "ES256"});
    jwt::sign(key, &members(header), &members(claims))
}

/// 32 upper-case hexadecimal digits, stable for a customer. The real one is an MD5.
fn hashed(customer: &str) -> Value {
    let bytes = digest(&SHA256, customer.as_bytes());
    let digits = bytes.as_ref().iter().take(16);
    digits.map(|byte| format!("{byte:02X}")).collect::<String>().into()
}
