//! Trusted systems call system operations with a bearer token or Basic credentials. Client certificates are tested in
//! `tls`.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault, LedgerEntry};

use crate::world::{
    CALLER_CLIENT, ORGANIZATION, OTHER_ORGANIZATION, World, customers, eventually, eventually_every, expired, products,
};

pub const CALLER_SECRET: &str = "caller-secret";

fn order() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn reset_token() -> String {
    customers("/customers/password/actions/create-reset-token?siteId=RefArch")
}

fn exchanges(world: &World) -> Vec<LedgerEntry> {
    let ledger = world.simulator.ledger();
    ledger.into_iter().filter(|entry| entry.service == "account_manager" && entry.flow == "access_token").collect()
}

fn basic(request: RequestBuilder) -> RequestBuilder {
    request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))
}

#[tokio::test]
async fn basic_credentials_are_exchanged_once_and_never_forwarded() {
    let world = World::start().await;
    for _ in 0..3 {
        let answer = world.send(basic(world.get(&order()))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.header("authorization"), None, "the system token stays here");
    }
    assert_eq!(exchanges(&world).len(), 1);
    let scope = &exchanges(&world)[0].body;
    assert!(scope.contains("SALESFORCE_COMMERCE_API%3Azzrf_001+sfcc.orders"), "{scope}");
    assert!(!scope.contains("sfcc.orders.rw"), "any one scope is enough: {scope}");
    for forwarded in world.forwarded("orders.getOrders") {
        assert!(forwarded.header("authorization").unwrap().starts_with("Bearer "));
    }
}

