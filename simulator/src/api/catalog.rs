//! The read-only catalog of the seed: products and categories.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Call, bad_request, member};
use crate::request::Fields;
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{Category, Product, Seed, Sku, Variant};

/// No host of this domain exists, so that no client loads an image from somebody.
const IMAGES: &str = "https://images.example/on/demandware.static/-/Sites-catalog/default/images";

const PRICE_BOOK: &str = "usd-sale-prices";

/// The response of an operation of Shopper Products, or `None` for those without state.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "getProducts" => products(call),
        "getProduct" => product(call),
        "getCategories" => categories(call),
        "getCategory" => category(call),
        _ => return None,
    })
}

/// The parts of a document that a request asks for. Without `expand` all parts that `all` names.
pub(super) struct Expand<'f> {
    asked: Option<Vec<&'f str>>,
    all: &'static [&'static str],
}

impl<'f> Expand<'f> {
    pub(super) fn read(fields: &'f Fields, all: &'static [&'static str]) -> Self {
        let asked: Vec<_> = fields.values("expand").flat_map(|value| value.split(',')).collect();
        Self { asked: Some(asked).filter(|asked| !asked.is_empty()), all }
    }

    pub(super) fn has(&self, part: &str) -> bool {
        match &self.asked {
            Some(asked) => asked.contains(&part),
            None => self.all.contains(&part),
        }
    }
}

const PRODUCT_PARTS: &[&str] = &["availability", "images", "prices", "promotions", "variations", "primary_category"];

fn document(call: &Call<'_>, sku: Sku<'_>) -> Value {
    let parameters = call.parameters();
    let expand = Expand::read(&parameters, PRODUCT_PARTS);
    let (seed, product) = (&call.world.seed, sku.product);
    let mut document = json!({
        "id": sku.id(), "name": product.name, "currency": "USD",
        "pageTitle": product.name, "shortDescription": product.name, "longDescription": product.name,
        "primaryCategoryId": product.category, "minOrderQuantity": 1, "stepQuantity": 1,
        "type": product_type(sku),
    });
    if expand.has("primary_category")
        && let Some(category) = seed.category(&product.category)
    {
        document["primaryCategory"] =
            json!({"id": category.id, "name": category.name, "parentCategoryTree": path(seed, category)});
    }
    if expand.has("prices") {
        document["price"] = sku.price().into();
        document["priceMax"] = sku.price_max().into();
        if parameters.text("perPricebook") == "true" {
            document["prices"] = json!({PRICE_BOOK: sku.price()});
            document["tieredPrices"] = tiered_prices(sku.price());
        }
    }
    if expand.has("availability") {
        document["inventory"] = json!({
            "id": "inventory", "ats": 100, "backorderable": false, "orderable": true, "preorderable": false,
            "stockLevel": 100,
        });
    }
    if expand.has("images") {
        document["imageGroups"] = image_groups(sku, parameters.text("allImages") == "true");
    }
    if expand.has("promotions") {
        document["productPromotions"] = json!([]);
    }
    if expand.has("variations") && product.is_master() {
        document["master"] = json!({"masterId": product.id, "orderable": true, "price": product.price});
        document["variationAttributes"] = variation_attributes(product);
        document["variants"] = product.variants.iter().map(|variant| variant_document(product, variant)).collect();
        if let Some(variant) = sku.variant {
            document["variationValues"] = json!(variant.values);
        }
    }
    document
}

pub(super) fn product_type(sku: Sku<'_>) -> Value {
    let kind = match (sku.variant, sku.product.is_master()) {
        (Some(_), _) => "variant",
        (None, true) => "master",
        (None, false) => "item",
    };
    json!({kind: true})
}

pub(super) fn tiered_prices(price: f64) -> Value {
    json!([{"price": price, "pricebook": PRICE_BOOK, "quantity": 1}])
}

pub(super) fn variant_document(product: &Product, variant: &Variant) -> Value {
    let price = variant.price.unwrap_or(product.price);
    json!({
        "productId": variant.id, "orderable": true, "price": price, "tieredPrices": tiered_prices(price),
        "variationValues": variant.values,
    })
}

/// Each attribute of the variants with its values, in the order of their first use.
pub(super) fn variation_attributes(product: &Product) -> Value {
    let mut attributes: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, value) in product.variants.iter().flat_map(|variant| &variant.values) {
        match attributes.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&value.as_str()) => {}
            Some((_, values)) => values.push(value),
            None => attributes.push((name, vec![value])),
        }
    }
    let attribute = |(name, values): &(&str, Vec<&str>)| {
        let values: Vec<_> =
            values.iter().map(|value| json!({"name": value, "orderable": true, "value": value})).collect();
        json!({"id": name, "name": title_case(name), "values": values})
    };
    attributes.iter().map(attribute).collect()
}

