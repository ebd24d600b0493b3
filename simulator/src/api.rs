//! The B2C Commerce APIs: authorization of operations, and dispatch to the operations with state.
//!
//! Operations without state respond with an echo of the request.

mod access;
mod baskets;
mod catalog;
mod content;
mod customers;
mod orders;
mod own_basket;
mod product_lists;
mod search;
mod shipments;
mod shopper_context;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::operations::{self, Found, Operation};
use crate::request::{Fields, ReceivedRequest};
use crate::response::{Outcome, ServiceResponse};
use crate::shopper_token::ShopperToken;
use crate::world::World;

/// The verified caller.
pub(crate) enum Caller {
    Shopper(Box<ShopperToken>),
    System,
}

/// A permitted call of one operation.
pub(crate) struct Call<'a> {
    world: &'a World,
    request: &'a ReceivedRequest,
    operation: &'static Operation,
    variables: Vec<(&'static str, String)>,
    caller: Caller,
}

impl Call<'_> {
    fn variable(&self, name: &str) -> &str {
        let mut variables = self.variables.iter();
        let found = variables.find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value)
    }

    fn organization(&self) -> &str {
        self.variable("organizationId")
    }

    fn parameters(&self) -> Fields {
        self.request.parameters()
    }

    /// The shopper. Operations with state never reach this with a system token only.
    fn shopper(&self) -> Result<&ShopperToken, ServiceResponse> {
        match &self.caller {
            Caller::Shopper(token) => Ok(token),
            Caller::System => Err(access::unauthorized("the access token is not a shopper's")),
        }
    }

    /// The body, which must be a JSON object.
    fn object(&self) -> Result<Map<String, Value>, ServiceResponse> {
        serde_json::from_slice(&self.request.body).map_err(|_| bad_request("The body is not a JSON object."))
    }
}

/// The name of the operation, as the ledger and the faults use it.
pub(crate) fn flow(request: &ReceivedRequest) -> String {
    match operations::find(request.method.as_str(), &request.segments()) {
        Found::Operation(operation, _) => operation.name.to_owned(),
        Found::OtherMethod | Found::Nothing => "unknown".to_owned(),
    }
}

/// The response to a request to the APIs.
pub(crate) fn respond(world: &World, request: &ReceivedRequest) -> ServiceResponse {
    let response = match operations::find(request.method.as_str(), &request.segments()) {
        Found::Nothing => ServiceResponse::problem(
            StatusCode::NOT_FOUND,
            "Not Found",
            &format!("No resource is known at {}.", request.path),
        ),
        Found::OtherMethod => ServiceResponse::problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method Not Allowed",
            &format!("{} is not possible here.", request.method),
        ),
        Found::Operation(operation, variables) => access::admit(world, operation, &variables, request)
            .and_then(|caller| dispatch(&Call { world, request, operation, variables, caller }))
            .unwrap_or_else(|refusal| refusal),
    };
    let behaviour = world.behaviour();
    let response = match behaviour.load {
        Some(load) => response.with("sfdc_load", load.to_string()),
        None => response,
    };
    match behaviour.load_status {
        Some(status) => response.with("sfdc_load_status", status),
        None => response,
    }
}

fn dispatch(call: &Call<'_>) -> Outcome {
    let (api, name) = call.operation.name.split_once('.').unwrap_or_default();
    let stateful = match api {
        "shopper-customers" => match customers::respond(call, name) {
            None => product_lists::respond(call, name),
            some => some,
        },
        "shopper-baskets-v1" | "shopper-baskets-v2" => match baskets::respond(call, name) {
            None => shipments::respond(call, name),
            some => some,
        },
        "shopper-orders" => orders::shopper(call, name),
        "orders" => orders::system(call, name),
        "shopper-products" => catalog::respond(call, name),
        "shopper-search" => search::respond(call, name),
        "shopper-context" => shopper_context::respond(call, name),
        "shopper-configurations"
        | "shopper-consents"
        | "shopper-experience"
        | "shopper-promotions"
        | "shopper-stores" => content::respond(call, name),
        _ => None,
    };
    stateful.unwrap_or_else(|| Ok(echo(call.request, call.operation.name)))
}

/// A response that echoes the request.
pub(crate) fn echo(request: &ReceivedRequest, operation: &str) -> ServiceResponse {
    let headers: Map<String, Value> = request
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value.into())
        })
        .collect();
    ServiceResponse::ok(&json!({
        "operation": operation,
        "method": request.method.as_str(),
        "path": request.path,
        "query": request.parameters().document(),
        "headers": headers,
        "bodyBytes": request.body.len(),
    }))
}

fn bad_request(detail: &str) -> ServiceResponse {
    ServiceResponse::problem(StatusCode::BAD_REQUEST, "Bad Request", detail)
}

/// One member, for errors that carry the offending id.
fn member(name: &str, value: &str) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.into())])
}
