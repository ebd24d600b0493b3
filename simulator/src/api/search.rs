//! Shopper Search over the catalog of the seed: products and suggestions.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::Call;
use super::catalog::{self, Expand};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{Category, Product, Seed, Sku};

/// The response of an operation of Shopper Search.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "productSearch" => products(call),
        "getSearchSuggestions" => suggestions(call),
        _ => return None,
    })
}

const HIT_PARTS: &[&str] = &["availability", "images", "prices", "represented_products", "variations"];

const SORTING_OPTIONS: &[(&str, &str)] = &[
    ("best-matches", "Best Matches"),
    ("price-low-to-high", "Price Low To High"),
    ("price-high-to-low", "Price High to Low"),
    ("product-name-ascending", "Product Name A - Z"),
    ("product-name-descending", "Product Name Z - A"),
];

/// Products whose name or id contains the words, in any case, and that the refinements allow.
fn products(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let seed = &call.world.seed;
    let refinements: Vec<_> = parameters.values("refine").filter_map(|refine| refine.split_once('=')).collect();
    let mut found: Vec<_> = seed
        .products
        .iter()
        .filter(|product| contains(product, parameters.text("q")))
        .filter(|product| refinements.iter().all(|(name, value)| allows(seed, product, name, value)))
        .collect();
    let sort = parameters.value("sort").unwrap_or(SORTING_OPTIONS[0].0);
    sort_by(&mut found, sort);
    let (limit, offset) = (parameters.number("limit", 25), parameters.number("offset", 0));
    let hits: Vec<_> = found.iter().skip(offset).take(limit).map(|product| hit(call, product)).collect();
    let selected: Map<_, _> =
        refinements.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    let options: Vec<_> = SORTING_OPTIONS.iter().map(|(id, label)| json!({"id": id, "label": label})).collect();
    Ok(ServiceResponse::ok(&json!({
        "query": parameters.text("q"), "limit": limit, "offset": offset, "total": found.len(), "hits": hits,
        "refinements": refinements_of(seed, &found), "selectedRefinements": selected,
        "selectedSortingOption": sort, "sortingOptions": options,
        "searchPhraseSuggestions": {"suggestedTerms": terms(parameters.text("q"))},
    })))
}

fn contains(product: &Product, words: &str) -> bool {
    let words = words.to_lowercase();
    let ids = std::iter::once(&product.id).chain(product.variants.iter().map(|variant| &variant.id));
    std::iter::once(&product.name).chain(ids).any(|text| text.to_lowercase().contains(&words))
}

/// Whether a refinement keeps a product. Unknown attributes keep all.
fn allows(seed: &Seed, product: &Product, name: &str, value: &str) -> bool {
    let price = Sku { product, variant: None }.price();
    match name {
        "cgid" => is_below(seed, &product.category, value),
        "htype" => value.split('|').any(|kind| kind == hit_type(product)),
        "price" => {
            let range = value.trim_start_matches('(').trim_end_matches(')').split_once("..");
            range.is_none_or(|(from, to)| {
                from.parse().is_ok_and(|from: f64| from <= price) && to.parse().is_ok_and(|to: f64| price <= to)
            })
        }
        _ => true,
    }
}

/// Whether a category is `ancestor` or below it.
fn is_below(seed: &Seed, category: &str, ancestor: &str) -> bool {
    let Some(category) = seed.category(category) else {
        return false;
    };
    let is_root = seed.category(ancestor).is_some_and(|ancestor| ancestor.parent.is_none());
    is_root || seed.category_path(category).iter().any(|one| one.id == ancestor)
}

fn hit_type(product: &Product) -> &'static str {
    if product.is_master() { "master" } else { "product" }
}

fn sort_by(products: &mut [&Product], sort: &str) {
    let price = |product: &&Product| Sku { product, variant: None }.price();
    match sort {
        "price-low-to-high" => products.sort_by(|one, other| price(one).total_cmp(&price(other))),
        "price-high-to-low" => products.sort_by(|one, other| price(other).total_cmp(&price(one))),
        "product-name-ascending" => products.sort_by(|one, other| one.name.cmp(&other.name)),
        "product-name-descending" => products.sort_by(|one, other| other.name.cmp(&one.name)),
        _ => {}
    }
}

