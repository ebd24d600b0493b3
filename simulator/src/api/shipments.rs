//! The shipments of a basket: addresses and shipping methods, the same for v1 and v2.

use serde_json::{Map, Value, json};

use super::customers::text;
use super::own_basket::{change, entry_not_found};
use super::{Call, access, bad_request};
use crate::identifiers;
use crate::response::{Outcome, ServiceResponse};
use crate::shop::{self, Basket};
use crate::world::overlay;

/// The response of an operation of shipments, or `None` for others.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "createShipmentForBasket" => create_shipment(call),
        "updateShipmentForBasket" => update_shipment(call),
        "removeShipmentFromBasket" => remove_shipment(call),
        "updateShippingAddressForShipment" => set_in_shipment(call, "shippingAddress"),
        "updateShippingMethodForShipment" => set_shipping_method(call),
        "getShippingMethodsForShipment" => shipping_methods(call),
        _ => return None,
    })
}

/// The shipments of a new basket, complete. The default shipment is the first one without id.
pub(super) fn complete(shipments: Vec<Value>) -> Result<Vec<Value>, ServiceResponse> {
    let mut completed = Vec::new();
    for (place, shipment) in shipments.into_iter().enumerate() {
        let mut body = crate::world::members(shipment);
        let id = if place == 0 { "me".to_owned() } else { identifiers::record() };
        body.entry("shipmentId").or_insert(id.into());
        let mut new = empty();
        write_shipment(&mut new, body)?;
        completed.push(new);
    }
    Ok(completed)
}

fn empty() -> Value {
    json!({"shippingStatus": "not_shipped", "gift": false})
}

fn set_in_shipment(call: &Call<'_>, name: &str) -> Outcome {
    let body = call.object()?;
    let same = call.parameters().text("useAsBilling") == "true";
    let id = call.variable("shipmentId");
    change(call, |basket| {
        let shipments = basket.list("shipments");
        let shipment = shipments.iter_mut().find(|one| one["shipmentId"] == id);
        shipment.ok_or_else(|| entry_not_found("shipmentId", id))?[name] = body.clone().into();
        if same {
            basket.document.insert("billingAddress".into(), body.into());
        }
        Ok(())
    })
}

fn set_shipping_method(call: &Call<'_>) -> Outcome {
    let method = known_method(&call.object()?)?;
    let id = call.variable("shipmentId");
    change(call, |basket| {
        shipment(basket, id)?["shippingMethod"] = method;
        Ok(())
    })
}

/// The whole method that a request names by its id.
fn known_method(body: &Map<String, Value>) -> Result<Value, ServiceResponse> {
    let id = text(body, "id");
    shop::shipping_method(id).ok_or_else(|| {
        bad_request(&format!("The shipping method with ID '{id}' is unknown or can't be applied to the basket."))
    })
}

fn shipment<'b>(basket: &'b mut Basket, id: &str) -> Result<&'b mut Value, ServiceResponse> {
    let mut shipments = basket.list("shipments").iter_mut();
    shipments.find(|one| one["shipmentId"] == id).ok_or_else(|| entry_not_found("shipmentId", id))
}

/// Writes a shipment's own members, and its whole shipping method where the body names one.
fn write_shipment(shipment: &mut Value, mut body: Map<String, Value>) -> Result<(), ServiceResponse> {
    if let Some(Value::Object(method)) = body.get("shippingMethod") {
        let method = known_method(method)?;
        body.insert("shippingMethod".into(), method);
    }
    if let Value::Object(members) = shipment {
        overlay(members, body);
    }
    Ok(())
}

fn create_shipment(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    change(call, |basket| {
        let id = match text(&body, "shipmentId") {
            "" => identifiers::record(),
            id => id.to_owned(),
        };
        if shipment(basket, &id).is_ok() {
            return Err(bad_request(&format!("A shipment with ID '{id}' exists already.")));
        }
        body.insert("shipmentId".into(), id.into());
        let mut new = empty();
        write_shipment(&mut new, body)?;
        basket.list("shipments").push(new);
        Ok(())
    })
}

fn update_shipment(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    body.remove("shipmentId");
    change(call, |basket| write_shipment(shipment(basket, call.variable("shipmentId"))?, body))
}

/// The default shipment stays, and so does one that has items.
fn remove_shipment(call: &Call<'_>) -> Outcome {
    let id = call.variable("shipmentId");
    change(call, |basket| {
        shipment(basket, id)?;
        if id == "me" || basket.list("productItems").iter().any(|item| item["shipmentId"] == id) {
            return Err(access::forbidden(&format!("The shipment with ID '{id}' can't be removed.")));
        }
        basket.list("shipments").retain(|one| one["shipmentId"] != id);
        Ok(())
    })
}

fn shipping_methods(call: &Call<'_>) -> Outcome {
    change(call, |_| Ok(()))?;
    let methods: Vec<_> = shop::shipping_methods().collect();
    Ok(ServiceResponse::ok(&json!({
        "defaultShippingMethodId": methods[0]["id"], "applicableShippingMethods": methods,
    })))
}
