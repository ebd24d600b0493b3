//! Baskets: their lines and totals. Prices come from the seed; tax is 5 % on top.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Shop;
use crate::clock;
use crate::identifiers;
use crate::seed::{Seed, Sku};
use crate::shopper_token::Identity;

/// Id, name, description and price of each shipping method. The first is the default.
const SHIPPING_METHODS: &[(&str, &str, &str, f64)] = &[
    ("001", "Ground", "Order received within 7-10 business days", 5.99),
    ("002", "2-Day Express", "Order received in 2 business days", 9.99),
    ("003", "Overnight", "Order received the next business day", 15.99),
];

/// The shipping methods as the API writes them.
pub(crate) fn shipping_methods() -> impl Iterator<Item = Value> {
    SHIPPING_METHODS.iter().map(
        |(id, name, description, price)| json!({"id": id, "name": name, "description": description, "price": price}),
    )
}

/// The shipping method of that id.
pub(crate) fn shipping_method(id: &str) -> Option<Value> {
    shipping_methods().find(|method| method["id"] == id)
}

const TAX: f64 = 0.05;

/// An open basket.
pub(crate) struct Basket {
    pub(crate) organization: String,
    /// The customer id of its owner: a guest's or a registered customer's.
    pub(crate) owner: String,
    pub(crate) temporary: bool,
    pub(crate) document: Map<String, Value>,
}

impl Basket {
    pub(crate) fn id(&self) -> &str {
        self.document.get("basketId").and_then(Value::as_str).unwrap_or_default()
    }

    /// The list of that name, made when absent.
    pub(crate) fn list(&mut self, name: &str) -> &mut Vec<Value> {
        let entry = self.document.entry(name).or_insert_with(|| json!([]));
        if !entry.is_array() {
            *entry = json!([]);
        }
        // The entry is an array since the line above, so the default is never used.
        match entry {
            Value::Array(list) => list,
            _ => unreachable!("an array was written above"),
        }
    }

    /// The document of the API, which leaves out empty lists.
    pub(crate) fn written(&self) -> Map<String, Value> {
        let mut document = self.document.clone();
        document.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
        document
    }

    /// Adds products. `Err` names the product that is unknown.
    pub(crate) fn add_items(&mut self, seed: &Seed, items: &[Value]) -> Result<(), String> {
        for item in items {
            let id = item.get("productId").and_then(Value::as_str);
            let id = id.unwrap_or_default();
            if seed.sellable(id).is_none() {
                return Err(id.to_owned());
            }
        }
        for item in items {
            let quantity = item.get("quantity").and_then(Value::as_f64).unwrap_or(1.0);
            let same = |known: &&mut Value| known["productId"] == item["productId"];
            if let Some(known) = self.list("productItems").iter_mut().find(same) {
                let total = known["quantity"].as_f64().unwrap_or_default() + quantity;
                known["quantity"] = number(total);
                continue;
            }
            let mut line = item.as_object().cloned().unwrap_or_default();
            line.insert("itemId".into(), identifiers::record().into());
            line.entry("shipmentId").or_insert_with(|| "me".into());
            line.insert("quantity".into(), number(quantity));
            self.list("productItems").push(Value::Object(line));
        }
        self.total(seed);
        Ok(())
    }

