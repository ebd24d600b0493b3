//! The members of documents that the pages of a storefront (`@salesforce/retail-react-app`) read without a check.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::caller::*;

const PRODUCTS: &str = "/product/shopper-products/v1/organizations/f_ecom_zzrf_001";
const SEARCH: &str = "/search/shopper-search/v1/organizations/f_ecom_zzrf_001";
const BASKETS_V2: &str = "/checkout/shopper-baskets/v2/organizations/f_ecom_zzrf_001/baskets";
const MASTER: &str = "25518447M";
const VARIANT: &str = "701642923473M";

async fn found(caller: &Caller, path: &str, token: &str) -> Value {
    let (status, document) = caller.get(path, token).await;
    assert_eq!(status, StatusCode::OK, "{path}: {document}");
    document
}

fn length(value: &Value) -> usize {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).len()
}

#[tokio::test]
async fn category_has_path_and_as_many_levels_as_asked() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let root =
        async |levels: &str| found(&caller, &format!("{PRODUCTS}/categories/root?siteId=RefArch{levels}"), token).await;
    assert_eq!(root("&levels=0").await.get("categories"), None);
    let one = root("").await;
    assert_eq!((length(&one["categories"]), &one["parentCategoryTree"]), (3, &json!([])));
    assert_eq!(one["categories"][1].get("categories"), None);
    let two = root("&levels=2").await;
    let mens = &two["categories"][1];
    let ties = &mens["categories"][0];
    assert_eq!((text(mens, "id"), text(mens, "parentCategoryId")), ("mens-accessories", "root"));
    assert_eq!((&mens["onlineSubCategoriesCount"], &ties["onlineSubCategoriesCount"]), (&json!(1), &json!(0)));
    // The path ends with the category itself and leaves out the root.
    let path = json!([
        {"id": "mens-accessories", "name": "Accessories for Men"}, {"id": "mens-accessories-ties", "name": "Ties"},
    ]);
    assert_eq!(ties["parentCategoryTree"], path);
    let alone = found(&caller, &format!("{PRODUCTS}/categories/mens-accessories-ties"), token).await;
    assert_eq!(alone["parentCategoryTree"], path);
    let (status, _) = caller.get(&format!("{PRODUCTS}/categories/root?levels=3"), token).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn product_page_gets_variants_images_prices_and_stock() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let expand = "expand=availability,promotions,options,images,prices,variations,page_meta_tags";
    let query = format!("siteId=RefArch&perPricebook=true&allImages=true&{expand}");
    let master = found(&caller, &format!("{PRODUCTS}/products/{MASTER}?{query}"), token).await;
    assert_eq!(
        (&master["type"], &master["price"], &master["priceMax"]),
        (&json!({"master": true}), &json!(135.0), &json!(145.0))
    );
    assert_eq!(
        master["variationAttributes"][0],
        json!({"id": "color", "name": "Color", "values": [
            {"name": "Blue", "orderable": true, "value": "Blue"}, {"name": "White", "orderable": true, "value": "White"},
        ]})
    );
    assert_eq!(master["variants"][2]["variationValues"], json!({"color": "White", "size": "15R"}));
    assert_eq!((&master["inventory"]["orderable"], &master["inventory"]["stockLevel"]), (&json!(true), &json!(100)));
    let swatches = master["imageGroups"].as_array().unwrap().iter().filter(|group| group["viewType"] == "swatch");
    assert_eq!(swatches.count(), 2);
    assert_eq!(master["tieredPrices"][0]["quantity"], 1);
    let variant = found(&caller, &format!("{PRODUCTS}/products/{VARIANT}?{query}"), token).await;
    assert_eq!((text(&variant, "id"), text(&variant["master"], "masterId")), (VARIANT, MASTER));
    assert_eq!((&variant["type"], &variant["price"]), (&json!({"variant": true}), &json!(145.0)));
    assert_eq!(variant["variationValues"], json!({"color": "White", "size": "15R"}));
    let bare = found(&caller, &format!("{PRODUCTS}/products/{MASTER}?expand=none"), token).await;
    assert!(["price", "imageGroups", "inventory", "variants"].iter().all(|name| bare.get(name).is_none()), "{bare}");
}

