//! The basket of the calling shopper: finding, changing and writing it.

use axum::http::StatusCode;
use serde_json::Value;

use super::{Call, member};
use crate::response::{Outcome, ServiceResponse};
use crate::shop::Basket;

/// Changes the shopper's own basket and returns it with new totals.
pub(super) fn change(call: &Call<'_>, change: impl FnOnce(&mut Basket) -> Result<(), ServiceResponse>) -> Outcome {
    let id = call.variable("basketId");
    let customer = call.shopper()?.identity.customer_id();
    let mut shop = call.world.shop();
    let basket = shop.basket_of(call.organization(), customer, id).ok_or_else(|| not_found(id))?;
    change(basket)?;
    basket.total(&call.world.seed);
    Ok(document(basket))
}

pub(super) fn document(basket: &Basket) -> ServiceResponse {
    ServiceResponse::ok(&Value::Object(basket.written()))
}

pub(super) fn not_found(id: &str) -> ServiceResponse {
    let detail = format!("No basket with ID '{id}' could be found.");
    ServiceResponse::problem(StatusCode::NOT_FOUND, "Basket Not Found", &detail)
}

pub(super) fn entry_not_found(key: &str, id: &str) -> ServiceResponse {
    let detail = format!("No entry with ID '{id}' could be found.");
    ServiceResponse::problem_with(StatusCode::NOT_FOUND, "Not Found", &detail, member(key, id))
}