#[tokio::test]
async fn concurrent_requests_share_one_token_exchange() {
    let world = World::start().await;
    world.simulator.inject(Fault::on("account_manager", Effect::Delay { ms: 100 }).flow("access_token"));
    let answers = join_all((0..100).map(|_| world.send(basic(world.get(&order()))))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(exchanges(&world).len(), 1);
    let metrics = world.metrics().await;
    assert!(
        metrics.contains(r#"shopper_gateway_token_requests_total{kind="system",result="coalesced"} 99"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn wrong_secret_is_rejected_despite_cached_token() {
    let world = World::start().await;
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
    for _ in 0..3 {
        let answer = world.send(world.get(&order()).basic_auth(CALLER_CLIENT, Some("wrong"))).await;
        assert_eq!(answer.refusal(), (401, "caller_rejected"));
    }
    assert_eq!(exchanges(&world).len(), 2, "the wrong secret was shown to Account Manager once");
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn secret_guesses_are_rate_limited_and_right_secret_still_works() {
    let world = World::start().await;
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
    let mut limited = None;
    for guess in 0..30 {
        let answer = world.send(world.get(&order()).basic_auth(CALLER_CLIENT, Some(format!("guess-{guess}")))).await;
        match answer.refusal() {
            (401, "caller_rejected") => assert_eq!(limited, None),
            (429, "caller_rate_limited") => limited = Some(answer.header("retry-after").unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    }
    assert!(limited.is_some());
    assert!(exchanges(&world).len() < 15, "{}", exchanges(&world).len());
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK, "its token is held");
}

#[tokio::test]
async fn unconfigured_client_is_never_sent_to_account_manager() {
    let world = World::start().await;
    let own = ("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "account-manager-secret");
    for (user, password) in [("nobody", "x"), own, ("a b", "x")] {
        let answer = world.send(world.get(&order()).basic_auth(user, Some(password))).await;
        assert_eq!(answer.refusal(), (401, "caller_rejected"), "{user}");
        assert!(answer.header("www-authenticate").unwrap().contains("Basic realm="));
    }
    assert_eq!(exchanges(&world).len(), 0);
}

#[tokio::test]
async fn caller_is_limited_to_its_operations_sites_and_organizations() {
    let world = World::with(|config| {
        let caller = config["callers"][0].as_table_mut().unwrap();
        caller.insert("sites".into(), toml::Value::Array(vec!["RefArch".into()]));
        caller["operations"] = toml::Value::Array(vec!["orders.getOrders".into(), "products.*".into()]);
    })
    .await;
    let token = |scopes: &[&str]| world.simulator.mint_account_manager_token(CALLER_CLIENT, scopes, "zzrf_001", 600);
    let bearer = |target: &str, scopes: &[&str]| world.get(target).bearer_auth(token(scopes));
    let other_site = order().replace("RefArch", "RefArchGlobal");
    let one_order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1");
    for (request, refusal) in [
        (bearer(&order(), &["sfcc.orders"]), None),
        (bearer(&other_site, &["sfcc.orders"]), Some((403, "caller_not_allowed"))),
        (basic(world.get(&other_site)), Some((403, "caller_not_allowed"))),
        (bearer(&one_order, &["sfcc.orders"]), Some((403, "caller_not_allowed"))),
        (basic(world.get(&one_order)), Some((403, "caller_not_allowed"))),
        (bearer(&order(), &["sfcc.products"]), Some((403, "scope_missing"))),
        (bearer(&products("?ids=a&siteId=RefArch"), &["sfcc.products"]), Some((403, "token_kind_wrong"))),
    ] {
        let answer = world.send(request).await;
        let expected = refusal.unwrap_or((200, "none"));
        assert_eq!(answer.refusal(), expected, "{}", answer.text());
    }
    let elsewhere = order().replace(ORGANIZATION, OTHER_ORGANIZATION).replace("RefArch", "SiteGenesis");
    let of_both = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_002", 600);
    assert_eq!(world.send(world.get(&elsewhere).bearer_auth(of_both)).await.refusal(), (403, "caller_not_allowed"));
    assert_eq!(world.send(bearer(&elsewhere, &["sfcc.orders"])).await.refusal(), (403, "token_wrong_organization"));
}

#[tokio::test]
async fn missing_scope_of_client_is_remembered() {
    let world = World::with(|config| {
        config["callers"].as_array_mut().unwrap()[0]["operations"] = toml::Value::Array(vec!["*".into()]);
    })
    .await;
    let catalogs = format!("/product/catalogs/v1/organizations/{ORGANIZATION}/catalogs");
    for _ in 0..3 {
        let answer = world.send(basic(world.get(&catalogs))).await;
        assert_eq!(answer.refusal(), (403, "scope_missing"), "{}", answer.text());
    }
    let scopes = exchanges(&world).len();
    assert!((1..=2).contains(&scopes), "each alternative was tried once: {scopes}");
}

#[tokio::test]
async fn system_token_is_renewed_in_background() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.account_manager_token_seconds = 5);
    eventually_every(Duration::from_millis(100), "the second token is there", async || {
        let answer = world.send(basic(world.get(&order()))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        exchanges(&world).len() >= 2
    })
    .await;
    let first = world.forwarded("orders.getOrders").remove(0);
    expired(first.header("authorization").unwrap().strip_prefix("Bearer ").unwrap()).await;
    let answer = world.send(basic(world.get(&order()))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"shopper_gateway_token_requests_total{kind="system",result="miss"} 1"#), "{metrics}");
}

#[tokio::test]
async fn system_token_is_used_until_expiry_while_account_manager_fails() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.account_manager_token_seconds = 5);
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
    let down = Effect::Status { code: 500, retry_after: None, body: None };
    world.simulator.inject(Fault::on("account_manager", down).flow("access_token"));
    // The renewal has begun and fails; the token is still used.
    eventually_every(Duration::from_millis(100), "the token is due for renewal", async || {
        let answer = world.send(basic(world.get(&order()))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        exchanges(&world).len() >= 2
    })
    .await;
    eventually("the token has expired", async || {
        let answer = world.send(basic(world.get(&order()))).await;
        answer.refusal() == (503, "account_manager_unavailable")
    })
    .await;
    let (before, began) = (exchanges(&world).len(), Instant::now());
    let answers = join_all((0..50).map(|_| world.send(basic(world.get(&order()))))).await;
    for answer in &answers {
        assert_eq!(answer.refusal(), (503, "account_manager_unavailable"));
        assert!(answer.header("retry-after").is_some());
    }
    // The gateway calls again half a second after a failure, and a slow machine takes longer than that.
    let most = 1 + began.elapsed().as_millis() / 500;
    let calls = exchanges(&world).len() - before;
    assert!(calls as u128 <= most, "{calls} calls to an Account Manager that has just failed");
    world.simulator.clear_faults();
    eventually("it works again", async || world.send(basic(world.get(&order()))).await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn password_reset_operations_work_for_caller() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let token =
        world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.shopper-customers.login"], "zzrf_001", 600);
    let mint = |request: RequestBuilder| {
        request.header("content-type", "application/json").body(format!(r#"{{"login":"{}"}}"#, crate::world::LOGIN))
    };
    for (number, request) in
        [world.post(&reset_token()).bearer_auth(token), basic(world.post(&reset_token()))].into_iter().enumerate()
    {
        let answer = world.send(mint(request)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let reset = answer.json()["resetToken"].as_str().unwrap().to_owned();
        let body = serde_json::json!({
            "login": crate::world::LOGIN, "resetToken": reset, "newPassword": format!("N3w!password{number}"),
        });
        let target = customers("/customers/password/actions/reset?siteId=RefArch");
        let request = basic(world.post(&target)).header("content-type", "application/json").body(body.to_string());
        let answer = world.send(request).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text());
        let login =
            world.log_in(crate::world::PUBLIC_CLIENT, crate::world::LOGIN, &format!("N3w!password{number}")).await;
        assert_eq!(login.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn request_is_sent_again_when_api_rejects_system_token() {
    let world = World::start().await;
    let refused = || Effect::Status { code: 401, retry_after: None, body: Some("{}".into()) };
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
    let once = Fault { remaining: Some(1), ..Fault::on("api", refused()) };
    world.simulator.inject(once);
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
    assert_eq!(exchanges(&world).len(), 2, "another token");
    let sent = world.forwarded("orders.getOrders");
    let tokens: Vec<_> = sent.iter().map(|entry| entry.header("authorization").unwrap()).collect();
    assert_eq!((tokens.len(), tokens[0] == tokens[1], tokens[1] == tokens[2]), (3, true, false));

    // The answer of an API that refuses everything is forwarded, and few exchanges follow.
    let world = World::start().await;
    assert_eq!(world.send(basic(world.get(&order()))).await.status, StatusCode::OK);
    world.simulator.inject(Fault::on("api", refused()));
    for answer in join_all((0..40).map(|_| world.send(basic(world.get(&order()))))).await {
        assert_eq!((answer.status.as_u16(), answer.header("x-shopper-gateway-error")), (401, None));
    }
    assert!(exchanges(&world).len() <= 3, "{}", exchanges(&world).len());
}
