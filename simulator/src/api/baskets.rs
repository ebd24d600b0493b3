//! The Shopper Baskets operations with state, the same for v1 and v2.
//!
//! A basket belongs to one customer, and does not exist for others.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::customers::{mask, text};
use super::own_basket::{change, document, entry_not_found, not_found};
use super::shipments;
use super::{Call, access, bad_request, member};
use crate::identifiers;
use crate::response::{Outcome, ServiceResponse};
use crate::shop::Basket;
use crate::world::overlay;

/// The response of an operation with state, or `None` for others.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "createBasket" => create(call),
        "transferBasket" => transfer(call),
        "mergeBasket" => merge(call),
        "getBasket" => change(call, |_| Ok(())),
        "deleteBasket" => delete(call),
        "updateBasket" => update(call),
        "updateBillingAddressForBasket" => set(call, "billingAddress"),
        "updateCustomerForBasket" => set_customer(call),
        "addItemToBasket" => add_items(call),
        "updateItemInBasket" => update_item(call),
        "updateItemsInBasket" => update_items(call),
        "removeItemFromBasket" => remove(call, "productItems", "itemId", "itemId"),
        "addPaymentInstrumentToBasket" => add_payment_instrument(call),
        "updatePaymentInstrumentInBasket" => update_payment_instrument(call),
        "removePaymentInstrumentFromBasket" => {
            remove(call, "paymentInstruments", "paymentInstrumentId", "paymentInstrumentId")
        }
        "getPaymentMethodsForBasket" => change(call, |_| Ok(())).map(|_| payment_methods()),
        "addCouponToBasket" => Err(bad_request("The coupon is unknown: the simulated site has none.")),
        _ => return None,
    })
}

