//! Trusted systems on behalf of shoppers.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault, LedgerEntry, ShopperTokenSpec};

use crate::{
    callers::CALLER_SECRET,
    redis::{Redis, in_redis},
    scale::{self, figure, ms, percentile},
    world::{
        CALLER_CLIENT, Gateway, LOGIN, ORGANIZATION, PRIVATE_CLIENT, PUBLIC_CLIENT, World, baskets, customers,
        eventually, eventually_every, expired, products,
    },
};

const SECOND: &str = "second@example.com";

fn tsob(world: &World) -> Vec<LedgerEntry> {
    let ledger = world.simulator.ledger();
    ledger.into_iter().filter(|entry| entry.service == "slas" && entry.flow.starts_with("trusted-system")).collect()
}

fn on_behalf(request: RequestBuilder, login: &str) -> RequestBuilder {
    request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).header("X-On-Behalf-Of", login)
}

fn search() -> String {
    products("?ids=793775362380M&siteId=RefArch")
}

/// The claims of the token that went upstream.
pub fn claims(entry: &LedgerEntry) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let token = entry.header("authorization").unwrap().strip_prefix("Bearer ").unwrap();
    String::from_utf8(URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn on_behalf_request_is_forwarded_with_shopper_token_only() {
    let world = World::start().await;
    for _ in 0..3 {
        let answer = world.send(on_behalf(world.get(&search()), LOGIN)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.header("authorization"), None, "the shopper's token stays here");
    }
    assert_eq!(tsob(&world).len(), 1, "one call to SLAS");
    let forwarded = world.forwarded("shopper-products.getProducts");
    assert_eq!(forwarded.len(), 3);
    for entry in forwarded {
        let claims = claims(&entry);
        assert!(claims.contains("tsob:ts_ext_on_behalf_of") && claims.contains(LOGIN), "{claims}");
        for (name, value) in &entry.headers {
            assert!(!name.starts_with("x-on-behalf-of") && !value.contains(CALLER_SECRET), "{name}");
        }
    }
}

#[tokio::test]
async fn on_behalf_token_is_separate_per_shopper_and_site() {
    let world = World::start().await;
    let ask = async |login: &str| {
        assert_eq!(world.send(on_behalf(world.get(&search()), login)).await.status, StatusCode::OK);
        claims(world.forwarded("shopper-products.getProducts").last().unwrap())
    };
    for login in [LOGIN, SECOND, LOGIN, SECOND] {
        let claims = ask(login).await;
        assert!(claims.contains(&format!("upn:{login}")), "{claims}");
    }
    assert_eq!(tsob(&world).len(), 2);
    let elsewhere = search().replace("RefArch", "RefArchGlobal");
    assert_eq!(world.send(on_behalf(world.get(&elsewhere), LOGIN)).await.status, StatusCode::OK);
    assert!(claims(world.forwarded("shopper-products.getProducts").last().unwrap()).contains("chid:RefArchGlobal"));
    assert_eq!(tsob(&world).len(), 3, "and one for each site, when SLAS's window has passed");
}

/// Raises the API's limits: a busy machine cannot serve a thousand requests at once within the defaults.
fn raise_api_limits(config: &mut toml::Table) {
    config.insert("timeouts".into(), "upstream = '60s'\nconnect = '30s'".parse::<toml::Table>().unwrap().into());
}

/// Sends requests at once for one shopper, and returns their durations.
async fn request_durations(world: &World, requests: usize, gateways: &[SocketAddr], login: &str) -> Vec<Duration> {
    let began = Instant::now();
    let requests = (0..requests).map(async |number: usize| {
        let url = format!("http://{}{}", gateways[number % gateways.len()], search());
        let answer = world.send(on_behalf(world.client.get(url), login)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        began.elapsed()
    });
    join_all(requests).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_requests_share_one_slas_call() {
    const SLAS: Duration = Duration::from_secs(2);
    let requests = scale::of(200, 1000);
    let world = World::with(raise_api_limits).await;
    let gateway = [world.gateway.address];
    // All clients are connected and the caller's secret is verified before the measurement.
    request_durations(&world, requests, &gateway, SECOND).await;
    let before = tsob(&world).len();
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: SLAS.as_millis() as u64 }).flow("trusted-system"));
    let first = request_durations(&world, requests, &gateway, LOGIN).await;
    assert_eq!(tsob(&world).len() - before, 1);
    assert!(first.iter().all(|took| *took >= SLAS), "they waited for SLAS");
    let again = request_durations(&world, requests, &gateway, LOGIN).await;
    figure(
        "R1",
        format!(
            "{requests} first requests of one shopper: 1 call, 0 failed; SLAS takes {}, they {} (p50); with the token known {}",
            ms(SLAS),
            ms(percentile(&first, 50)),
            ms(percentile(&again, 50))
        ),
    );
}