#[tokio::test]
async fn search_refines_sorts_and_pages() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let search =
        async |query: &str| found(&caller, &format!("{SEARCH}/product-search?siteId=RefArch&{query}"), token).await;
    let home = search("refine=cgid%3Dnewarrivals&refine=htype%3Dmaster&allImages=true&allVariationProperties=true&perPricebook=true&expand=promotions,variations,prices,images").await;
    assert_eq!(
        (&home["total"], &home["selectedRefinements"]),
        (&json!(1), &json!({"cgid": "newarrivals", "htype": "master"}))
    );
    let hit = &home["hits"][0];
    assert_eq!((text(hit, "hitType"), &hit["productType"]), ("master", &json!({"master": true})));
    assert_eq!((length(&hit["variants"]), length(&hit["variationAttributes"])), (3, 2));
    assert_eq!(hit["representedProduct"]["id"], hit["variants"][0]["productId"]);
    assert!(hit["imageGroups"][0]["images"][0]["link"].is_string() && hit["image"]["disBaseLink"].is_string());
    assert_eq!((&hit["price"], &hit["priceMax"]), (&json!(135.0), &json!(145.0)));
    let all = search("sort=price-high-to-low&limit=2&offset=1").await;
    let ids: Vec<_> = all["hits"].as_array().unwrap().iter().map(|hit| text(hit, "productId")).collect();
    assert_eq!((&all["total"], ids), (&json!(4), vec![PRODUCT, "793775362380M"]));
    assert_eq!((text(&all, "selectedSortingOption"), length(&all["sortingOptions"])), ("price-high-to-low", 5));
    assert_eq!(all["refinements"][0]["values"][0]["hitCount"], 1);
    assert_eq!(search("refine=cgid%3Dmens-accessories").await["total"], 2);
    assert_eq!(search("refine=cgid%3Droot&refine=price%3D(20..100)").await["total"], 2);
    let nothing = search("q=nothing").await;
    assert_eq!((&nothing["hits"], length(&nothing["searchPhraseSuggestions"]["suggestedTerms"])), (&json!([]), 1));
}

#[tokio::test]
async fn search_suggests_products_and_categories() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let path = |phrase: &str| format!("{SEARCH}/search-suggestions?siteId=RefArch&q={phrase}&expand=images,prices");
    let (status, problem) = caller.get(&path("dr"), token).await;
    assert_eq!((status, text(&problem, "parameter")), (StatusCode::BAD_REQUEST, "q"));
    let dress = found(&caller, &path("dress"), token).await;
    let product = &dress["productSuggestions"]["products"][0];
    assert_eq!((text(product, "productId"), text(product, "currency")), (MASTER, "USD"));
    assert!(product["image"]["disBaseLink"].is_string());
    let accessories = found(&caller, &path("accessories"), token).await;
    let category = &accessories["categorySuggestions"]["categories"][0];
    assert_eq!(
        (text(category, "id"), text(category, "parentCategoryName")),
        ("mens-accessories", "Storefront Catalog")
    );
}