    /// Recalculates prices, taxes and totals.
    pub(crate) fn total(&mut self, seed: &Seed) {
        let mut products = 0.0;
        let mut of_shipments: BTreeMap<String, f64> = BTreeMap::new();
        for item in self.list("productItems") {
            let sku = item["productId"].as_str().and_then(|id| seed.sku(id));
            let base = sku.map_or(0.0, Sku::price);
            let price = cents(base * item["quantity"].as_f64().unwrap_or(1.0));
            products += price;
            *of_shipments.entry(item["shipmentId"].as_str().unwrap_or_default().to_owned()).or_default() += price;
            let name = sku.map_or("", |sku| &sku.product.name);
            item["productName"] = name.into();
            item["itemText"] = name.into();
            item["bonusProductLineItem"] = false.into();
            item["gift"] = false.into();
            item["taxClassId"] = "standard".into();
            item["basePrice"] = base.into();
            for name in ["price", "priceAfterItemDiscount", "priceAfterOrderDiscount", "taxBasis"] {
                item[name] = price.into();
            }
            item["tax"] = cents(price * TAX).into();
            item["adjustedTax"] = cents(price * TAX).into();
            item["taxRate"] = TAX.into();
        }
        let mut shipping = 0.0;
        let mut shipping_items = Vec::new();
        for shipment in self.list("shipments") {
            let price = shipment["shippingMethod"]["price"].as_f64().unwrap_or_default();
            shipping += price;
            let own =
                of_shipments.get(shipment["shipmentId"].as_str().unwrap_or_default()).copied().unwrap_or_default();
            let (tax, shipping_tax) = (cents(own * TAX), cents(price * TAX));
            for (name, value) in [
                ("productSubTotal", own),
                ("productTotal", own),
                ("merchandizeTotalTax", tax),
                ("adjustedMerchandizeTotalTax", tax),
                ("shippingTotal", price),
                ("shippingTotalTax", shipping_tax),
                ("adjustedShippingTotalTax", shipping_tax),
                ("taxTotal", tax + shipping_tax),
                ("shipmentTotal", own + price + tax + shipping_tax),
            ] {
                shipment[name] = cents(value).into();
            }
            if shipment["shippingMethod"].is_object() {
                shipping_items.push(json!({
                    "itemId": shipment["shipmentId"], "itemText": "Shipping", "shipmentId": shipment["shipmentId"],
                    "basePrice": price, "price": price, "priceAfterItemDiscount": price, "tax": shipping_tax,
                    "adjustedTax": shipping_tax, "taxBasis": price, "taxClassId": "standard", "taxRate": TAX,
                }));
            }
        }
        *self.list("shippingItems") = shipping_items;
        let (tax, shipping_tax) = (cents(products * TAX), cents(shipping * TAX));
        for (name, value) in [
            ("productSubTotal", products),
            ("productTotal", products),
            ("merchandizeTotalTax", tax),
            ("adjustedMerchandizeTotalTax", tax),
            ("shippingTotal", shipping),
            ("shippingTotalTax", shipping_tax),
            ("adjustedShippingTotalTax", shipping_tax),
            ("taxTotal", tax + shipping_tax),
            ("orderTotal", products + shipping + tax + shipping_tax),
        ] {
            self.document.insert(name.into(), cents(value).into());
        }
        let now = clock::timestamp();
        self.document.insert("lastModified".into(), now.into());
    }

    /// The parts that an order still lacks.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let filled = |name: &str| {
            let list = self.document.get(name).and_then(Value::as_array);
            list.is_some_and(|list| !list.is_empty())
        };
        let shipments = self.document.get("shipments").and_then(Value::as_array);
        let every = |name: &str| shipments.is_some_and(|list| list.iter().all(|shipment| shipment[name].is_object()));
        let checks = [
            (self.document.contains_key("billingAddress"), "billing address"),
            (every("shippingAddress"), "shipping address"),
            (every("shippingMethod"), "shipping method"),
            (filled("paymentInstruments"), "payment instrument"),
        ];
        let lacking = checks.iter().find(|(present, _)| !present);
        lacking.map(|(_, name)| *name)
    }
}

impl Shop {
    /// Opens a basket for a customer.
    pub(crate) fn open_basket(&mut self, organization: &str, identity: &Identity, temporary: bool) -> &mut Basket {
        let id = identifiers::record();
        let customer = identity.customer_id();
        let mut info = json!({"customerId": customer});
        if let Some(known) = self.customer(organization, customer) {
            info["email"] = known.text("email").into();
            info["customerNo"] = known.text("customerNo").into();
        }
        let now = clock::timestamp();
        let document = json!({
            "basketId": id, "agentBasket": false, "channelType": "storefront", "creationDate": now,
            "currency": "USD", "customerInfo": info, "lastModified": now, "taxation": "net",
            "productItems": [], "paymentInstruments": [], "shippingItems": [],
            "shipments": [{"shipmentId": "me", "shippingStatus": "not_shipped", "gift": false}],
            "temporaryBasket": temporary,
        });
        let basket = Basket {
            organization: organization.to_owned(),
            owner: customer.to_owned(),
            temporary,
            document: crate::world::members(document),
        };
        self.baskets.entry(id).or_insert(basket)
    }

    /// The basket of that id, if it is this customer's.
    pub(crate) fn basket_of(&mut self, organization: &str, customer: &str, id: &str) -> Option<&mut Basket> {
        let basket = self.baskets.get_mut(id)?;
        (basket.organization == organization && basket.owner == customer).then_some(basket)
    }

    /// Id of the one open basket a customer may have.
    pub(crate) fn open_basket_of(&self, organization: &str, customer: &str) -> Option<String> {
        let mut baskets = self.baskets.values();
        let open = baskets
            .find(|basket| basket.organization == organization && basket.owner == customer && !basket.temporary)?;
        Some(open.id().to_owned())
    }
}

fn cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}

/// Whole quantities are written without a fraction.
#[allow(clippy::cast_possible_truncation)]
fn number(quantity: f64) -> Value {
    if quantity.fract() == 0.0 { Value::from(quantity as i64) } else { Value::from(quantity) }
}