#[tokio::test]
async fn thousand_first_requests_at_two_gateways_share_one_slas_call() {
    let redis = Redis::start().await;
    let url = redis.url();
    let shared = |config: &mut toml::Table| {
        in_redis(config, &url);
        raise_api_limits(config);
    };
    let world = World::with(shared).await;
    let second = Gateway::start(&world.simulator.url(), shared).await;
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 300 }).flow("trusted-system"));
    request_durations(&world, 1000, &[world.gateway.address, second.address], LOGIN).await;
    assert_eq!(tsob(&world).len(), 1);
    figure("R2", "1,000 first requests of one shopper at two gateways: 1 call, 0 failed");
}

#[tokio::test]
async fn order_on_behalf_of_shopper_succeeds() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.orders_need_complete_baskets = false);
    let json = |request: RequestBuilder, body: &str| {
        on_behalf(request.header("content-type", "application/json").body(body.to_owned()), LOGIN)
    };
    let basket = world.send(json(world.post(&baskets("?siteId=RefArch")), "{}")).await;
    assert_eq!(basket.status, StatusCode::OK, "{}", basket.text());
    let basket = basket.json()["basketId"].as_str().unwrap().to_owned();
    let items = r#"[{"productId":"793775362380M","quantity":1}]"#;
    let added = world.send(json(world.post(&baskets(&format!("/{basket}/items?siteId=RefArch"))), items)).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.text());
    let orders = format!("/checkout/shopper-orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
    let order = world.send(json(world.post(&orders), &format!(r#"{{"basketId":"{basket}"}}"#))).await;
    assert_eq!(order.status, StatusCode::OK, "{}", order.text());
    assert_eq!(order.json()["customerInfo"]["email"], LOGIN, "{}", order.text());
    assert_eq!(tsob(&world).len(), 1);
}

#[tokio::test]
async fn on_behalf_without_permission_is_rejected_in_any_spelling() {
    let world = World::start().await;
    let shopper = world.mint(|_| {});
    let caller = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    let stranger = world.simulator.mint_account_manager_token("nobody", &["sfcc.orders"], "zzrf_001", 600);
    let get = || world.get(&search());
    for (request, refusal) in [
        (get().header("X-On-Behalf-Of", LOGIN), (403, "caller_not_allowed")),
        (get().bearer_auth(&shopper).header("X-On-Behalf-Of", LOGIN), (403, "caller_not_allowed")),
        (get().bearer_auth(&shopper).header("x_on_behalf_of", LOGIN), (403, "caller_not_allowed")),
        (get().bearer_auth(&shopper).header("X-On-Behalf_Of-Idp", "google"), (403, "caller_not_allowed")),
        (get().bearer_auth(&shopper).header("X-On-Behalf-Of-Anything", "x"), (403, "caller_not_allowed")),
        (get().bearer_auth(&stranger).header("X-On-Behalf-Of", LOGIN), (401, "caller_rejected")),
        (get().basic_auth(CALLER_CLIENT, Some("wrong")).header("X-On-Behalf-Of", LOGIN), (401, "caller_rejected")),
        (get().bearer_auth(&caller).header("x_on_behalf_of", LOGIN), (400, "request_ambiguous")),
        (
            get().bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN).header("x_on_behalf_of", SECOND),
            (400, "request_ambiguous"),
        ),
        (
            get().bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN).header("X-On-Behalf-Of", SECOND),
            (400, "request_ambiguous"),
        ),
        (get().bearer_auth(&caller).header("X-On-Behalf-Of-Idp", "ecom"), (400, "request_invalid")),
        (get().bearer_auth(&caller).header("X-On-Behalf-Of", ""), (400, "request_invalid")),
        (
            get().bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN).header("X-On-Behalf-Of-Idp", "a b"),
            (400, "request_invalid"),
        ),
        (
            get().bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN).header("X-On-Behalf-Of-Idp", "google"),
            (403, "caller_not_allowed"),
        ),
        (get().bearer_auth(&caller).header("X-On-Behalf-Of", "nobody@example.com"), (404, "shopper_unknown")),
        (world.get(&products("?ids=a")).bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN), (400, "request_invalid")),
        (
            world.get(&products("?ids=a&siteId=Nowhere")).bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN),
            (400, "request_invalid"),
        ),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), refusal, "{}", answer.text());
    }
    assert!(world.forwarded("shopper-products.getProducts").is_empty());
    assert_eq!(tsob(&world).len(), 1, "only the unknown login was asked for");

    let system = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
    let answer = world.send(world.get(&system).bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN)).await;
    assert_eq!(answer.refusal(), (403, "caller_not_allowed"), "a system operation is nobody's in particular");
}

