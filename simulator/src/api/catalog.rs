//! The read-only catalog of the seed: products, categories, search.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Call, bad_request, member};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{Category, Product};

/// The response of an operation with state, or `None` for others.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "getProducts" => products(call),
        "getProduct" => product(call),
        "getCategories" => categories(call),
        "getCategory" => category(call),
        "productSearch" => search(call),
        _ => return None,
    })
}

fn document(product: &Product) -> Value {
    json!({
        "id": product.id, "name": product.name, "price": product.price, "currency": "USD",
        "primaryCategoryId": product.category, "minOrderQuantity": 1, "stepQuantity": 1,
        "type": {"item": true},
        "inventory": {"id": "inventory", "ats": 100, "orderable": true, "stockLevel": 100},
    })
}

fn products(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let ids = parameters.value("ids").ok_or_else(|| bad_request("The parameter 'ids' is required."))?;
    let data: Vec<_> = ids.split(',').filter_map(|id| call.world.seed.product(id)).map(document).collect();
    Ok(ServiceResponse::ok(&json!({"limit": data.len(), "total": data.len(), "data": data})))
}

fn product(call: &Call<'_>) -> Outcome {
    let id = call.variable("id");
    match call.world.seed.product(id) {
        Some(product) => Ok(ServiceResponse::ok(&document(product))),
        None => Err(not_found(call, "Product Not Found", "product", id)),
    }
}

fn branch(call: &Call<'_>, category: &Category) -> Value {
    let all = &call.world.seed.categories;
    let below: Vec<_> = all
        .iter()
        .filter(|other| other.parent.as_deref() == Some(&category.id))
        .map(|other| json!({"id": other.id, "name": other.name, "parentCategoryId": category.id}))
        .collect();
    json!({
        "id": category.id, "name": category.name, "parentCategoryId": category.parent,
        "onlineSubCategoriesCount": below.len(), "categories": below,
    })
}

fn categories(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let wanted: Vec<_> = parameters.text("ids").split(',').collect();
    let all = call.world.seed.categories.iter();
    let data: Vec<_> =
        all.filter(|category| wanted.contains(&category.id.as_str())).map(|category| branch(call, category)).collect();
    Ok(ServiceResponse::ok(&json!({"limit": data.len(), "total": data.len(), "data": data})))
}

fn category(call: &Call<'_>) -> Outcome {
    let id = call.variable("id");
    let mut all = call.world.seed.categories.iter();
    match all.find(|category| category.id == id) {
        Some(category) => Ok(ServiceResponse::ok(&branch(call, category))),
        None => Err(not_found(call, "Category Not Found", "category", id)),
    }
}

/// Products whose name or id contains the words, in any case.
fn search(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let words = parameters.text("q").to_lowercase();
    let all = call.world.seed.products.iter();
    let hits: Vec<_> = all
        .filter(|product| product.name.to_lowercase().contains(&words) || product.id.to_lowercase().contains(&words))
        .map(|product| {
            json!({
                "productId": product.id, "productName": product.name, "price": product.price,
                "currency": "USD", "hitType": "product", "orderable": true,
                "productType": {"item": true}, "representedProduct": {"id": product.id},
            })
        })
        .collect();
    Ok(ServiceResponse::ok(&json!({
        "query": parameters.text("q"), "limit": 25, "offset": 0, "total": hits.len(), "hits": hits,
        "refinements": [], "selectedSortingOption": "best-matches", "sortingOptions": [],
        "searchPhraseSuggestions": {},
    })))
}

fn not_found(call: &Call<'_>, title: &str, what: &str, id: &str) -> ServiceResponse {
    let parameters = call.parameters();
    let site = parameters.text("siteId");
    let mut more = member("productId", id);
    more.insert("siteId".into(), site.into());
    let detail = format!("No {what} with ID '{id}' for site '{site}' could be found.");
    ServiceResponse::problem_named(StatusCode::NOT_FOUND, "product-not-found", title, &detail, more)
}
