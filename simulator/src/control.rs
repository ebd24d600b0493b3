//! The control API below `/__simulator`: the ledger, the settings, the faults, the keys and the minting of tokens.
//!
//! Programs that cannot call the library use it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::dispatch::{self, into_http};
use crate::faults::Fault;
use crate::response::ServiceResponse;
use crate::shopper_token::ShopperTokenSpec;
use crate::world::{World, overlay};

/// All routes: the control API here, other paths in `dispatch`.
pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/__simulator", get(overview))
        .route("/__simulator/", get(overview))
        .route("/__simulator/ledger", get(ledger).delete(clear_ledger))
        .route("/__simulator/behaviour", get(behaviour).patch(change_behaviour))
        .route("/__simulator/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/__simulator/keys/rotate", post(rotate_keys))
        .route("/__simulator/tokens", post(mint))
        .route("/__simulator/outbox", get(outbox))
        .fallback(dispatch::handle)
        .with_state(world)
}

async fn overview(State(world): State<Arc<World>>) -> Json<Value> {
    let seed = &world.seed;
    let organizations: Vec<_> = seed
        .organizations
        .iter()
        .map(|known| json!({"id": known.id, "tenant": known.tenant(), "sites": known.sites}))
        .collect();
    let clients: Vec<_> = seed
        .slas_clients
        .iter()
        .map(|client| json!({"id": client.id, "private": client.is_private(), "strict": client.strict_client_auth}))
        .collect();
    let api_clients: Vec<_> =
        seed.account_manager_clients.iter().map(|client| json!({"id": client.id, "tenants": client.tenants})).collect();
    let shoppers: Vec<_> = seed.shoppers.iter().map(|shopper| &shopper.login).collect();
    Json(json!({
        "what": "A local Account Manager, SLAS and B2C Commerce Shopper APIs. Everything is in memory and made up.",
        "url": world.url(),
        "services": {
            "account_manager": format!("{}/dwsso/oauth2/access_token", world.url()),
            "slas": format!("{}/shopper/auth/v1/organizations/{{organization}}/oauth2", world.url()),
            "api": format!("{} operations at their published paths", crate::operations::operations().len()),
        },
        "control": {
            "GET, DELETE /__simulator/ledger": "requests received; ?service=, ?flow= filter",
            "GET, PATCH /__simulator/behaviour": "lifetimes, limits, scopes, load",
            "GET, POST, DELETE /__simulator/faults": "what goes wrong, on which requests",
            "POST /__simulator/keys/rotate": "next keys become current",
            "POST /__simulator/tokens": "{\"shopper\": {…}} or {\"account_manager\": {…}}",
            "GET /__simulator/outbox": "one-time tokens that would have been mailed",
        },
        "organizations": organizations, "slas_clients": clients,
        "account_manager_clients": api_clients, "shoppers": shoppers,
    }))
}

#[derive(Deserialize)]
struct Filter {
    service: Option<String>,
    flow: Option<String>,
}

async fn ledger(
    State(world): State<Arc<World>>,
    axum::extract::Query(filter): axum::extract::Query<Filter>,
) -> Json<Value> {
    let mut entries = world.ledger.entries();
    entries.retain(|entry| {
        filter.service.as_ref().is_none_or(|service| *service == entry.service)
            && filter.flow.as_ref().is_none_or(|flow| *flow == entry.flow)
    });
    Json(json!({"total": entries.len(), "entries": entries}))
}

async fn clear_ledger(State(world): State<Arc<World>>) -> StatusCode {
    world.ledger.clear();
    StatusCode::NO_CONTENT
}

async fn behaviour(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!(world.behaviour()))
}

/// Members of the request replace the current settings.
async fn change_behaviour(State(world): State<Arc<World>>, request: Request) -> Response {
    let change: Map<String, Value> = match read(request).await {
        Ok(change) => change,
        Err(refusal) => return refusal,
    };
    let Value::Object(mut settings) = json!(world.behaviour()) else {
        return refused("the behaviour is not an object");
    };
    overlay(&mut settings, change);
    match serde_json::from_value(Value::Object(settings)) {
        Ok(settings) => {
            world.change_behaviour(|behaviour| *behaviour = settings);
            into_http(ServiceResponse::ok(&json!(world.behaviour())))
        }
        Err(error) => refused(&error.to_string()),
    }
}

async fn faults(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!(world.faults.list()))
}

async fn add_fault(State(world): State<Arc<World>>, request: Request) -> Response {
    match read::<Fault>(request).await {
        Ok(fault) => {
            world.faults.add(fault);
            into_http(ServiceResponse::json(StatusCode::CREATED, &json!(world.faults.list())))
        }
        Err(refusal) => refusal,
    }
}

async fn clear_faults(State(world): State<Arc<World>>) -> StatusCode {
    world.faults.clear();
    StatusCode::NO_CONTENT
}

async fn rotate_keys(State(world): State<Arc<World>>) -> Json<Value> {
    world.rotate_keys();
    Json(world.slas_keys().jwks())
}

async fn outbox(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!(world.sessions().outbox))
}

/// A token to mint.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Mint {
    Shopper(Box<ShopperTokenSpec>),
    AccountManager(AccountManagerTokenSpec),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountManagerTokenSpec {
    client_id: String,
    tenant: String,
    scopes: Vec<String>,
    lifetime_seconds: Option<i64>,
}

async fn mint(State(world): State<Arc<World>>, request: Request) -> Response {
    let token = match read(request).await {
        Ok(Mint::Shopper(spec)) => world.mint_shopper_token(*spec),
        Ok(Mint::AccountManager(spec)) => {
            let scopes: Vec<_> = spec.scopes.iter().map(String::as_str).collect();
            let lifetime = spec.lifetime_seconds.unwrap_or(1800);
            world.mint_account_manager_token(&spec.client_id, &scopes, &spec.tenant, lifetime)
        }
        Err(refusal) => return refusal,
    };
    into_http(ServiceResponse::json(StatusCode::CREATED, &json!({"token": token})))
}

async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Response> {
    let body =
        axum::body::to_bytes(request.into_body(), 1024 * 1024).await.map_err(|error| refused(&error.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| refused(&error.to_string()))
}

fn refused(why: &str) -> Response {
    into_http(ServiceResponse::problem(StatusCode::BAD_REQUEST, "Bad Request", why))
}
