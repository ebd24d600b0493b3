//! Orders: a shopper makes them from a basket, and a system sees all of them.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::customers::text;
use super::{Call, bad_request, member, own_basket};
use crate::clock;
use crate::identifiers;
use crate::response::{Outcome, ServiceResponse};
use crate::shop::{Order, Shop};
use crate::world::overlay;

/// Shopper Orders.
pub(super) fn shopper(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "createOrder" => create(call),
        "getOrder" => own_order(call),
        _ => return None,
    })
}

/// Orders, for systems and for trusted systems on behalf of a shopper.
pub(super) fn system(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "createOrders" => import(call),
        "getOrders" => all(call),
        "getOrder" => any_order(call, Map::new()),
        "updateOrder" => call.object().and_then(|body| any_order(call, body)),
        _ => return None,
    })
}

fn create(call: &Call<'_>) -> Outcome {
    let body = call.object()?;
    let id = text(&body, "basketId");
    if id.is_empty() {
        return Err(bad_request("The property 'basketId' is required."));
    }
    let customer = call.shopper()?.identity.customer_id();
    let complete = call.world.behaviour().orders_need_complete_baskets;
    let mut shop = call.world.shop();
    let basket = shop.basket_of(call.organization(), customer, id).ok_or_else(|| own_basket::not_found(id))?;
    if basket.list("productItems").is_empty() {
        return Err(incomplete("product item"));
    }
    if complete && let Some(missing) = basket.missing() {
        return Err(incomplete(missing));
    }
    basket.total(&call.world.seed);
    let basket = shop.baskets.remove(id).ok_or_else(|| own_basket::not_found(id))?;
    let mut document = basket.written();
    for name in ["basketId", "agentBasket", "temporaryBasket"] {
        document.remove(name);
    }
    document.insert("guest".into(), (!call.shopper()?.identity.is_registered()).into());
    let document = submit(call, &mut shop, document)?;
    Ok(ServiceResponse::ok(&document))
}

fn incomplete(what: &str) -> ServiceResponse {
    ServiceResponse::problem(StatusCode::BAD_REQUEST, "Invalid Basket", &format!("The basket has no {what}."))
}

/// Gives the order a number and stores it for the calling shopper.
fn submit(call: &Call<'_>, shop: &mut Shop, mut document: Map<String, Value>) -> Result<Value, ServiceResponse> {
    let owner = call.shopper()?.identity.customer_id();
    let number = shop.next_number();
    let now = clock::timestamp();
    for (name, value) in [
        ("orderNo", number.as_str()),
        ("orderToken", &identifiers::opaque()),
        ("creationDate", &now),
        ("lastModified", &now),
        ("createdBy", "Customer"),
        ("status", "created"),
        ("confirmationStatus", "not_confirmed"),
        ("exportStatus", "not_exported"),
        ("paymentStatus", "not_paid"),
        ("shippingStatus", "not_shipped"),
    ] {
        document.insert(name.into(), value.into());
    }
    if let Some(site) = call.parameters().value("siteId") {
        document.insert("siteId".into(), site.into());
    }
    let key = (call.organization().to_owned(), number);
    shop.orders.insert(
        key,
        Order { organization: call.organization().to_owned(), owner: owner.to_owned(), document: document.clone() },
    );
    Ok(document.into())
}

fn own_order(call: &Call<'_>) -> Outcome {
    let customer = call.shopper()?.identity.customer_id();
    let shop = call.world.shop();
    shop.orders
        .get(&key(call))
        .filter(|order| order.owner == customer)
        .map(|order| ServiceResponse::ok(&Value::Object(order.document.clone())))
        .ok_or_else(|| not_found(call))
}

/// A trusted system supplies the complete order.
fn import(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    let customer = call.shopper()?.identity.customer_id();
    body.insert("customerInfo".into(), json!({"customerId": customer}));
    let mut shop = call.world.shop();
    let document = submit(call, &mut shop, body)?;
    Ok(ServiceResponse::ok(&document))
}

fn all(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let site = parameters.value("siteId").or(parameters.value("siteIds"));
    let shop = call.world.shop();
    let data: Vec<_> = shop
        .orders
        .values()
        .filter(|order| order.organization == call.organization())
        .filter(|order| site.is_none_or(|site| text(&order.document, "siteId") == site))
        .map(|order| Value::Object(order.document.clone()))
        .collect();
    Ok(ServiceResponse::ok(&json!({"limit": 25, "offset": 0, "total": data.len(), "data": data})))
}

/// Reads an order, after writing `over` to it.
fn any_order(call: &Call<'_>, mut over: Map<String, Value>) -> Outcome {
    over.remove("orderNo");
    let mut shop = call.world.shop();
    let order = shop.orders.get_mut(&key(call)).ok_or_else(|| not_found(call))?;
    overlay(&mut order.document, over);
    Ok(ServiceResponse::ok(&Value::Object(order.document.clone())))
}

fn key(call: &Call<'_>) -> (String, String) {
    (call.organization().to_owned(), call.variable("orderNo").to_owned())
}

fn not_found(call: &Call<'_>) -> ServiceResponse {
    let number = call.variable("orderNo");
    let detail = format!("No order with number '{number}' was found.");
    ServiceResponse::problem_with(StatusCode::NOT_FOUND, "Order Not Found", &detail, member("orderNo", number))
}
