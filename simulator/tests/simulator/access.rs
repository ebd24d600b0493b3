//! The credentials that operations accept.

use reqwest::{Method, StatusCode};
use salesforce_simulator::ShopperTokenSpec;
use serde_json::{Value, json};

use crate::caller::*;

const SEO: &str = "/site/shopper-seo/v1/organizations/f_ecom_zzrf_001/url-mapping";
const SYSTEM_ORDERS: &str = "/checkout/orders/v1/organizations/f_ecom_zzrf_001/orders";

fn mint(caller: &Caller, change: impl FnOnce(&mut ShopperTokenSpec)) -> String {
    let mut spec = ShopperTokenSpec::default();
    change(&mut spec);
    caller.simulator.mint_shopper_token(spec)
}

fn scoped(scope: &str) -> impl FnOnce(&mut ShopperTokenSpec) {
    let scopes = Some(vec![scope.to_owned()]);
    move |spec| spec.scopes = scopes
}

#[tokio::test]
async fn operation_without_state_returns_echo_of_request() {
    let caller = Caller::new().await;
    let token = mint(&caller, |_| {});
    let request = caller.request(Method::GET, &format!("{SEO}?siteId=RefArch&urlSegment=%2Fx"));
    let response = request.bearer_auth(&token).header("correlation-id", "c-1").send().await.unwrap();
    assert_eq!(response.headers()["x-correlation-id"], "c-1");
    let (status, echo) = read(response).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(echo["operation"], "shopper-seo.getUrlMapping");
    assert_eq!((&echo["method"], &echo["path"]), (&json!("GET"), &json!(SEO)));
    assert_eq!(echo["query"], json!({"siteId": "RefArch", "urlSegment": "/x"}));
    assert_eq!(echo["headers"]["correlation-id"], "c-1");
}