#[tokio::test]
async fn other_identity_provider_works_with_create_shoppers_permission() {
    let world = World::with(|config| {
        config["callers"].as_array_mut().unwrap()[0]["may"] =
            toml::Value::Array(vec!["on_behalf".into(), "create_shoppers".into()]);
    })
    .await;
    let request = on_behalf(world.get(&search()), "ada@gmail.example").header("X-On-Behalf-Of-Idp", "google");
    let answer = world.send(request).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let claims = claims(&world.forwarded("shopper-products.getProducts")[0]);
    assert!(claims.contains("uido:google"), "{claims}");
    // The same login at B2C Commerce itself is a different shopper or unknown.
    let answer = world.send(on_behalf(world.get(&search()), "ada@gmail.example")).await;
    assert_eq!(answer.refusal(), (404, "shopper_unknown"));
}

#[tokio::test]
async fn on_behalf_token_is_refreshed_by_same_client() {
    let world = World::with(|config| {
        config.insert("sessions".into(), "refresh_ahead = '1s'".parse::<toml::Table>().unwrap().into());
    })
    .await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 4);
    let serve = async || {
        let answer = world.send(on_behalf(world.get(&search()), LOGIN)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    };
    serve().await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
    eventually_every(Duration::from_millis(100), "the token is refreshed", async || {
        serve().await;
        world.simulator.count("slas", "token:refresh_token") > 0
    })
    .await;
    for _ in 0..10 {
        serve().await;
    }
    assert_eq!(tsob(&world).len(), 1);
    let ledger = world.simulator.ledger();
    let refreshes: Vec<_> = ledger.iter().filter(|entry| entry.flow == "token:refresh_token").collect();
    assert_eq!(refreshes.len(), 1);
    assert!(refreshes[0].body.contains(PRIVATE_CLIENT));
}

#[tokio::test]
async fn slas_conflict_is_retried_after_its_window() {
    let world = World::start().await;
    let conflict = Effect::Status { code: 409, retry_after: None, body: Some("{}".into()) };
    world.simulator.inject(Fault { remaining: Some(1), ..Fault::on("slas", conflict).flow("trusted-system") });
    let answer = world.send(on_behalf(world.get(&search()), LOGIN)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(tsob(&world).len(), 2);
}

#[tokio::test]
async fn rejected_token_is_replaced_and_small_body_sent_again() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.tsob_window_ms = 100);
    let refused = || Effect::Status { code: 401, retry_after: None, body: Some("{}".into()) };
    let once = || Fault { remaining: Some(1), ..Fault::on("api", refused()) };
    let json = |request: RequestBuilder, body: String| {
        on_behalf(request.header("content-type", "application/json").body(body), LOGIN)
    };
    let basket = world.send(json(world.post(&baskets("?siteId=RefArch")), "{}".into())).await.json();
    let items = baskets(&format!("/{}/items?siteId=RefArch", basket["basketId"].as_str().unwrap()));
    let post = |padding: usize| {
        let item = r#"{"productId":"793775362380M","quantity":1,"c_padding":"#;
        json(world.post(&items), format!("[{item}\"{}\"}}]", "a".repeat(padding)))
    };
    for (pause, request, status) in [
        (0, on_behalf(world.get(&search()), LOGIN), 200),
        (1100, post(0), 200),
        (1100, post(60_000), 200),
        // A token is replaced at most once a second, so the others wait that long.
        (0, on_behalf(world.get(&search()), LOGIN), 401),
        // A body larger than the buffer is not sent again: the caller gets the API's 401.
        (1100, post(200_000), 401),
    ] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        world.simulator.clear_faults();
        world.simulator.inject(once());
        let answer = world.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert_eq!(answer.header("x-shopper-gateway-error"), None);
    }
    let added = world.forwarded("shopper-baskets-v1.addItemToBasket");
    assert_eq!(
        added.iter().map(|entry| entry.status).collect::<Vec<_>>(),
        [Some(401), Some(200), Some(401), Some(200), Some(401)]
    );
    assert_eq!(added[2].body_length, added[3].body_length, "the whole body was sent again");
    assert_eq!(tsob(&world).len(), 1, "the refresh token is good for another token");
}