fn hit(call: &Call<'_>, product: &Product) -> Value {
    let parameters = call.parameters();
    let expand = Expand::read(&parameters, HIT_PARTS);
    let asked = |name: &str| parameters.text(name) == "true";
    let sku = Sku { product, variant: None };
    let ids: Vec<_> = match product.variants.as_slice() {
        [] => vec![json!({"id": product.id})],
        variants => variants.iter().map(|variant| json!({"id": variant.id})).collect(),
    };
    let mut hit = json!({
        "productId": product.id, "productName": product.name, "currency": "USD", "hitType": hit_type(product),
        "productType": catalog::product_type(sku), "representedProduct": ids[0],
    });
    if expand.has("represented_products") {
        hit["representedProducts"] = ids.into();
    }
    if expand.has("availability") {
        hit["orderable"] = true.into();
    }
    if expand.has("prices") {
        hit["price"] = sku.price().into();
        if product.is_master() {
            hit["priceMax"] = sku.price_max().into();
        }
        if asked("perPricebook") {
            hit["tieredPrices"] = catalog::tiered_prices(sku.price());
            hit["priceRanges"] =
                json!([{"minPrice": sku.price(), "maxPrice": sku.price_max(), "pricebook": "usd-sale-prices"}]);
        }
    }
    if expand.has("images") {
        hit["image"] = catalog::image(&product.name, "large", &product.id);
        // Without the flag the groups are left out.
        if parameters.value("allImages").is_some() {
            hit["imageGroups"] = catalog::image_groups(sku, asked("allImages"));
        }
    }
    if expand.has("promotions") {
        hit["productPromotions"] = json!([]);
    }
    if expand.has("variations") && product.is_master() {
        hit["variationAttributes"] = catalog::variation_attributes(product);
        if asked("allVariationProperties") {
            let variants = product.variants.iter();
            hit["variants"] = variants.map(|variant| catalog::variant_document(product, variant)).collect();
        }
    }
    hit
}

/// The categories below the roots that have hits, as a tree, and one range of prices.
fn refinements_of(seed: &Seed, found: &[&Product]) -> Value {
    if found.is_empty() {
        return json!([]);
    }
    let roots = seed.categories.iter().filter(|category| category.parent.is_none());
    let top: Vec<_> = roots
        .flat_map(|root| seed.subcategories(&root.id))
        .filter_map(|category| category_value(seed, category, found, seed.categories.len()))
        .collect();
    let highest = found.iter().map(|product| Sku { product, variant: None }.price_max()).fold(0.0, f64::max);
    let price =
        json!({"hitCount": found.len(), "label": format!("$0 - ${highest}"), "value": format!("(0..{highest})")});
    json!([
        {"attributeId": "cgid", "label": "Category", "values": top},
        {"attributeId": "price", "label": "Price", "values": [price]},
    ])
}

fn category_value(seed: &Seed, category: &Category, found: &[&Product], depth: usize) -> Option<Value> {
    let count = found.iter().filter(|product| is_below(seed, &product.category, &category.id)).count();
    // A seed may contain a circle, which ends at this depth.
    if count == 0 || depth == 0 {
        return None;
    }
    let mut value = json!({"hitCount": count, "label": category.name, "value": category.id});
    let below: Vec<_> =
        seed.subcategories(&category.id).filter_map(|below| category_value(seed, below, found, depth - 1)).collect();
    if !below.is_empty() {
        value["values"] = below.into();
    }
    Some(value)
}

fn terms(phrase: &str) -> Value {
    let term = |word: &str| {
        let completed = json!({"completed": false, "corrected": false, "exactMatch": true, "value": word});
        json!({"originalTerm": word, "terms": [completed]})
    };
    phrase.split_whitespace().map(term).collect()
}

fn suggestions(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let phrase = parameters.text("q");
    if !(3..=50).contains(&phrase.chars().count()) {
        let more = Map::from_iter([("parameter".to_owned(), "q".into()), ("expected".to_owned(), "(3..50)".into())]);
        return Err(ServiceResponse::problem_with(
            StatusCode::BAD_REQUEST,
            "String Constraint Violation",
            "The string length constraint was violated by 'q'. The expected length is '(3..50)'.",
            more,
        ));
    }
    let seed = &call.world.seed;
    let limit = parameters.number("limit", 5);
    let expand = Expand::read(&parameters, &["prices"]);
    let suggested = seed.products.iter().filter(|product| contains(product, phrase)).take(limit);
    let products: Vec<_> = suggested
        .map(|product| {
            let price = Sku { product, variant: None }.price();
            let mut document = json!({
                "currency": "USD", "price": price, "productId": product.id, "productName": product.name,
            });
            if expand.has("images") {
                document["image"] = catalog::image(&product.name, "medium", &product.id);
            }
            document
        })
        .collect();
    let lower = phrase.to_lowercase();
    let named = seed.categories.iter().filter(|category| category.name.to_lowercase().contains(&lower));
    let categories: Vec<_> = named
        .filter_map(|category| {
            let parent = seed.category(category.parent.as_deref()?)?;
            Some(json!({"id": category.id, "name": category.name, "parentCategoryName": parent.name}))
        })
        .take(limit)
        .collect();
    let terms = terms(phrase);
    let phrases = json!([{"exactMatch": true, "phrase": phrase}]);
    Ok(ServiceResponse::ok(&json!({
        "searchPhrase": phrase,
        "productSuggestions": {"products": products, "suggestedPhrases": phrases, "suggestedTerms": terms},
        "categorySuggestions": {"categories": categories, "suggestedTerms": terms},
        "brandSuggestions": {"suggestedTerms": terms},
    })))
}
