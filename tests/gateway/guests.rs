//! Trusted systems act on behalf of guests. The USID identifies a guest, and each guest has a token of its own.

use std::collections::BTreeSet;

use futures::future::join_all;
use reqwest::{RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault, LedgerEntry, ShopperTokenSpec};
use serde_json::json;

use crate::{
    callers::CALLER_SECRET,
    on_behalf::claims,
    redis::{Redis, in_redis},
    world::{Answer, CALLER_CLIENT, Gateway, LOGIN, PRIVATE_CLIENT, World, baskets, products},
};

const USID: &str = "x-on-behalf-of-usid";

fn search() -> String {
    products("?ids=793775362380M&siteId=RefArch")
}

/// A request for a guest: for a new one, or the one with this USID.
fn guest(request: RequestBuilder, usid: Option<&str>) -> RequestBuilder {
    let request = request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).header("X-On-Behalf-Of", "guest");
    usid.into_iter().fold(request, |request, usid| request.header("X-On-Behalf-Of-Usid", usid))
}

fn usid(answer: &Answer) -> String {
    answer.header(USID).unwrap_or_else(|| panic!("no USID: {answer:?}")).to_owned()
}

/// Calls to SLAS for tokens on behalf.
fn on_behalf_calls(world: &World) -> Vec<LedgerEntry> {
    let ledger = world.simulator.ledger();
    ledger.into_iter().filter(|entry| entry.service == "slas" && entry.flow.starts_with("trusted-system")).collect()
}

fn customer(entry: &LedgerEntry) -> String {
    claims(entry).split("gcid:").nth(1).unwrap().split("::").next().unwrap().to_owned()
}

