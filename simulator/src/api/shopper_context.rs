//! The Shopper Context API: one context for each session and site.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::Call;
use crate::response::{Outcome, ServiceResponse};
use crate::world::overlay;

/// The response of an operation of Shopper Context.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    let respond = match operation {
        "getShopperContext" => read,
        "createShopperContext" => create,
        "updateShopperContext" => update,
        "deleteShopperContext" => delete,
        _ => return None,
    };
    Some(key(call).and_then(|key| respond(call, key)))
}

/// Organization, session and site.
type Key = (String, String, String);

/// The key of the request, whose session must be the token's.
fn key(call: &Call<'_>) -> Result<Key, ServiceResponse> {
    let usid = call.variable("usid");
    if call.shopper()?.usid != usid {
        return Err(ServiceResponse::problem_named(
            StatusCode::BAD_REQUEST,
            "usid-not-matching-with-token",
            "Usid not matching with token",
            "Usid in incoming request does not match Usid in token.",
            Map::new(),
        ));
    }
    let site = call.parameters().text("siteId").to_owned();
    Ok((call.organization().to_owned(), usid.to_owned(), site))
}

fn read(call: &Call<'_>, key: Key) -> Outcome {
    let shop = call.world.shop();
    let context = shop.contexts.get(&key).ok_or_else(|| not_found(call))?;
    Ok(ServiceResponse::ok(&Value::Object(context.clone())))
}

/// Replaces the whole context. Both answers have no body.
fn create(call: &Call<'_>, key: Key) -> Outcome {
    let context = call.object()?;
    let previous = call.world.shop().contexts.insert(key, context);
    Ok(ServiceResponse::empty(if previous.is_some() { StatusCode::OK } else { StatusCode::CREATED }))
}

fn update(call: &Call<'_>, key: Key) -> Outcome {
    let body = call.object()?;
    let mut shop = call.world.shop();
    let context = shop.contexts.entry(key).or_default();
    for (name, value) in body {
        match (context.get_mut(&name), value) {
            // Members of qualifiers are changed one by one.
            (Some(Value::Object(known)), Value::Object(members)) => overlay(known, members),
            (_, value) => overlay(context, Map::from_iter([(name, value)])),
        }
    }
    Ok(ServiceResponse::ok(&Value::Object(context.clone())))
}

fn delete(call: &Call<'_>, key: Key) -> Outcome {
    call.world.shop().contexts.remove(&key).ok_or_else(|| not_found(call))?;
    Ok(ServiceResponse::empty(StatusCode::NO_CONTENT))
}

fn not_found(call: &Call<'_>) -> ServiceResponse {
    let (organization, usid) = (call.organization(), call.variable("usid"));
    ServiceResponse::problem_named(
        StatusCode::NOT_FOUND,
        "shopper-context-no-found",
        "Shopper Context Not Found",
        &format!("Shopper Context for ORGANIZATION_ID: {organization} and USID: {usid} not found in Repository."),
        Map::new(),
    )
}
