//! The shop: registration, customers, lists, baskets, orders, catalog.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::caller::*;

/// Everything an order needs, on a basket.
async fn complete(caller: &Caller, basket: &str, token: &str) {
    let address = json!({"firstName": "Ada", "lastName": "Shopper", "address1": "1 Street", "city": "Woburn", "countryCode": "US"});
    for (method, rest, body) in [
        (Method::PUT, "customer", json!({"email": "ada@example.com"})),
        (Method::PUT, "shipments/me/shipping-address?useAsBilling=true", address),
        (Method::PUT, "shipments/me/shipping-method", json!({"id": "001"})),
        (
            Method::POST,
            "payment-instruments",
            json!({"paymentMethodId": "CREDIT_CARD", "amount": 1, "paymentCard": {"number": "4111111111111111", "cardType": "Visa"}}),
        ),
    ] {
        let (status, answer) = caller.api(method, &format!("{BASKETS}/{basket}/{rest}"), token, body).await;
        assert_eq!(status, StatusCode::OK, "{rest}: {answer}");
    }
}

#[tokio::test]
async fn registered_guest_can_log_in() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let body = json!({"password": "New!Passw0rd", "customer": {"login": "new@example.com", "email": "new@example.com", "firstName": "Neo", "lastName": "New"}});
    let (status, customer) = caller.api(Method::POST, CUSTOMERS, token, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{customer}");
    assert_eq!(customer["authType"], "registered");
    assert!(!customer.to_string().contains("New!Passw0rd"));
    let twice = caller.api(Method::POST, CUSTOMERS, token, body).await;
    assert_eq!(twice.0, StatusCode::BAD_REQUEST);
    let tokens = caller.registered_with("new@example.com", "New!Passw0rd", &[]).await;
    assert_eq!(tokens["customer_id"], customer["customerId"]);
    let path = format!("{CUSTOMERS}/{}", text(&tokens, "customer_id"));
    let (_, profile) = caller.get(&path, text(&tokens, "access_token")).await;
    assert_eq!((text(&profile, "firstName"), text(&profile, "customerNo").len()), ("Neo", 8));
    assert!(profile["lastLoginTime"].is_string());
}

#[tokio::test]
async fn guest_customer_has_only_an_id() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let id = text(&guest, "customer_id");
    let (status, customer) = caller.get(&format!("{CUSTOMERS}/{id}"), text(&guest, "access_token")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(customer, json!({"authType": "guest", "customerId": id, "preferredLocale": "en_US"}));
    let (status, problem) = caller.get(&format!("{CUSTOMERS}/another"), text(&guest, "access_token")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text(&problem, "type").ends_with("/invalid-customer"));
}