fn create(call: &Call<'_>) -> Outcome {
    let identity = call.shopper()?.identity.clone();
    let mut body = call.request.object();
    let (world, organization) = (call.world, call.organization());
    let parameters = call.parameters();
    let temporary = call.operation.name.contains("-v2.") && parameters.text("temporary") == "true";
    let mut shop = world.shop();
    if !temporary && let Some(open) = shop.open_basket_of(organization, identity.customer_id()) {
        let detail = format!(
            "The maximum number of baskets per customer was exceeded. Please reuse or delete one of the existing baskets ({open})."
        );
        let more = member("basketIds", &open);
        return Err(ServiceResponse::problem_with(
            StatusCode::BAD_REQUEST,
            "Customer Baskets Quota Exceeded",
            &detail,
            more,
        ));
    }
    let items = match body.remove("productItems") {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    if let Some(unknown) = items.iter().find(|item| {
        let id = item["productId"].as_str().unwrap_or_default();
        world.seed.sellable(id).is_none()
    }) {
        return Err(unknown_product(unknown["productId"].as_str().unwrap_or_default()));
    }
    if let Some(Value::Array(shipments)) = body.remove("shipments") {
        body.insert("shipments".into(), shipments::complete(shipments)?.into());
    }
    if let Some(Value::Array(instruments)) = body.remove("paymentInstruments") {
        let instruments = instruments.into_iter().map(|one| payment_instrument(crate::world::members(one)));
        body.insert("paymentInstruments".into(), instruments.collect());
    }
    for computed in ["basketId", "customerInfo", "creationDate", "orderTotal", "productTotal"] {
        body.remove(computed);
    }
    let basket = shop.open_basket(organization, &identity, temporary);
    overlay(&mut basket.document, body);
    basket.add_items(&world.seed, &items).map_err(|id| unknown_product(&id))?;
    Ok(document(basket))
}

fn delete(call: &Call<'_>) -> Outcome {
    change(call, |_| Ok(()))?;
    call.world.shop().baskets.remove(call.variable("basketId"));
    Ok(ServiceResponse::empty(StatusCode::NO_CONTENT))
}

fn update(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    body.retain(|name, _| name.starts_with("c_") || matches!(name.as_str(), "currency" | "channelType" | "sourceCode"));
    change(call, |basket| {
        overlay(&mut basket.document, body);
        Ok(())
    })
}

fn set(call: &Call<'_>, name: &str) -> Outcome {
    let body = call.object()?;
    change(call, |basket| {
        basket.document.insert(name.into(), body.into());
        Ok(())
    })
}

/// The basket's customer can't be exchanged, only described.
fn set_customer(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    if text(&body, "email").is_empty() {
        return Err(bad_request("The property 'email' is required."));
    }
    body.retain(|name, _| !matches!(name.as_str(), "customerId" | "customerNo"));
    change(call, |basket| {
        if let Some(Value::Object(info)) = basket.document.get_mut("customerInfo") {
            overlay(info, body);
        }
        Ok(())
    })
}

fn add_items(call: &Call<'_>) -> Outcome {
    let items: Vec<Value> =
        serde_json::from_slice(&call.request.body).map_err(|_| bad_request("The body is not a JSON array."))?;
    change(call, |basket| basket.add_items(&call.world.seed, &items).map_err(|id| unknown_product(&id)))
}

fn update_item(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    body.insert("itemId".into(), call.variable("itemId").into());
    change(call, |basket| change_item(basket, body))
}

/// The same for several items at once.
fn update_items(call: &Call<'_>) -> Outcome {
    let changes: Vec<Map<String, Value>> =
        serde_json::from_slice(&call.request.body).map_err(|_| bad_request("The body is not a JSON array."))?;
    change(call, |basket| changes.into_iter().try_for_each(|body| change_item(basket, body)))
}

/// Changes the item that the body names. A quantity of 0 removes it.
fn change_item(basket: &mut Basket, mut body: Map<String, Value>) -> Result<(), ServiceResponse> {
    let id = body.remove("itemId").unwrap_or_default();
    let items = basket.list("productItems");
    let place = items.iter().position(|item| item["itemId"] == id);
    let place = place.ok_or_else(|| entry_not_found("itemId", id.as_str().unwrap_or_default()))?;
    if body.get("quantity").and_then(Value::as_f64) == Some(0.0) {
        items.remove(place);
    } else if let Value::Object(item) = &mut items[place] {
        overlay(item, body);
    }
    Ok(())
}

fn remove(call: &Call<'_>, list: &str, key: &str, variable: &str) -> Outcome {
    let id = call.variable(variable);
    change(call, |basket| {
        let entries = basket.list(list);
        let place = entries.iter().position(|entry| entry[key] == id);
        entries.remove(place.ok_or_else(|| entry_not_found(key, id))?);
        Ok(())
    })
}

fn add_payment_instrument(call: &Call<'_>) -> Outcome {
    let instrument = payment_instrument(call.object()?);
    change(call, |basket| {
        basket.list("paymentInstruments").push(instrument);
        Ok(())
    })
}

/// A new payment instrument, with an id and without its secrets.
fn payment_instrument(mut body: Map<String, Value>) -> Value {
    body.insert("paymentInstrumentId".into(), identifiers::record().into());
    mask(&mut body);
    body.into()
}

fn update_payment_instrument(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    body.remove("paymentInstrumentId");
    mask(&mut body);
    let id = call.variable("paymentInstrumentId");
    change(call, |basket| {
        let mut known = basket.list("paymentInstruments").iter_mut();
        match known.find(|one| one["paymentInstrumentId"] == id) {
            Some(Value::Object(instrument)) => overlay(instrument, body),
            _ => return Err(entry_not_found("paymentInstrumentId", id)),
        }
        Ok(())
    })
}

fn payment_methods() -> ServiceResponse {
    let card = |kind: &str, name: &str, lengths: &[&str], prefixes: &[&str], code: u8| {
        json!({
            "cardType": kind, "name": name, "checksumVerificationEnabled": true, "numberLengths": lengths,
            "numberPrefixes": prefixes, "securityCodeLength": code,
        })
    };
    ServiceResponse::ok(&json!({"applicablePaymentMethods": [{
        "id": "CREDIT_CARD", "name": "Credit Card", "paymentProcessorId": "BASIC_CREDIT",
        "cards": [
            card("Visa", "Visa", &["13", "16"], &["4"], 3),
            card("Amex", "American Express", &["15"], &["34", "37"], 4),
            card("Master Card", "MasterCard", &["16"], &["51-55"], 3),
            card("Discover", "Discover", &["16"], &["6011", "644-649", "65"], 3),
        ],
    }]}))
}

/// The guest basket and the own one of a registered shopper who was that guest.
fn both(call: &Call<'_>) -> Result<(Option<String>, Option<String>), ServiceResponse> {
    let identity = &call.shopper()?.identity;
    let missing = "Your access-token is valid, but it contains no previous customer to process this action.";
    if !identity.is_registered() || identity.guest_customer_id.is_empty() {
        return Err(access::forbidden(missing));
    }
    let shop = call.world.shop();
    let open = |customer: &str| shop.open_basket_of(call.organization(), customer);
    Ok((open(&identity.guest_customer_id), open(identity.customer_id())))
}

fn transfer(call: &Call<'_>) -> Outcome {
    let (previous, current) = both(call)?;
    let parameters = call.parameters();
    let merge = parameters.text("merge") == "true";
    let identity = &call.shopper()?.identity;
    match (previous, current) {
        (None, None) => Ok(ServiceResponse::empty(StatusCode::NO_CONTENT)),
        (None, Some(current)) if merge => find(call, &current),
        (None, Some(_)) => Err(conflict(
            "no-source-basket-exception",
            &format!("The previous customer with ID '{}' has no active basket.", identity.guest_customer_id),
        )),
        (Some(previous), None) => hand_over(call, &previous),
        (Some(previous), Some(current)) if merge => pour(call, &previous, &current),
        (Some(previous), Some(current)) if parameters.text("overrideExisting") == "true" => {
            call.world.shop().baskets.remove(&current);
            hand_over(call, &previous)
        }
        (Some(_), Some(_)) => Err(conflict(
            "basket-transfer-basket-already-exists-exception",
            &format!("The current customer with ID '{}' has an active basket.", identity.customer_id()),
        )),
    }
}

fn merge(call: &Call<'_>) -> Outcome {
    let (previous, current) = both(call)?;
    let identity = &call.shopper()?.identity;
    let previous = previous.ok_or_else(|| {
        let detail = format!("The previous customer with ID '{}' has no active basket.", identity.guest_customer_id);
        conflict("no-source-basket-exception", &detail)
    })?;
    let current = match current {
        Some(current) => current,
        None if call.parameters().text("createDestinationBasket") == "true" => {
            let mut shop = call.world.shop();
            shop.open_basket(call.organization(), identity, false).id().to_owned()
        }
        None => {
            let detail = format!("The current customer with ID '{}' has no active basket.", identity.customer_id());
            return Err(conflict("basket-merge-no-current-basket-exception", &detail));
        }
    };
    pour(call, &previous, &current)
}

fn find(call: &Call<'_>, id: &str) -> Outcome {
    let shop = call.world.shop();
    shop.baskets.get(id).map(document).ok_or_else(|| not_found(id))
}

/// Makes the guest's basket the registered shopper's.
fn hand_over(call: &Call<'_>, id: &str) -> Outcome {
    let customer = call.shopper()?.identity.customer_id().to_owned();
    let mut shop = call.world.shop();
    let email = shop.customer(call.organization(), &customer).map(|known| known.text("email").to_owned());
    let basket = shop.baskets.get_mut(id).ok_or_else(|| not_found(id))?;
    basket.owner.clone_from(&customer);
    basket.document.insert("customerInfo".into(), json!({"customerId": customer, "email": email}));
    Ok(document(basket))
}

/// Moves the lines of one basket into the other; the merge mode determines the quantities.
fn pour(call: &Call<'_>, from: &str, into: &str) -> Outcome {
    let parameters = call.parameters();
    let mode = parameters.text("productItemMergeMode");
    let mut shop = call.world.shop();
    let source = shop.baskets.remove(from);
    let mut source = source.ok_or_else(|| not_found(from))?;
    let basket = shop.baskets.get_mut(into).ok_or_else(|| not_found(into))?;
    for item in std::mem::take(source.list("productItems")) {
        let lines = basket.list("productItems");
        let same = lines.iter_mut().find(|line| line["productId"] == item["productId"]);
        match same {
            Some(line) if mode != "separate_line_item" => {
                let quantity = |item: &Value| item["quantity"].as_i64().unwrap_or(1);
                let (own, other) = (quantity(line), quantity(&item));
                line["quantity"] = match mode {
                    "sum_quantities" => own + other,
                    "saved_quantity" => own,
                    _ => own.max(other),
                }
                .into();
            }
            _ => lines.push(item),
        }
    }
    basket.total(&call.world.seed);
    Ok(document(basket))
}

fn conflict(name: &str, detail: &str) -> ServiceResponse {
    ServiceResponse::problem_named(StatusCode::CONFLICT, name, "Conflict", detail, Map::new())
}

fn unknown_product(id: &str) -> ServiceResponse {
    let detail = format!("The product '{id}' is unknown, offline or not assigned to the site catalog.");
    ServiceResponse::problem_with(
        StatusCode::BAD_REQUEST,
        "Product Item Not Available",
        &detail,
        member("productId", id),
    )
}