async fn new_basket(world: &World, usid: Option<&str>) -> (String, String) {
    let request = world.post(&baskets("?siteId=RefArch")).header("content-type", "application/json").body("{}");
    let answer = world.send(guest(request, usid)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    (answer.json()["basketId"].as_str().unwrap().to_owned(), self::usid(&answer))
}

#[tokio::test]
async fn interleaved_guests_never_share_a_basket() {
    let world = World::start().await;
    let carts = join_all((0..10).map(|_| new_basket(&world, None))).await;
    let (ids, usids): (BTreeSet<_>, BTreeSet<_>) = carts.iter().cloned().unzip();
    assert_eq!((ids.len(), usids.len()), (10, 10), "ten guests: {carts:?}");
    for _ in 0..3 {
        // Each guest can read its own basket, and no other guest can.
        let reads = carts.iter().enumerate().map(async |(number, (basket, usid))| {
            let own = world.get(&baskets(&format!("/{basket}?siteId=RefArch")));
            let own = world.send(guest(own, Some(usid))).await;
            assert_eq!(own.status, StatusCode::OK, "{}", own.text());
            assert_eq!(&self::usid(&own), usid);
            let neighbour = &carts[(number + 1) % carts.len()].0;
            let other = world.get(&baskets(&format!("/{neighbour}?siteId=RefArch")));
            let other = world.send(guest(other, Some(usid))).await;
            assert_eq!((other.status, other.header("x-shopper-gateway-error")), (StatusCode::NOT_FOUND, None));
        });
        join_all(reads).await;
    }
    assert_eq!(on_behalf_calls(&world).len(), 20, "one call for each new guest, one when it is first continued");
    for entry in world.simulator.ledger().iter().filter(|entry| entry.service == "api") {
        assert!(entry.headers.iter().all(|(name, _)| !name.starts_with("x-on-behalf-of")), "{entry:?}");
    }
}

#[tokio::test]
async fn new_guest_token_is_never_cached() {
    let world = World::start().await;
    for login in ["guest", "Guest", "GUEST", "gue\u{17f}t", "guest", "guest"] {
        let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        let value = reqwest::header::HeaderValue::from_bytes(login.as_bytes()).unwrap();
        let answer = world.send(request.header("X-On-Behalf-Of", value)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"), "whoever has the USID continues the guest");
    }
    let forwarded = world.forwarded("shopper-products.getProducts");
    let customers: BTreeSet<_> = forwarded.iter().map(customer).collect();
    assert_eq!((customers.len(), on_behalf_calls(&world).len()), (6, 6));
    let metrics = world.metrics().await;
    assert!(metrics.contains("shopper_gateway_sessions 0"), "{metrics}");
    // The response for a shopper with a login has no USID.
    let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    assert_eq!(world.send(request.header("X-On-Behalf-Of", LOGIN)).await.header(USID), None);
}

#[tokio::test]
async fn continued_guest_keeps_basket_at_two_gateways() {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut world = World::with(|config| in_redis(config, &url)).await;
    let second = Gateway::start(&world.simulator.url(), |config| in_redis(config, &url)).await;
    let (basket, usid) = new_basket(&world, None).await;
    let read = async |world: &World| {
        let request = world.get(&baskets(&format!("/{basket}?siteId=RefArch")));
        let answer = world.send(guest(request, Some(&usid))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(self::usid(&answer), usid);
    };
    for _ in 0..3 {
        read(&world).await;
        let first = world.gateway.address;
        world.gateway.address = second.address;
        read(&world).await;
        world.gateway.address = first;
    }
    assert_eq!(on_behalf_calls(&world).len(), 2, "the continued guest's token is held, by both");
    let form = &on_behalf_calls(&world)[1].body;
    assert!(form.contains(&format!("usid={usid}")) && form.contains("login_id=guest"), "{form}");
}

#[tokio::test]
async fn invalid_or_misplaced_usid_header_is_rejected() {
    let world = World::with(|config| {
        config["callers"].as_array_mut().unwrap()[0]["may"] =
            toml::Value::Array(vec!["on_behalf".into(), "create_shoppers".into()]);
    })
    .await;
    let get = || world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    let of = |login: &str, usid: &str| get().header("X-On-Behalf-Of", login).header("X-On-Behalf-Of-Usid", usid);
    let long = "a".repeat(129);
    for (request, expected) in [
        (of(LOGIN, "a-1"), (400, "request_invalid")),
        (of("guest", ""), (400, "request_invalid")),
        (of("guest", "a b"), (400, "request_invalid")),
        (of("guest", "a/b"), (400, "request_invalid")),
        (of("guest", "a&login_id=x"), (400, "request_invalid")),
        (of("guest", &long), (400, "request_invalid")),
        (of("guest", "a").header("X-On-Behalf-Of-Usid", "b"), (400, "request_ambiguous")),
        (of("guest", "a").header("x_on_behalf_of_usid", "b"), (400, "request_ambiguous")),
        (get().header("X-On-Behalf-Of-Usid", "a"), (400, "request_invalid")),
        (get().header("X-On-Behalf-Of", "guest").header("X-On-Behalf-Of-Idp", "google"), (400, "request_invalid")),
        (of("guest", "a").header("X-On-Behalf-Of-Idp", "google"), (400, "request_invalid")),
        (
            world.get(&search()).header("X-On-Behalf-Of", "guest").header("X-On-Behalf-Of-Usid", "a"),
            (403, "caller_not_allowed"),
        ),
        (of("guest", "a").header("X-On-Behalf-Of-Idp", "ecom"), (200, "none")),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), expected, "{}", answer.text());
    }
    assert_eq!(on_behalf_calls(&world).len(), 1);
}

#[tokio::test]
async fn token_of_another_shopper_is_never_used_for_guest() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.tsob_window_ms = 1);
    let token = |change: &dyn Fn(&mut ShopperTokenSpec)| {
        let marks = vec![("tsob".into(), "ts_ext_on_behalf_of".into())];
        let mut spec = ShopperTokenSpec { client_id: PRIVATE_CLIENT.into(), marks, ..ShopperTokenSpec::default() };
        change(&mut spec);
        world.simulator.mint_shopper_token(spec)
    };
    let registered = |spec: &mut ShopperTokenSpec| {
        (spec.login, spec.origin) = (LOGIN.into(), "ecom".into());
        spec.registered_customer_id = Some("abcdefghijklmnopqrstuvwxyz".into());
    };
    let [guest_usid, other_usid] = ["11111111-aaaa-4aaa-8aaa-111111111111", "22222222-aaaa-4aaa-8aaa-222222222222"];
    let of_usid = |usid: &'static str| move |spec: &mut ShopperTokenSpec| spec.usid = Some(usid.into());
    let of_registered = |spec: &mut ShopperTokenSpec| {
        registered(spec);
        spec.usid = Some(guest_usid.into());
    };
    let login = |request: RequestBuilder| {
        request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).header("X-On-Behalf-Of", LOGIN)
    };
    for (what, given, request) in [
        ("a registered shopper's for a USID", token(&of_registered), guest(world.get(&search()), Some(guest_usid))),
        (
            "another guest's for a USID",
            token(&of_usid(other_usid)),
            guest(world.get(&search()), Some(other_usid.trim_end_matches('2'))),
        ),
        ("a registered shopper's for a new guest", token(&registered), guest(world.get(&search()), None)),
        ("a guest's for a login", token(&of_usid(other_usid)), login(world.get(&search()))),
    ] {
        let body = json!({"access_token": given, "refresh_token": "r", "expires_in": 1800}).to_string();
        let answer = Effect::Status { code: 200, retry_after: None, body: Some(body) };
        world.simulator.inject(Fault::on("slas", answer).flow("trusted-system").times(1));
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), (404, "shopper_unknown"), "{what}: {}", answer.text());
        world.simulator.clear_faults();
    }
    assert!(world.forwarded("shopper-products.getProducts").is_empty());
}