#[tokio::test]
async fn invalid_token_returns_401() {
    let caller = Caller::new().await;
    let good = mint(&caller, |_| {});
    let stranger = Caller::new().await;
    let (head, signature) = good.rsplit_once('.').unwrap();
    let none = format!("{}..", good.split('.').next().unwrap());
    let reversed: String = signature.chars().rev().collect();
    for (what, token) in [
        ("garbage", "garbage".to_owned()),
        ("unsigned", none),
        ("signature", format!("{head}.{reversed}")),
        ("expired", mint(&caller, |spec| spec.lifetime_seconds = Some(-1))),
        ("another simulator's", mint(&stranger, |_| {})),
        ("unknown kid", mint(&caller, |spec| spec.kid = Some("nobody".into()))),
        ("algorithm", mint(&caller, |spec| drop(spec.header.insert("alg".into(), "none".into())))),
        ("audience", mint(&caller, |spec| drop(spec.claims.insert("aud".into(), "other".into())))),
        ("issuer", mint(&caller, |spec| drop(spec.claims.insert("iss".into(), "slas/prod/zzrf_002".into())))),
        ("not yet", mint(&caller, |spec| drop(spec.claims.insert("nbf".into(), 4_102_444_800_u64.into())))),
        ("system", caller.simulator.mint_account_manager_token("x", &["sfcc.orders"], "zzrf_001", 60)),
    ] {
        let response = caller.request(Method::GET, SEO).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        let (status, problem) = read(response).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
        assert!(text(&problem, "type").ends_with("/invalid-access-token"), "{what}");
        assert!(problem["title"].is_string() && problem["detail"].is_string());
    }
    assert_eq!(caller.request(Method::GET, SEO).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(caller.get(SEO, &good).await.0, StatusCode::OK);
}

#[tokio::test]
async fn operation_accepts_any_one_of_its_scopes() {
    let caller = Caller::new().await;
    let basket = format!("{BASKETS}/none");
    for (scope, expected) in [
        ("sfcc.shopper-baskets-orders", StatusCode::NOT_FOUND),
        ("sfcc.shopper-baskets-orders.rw", StatusCode::NOT_FOUND),
        ("sfcc.shopper-standard", StatusCode::NOT_FOUND),
        ("sfcc.shopper-products", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(caller.get(&basket, &mint(&caller, scoped(scope))).await.0, expected, "{scope}");
    }
    let reader = mint(&caller, scoped("sfcc.shopper-baskets-orders"));
    let (status, problem) = caller.api(Method::POST, BASKETS, &reader, json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(text(&problem, "type").ends_with("/forbidden"));
    // Some operations do not list the standard scope.
    assert_eq!(caller.get(SEO, &mint(&caller, scoped("sfcc.shopper-standard"))).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn scope_claim_may_be_separated_by_commas() {
    let caller = Caller::new().await;
    let token = mint(&caller, |spec| drop(spec.claims.insert("scp".into(), "sfcc.a,sfcc.shopper-seo".into())));
    assert_eq!(caller.get(SEO, &token).await.0, StatusCode::OK);
}

#[tokio::test]
async fn operation_requires_its_tsob_or_taob_mark() {
    let caller = Caller::new().await;
    let marked = |mark: Option<&str>| {
        mint(&caller, |spec| {
            spec.scopes = Some(vec!["sfcc.orders.rw".into(), "sfcc.shopper-baskets-orders.rw".into()]);
            spec.marks = mark.map(|mark| (mark.to_owned(), "x".to_owned())).into_iter().collect();
        })
    };
    let agent = format!("{BASKETS}/none/agent");
    for (mark, tsob, taob) in [(None, 403, 403), (Some("tsob"), 200, 403), (Some("taob"), 403, 200)] {
        let token = marked(mark);
        let orders = caller.api(Method::POST, SYSTEM_ORDERS, &token, json!({})).await;
        assert_eq!(orders.0.as_u16(), tsob, "{mark:?}");
        let agents = caller.api(Method::PUT, &agent, &token, json!({})).await;
        assert_eq!(agents.0.as_u16(), taob, "{mark:?}");
    }
}

#[tokio::test]
async fn tenant_or_site_of_another_token_returns_403() {
    let caller = Caller::new().await;
    let token = mint(&caller, |_| {});
    let elsewhere = SEO.replace("zzrf_001", "zzrf_002");
    assert_eq!(caller.get(&elsewhere, &token).await.0, StatusCode::FORBIDDEN);
    for (site, expected) in [("RefArch", 200), ("RefArchGlobal", 403)] {
        assert_eq!(caller.get(&format!("{SEO}?siteId={site}"), &token).await.0.as_u16(), expected, "{site}");
    }
}

#[tokio::test]
async fn system_operation_requires_system_token_of_its_tenant_and_scope() {
    let caller = Caller::new().await;
    for (scope, tenant, seconds, expected) in [
        ("sfcc.orders", "zzrf_001", 60, 200),
        ("sfcc.products", "zzrf_001", 60, 403),
        ("sfcc.orders", "zzrf_002", 60, 403),
        ("sfcc.orders", "zzrf_001", -1, 401),
    ] {
        let token = caller.simulator.mint_account_manager_token("x", &[scope], tenant, seconds);
        assert_eq!(caller.get(SYSTEM_ORDERS, &token).await.0.as_u16(), expected, "{scope} {tenant} {seconds}");
    }
    let shopper = mint(&caller, scoped("sfcc.orders"));
    // The operation knows no shopper tokens.
    assert_eq!(caller.get(SYSTEM_ORDERS, &shopper).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn deprecated_logins_and_unknown_paths_return_404() {
    let caller = Caller::new().await;
    for (method, path) in [
        (Method::POST, format!("{CUSTOMERS}/actions/login")),
        (Method::DELETE, format!("{CUSTOMERS}/actions/logout")),
        (Method::POST, format!("{CUSTOMERS}/trusted-system/actions/login")),
        (Method::GET, "/nowhere".to_owned()),
    ] {
        let response = caller.request(method, &path).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let (status, problem) = read(response).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(text(&problem, "type").ends_with("/errors/not-found"));
    }
}

#[tokio::test]
async fn load_headers_follow_behaviour() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| {
        behaviour.load = Some(91);
        behaviour.load_status = Some("THROTTLE".into());
    });
    let response = caller.request(Method::GET, SEO).send().await.unwrap();
    assert_eq!(
        (&response.headers()["sfdc_load"], &response.headers()["sfdc_load_status"]),
        (&"91".parse().unwrap(), &"THROTTLE".parse().unwrap())
    );
    let answer: Value = caller.guest().await;
    assert!(answer["access_token"].is_string());
}
