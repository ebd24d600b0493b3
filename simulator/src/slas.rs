//! The Shopper Login and API Access Service: names its flows, enforces its rate limits, and dispatches requests to
//! flows.

mod authorize;
mod clients;
mod introspection;
mod issue;
mod logout;
mod one_time;
pub(crate) mod sessions;
mod token;
mod trusted;

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use crate::limits::Remaining;
use crate::request::ReceivedRequest;
use crate::response::{Outcome, ServiceResponse};
use crate::seed::tenant_of;
use crate::world::World;

/// The path prefix of SLAS.
pub(crate) const BASE: &str = "/shopper/auth/v1/";

/// The name of the flow, as the ledger and the faults use it.
pub(crate) fn flow(request: &ReceivedRequest) -> String {
    match endpoint(request).as_str() {
        "authorize" => {
            let fields = request.parameters();
            format!("authorize:{}", fields.value("hint").unwrap_or("none"))
        }
        "token" => {
            let form = request.form();
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

/// The path after `organizations/{organization}/oauth2/`.
fn endpoint(request: &ReceivedRequest) -> String {
    let segments = request.segments();
    match segments.get(3..) {
        Some([organizations, _, oauth2, rest @ ..]) if organizations == "organizations" && oauth2 == "oauth2" => {
            rest.join("/")
        }
        _ => String::new(),
    }
}

/// The response to a request below [`BASE`].
pub(crate) fn respond(world: &World, request: &ReceivedRequest) -> ServiceResponse {
    let organization = request.segments().get(4).cloned().unwrap_or_default();
    let endpoint = endpoint(request);
    if endpoint.is_empty() {
        return not_found(request);
    }
    if world.seed.organization(&organization).is_none() {
        return ServiceResponse::invalid_request("Tenant Id Exception - Must be a well-formed tenantId");
    }
    if matches!(endpoint.as_str(), "jwks" | ".well-known/openid-configuration") {
        return keys_or_configuration(world, &organization, &endpoint, request);
    }
    let behaviour = world.behaviour();
    let per_minute = behaviour.slas_requests_per_minute;
    let (minute, five) = {
        let mut request_counters = world.request_counters();
        let name = tenant_of(&organization);
        let minute = request_counters.count(&format!("slas/1m/{name}"), per_minute, Duration::from_secs(60));
        let limit = per_minute.saturating_mul(5);
        let five = request_counters.count(&format!("slas/5m/{name}"), limit, Duration::from_secs(300));
        (minute, five)
    };
    let response = if minute.exceeded || five.exceeded {
        let longer = if five.exceeded { five } else { minute };
        too_many(longer)
    } else {
        dispatch(world, &organization, &endpoint, request).unwrap_or_else(|refusal| refusal)
    };
    let mut response = response;
    let now = u64::try_from(world.now()).unwrap_or_default();
    for (name, rate_limit) in [("1M", minute), ("5M", five)] {
        for (part, value) in [
            ("Limit", u64::from(rate_limit.limit)),
            ("Remaining", u64::from(rate_limit.left)),
            ("Reset", now + rate_limit.reset_seconds),
        ] {
            response = response.with(&format!("x-ratelimit-{name}-{part}").to_lowercase(), value.to_string());
        }
    }
    response
}

fn dispatch(world: &World, organization: &str, endpoint: &str, request: &ReceivedRequest) -> Outcome {
    match (request.method.as_str(), endpoint) {
        ("GET", "authorize") => authorize::authorize(world, organization, request),
        ("POST", "login") => authorize::login(world, organization, request),
        ("POST", "token") => token::token(world, organization, request),
        ("POST", "session-bridge/token") => token::session_bridge(world, organization, request),
        ("POST", "trusted-system/token") => trusted::system_token(world, organization, request),
        ("GET", "trusted-agent/authorize") => trusted::agent_authorize(world, organization, request),
        ("POST", "trusted-agent/token") => trusted::agent_token(world, organization, request),
        ("POST", "passwordless/login") => one_time::passwordless_login(world, organization, request),
        ("POST", "passwordless/token") => one_time::passwordless_token(world, organization, request),
        ("POST", "password/reset") => one_time::password_reset(world, organization, request),
        ("POST", "password/action") => one_time::password_action(world, organization, request),
        ("POST", "otp/request") => one_time::otp_request(world, organization, request),
        ("POST", "otp/verify") => one_time::otp_verify(world, organization, request),
        ("GET" | "POST", "logout") => logout::logout(world, organization, request),
        ("POST", "revoke") => logout::revoke(world, organization, request),
        ("POST", "introspect") => introspection::introspect(world, organization, request),
        ("GET", "userinfo") => introspection::userinfo(world, organization, request),
        // Passkeys need an authenticator, so the response only echoes the request.
        (_, passkeys) if passkeys.starts_with("webauthn/") => Ok(crate::api::echo(request, passkeys)),
        _ => Err(not_found(request)),
    }
}

/// Key set and configuration share one low rate limit.
fn keys_or_configuration(
    world: &World,
    organization: &str,
    endpoint: &str,
    request: &ReceivedRequest,
) -> ServiceResponse {
    if request.method != "GET" {
        return not_found(request);
    }
    let name = format!("jwks/{}", tenant_of(organization));
    let limit = world.behaviour().jwks_requests_per_minute;
    let rate_limit = world.request_counters().count(&name, limit, Duration::from_secs(60));
    if rate_limit.exceeded {
        return too_many(rate_limit);
    }
    if endpoint == "jwks" {
        return ServiceResponse::ok(&world.slas_keys().jwks());
    }
    let base = format!("{}{BASE}organizations/{organization}/oauth2", world.url());
    ServiceResponse::ok(&json!({
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

fn too_many(rate_limit: Remaining) -> ServiceResponse {
    ServiceResponse::slas(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "The request limit is exceeded.")
        .with("retry-after", rate_limit.reset_seconds.to_string())
}

fn not_found(request: &ReceivedRequest) -> ServiceResponse {
    ServiceResponse::problem(StatusCode::NOT_FOUND, "Not Found", &format!("No resource is known at {}.", request.path))
}