fn title_case(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

pub(super) fn image(name: &str, view: &str, file: &str) -> Value {
    let link = format!("{IMAGES}/{view}/{file}.jpg");
    json!({"alt": format!("{name}, {view}"), "disBaseLink": link, "link": link, "title": name})
}

/// Images of each size, and for masters and variants of each color. A variant alone has those of its color only.
pub(super) fn image_groups(sku: Sku<'_>, all: bool) -> Value {
    let product = sku.product;
    let mut colors: Vec<&str> = Vec::new();
    for color in product.variants.iter().filter_map(|variant| variant.values.get("color")) {
        if !colors.contains(&color.as_str()) {
            colors.push(color);
        }
    }
    let own = sku.variant.and_then(|variant| variant.values.get("color"));
    let mut groups = Vec::new();
    for view in ["large", "medium", "small", "swatch"] {
        if view != "swatch" {
            groups.push(json!({"images": [image(&product.name, view, &product.id)], "viewType": view}));
        }
        for color in colors.iter().filter(|color| all || own.is_some_and(|own| own == *color)) {
            groups.push(json!({
                "images": [image(&product.name, view, &format!("{}-{color}", product.id))],
                "variationAttributes": [{"id": "color", "values": [{"value": color}]}],
                "viewType": view,
            }));
        }
    }
    groups.into()
}

fn products(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let ids = parameters.value("ids").ok_or_else(|| bad_request("The parameter 'ids' is required."))?;
    let known = ids.split(',').filter_map(|id| call.world.seed.sku(id));
    let data: Vec<_> = known.map(|sku| document(call, sku)).collect();
    Ok(ServiceResponse::ok(&json!({"limit": data.len(), "total": data.len(), "data": data})))
}

fn product(call: &Call<'_>) -> Outcome {
    let id = call.variable("id");
    match call.world.seed.sku(id) {
        Some(sku) => Ok(ServiceResponse::ok(&document(call, sku))),
        None => Err(not_found(call, "Product Not Found", "product", id)),
    }
}

fn path(seed: &Seed, category: &Category) -> Value {
    let path = seed.category_path(category);
    path.into_iter().map(|one| json!({"id": one.id, "name": one.name})).collect()
}

/// A category with as many levels of subcategories as asked.
fn branch(seed: &Seed, category: &Category, levels: usize) -> Value {
    let mut document = json!({
        "id": category.id, "name": category.name, "pageTitle": category.name,
        "parentCategoryTree": path(seed, category),
        "onlineSubCategoriesCount": seed.subcategories(&category.id).count(),
    });
    if let Some(parent) = &category.parent {
        document["parentCategoryId"] = parent.clone().into();
    }
    let below: Vec<_> = match levels {
        0 => Vec::new(),
        _ => seed.subcategories(&category.id).map(|below| branch(seed, below, levels - 1)).collect(),
    };
    if !below.is_empty() {
        document["categories"] = below.into();
    }
    document
}

/// The levels of subcategories: 0, 1 or 2.
fn levels(call: &Call<'_>) -> Result<usize, ServiceResponse> {
    match call.parameters().value("levels") {
        None => Ok(1),
        Some(text) => match text.parse() {
            Ok(levels @ 0..=2) => Ok(levels),
            _ => Err(ServiceResponse::problem_named(
                StatusCode::BAD_REQUEST,
                "validation",
                "Bad Request",
                "'levels' violates the value constraint. The expected value is between '(0..2)'.",
                Map::new(),
            )),
        },
    }
}

fn categories(call: &Call<'_>) -> Outcome {
    let (parameters, levels) = (call.parameters(), levels(call)?);
    let wanted: Vec<_> = parameters.text("ids").split(',').collect();
    let seed = &call.world.seed;
    let known = seed.categories.iter().filter(|category| wanted.contains(&category.id.as_str()));
    let data: Vec<_> = known.map(|category| branch(seed, category, levels)).collect();
    Ok(ServiceResponse::ok(&json!({"limit": data.len(), "total": data.len(), "data": data})))
}

fn category(call: &Call<'_>) -> Outcome {
    let (id, levels) = (call.variable("id"), levels(call)?);
    match call.world.seed.category(id) {
        Some(category) => Ok(ServiceResponse::ok(&branch(&call.world.seed, category, levels))),
        None => Err(not_found(call, "Category Not Found", "category", id)),
    }
}

fn not_found(call: &Call<'_>, title: &str, what: &str, id: &str) -> ServiceResponse {
    let parameters = call.parameters();
    let site = parameters.text("siteId");
    let mut more = member("productId", id);
    more.insert("siteId".into(), site.into());
    let detail = format!("No {what} with ID '{id}' for site '{site}' could be found.");
    ServiceResponse::problem_named(StatusCode::NOT_FOUND, "product-not-found", title, &detail, more)
}