#[tokio::test]
async fn session_ended_at_slas_is_started_again() {
    let world = World::start().await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 2;
        behaviour.tsob_window_ms = 100;
    });
    assert_eq!(world.send(on_behalf(world.get(&search()), LOGIN)).await.status, StatusCode::OK);
    expired(&world.forwarded_token("shopper-products.getProducts")).await;
    let gone = Effect::Status { code: 400, retry_after: None, body: Some(r#"{"error":"invalid_grant"}"#.into()) };
    world.simulator.inject(Fault { remaining: Some(1), ..Fault::on("slas", gone).flow("token:refresh_token") });
    let answer = world.send(on_behalf(world.get(&search()), LOGIN)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(tsob(&world).len(), 2);
}

#[tokio::test]
async fn token_signed_by_removed_key_is_replaced() {
    let world = World::start().await;
    let key_of = |world: &World| {
        let forwarded = world.forwarded("shopper-products.getProducts").pop().unwrap();
        let token = forwarded.header("authorization").unwrap().trim_start_matches("Bearer ").to_owned();
        jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
    };
    assert_eq!(world.send(on_behalf(world.get(&search()), LOGIN)).await.status, StatusCode::OK);
    let gone = key_of(&world);
    while world.simulator.slas_jwks().to_string().contains(&gone) {
        world.simulator.rotate_keys();
    }
    let shopper = world.mint(|_| {});
    eventually("the new keys are known", async || {
        world.send(world.get(&search()).bearer_auth(&shopper)).await.status == StatusCode::OK
    })
    .await;
    let answers = join_all((0..20).map(|_| world.send(on_behalf(world.get(&search()), LOGIN)))).await;
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    assert_ne!(key_of(&world), gone);
    assert_eq!((tsob(&world).len(), world.simulator.count("slas", "token:refresh_token")), (1, 1));
}

#[tokio::test]
async fn deprecated_login_works_at_both_paths() {
    let world = World::start().await;
    let caller =
        world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.shopper-customers.login"], "zzrf_001", 600);
    let body = format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#);
    let mut tokens = Vec::new();
    for path in ["/customers/trusted-system/actions/login", "/trusted-system/actions/login"] {
        let target = customers(&format!("{path}?siteId=RefArch"));
        for request in [
            world.post(&target).bearer_auth(&caller),
            world.post(&target).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)),
        ] {
            let answer = world.send(request.header("content-type", "application/json").body(body.clone())).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            let document = answer.json();
            assert_eq!(
                (&document["authType"], &document["login"]),
                (&"registered".into(), &LOGIN.into()),
                "{document}"
            );
            assert!(answer.header("deprecation").is_some() && answer.header("sunset").is_some());
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            tokens.push(answer.token());
        }
    }
    assert_eq!(tsob(&world).len(), 1, "SLAS's window of three seconds is nothing that an old app would know of");
    let answer = world.send(world.get(&search()).bearer_auth(&tokens[0])).await;
    assert_eq!(answer.status, StatusCode::OK);
    let metrics = world.metrics().await;
    let counted = format!(r#"legacy_requests_total{{client_id="{PUBLIC_CLIENT}",endpoint="trusted_system_login"}} 4"#);
    assert!(metrics.contains(&counted), "{metrics}");

    let target = customers("/trusted-system/actions/login?siteId=RefArch");
    let without_scope = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    for (request, body, refusal) in [
        (world.post(&target), body.clone(), (401, "token_missing")),
        (world.post(&target).bearer_auth(&without_scope), body.clone(), (403, "scope_missing")),
        (world.post(&target).bearer_auth(world.mint(|_| {})), body.clone(), (403, "token_kind_wrong")),
        (world.post(&target).bearer_auth(&caller), "{}".into(), (400, "request_invalid")),
        (
            world.post(&target.replace("RefArch", "Nowhere")).bearer_auth(&caller),
            body.clone(),
            (400, "request_invalid"),
        ),
        (world.post(&target).bearer_auth(&caller), body.replace(LOGIN, "nobody@example.com"), (404, "shopper_unknown")),
    ] {
        let answer = world.send(request.header("content-type", "application/json").body(body)).await;
        assert_eq!(answer.refusal(), refusal, "{}", answer.text());
        assert!(answer.header("deprecation").is_some());
    }
}

#[tokio::test]
async fn deprecated_login_token_is_renewed_and_ends_with_logout() {
    let world = World::start().await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 3;
        behaviour.tsob_window_ms = 100;
    });
    let target = customers("/trusted-system/actions/login?siteId=RefArch");
    let log_in = async || {
        let request = world.post(&target).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        let body = format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#);
        world.send(request.header("content-type", "application/json").body(body)).await.token()
    };
    let token = log_in().await;
    expired(&token).await;
    let answer = world.send(world.get(&search()).bearer_auth(&token)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert!(answer.header("authorization").is_some(), "a token of the caller's own keeping is handed over");
    let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
    let ended = world.send(logout.bearer_auth(&token)).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT, "{}", ended.text());
    assert_eq!(world.send(world.get(&search()).bearer_auth(&token)).await.refusal().0, 401);
    eventually("the name is free again", async || {
        world.send(on_behalf(world.get(&search()), LOGIN)).await.status == StatusCode::OK
    })
    .await;
    assert_eq!(tsob(&world).len(), 2);
}

