//! The product lists of a customer, guest or registered, and their items.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::customers::{Change, own, text};
use super::{Call, bad_request, member};
use crate::clock;
use crate::identifiers;
use crate::response::{Outcome, ServiceResponse};
use crate::shop::{ProductList, Shop};
use crate::world::overlay;

const ITEMS: &str = "customerProductListItems";

/// The response of an operation with state, or `None` for others.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "getCustomerProductLists" => lists(call),
        "createCustomerProductList" => create(call),
        "getCustomerProductList" => list(call, Change::Read),
        "updateCustomerProductList" => list(call, Change::Write),
        "deleteCustomerProductList" => list(call, Change::Remove),
        "createCustomerProductListItem" => create_item(call),
        "getCustomerProductListItem" => item(call, Change::Read),
        "updateCustomerProductListItem" => item(call, Change::Write),
        "deleteCustomerProductListItem" => item(call, Change::Remove),
        _ => return None,
    })
}

fn lists(call: &Call<'_>) -> Outcome {
    let owner = own(call)?;
    let shop = call.world.shop();
    let data: Vec<_> = shop
        .lists
        .iter()
        .filter(|list| list.owner == owner && list.organization == call.organization())
        .map(|list| Value::Object(list.document.clone()))
        .collect();
    Ok(ServiceResponse::ok(&json!({"limit": data.len(), "total": data.len(), "data": data})))
}

fn create(call: &Call<'_>) -> Outcome {
    let owner = own(call)?;
    let mut document = call.object()?;
    let now = clock::timestamp();
    document.insert("id".into(), identifiers::record().into());
    document.insert("creationDate".into(), now.clone().into());
    document.insert("lastModified".into(), now.into());
    document.insert(ITEMS.into(), json!([]));
    document.entry("public").or_insert(false.into());
    document.entry("type").or_insert("wish_list".into());
    let response = ServiceResponse::ok(&Value::Object(document.clone()));
    call.world.shop().lists.push(ProductList {
        organization: call.organization().to_owned(),
        owner: owner.to_owned(),
        document,
    });
    Ok(response)
}

fn place(call: &Call<'_>, shop: &Shop) -> Result<usize, ServiceResponse> {
    let (owner, id) = (own(call)?, call.variable("listId"));
    let place = shop.lists.iter().position(|list| {
        list.owner == owner && list.organization == call.organization() && text(&list.document, "id") == id
    });
    place.ok_or_else(|| {
        let detail = format!("A product list with ID '{id}' couldn't be found.");
        let more = member("productListId", id);
        ServiceResponse::problem_with(StatusCode::NOT_FOUND, "Product List Not Found", &detail, more)
    })
}

fn list(call: &Call<'_>, what: Change) -> Outcome {
    let mut shop = call.world.shop();
    let place = place(call, &shop)?;
    match what {
        Change::Read => {}
        Change::Write => {
            let mut body = call.object()?;
            for name in ["id", "creationDate", ITEMS] {
                body.remove(name);
            }
            overlay(&mut shop.lists[place].document, body);
        }
        Change::Remove => {
            shop.lists.remove(place);
            return Ok(ServiceResponse::empty(StatusCode::NO_CONTENT));
        }
    }
    Ok(ServiceResponse::ok(&Value::Object(shop.lists[place].document.clone())))
}

fn create_item(call: &Call<'_>) -> Outcome {
    let mut item = call.object()?;
    if text(&item, "type") == "product" && call.world.seed.sku(text(&item, "productId")).is_none() {
        return Err(bad_request("The product is unknown or missing."));
    }
    item.insert("id".into(), identifiers::record().into());
    item.insert("purchasedQuantity".into(), 0.into());
    let mut shop = call.world.shop();
    let place = place(call, &shop)?;
    items(&mut shop.lists[place].document).push(Value::Object(item.clone()));
    Ok(ServiceResponse::ok(&Value::Object(item)))
}

fn item(call: &Call<'_>, what: Change) -> Outcome {
    let id = call.variable("itemId");
    let mut shop = call.world.shop();
    let place = place(call, &shop)?;
    let items = items(&mut shop.lists[place].document);
    let position = items.iter().position(|item| item["id"] == id).ok_or_else(|| {
        let detail = format!("No product list item with ID '{id}' could be found.");
        ServiceResponse::problem_with(StatusCode::NOT_FOUND, "Not Found", &detail, member("itemId", id))
    })?;
    match (what, &mut items[position]) {
        (Change::Write, Value::Object(item)) => {
            let mut body = call.object()?;
            body.remove("id");
            overlay(item, body);
        }
        (Change::Remove, _) => {
            items.remove(position);
            return Ok(ServiceResponse::empty(StatusCode::NO_CONTENT));
        }
        _ => {}
    }
    Ok(ServiceResponse::ok(&items[position]))
}

fn items(document: &mut Map<String, Value>) -> &mut Vec<Value> {
    let entry = document.entry(ITEMS).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    match entry {
        Value::Array(items) => items,
        _ => unreachable!("an array was written above"),
    }
}