#[tokio::test]
async fn checkout_gets_complete_shipments_and_no_empty_lists() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let call = async |method: Method, path: &str, body: Value| {
        let (status, document) = caller.api(method, &format!("{BASKETS_V2}{path}"), token, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {document}");
        document
    };
    let basket = call(Method::POST, "?siteId=RefArch", json!({})).await;
    // The checkout asks whether these members exist.
    for name in ["productItems", "paymentInstruments", "shippingItems"] {
        assert_eq!(basket.get(name), None, "{name}");
    }
    let path = format!("/{}", text(&basket, "basketId"));
    let master = json!([{"productId": MASTER, "quantity": 1}]);
    let (status, _) = caller.api(Method::POST, &format!("{BASKETS_V2}{path}/items"), token, master).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "a master can't be bought");
    let items = json!([{"productId": VARIANT, "quantity": 1}, {"productId": PRODUCT, "quantity": 1}]);
    let basket = call(Method::POST, &format!("{path}/items"), items).await;
    assert_eq!((&basket["productSubTotal"], &basket["shipments"][0]["productTotal"]), (&json!(244.99), &json!(244.99)));
    let [one, other] = [0, 1].map(|place| text(&basket["productItems"][place], "itemId").to_owned());
    let changes = json!([{"itemId": one, "quantity": 2}, {"itemId": other, "quantity": 0}]);
    let basket = call(Method::PATCH, &format!("{path}/items"), changes).await;
    assert_eq!((length(&basket["productItems"]), &basket["productTotal"]), (1, &json!(290.0)));

    let methods = call(Method::GET, &format!("{path}/shipments/me/shipping-methods"), Value::Null).await;
    let method = methods["applicableShippingMethods"][0].clone();
    assert_eq!(methods["defaultShippingMethodId"], method["id"]);
    let set = json!({"id": method["id"]});
    let basket = call(Method::PUT, &format!("{path}/shipments/me/shipping-method"), set).await;
    assert_eq!(basket["shipments"][0]["shippingMethod"], method, "the whole method, with name and description");
    assert!(method["name"].is_string() && method["description"].is_string());
    assert_eq!((&basket["shippingItems"][0]["price"], &basket["shippingTotal"]), (&method["price"], &method["price"]));

    let added = call(Method::POST, &format!("{path}/shipments"), json!({"shippingMethod": {"id": "002"}})).await;
    let shipment = text(&added["shipments"][1], "shipmentId").to_owned();
    assert_eq!(
        (&added["shipments"][1]["shippingMethod"]["price"], &added["shippingTotal"]),
        (&json!(9.99), &json!(15.98))
    );
    let one_shipment = format!("{path}/shipments/{shipment}");
    let patched = call(Method::PATCH, &one_shipment, json!({"gift": true})).await;
    assert_eq!(patched["shipments"][1]["gift"], true);
    let left = call(Method::DELETE, &one_shipment, Value::Null).await;
    assert_eq!(length(&left["shipments"]), 1);
    let (status, _) = caller.api(Method::DELETE, &format!("{BASKETS_V2}{path}/shipments/me"), token, Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    let card = json!({"paymentMethodId": "CREDIT_CARD", "paymentCard": {"number": "4111111111111111"}});
    let basket = call(Method::POST, &format!("{path}/payment-instruments"), card).await;
    let instrument = text(&basket["paymentInstruments"][0], "paymentInstrumentId").to_owned();
    let amount = json!({"amount": 310.49});
    let basket = call(Method::PATCH, &format!("{path}/payment-instruments/{instrument}"), amount).await;
    assert_eq!(
        (&basket["paymentInstruments"][0]["amount"], length(&basket["paymentInstruments"])),
        (&json!(310.49), 1)
    );
    let methods = call(Method::GET, &format!("{path}/payment-methods"), Value::Null).await;
    assert_eq!(methods["applicablePaymentMethods"][0]["cards"][0]["cardType"], "Visa");
}

#[tokio::test]
async fn new_basket_may_bring_shipments_and_payment() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let body = json!({
        "shipments": [{"shippingMethod": {"id": "001"}}],
        "paymentInstruments": [{"paymentMethodId": "CREDIT_CARD", "paymentCard": {"number": "4111111111111111"}}],
        "productItems": [{"productId": PRODUCT, "quantity": 1}],
    });
    let (status, basket) = caller.api(Method::POST, BASKETS_V2, text(&guest, "access_token"), body).await;
    assert_eq!(status, StatusCode::OK, "{basket}");
    assert_eq!((text(&basket["shipments"][0], "shipmentId"), &basket["shippingTotal"]), ("me", &json!(5.99)));
    assert_eq!(text(&basket["paymentInstruments"][0]["paymentCard"], "maskedNumber"), "************1111");
}