#[tokio::test]
async fn agent_and_system_tokens_on_behalf_are_distinguished() {
    let world = World::start().await;
    let operations = shopper_gateway::gateway::policy::Operations::published().unwrap();
    let kind = |wanted: &str| {
        let found = operations
            .iter()
            .find(|operation| operation.security.first().map(|security| security.kind.as_str()) == Some(wanted));
        let operation = found.unwrap();
        let target = operation.template.replace("{organizationId}", ORGANIZATION).replace(['{', '}'], "");
        let method: Method = operation.method.as_str().parse().unwrap();
        let scope = operation.security[0].scopes.iter().next().unwrap().to_string();
        (method, target, scope)
    };
    for (wanted, mark, other) in [("shopper_taob", "taob", "tsob"), ("shopper_tsob", "tsob", "taob")] {
        let (method, target, scope) = kind(wanted);
        let token = |mark: &str| {
            world.mint(|spec| {
                spec.scopes = Some(vec![scope.clone()]);
                spec.marks = vec![(mark.into(), "x".into())];
            })
        };
        let answer = world.send(world.request(method.clone(), &target).bearer_auth(token(other))).await;
        assert_eq!(answer.refusal(), (403, "token_kind_wrong"));
        let answer = world.send(world.request(method, &target).bearer_auth(token(mark))).await;
        assert_eq!(answer.header("x-shopper-gateway-error"), None, "{}", answer.text());
    }
}

#[tokio::test]
async fn rejection_of_other_identity_provider_names_missing_permission() {
    let world = World::start().await;
    let request = || on_behalf(world.get(&search()), LOGIN).header("X-On-Behalf-Of-Idp", "google");
    let answer = world.send(request()).await;
    assert_eq!(answer.refusal(), (403, "caller_not_allowed"));
    assert!(answer.text().contains("create_shoppers"), "{}", answer.text());
    assert!(tsob(&world).is_empty());
    // The error for a caller without permission to act for shoppers names this reason.
    let world = World::with(|config| {
        config["callers"][0].as_table_mut().unwrap()["may"] = toml::Value::Array(vec!["system".into()]);
    })
    .await;
    let answer = world.send(on_behalf(world.get(&search()), LOGIN).header("X-On-Behalf-Of-Idp", "google")).await;
    assert_eq!(answer.refusal(), (403, "caller_not_allowed"));
    assert!(!answer.text().contains("create_shoppers"), "{}", answer.text());
}

