//! The B2C Commerce APIs: authorization of operations, and dispatch to the operations with state.
//!
//! Operations without state respond with an echo of the request.

mod access;
mod baskets;
mod catalog;
mod customers;
mod orders;
mod product_lists;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Outcome};
use crate::inbound::{Fields, Inbound};
use crate::operations::{self, Found, Operation};
use crate::shopper_token::ShopperToken;
use crate::world::World;

/// Who calls, verified.
pub(crate) enum Caller {
    Shopper(Box<ShopperToken>),
    System,
}

/// A permitted call of one operation.
pub(crate) struct Call<'a> {
    world: &'a World,
    inbound: &'a Inbound,
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
        self.inbound.parameters()
    }

    /// The shopper. Operations with state never reach this with a system token only.
    fn shopper(&self) -> Result<&ShopperToken, Answer> {
        match &self.caller {
            Caller::Shopper(token) => Ok(token),
            Caller::System => Err(access::unauthorized("the access token is not a shopper's")),
        }
    }

    /// The body; it must be a JSON object.
    fn object(&self) -> Result<Map<String, Value>, Answer> {
        serde_json::from_slice(&self.inbound.body).map_err(|_| bad_request("The body is not a JSON object."))
    }
}

/// The name of the operation, as the ledger and the faults use it.
pub(crate) fn flow(inbound: &Inbound) -> String {
    match operations::find(inbound.method.as_str(), &inbound.segments()) {
        Found::Operation(operation, _) => operation.name.to_owned(),
        Found::OtherMethod | Found::Nothing => "unknown".to_owned(),
    }
}

/// Answers a request to the APIs.
pub(crate) fn answer(world: &World, inbound: &Inbound) -> Answer {
    let answer = match operations::find(inbound.method.as_str(), &inbound.segments()) {
        Found::Nothing => {
            Answer::problem(StatusCode::NOT_FOUND, "Not Found", &format!("No resource is known at {}.", inbound.path))
        }
        Found::OtherMethod => Answer::problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method Not Allowed",
            &format!("{} is not possible here.", inbound.method),
        ),
        Found::Operation(operation, variables) => access::admit(world, operation, &variables, inbound)
            .and_then(|caller| dispatch(&Call { world, inbound, operation, variables, caller }))
            .unwrap_or_else(|refusal| refusal),
    };
    let behaviour = world.behaviour();
    let answer = match behaviour.load {
        Some(load) => answer.with("sfdc_load", load.to_string()),
        None => answer,
    };
    match behaviour.load_status {
        Some(status) => answer.with("sfdc_load_status", status),
        None => answer,
    }
}

fn dispatch(call: &Call<'_>) -> Outcome {
    let (api, name) = call.operation.name.split_once('.').unwrap_or_default();
    let stateful = match api {
        "shopper-customers" => match customers::answer(call, name) {
            None => product_lists::answer(call, name),
            some => some,
        },
        "shopper-baskets-v1" | "shopper-baskets-v2" => baskets::answer(call, name),
        "shopper-orders" => orders::shopper(call, name),
        "orders" => orders::system(call, name),
        "shopper-products" | "shopper-search" => catalog::answer(call, name),
        _ => None,
    };
    stateful.unwrap_or_else(|| Ok(echo(call.inbound, call.operation.name)))
}

/// What was asked, as the answer.
pub(crate) fn echo(inbound: &Inbound, operation: &str) -> Answer {
    let headers: Map<String, Value> = inbound
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value.into())
        })
        .collect();
    Answer::ok(&json!({
        "operation": operation,
        "method": inbound.method.as_str(),
        "path": inbound.path,
        "query": inbound.parameters().document(),
        "headers": headers,
        "bodyBytes": inbound.body.len(),
    }))
}

fn bad_request(detail: &str) -> Answer {
    Answer::problem(StatusCode::BAD_REQUEST, "Bad Request", detail)
}

/// One member, for errors that carry the offending id.
fn member(name: &str, value: &str) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.into())])
}
