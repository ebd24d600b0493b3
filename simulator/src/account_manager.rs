//! Account Manager: tokens for API clients, its keys, its discovery document, and a login page that accepts every
//! agent.

use axum::http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::identifiers;
use crate::operations;
use crate::request::ReceivedRequest;
use crate::response::{Outcome, ServiceResponse};
use crate::seed::AccountManagerClient;
use crate::world::World;

/// The path prefix of Account Manager.
pub(crate) const BASE: &str = "/dwsso/";

const TENANT_SCOPE: &str = "SALESFORCE_COMMERCE_API:";

/// The agent that every simulated login yields.
pub(crate) const AGENT: &str = "agent@example.com";

/// The name of the flow, as the ledger and the faults use it.
pub(crate) fn flow(request: &ReceivedRequest) -> &'static str {
    match request.path.as_str() {
        "/dwsso/oauth2/access_token" => "access_token",
        "/dwsso/oauth2/connect/jwk_uri" => "jwks",
        "/dwsso/oauth2/authorize" => "authorize",
        path if path.ends_with("/.well-known/openid-configuration") => "openid-configuration",
        _ => "unknown",
    }
}

/// The response to a request below [`BASE`].
pub(crate) fn respond(world: &World, request: &ReceivedRequest) -> ServiceResponse {
    let outcome = match (request.method.as_str(), flow(request)) {
        ("POST", "access_token") => access_token(world, request),
        ("GET", "jwks") => Ok(ServiceResponse::ok(&world.account_manager_keys().jwks())),
        ("GET", "authorize") => authorize(world, request),
        ("GET", "openid-configuration") => Ok(configuration(world)),
        _ => Err(ServiceResponse::oauth(StatusCode::NOT_FOUND, "not_found", "Resource not found")),
    };
    outcome.unwrap_or_else(|refusal| refusal)
}

fn access_token(world: &World, request: &ReceivedRequest) -> Outcome {
    let form = request.form();
    let client = request
        .basic()
        .and_then(|(id, secret)| {
            let client = world.seed.account_manager_client(&id)?;
            (client.secret == secret).then_some(client)
        })
        .ok_or_else(|| {
            ServiceResponse::oauth(StatusCode::UNAUTHORIZED, "invalid_client", "Client authentication failed")
                .with("www-authenticate", "Basic realm=\"/\"")
        })?;
    match form.text("grant_type") {
        "client_credentials" => {
            let scopes = granted(client, form.text("scope"))?;
            Ok(token(world, client, &client.id, &scopes))
        }
        "authorization_code" => {
            if !world.sessions().agent_codes.remove(form.text("code")) {
                return Err(ServiceResponse::oauth(
                    StatusCode::BAD_REQUEST,
                    "invalid_grant",
                    "The provided access grant is invalid, expired, or revoked.",
                ));
            }
            Ok(token(world, client, AGENT, &["openid".to_owned(), "profile".to_owned()]))
        }
        _ => Err(ServiceResponse::oauth(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "Grant type is not supported",
        )),
    }
}

/// Each scope must be the client's own, and each tenant one of the client's tenants.
fn granted(client: &AccountManagerClient, asked: &str) -> Result<Vec<String>, ServiceResponse> {
    let refused = |scope: &str| {
        let description = format!("Unknown/invalid scope(s): [{scope}]");
        ServiceResponse::oauth(StatusCode::BAD_REQUEST, "invalid_scope", &description)
    };
    let scopes: Vec<String> = asked.split_whitespace().map(str::to_owned).collect();
    for scope in &scopes {
        let allowed = match (scope.strip_prefix(TENANT_SCOPE), &client.scopes) {
            (Some(tenant), _) => client.tenants.iter().any(|known| known == tenant),
            (None, Some(own)) => own.contains(scope),
            (None, None) => operations::scopes(true).contains(&scope.as_str()),
        };
        if !allowed {
            return Err(refused(scope));
        }
    }
    Ok(scopes)
}

fn token(world: &World, client: &AccountManagerClient, subject: &str, scopes: &[String]) -> ServiceResponse {
    let lifetime = world.behaviour().account_manager_token_seconds;
    let seconds = i64::try_from(lifetime).unwrap_or(i64::MAX);
    let token = world.sign_account_manager_token(&client.id, subject, scopes, seconds);
    ServiceResponse::ok(&json!({
        "access_token": token,
        "scope": scopes.join(" "),
        "token_type": "Bearer",
        "expires_in": lifetime.saturating_sub(1),
    }))
    .with("cache-control", "no-store")
}

/// The login page of trusted agents: logs in at once and redirects with a code.
fn authorize(world: &World, request: &ReceivedRequest) -> Outcome {
    let fields = request.parameters();
    let redirect_uri = fields
        .value("redirect_uri")
        .ok_or_else(|| ServiceResponse::oauth(StatusCode::BAD_REQUEST, "invalid_request", "redirect_uri is missing"))?;
    let code = identifiers::opaque();
    world.sessions().agent_codes.insert(code.clone());
    let separator = if redirect_uri.contains('?') { '&' } else { '?' };
    let mut location = format!("{redirect_uri}{separator}code={code}");
    if let Some(state) = fields.value("state") {
        location.push_str(&format!("&state={}", utf8_percent_encode(state, NON_ALPHANUMERIC)));
    }
    Ok(ServiceResponse::empty(StatusCode::FOUND).with("location", location))
}

fn configuration(world: &World) -> ServiceResponse {
    let base = world.account_manager_issuer();
    ServiceResponse::ok(&json!({
        "issuer": base,
        "authorization_endpoint": format!("{base}/authorize"),
        "token_endpoint": format!("{base}/access_token"),
        "jwks_uri": format!("{base}/connect/jwk_uri"),
        "response_types_supported": ["code"],
        "grant_types_supported": ["client_credentials", "authorization_code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    }))
}

/// Whether a token's scopes allow acting for the tenant.
pub(crate) fn acts_for(scopes: &[&str], tenant: &str) -> bool {
    scopes.iter().any(|scope| scope.strip_prefix(TENANT_SCOPE) == Some(tenant))
}