#[tokio::test]
async fn new_guest_stays_the_same_after_api_rejects_token() {
    let world = World::start().await;
    let refused = Effect::Status { code: 401, retry_after: None, body: Some("{}".into()) };
    world.simulator.inject(Fault::on("api", refused).times(1));
    let answer = world.send(guest(world.get(&search()), None)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let sent = world.forwarded("shopper-products.getProducts");
    assert_eq!(sent.iter().map(|entry| entry.status).collect::<Vec<_>>(), [Some(401), Some(200)]);
    assert_eq!(customer(&sent[0]), customer(&sent[1]));
    assert_ne!(sent[0].header("authorization"), sent[1].header("authorization"));
    assert!(on_behalf_calls(&world)[1].body.contains(&format!("usid={}", usid(&answer))));
    assert_eq!(on_behalf_calls(&world).len(), 2);
}

#[tokio::test]
async fn new_guest_counts_against_caller_rate_before_slas_call() {
    let world = World::with(|config| {
        let caller = &mut config["callers"].as_array_mut().unwrap()[0];
        caller.as_table_mut().unwrap().insert("requests_per_second".into(), 5.into());
    })
    .await;
    assert_eq!(world.send(guest(world.get(&search()), None)).await.status, StatusCode::OK);
    let began = std::time::Instant::now();
    let answers = join_all((0..60).map(|_| world.send(guest(world.get(&search()), None)))).await;
    let served = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let limited = answers.iter().filter(|answer| answer.refusal() == (429, "caller_rate_limited")).count();
    let most = 6 + (5.0 * began.elapsed().as_secs_f64()) as usize;
    assert!(served >= 3, "each counts once: {served}");
    assert_eq!(served + limited, 60);
    assert_eq!(on_behalf_calls(&world).len(), served + 1);
    assert!(served <= most, "{served} of {most}");
}

#[tokio::test]
async fn rejected_requests_count_against_caller_rate() {
    let world = World::with(|config| {
        let caller = config["callers"][0].as_table_mut().unwrap();
        caller.insert("requests_per_second".into(), 2.into());
        caller.insert("operations".into(), toml::Value::Array(vec!["shopper-baskets.*".into()]));
    })
    .await;
    let orders = "/checkout/orders/v1/organizations/f_ecom_zzrf_001/orders?siteId=RefArch";
    let order = || world.get(orders).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    for request in [&|| guest(world.get(&search()), None), &order as &dyn Fn() -> RequestBuilder] {
        let first = std::time::Instant::now();
        let answers = join_all((0..30).map(|_| world.send(request()))).await;
        let count = |refusal| answers.iter().filter(|answer| answer.refusal() == refusal).count();
        let (forbidden, limited) = (count((403, "caller_not_allowed")), count((429, "caller_rate_limited")));
        assert_eq!(forbidden + limited, 30);
        let most = 3 + (2.0 * first.elapsed().as_secs_f64()) as usize;
        assert!(forbidden <= most, "{forbidden} of {most}");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(on_behalf_calls(&world).is_empty());
}

#[tokio::test]
async fn conflict_of_guest_logins_is_retried_by_each() {
    let world = World::start().await;
    let conflict = Effect::Status { code: 409, retry_after: None, body: Some("{}".into()) };
    world.simulator.inject(Fault::on("slas", conflict).flow("trusted-system").times(2));
    let answers = join_all((0..2).map(|_| world.send(guest(world.get(&search()), None)))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "{answers:?}");
    assert_ne!(usid(&answers[0]), usid(&answers[1]));
    assert_eq!(on_behalf_calls(&world).len(), 4);
}