#[tokio::test]
async fn order_history_is_paged_and_newest_first() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.orders_need_complete_baskets = false);
    let shopper = caller.registered().await;
    let token = text(&shopper, "access_token");
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let basket = caller.basket(token).await;
        let order = caller.api(Method::POST, ORDERS, token, json!({"basketId": basket})).await.1;
        numbers.push(text(&order, "orderNo").to_owned());
    }
    let path = format!("{CUSTOMERS}/{}/orders?limit=1&offset=1", text(&shopper, "customer_id"));
    let page = found(&caller, &path, token).await;
    assert_eq!((&page["total"], length(&page["data"])), (&json!(3), 1));
    assert_eq!(text(&page["data"][0], "orderNo"), numbers[1]);
}

#[tokio::test]
async fn one_address_is_preferred() {
    let caller = Caller::new().await;
    let shopper = caller.registered().await;
    let token = text(&shopper, "access_token");
    let own = format!("{CUSTOMERS}/{}", text(&shopper, "customer_id"));
    let work = json!({"addressId": "work", "lastName": "Shopper", "countryCode": "US", "preferred": true});
    assert_eq!(caller.api(Method::POST, &format!("{own}/addresses"), token, work).await.0, StatusCode::OK);
    let preferred = async || {
        let addresses = found(&caller, &own, token).await["addresses"].clone();
        let preferred = addresses.as_array().unwrap().iter().filter(|address| address["preferred"] == true);
        preferred.map(|address| text(address, "addressId").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(preferred().await, ["work"]);
    let home = format!("{own}/addresses/home");
    assert_eq!(caller.api(Method::PATCH, &home, token, json!({"preferred": true})).await.0, StatusCode::OK);
    assert_eq!(preferred().await, ["home"]);
}

#[tokio::test]
async fn shopper_context_belongs_to_session_of_token() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let contexts = "/shopper/shopper-context/v1/organizations/f_ecom_zzrf_001/shopper-context";
    let path = format!("{contexts}/{}?siteId=RefArch", text(&guest, "usid"));
    let (status, problem) = caller.get(&path, token).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text(&problem, "type").ends_with("/shopper-context-no-found"));
    let body = json!({"sourceCode": "a", "customQualifiers": {"deviceType": "mobile", "ipAddress": "::1"}});
    for expected in [StatusCode::CREATED, StatusCode::OK] {
        assert_eq!(caller.api(Method::PUT, &path, token, body.clone()).await.0, expected);
    }
    let patch = json!({"sourceCode": null, "customQualifiers": {"deviceType": "iPad"}});
    let (_, patched) = caller.api(Method::PATCH, &path, token, patch).await;
    assert_eq!(patched, json!({"customQualifiers": {"deviceType": "iPad", "ipAddress": "::1"}}));
    assert_eq!(found(&caller, &path, token).await, patched);
    assert_eq!(caller.get(&format!("{contexts}/another?siteId=RefArch"), token).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(caller.api(Method::DELETE, &path, token, Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(caller.get(&path, token).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_page_gets_configurations_and_lists_of_nothing() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let of = |api: &str, rest: &str| format!("/{api}/v1/organizations/f_ecom_zzrf_001/{rest}siteId=RefArch");
    let configurations = found(&caller, &of("configuration/shopper-configurations", "configurations?"), token).await;
    assert_eq!(
        configurations["configurations"][0],
        json!({"id": "id", "value": "RefArch", "configurationType": "siteConfiguration"})
    );
    for (api, rest) in [
        ("store/shopper-stores", "stores?ids=one&"),
        ("store/shopper-stores", "store-search?postalCode=01801&countryCode=US&"),
        ("pricing/shopper-promotions", "promotions?ids=one&"),
        ("shopper/shopper-consents", "subscriptions?"),
        ("experience/shopper-experience", "pages?categoryId=root&aspectTypeId=plp&"),
    ] {
        assert_eq!(found(&caller, &of(api, rest), token).await["data"], json!([]), "{rest}");
    }
    let (status, problem) = caller.get(&of("experience/shopper-experience", "pages/homepage?"), token).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text(&problem, "type").ends_with("/page-not-found"));
    let path = of("shopper/shopper-consents", "subscriptions?");
    let body =
        json!({"subscriptionId": "news", "contactPointValue": "a@example.com", "channel": "email", "status": "opt_in"});
    assert_eq!(caller.api(Method::POST, &path, token, body.clone()).await, (StatusCode::OK, body));
}
