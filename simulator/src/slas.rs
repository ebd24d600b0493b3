//! The Shopper Login and API Access Service: names its flows, enforces its rate limits, and dispatches requests to
//! flows.

mod authorize;
mod clients;
mod ending;
mod issue;
mod one_time;
pub(crate) mod sessions;
mod token;
mod trusted;

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use crate::answer::{Answer, Outcome};
use crate::inbound::Inbound;
use crate::limits::Remaining;
use crate::seed::tenant_of;
use crate::world::World;

/// Everything below this is SLAS.
pub(crate) const BASE: &str = "/shopper/auth/v1/";

/// The name of the flow, as the ledger and the faults use it.
pub(crate) fn flow(inbound: &Inbound) -> String {
    match endpoint(inbound).as_str() {
        "authorize" => {
            let fields = inbound.parameters();
            format!("authorize:{}", fields.value("hint").unwrap_or("none"))
        }
        "token" => {
            let form = inbound.form();
            format!("token:{}", form.value("grant_type").unwrap_or("none"))
        }
        "trusted-system/token" => "trusted-system".to_owned(),
        "trusted-agent/token" => "trusted-agent".to_owned(),
        "session-bridge/token" => "session-bridge".to_owned(),
        ".well-known/openid-configuration" => "openid-configuration".to_owned(),
        "" => "unknown".to_owned(),
        other => other.replace('/', ":"),
    }
}

/// What follows `organizations/{organization}/oauth2/`.
fn endpoint(inbound: &Inbound) -> String {
    let segments = inbound.segments();
    match segments.get(3..) {
        Some([organizations, _, oauth2, rest @ ..]) if organizations == "organizations" && oauth2 == "oauth2" => {
            rest.join("/")
        }
        _ => String::new(),
    }
}

/// Answers a request below the base.
pub(crate) fn answer(world: &World, inbound: &Inbound) -> Answer {
    let organization = inbound.segments().get(4).cloned().unwrap_or_default();
    let endpoint = endpoint(inbound);
    if endpoint.is_empty() {
        return not_found(inbound);
    }
    if world.seed.organization(&organization).is_none() {
        return Answer::invalid_request("Tenant Id Exception - Must be a well-formed tenantId");
    }
    if matches!(endpoint.as_str(), "jwks" | ".well-known/openid-configuration") {
        return keys_or_configuration(world, &organization, &endpoint, inbound);
    }
    let behaviour = world.behaviour();
    let per_minute = behaviour.slas_requests_per_minute;
    let (minute, five) = {
        let mut budgets = world.budgets();
        let name = tenant_of(&organization);
        let minute = budgets.spend(&format!("slas/1m/{name}"), per_minute, Duration::from_secs(60));
        let limit = per_minute.saturating_mul(5);
        let five = budgets.spend(&format!("slas/5m/{name}"), limit, Duration::from_secs(300));
        (minute, five)
    };
    let answer = if minute.exceeded || five.exceeded {
        let longer = if five.exceeded { five } else { minute };
        too_many(longer)
    } else {
        dispatch(world, &organization, &endpoint, inbound).unwrap_or_else(|refusal| refusal)
    };
    let mut answer = answer;
    for (name, budget) in [("1M", minute), ("5M", five)] {
        for (part, value) in
            [("Limit", u64::from(budget.limit)), ("Remaining", u64::from(budget.left)), ("Reset", budget.reset_seconds)]
        {
            answer = answer.with(&format!("x-ratelimit-{name}-{part}").to_lowercase(), value.to_string());
        }
    }
    answer
}

fn dispatch(world: &World, organization: &str, endpoint: &str, inbound: &Inbound) -> Outcome {
    match (inbound.method.as_str(), endpoint) {
        ("GET", "authorize") => authorize::authorize(world, organization, inbound),
        ("POST", "login") => authorize::login(world, organization, inbound),
        ("POST", "token") => token::token(world, organization, inbound),
        ("POST", "session-bridge/token") => token::session_bridge(world, organization, inbound),
        ("POST", "trusted-system/token") => trusted::system_token(world, organization, inbound),
        ("GET", "trusted-agent/authorize") => trusted::agent_authorize(world, organization, inbound),
        ("POST", "trusted-agent/token") => trusted::agent_token(world, organization, inbound),
        ("POST", "passwordless/login") => one_time::passwordless_login(world, organization, inbound),
        ("POST", "passwordless/token") => one_time::passwordless_token(world, organization, inbound),
        ("POST", "password/reset") => one_time::password_reset(world, organization, inbound),
        ("POST", "password/action") => one_time::password_action(world, organization, inbound),
        ("POST", "otp/request") => one_time::otp_request(world, organization, inbound),
        ("POST", "otp/verify") => one_time::otp_verify(world, organization, inbound),
        ("GET" | "POST", "logout") => ending::logout(world, organization, inbound),
        ("POST", "revoke") => ending::revoke(world, organization, inbound),
        ("POST", "introspect") => ending::introspect(world, organization, inbound),
        ("GET", "userinfo") => ending::userinfo(world, organization, inbound),
        // Passkeys need an authenticator; only what was asked comes back.
        (_, passkeys) if passkeys.starts_with("webauthn/") => Ok(crate::api::echo(inbound, passkeys)),
        _ => Err(not_found(inbound)),
    }
}

/// Key set and configuration share one small budget.
fn keys_or_configuration(world: &World, organization: &str, endpoint: &str, inbound: &Inbound) -> Answer {
    if inbound.method != "GET" {
        return not_found(inbound);
    }
    let name = format!("jwks/{}", tenant_of(organization));
    let limit = world.behaviour().jwks_requests_per_minute;
    let budget = world.budgets().spend(&name, limit, Duration::from_secs(60));
    if budget.exceeded {
        return too_many(budget);
    }
    if endpoint == "jwks" {
        return Answer::ok(&world.slas_keys().jwks());
    }
    let base = format!("{}{BASE}organizations/{organization}/oauth2", world.url());
    Answer::ok(&json!({
        "issuer": format!("slas/prod/{}", tenant_of(organization)),
        "authorization_endpoint": format!("{base}/authorize"),
        "token_endpoint": format!("{base}/token"),
        "userinfo_endpoint": format!("{base}/userinfo"),
        "revocation_endpoint": format!("{base}/revoke"),
        "introspection_endpoint": format!("{base}/introspect"),
        "jwks_uri": format!("{base}/jwks"),
        "claims_supported": ["email", "name", "given_name", "family_name", "sub"],
        "code_challenge_methods_supported": ["S256"],
        "grant_types_supported": ["authorization_code", "authorization_code_pkce", "client_credentials", "refresh_token"],
        "response_types_supported": ["code"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
    }))
}

fn too_many(budget: Remaining) -> Answer {
    Answer::slas(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "The request limit is exceeded.")
        .with("retry-after", budget.reset_seconds.to_string())
}

fn not_found(inbound: &Inbound) -> Answer {
    Answer::problem(StatusCode::NOT_FOUND, "Not Found", &format!("No resource is known at {}.", inbound.path))
}