#[tokio::test]
async fn profile_addresses_and_cards_can_be_changed() {
    let caller = Caller::new().await;
    let tokens = caller.registered().await;
    let (token, id) = (text(&tokens, "access_token"), text(&tokens, "customer_id"));
    let own = format!("{CUSTOMERS}/{id}");
    let patched = caller.api(Method::PATCH, &own, token, json!({"phoneHome": "1", "customerId": "x"})).await.1;
    assert_eq!((text(&patched, "phoneHome"), text(&patched, "customerId")), ("1", id));
    assert_eq!(caller.get(&format!("{own}/addresses/home"), token).await.1["city"], "Woburn");
    let address = json!({"addressId": "work", "lastName": "Shopper", "countryCode": "US"});
    assert_eq!(caller.api(Method::POST, &format!("{own}/addresses"), token, address).await.0, StatusCode::OK);
    let work = format!("{own}/addresses/work");
    assert_eq!(caller.api(Method::PATCH, &work, token, json!({"city": "Boston"})).await.1["city"], "Boston");
    assert_eq!(caller.api(Method::DELETE, &work, token, Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(caller.get(&work, token).await.0, StatusCode::NOT_FOUND);
    let card = json!({"paymentMethodId": "CREDIT_CARD", "paymentCard": {"number": "4111111111111111"}});
    let (status, stored) = caller.api(Method::POST, &format!("{own}/payment-instruments"), token, card).await;
    assert_eq!((status, &stored["paymentCard"]["numberLastDigits"]), (StatusCode::OK, &json!("1111")));
    assert!(!stored.to_string().contains("4111111111111111"));
}

#[tokio::test]
async fn password_reset_uses_token_created_by_system() {
    let caller = Caller::new().await;
    let system = caller.simulator.mint_account_manager_token("x", &["sfcc.shopper-customers.login"], "zzrf_001", 60);
    let create = format!("{CUSTOMERS}/password/actions/create-reset-token");
    let (status, answer) = caller.api(Method::POST, &create, &system, json!({"login": LOGIN})).await;
    assert_eq!((status, &answer["email"], &answer["expiresInMinutes"]), (StatusCode::OK, &json!(LOGIN), &json!(30)));
    let reset = format!("{CUSTOMERS}/password/actions/reset");
    let body = |token: &str| json!({"login": LOGIN, "resetToken": token, "newPassword": "An0ther!password"});
    assert_eq!(caller.api(Method::POST, &reset, &system, body("wrong")).await.0, StatusCode::BAD_REQUEST);
    let right = body(text(&answer, "resetToken"));
    assert_eq!(caller.api(Method::POST, &reset, &system, right.clone()).await.0, StatusCode::NO_CONTENT);
    assert_eq!(caller.api(Method::POST, &reset, &system, right).await.0, StatusCode::BAD_REQUEST);
    caller.registered_with(LOGIN, "An0ther!password", &[]).await;
}

#[tokio::test]
async fn product_list_is_visible_to_its_customer_only() {
    let caller = Caller::new().await;
    let (one, other) = (caller.guest().await, caller.guest().await);
    let lists = |tokens: &Value| format!("{CUSTOMERS}/{}/product-lists", text(tokens, "customer_id"));
    let token = text(&one, "access_token");
    let (status, list) = caller.api(Method::POST, &lists(&one), token, json!({"type": "wish_list"})).await;
    assert_eq!(status, StatusCode::OK);
    let id = text(&list, "id");
    let items = format!("{}/{id}/items", lists(&one));
    let item = json!({"type": "product", "productId": PRODUCT, "quantity": 1, "priority": 1, "public": false});
    assert_eq!(caller.api(Method::POST, &items, token, item).await.0, StatusCode::OK);
    let unknown = json!({"type": "product", "productId": "nothing"});
    assert_eq!(caller.api(Method::POST, &items, token, unknown).await.0, StatusCode::BAD_REQUEST);
    let (_, all) = caller.get(&lists(&one), token).await;
    assert_eq!(
        (&all["total"], &all["data"][0]["customerProductListItems"][0]["productId"]),
        (&json!(1), &json!(PRODUCT))
    );
    let foreign = format!("{}/{id}", lists(&other));
    assert_eq!(caller.get(&foreign, text(&other, "access_token")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn basket_is_visible_to_its_owner_only_and_limited_to_one() {
    let caller = Caller::new().await;
    let (one, other) = (caller.guest().await, caller.guest().await);
    let (mine, theirs) = (text(&one, "access_token"), text(&other, "access_token"));
    let basket = caller.basket(mine).await;
    let path = format!("{BASKETS}/{basket}");
    assert_eq!(caller.get(&path, mine).await.1["customerInfo"]["customerId"], one["customer_id"]);
    for method in [Method::GET, Method::DELETE] {
        let (status, problem) = caller.api(method, &path, theirs, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(text(&problem, "type").ends_with("/basket-not-found"));
    }
    let (status, problem) = caller.api(Method::POST, BASKETS, mine, json!({})).await;
    assert_eq!((status, text(&problem, "basketIds")), (StatusCode::BAD_REQUEST, basket.as_str()));
    assert_eq!(caller.api(Method::DELETE, &path, mine, Value::Null).await.0, StatusCode::NO_CONTENT);
    caller.basket(mine).await;
}

#[tokio::test]
async fn basket_totals_follow_item_changes() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let path = format!("{BASKETS}/{}", caller.basket(token).await);
    // The same basket in the other version.
    let v2 = path.replace("/v1/", "/v2/");
    let add = json!([{"productId": PRODUCT, "quantity": 1}, {"productId": "701643540909M", "quantity": 2}]);
    let (_, basket) = caller.api(Method::POST, &format!("{v2}/items"), token, add).await;
    assert_eq!((&basket["productItems"][0]["quantity"], &basket["productTotal"]), (&json!(2), &json!(238.98)));
    let unknown = json!([{"productId": "nothing", "quantity": 1}]);
    assert_eq!(caller.api(Method::POST, &format!("{path}/items"), token, unknown).await.0, StatusCode::BAD_REQUEST);
    let item = format!("{path}/items/{}", text(&basket["productItems"][0], "itemId"));
    let (_, basket) = caller.api(Method::PATCH, &item, token, json!({"quantity": 1})).await;
    assert_eq!(basket["productTotal"], 138.99);
    let (_, basket) = caller.api(Method::DELETE, &item, token, Value::Null).await;
    assert_eq!((basket["productItems"].as_array().unwrap().len(), &basket["productTotal"]), (1, &json!(39.0)));
    let method = format!("{path}/shipments/me/shipping-method");
    let (_, basket) = caller.api(Method::PUT, &method, token, json!({"id": "002"})).await;
    assert_eq!((&basket["shippingTotal"], &basket["orderTotal"]), (&json!(9.99), &json!(51.44)));
    assert_eq!(caller.api(Method::PUT, &method, token, json!({"id": "nothing"})).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn guest_basket_transfers_to_shopper_with_the_same_usid() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let basket = caller.basket(text(&guest, "access_token")).await;
    let stranger = caller.registered().await;
    let transfer = format!("{BASKETS}/actions/transfer");
    let nothing = caller.api(Method::POST, &transfer, text(&stranger, "access_token"), Value::Null).await;
    assert_eq!(nothing.0, StatusCode::NO_CONTENT);
    let as_guest = caller.api(Method::POST, &transfer, text(&guest, "access_token"), Value::Null).await;
    assert_eq!(as_guest.0, StatusCode::FORBIDDEN);

    let shopper = caller.registered_with(LOGIN, PASSWORD, &[("usid", text(&guest, "usid"))]).await;
    let token = text(&shopper, "access_token");
    assert_eq!(caller.get(&format!("{BASKETS}/{basket}"), token).await.0, StatusCode::NOT_FOUND);
    let (status, moved) = caller.api(Method::POST, &transfer, token, Value::Null).await;
    assert_eq!((status, text(&moved, "basketId")), (StatusCode::OK, basket.as_str()));
    assert_eq!(moved["customerInfo"]["customerId"], shopper["customer_id"]);
    let (_, baskets) = caller.get(&format!("{CUSTOMERS}/{}/baskets", text(&shopper, "customer_id")), token).await;
    assert_eq!(baskets["total"], 1);
}

#[tokio::test]
async fn transfer_conflicts_and_merge_sums_when_both_baskets_exist() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let shopper = caller.registered_with(LOGIN, PASSWORD, &[("usid", text(&guest, "usid"))]).await;
    let (visitor, token) = (text(&guest, "access_token"), text(&shopper, "access_token"));
    let merge = format!("{BASKETS}/actions/merge");
    assert_eq!(caller.api(Method::POST, &merge, token, Value::Null).await.0, StatusCode::CONFLICT);
    let from = caller.basket(visitor).await;
    let into = caller.basket(token).await;
    let transfer = format!("{BASKETS}/actions/transfer");
    let (status, problem) = caller.api(Method::POST, &transfer, token, Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text(&problem, "type").ends_with("/basket-transfer-basket-already-exists-exception"));
    let summed = format!("{merge}?productItemMergeMode=sum_quantities");
    let (status, merged) = caller.api(Method::POST, &summed, token, Value::Null).await;
    assert_eq!((status, text(&merged, "basketId")), (StatusCode::OK, into.as_str()));
    assert_eq!(merged["productItems"][0]["quantity"], 2);
    assert_eq!(caller.get(&format!("{BASKETS}/{from}"), visitor).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn complete_basket_becomes_order_of_its_owner() {
    let caller = Caller::new().await;
    let (guest, other) = (caller.guest().await, caller.guest().await);
    let token = text(&guest, "access_token");
    let basket = caller.basket(token).await;
    let submit = async |token: &str| caller.api(Method::POST, ORDERS, token, json!({"basketId": basket})).await;
    let (status, problem) = submit(token).await;
    assert_eq!((status, text(&problem, "title")), (StatusCode::BAD_REQUEST, "Invalid Basket"));
    complete(&caller, &basket, token).await;
    assert_eq!(submit(text(&other, "access_token")).await.0, StatusCode::NOT_FOUND);
    let (status, order) = submit(token).await;
    assert_eq!((status, text(&order, "status")), (StatusCode::OK, "created"));
    assert_eq!(order["paymentInstruments"][0]["paymentCard"]["maskedNumber"], "************1111");
    assert_eq!(submit(token).await.0, StatusCode::NOT_FOUND);
    let path = format!("{ORDERS}/{}", text(&order, "orderNo"));
    assert_eq!(caller.get(&path, token).await.1["orderTotal"], order["orderTotal"]);
    assert_eq!(caller.get(&path, text(&other, "access_token")).await.0, StatusCode::NOT_FOUND);
    let system = caller.simulator.mint_account_manager_token("x", &["sfcc.orders.rw"], "zzrf_001", 60);
    let path = path.replace("/shopper-orders/", "/orders/");
    let (_, changed) = caller.api(Method::PATCH, &path, &system, json!({"externalOrderStatus": "picked"})).await;
    assert_eq!((&changed["orderNo"], &changed["externalOrderStatus"]), (&order["orderNo"], &json!("picked")));
}

#[tokio::test]
async fn products_and_categories_can_be_read_and_searched() {
    let caller = Caller::new().await;
    let guest = caller.guest().await;
    let token = text(&guest, "access_token");
    let products = "/product/shopper-products/v1/organizations/f_ecom_zzrf_001";
    let (_, product) = caller.get(&format!("{products}/products/{PRODUCT}?siteId=RefArch"), token).await;
    assert_eq!((text(&product, "name"), &product["price"]), ("Laptop Briefcase", &json!(99.99)));
    let (status, problem) = caller.get(&format!("{products}/products/nothing?siteId=RefArch"), token).await;
    assert_eq!((status, text(&problem, "productId")), (StatusCode::NOT_FOUND, "nothing"));
    let (_, several) = caller.get(&format!("{products}/products?ids={PRODUCT},nothing"), token).await;
    assert_eq!(several["total"], 1);
    let (_, root) = caller.get(&format!("{products}/categories/root"), token).await;
    assert_eq!(root["onlineSubCategoriesCount"], 3);
    let search = "/search/shopper-search/v1/organizations/f_ecom_zzrf_001/product-search?siteId=RefArch&q=briefcase";
    let (_, found) = caller.get(search, token).await;
    assert_eq!((&found["total"], &found["hits"][0]["productId"]), (&json!(1), &json!(PRODUCT)));
}
