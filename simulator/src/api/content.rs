//! Documents around the catalog that every page of a storefront asks for: configurations, stores, promotions, consents,
//! pages of Page Designer. The simulated site has the first only, and the responses say so in the published way.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::customers::text;
use super::{Call, bad_request};
use crate::response::{Outcome, ServiceResponse};

/// The response of an operation, or `None` for those without state.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "getConfigurations" => Ok(configurations(call)),
        "getStores" => stores(call),
        "searchStores" => search_stores(call),
        "getPromotions" | "getPromotionsForCampaign" | "getMultipleContent" | "getContentFolders" => {
            Ok(ServiceResponse::ok(&json!({"limit": 0, "total": 0, "data": []})))
        }
        "getPages" | "getSubscriptions" => Ok(ServiceResponse::ok(&json!({"data": []}))),
        "updateSubscription" => {
            call.object().and_then(|body| subscription(&body)).map(|document| ServiceResponse::ok(&document))
        }
        "updateSubscriptions" => subscriptions(call),
        "getPage" => Err(not_found(call, "Page", "page", "visible page", call.variable("pageId"))),
        "getComponent" => {
            Err(not_found(call, "Component", "component", "visible component", call.variable("componentId")))
        }
        "getContent" => Err(not_found(call, "Content Asset", "content", "visible content asset", call.variable("id"))),
        "getContentFolder" => Err(not_found(call, "Folder", "folder", "online content folder", call.variable("id"))),
        _ => return None,
    })
}

fn configurations(call: &Call<'_>) -> ServiceResponse {
    let parameters = call.parameters();
    let site = parameters.text("siteId");
    let locale = json!({
        "id": "en-US", "country": "US", "default": true, "displayCountry": "United States",
        "displayLanguage": "English", "displayName": "English (United States)", "iso3Country": "USA",
        "iso3Language": "eng", "language": "en", "name": "English (United States)",
    });
    let of_site = |id: &str, value: Value| json!({"id": id, "value": value, "configurationType": "siteConfiguration"});
    ServiceResponse::ok(&json!({"configurations": [
        of_site("id", site.into()),
        of_site("name", site.into()),
        of_site("status", "online".into()),
        of_site("timezone", "Etc/UTC".into()),
        of_site("timezoneOffset", 0.into()),
        of_site("defaultCurrency", "USD".into()),
        of_site("allowedCurrencies", json!(["USD"])),
        of_site("defaultLocale", "en-US".into()),
        of_site("allowedLocales", json!([locale])),
        {"id": "SalesforcePaymentsAllowed", "value": false, "configurationType": "globalConfiguration"},
    ]}))
}

fn stores(call: &Call<'_>) -> Outcome {
    if call.parameters().value("ids").is_none() {
        return Err(ServiceResponse::problem_named(
            StatusCode::BAD_REQUEST,
            "missing-query-parameter",
            "Bad Request",
            "Missing required query parameter(s): 'ids'",
            Map::new(),
        ));
    }
    Ok(ServiceResponse::ok(&json!({"limit": 0, "total": 0, "data": []})))
}

fn search_stores(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    if parameters.value("postalCode").is_none() && parameters.value("latitude").is_none() {
        let detail = "The input parameter 'postal_code' is required when no coordinates are provided.";
        return Err(ServiceResponse::problem(StatusCode::BAD_REQUEST, "Missing Postal Code", detail));
    }
    let (limit, offset) = (parameters.number("limit", 25), parameters.number("offset", 0));
    Ok(ServiceResponse::ok(&json!({"limit": limit, "offset": offset, "total": 0, "data": []})))
}

/// An updated subscription, as confirmed to the shopper.
fn subscription(body: &Map<String, Value>) -> Result<Value, ServiceResponse> {
    let names = ["subscriptionId", "contactPointValue", "channel", "status"];
    if names.iter().any(|name| text(body, name).is_empty()) {
        return Err(bad_request("Consent subscription could not be updated."));
    }
    Ok(names.iter().map(|name| ((*name).to_owned(), Value::from(text(body, name)))).collect::<Map<_, _>>().into())
}

fn subscriptions(call: &Call<'_>) -> Outcome {
    let body = call.object()?;
    let asked = body.get("subscriptions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut results = Vec::new();
    for one in asked {
        let mut document = subscription(&crate::world::members(one))?;
        document["success"] = true.into();
        results.push(document);
    }
    Ok(ServiceResponse::ok(&json!({"results": results})))
}

fn not_found(call: &Call<'_>, title: &str, kebab: &str, what: &str, id: &str) -> ServiceResponse {
    let parameters = call.parameters();
    let detail = format!("No {what} with ID '{id}' was found in site '{}'.", parameters.text("siteId"));
    let (kebab, title) = (format!("{kebab}-not-found"), format!("{title} Not Found"));
    ServiceResponse::problem_named(StatusCode::NOT_FOUND, &kebab, &title, &detail, Map::new())
}