#[tokio::test]
async fn on_behalf_name_too_long_for_slas_causes_no_call() {
    let world = World::with(|config| {
        config["callers"][0].as_table_mut().unwrap()["may"] =
            toml::Value::Array(vec!["system".into(), "on_behalf".into(), "create_shoppers".into()]);
    })
    .await;
    let invalid = (400, "request_invalid");
    for (fields, what) in [
        (vec![("X-On-Behalf-Of", "a".repeat(129))], "login"),
        (vec![("X-On-Behalf-Of", "é".repeat(129))], "login in two bytes a character"),
        (vec![("X-On-Behalf-Of", LOGIN.into()), ("X-On-Behalf-Of-Idp", "a".repeat(65))], "identity provider"),
        (vec![("X-On-Behalf-Of", "guest".into()), ("X-On-Behalf-Of-Usid", "a".repeat(129))], "USID"),
    ] {
        let mut request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        for (name, value) in fields {
            request = request.header(name, value);
        }
        assert_eq!(world.send(request).await.refusal(), invalid, "{what}");
    }
    let body = serde_json::json!({"login": "a".repeat(129), "clientId": PUBLIC_CLIENT}).to_string();
    let login = world.post(&customers("/customers/trusted-system/actions/login?siteId=RefArch"));
    let login = login.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).body(body);
    assert_eq!(world.send(login).await.refusal(), invalid, "the body's login");
    assert!(tsob(&world).is_empty(), "{:?}", tsob(&world));
    // The longest login that SLAS accepts, counted in characters.
    for login in ["a".repeat(128), "é".repeat(128)] {
        assert_eq!(world.send(on_behalf(world.get(&search()), &login)).await.refusal(), (404, "shopper_unknown"));
    }
    assert_eq!(tsob(&world).len(), 2);
}

#[tokio::test]
async fn credentials_too_long_for_slas_cause_no_call() {
    let world = World::start().await;
    world.simulator.clear_ledger();
    let answer = world.log_in(PUBLIC_CLIENT, LOGIN, &"p".repeat(3100)).await;
    assert_eq!(answer.refusal(), (401, "login_rejected"));
    assert!(world.simulator.ledger().is_empty(), "{:?}", world.simulator.ledger());
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, &"p".repeat(3000)).await.refusal(), (401, "login_rejected"));
    assert_eq!(world.simulator.count("slas", "login"), 1);
}

#[tokio::test]
async fn token_for_another_site_is_never_used_and_costs_one_call() {
    let world = World::with(|config| {
        // A request without a site is one for the only site.
        config["tenants"][0].as_table_mut().unwrap()["sites"] = toml::Value::Array(vec!["RefArch".into()]);
    })
    .await;
    world.simulator.set(|behaviour| behaviour.tsob_window_ms = 1);
    let token = |change: &dyn Fn(&mut ShopperTokenSpec)| {
        let marks = vec![("tsob".into(), "ts_ext_on_behalf_of".into())];
        let (client_id, site) = (PRIVATE_CLIENT.into(), "RefArchGlobal".into());
        let mut spec = ShopperTokenSpec { client_id, site, marks, ..ShopperTokenSpec::default() };
        change(&mut spec);
        world.simulator.mint_shopper_token(spec)
    };
    let registered = token(&|spec| {
        (spec.login, spec.origin) = (LOGIN.into(), "ecom".into());
        spec.registered_customer_id = Some("abcdefghijklmnopqrstuvwxyz".into());
    });
    let guest = token(&|_| {});
    let login = world.post(&customers("/trusted-system/actions/login?siteId=RefArch"));
    let login = login.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).header("content-type", "application/json");
    let login = login.body(format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#));
    let without_site = products("?ids=793775362380M");
    let requests = [
        (&registered, login),
        (&registered, on_behalf(world.get(&search()), SECOND)),
        (&guest, on_behalf(world.get(&without_site), "guest")),
    ];
    for (issued, request) in &requests {
        let body = serde_json::json!({"access_token": issued, "refresh_token": "r", "expires_in": 1800}).to_string();
        let response = Effect::Status { code: 200, retry_after: None, body: Some(body) };
        world.simulator.inject(Fault::on("slas", response).flow("trusted-system"));
        for _ in 0..5 {
            let answer = world.send(request.try_clone().unwrap()).await;
            assert_eq!(answer.refusal(), (503, "slas_unavailable"), "{}", answer.text());
        }
        assert_eq!(world.simulator.count("slas", "trusted-system"), 1);
        assert!(world.forwarded("shopper-products.getProducts").is_empty());
        world.simulator.clear_faults();
        world.simulator.clear_ledger();
    }
    // SLAS now issues tokens for the right site.
    for (_, request) in &requests {
        eventually("a token is accepted", async || {
            world.send(request.try_clone().unwrap()).await.header("x-shopper-gateway-error").is_none()
        })
        .await;
    }
}
