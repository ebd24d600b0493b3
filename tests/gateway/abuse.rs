//! Abuse of trusted systems' permissions, and failures of the services behind them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt, future::join_all, stream};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault, LedgerEntry, ResetAt};
use serde_json::json;

use crate::{
    callers::CALLER_SECRET,
    on_behalf::claims,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PUBLIC_CLIENT, World, baskets, customers, login_target,
        products,
    },
};

fn search(ids: &str) -> String {
    products(&format!("?ids={ids}&siteId=RefArch"))
}

fn orders() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn basic(request: RequestBuilder) -> RequestBuilder {
    request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))
}

/// A world whose caller has `create_shoppers`, so that a test can use any number of shoppers.
async fn world_with_create_shoppers(change: impl FnOnce(&mut toml::Table)) -> World {
    World::with(|config| {
        config["callers"][0]["may"] =
            toml::Value::Array(vec!["system".into(), "on_behalf".into(), "create_shoppers".into()]);
        change(config);
    })
    .await
}

fn refused(code: u16) -> Effect {
    Effect::Status { code, retry_after: None, body: Some("{}".into()) }
}

fn exchanges(world: &World) -> usize {
    world.simulator.count("account_manager", "access_token")
}

/// 10,000 requests for 50 shoppers, and some requests of shoppers, run at once. Meanwhile tokens expire, and SLAS and
/// the API fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_never_shared_between_shoppers() {
    const REQUESTS: usize = 10_000;
    const LOGINS: usize = 50;
    let world = world_with_create_shoppers(|_| {}).await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 3;
        behaviour.tsob_window_ms = 0;
    });
    let system = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    let guests: Vec<String> = (0..LOGINS)
        .map(|number| {
            world.mint(|spec| {
                spec.guest_customer_id = Some(format!("guest{number}"));
                spec.lifetime_seconds = Some(600);
            })
        })
        .collect();
    let h2 = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let done = AtomicUsize::new(0);
    let send = |number: usize| {
        let (world, h2, system, guests, done) = (&world, &h2, &system, &guests, &done);
        async move {
            // A pseudo-random sequence, the same in each run.
            let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            let who = random % LOGINS;
            if number.is_multiple_of(100) {
                let (service, effect) = match (number / 100) % 6 {
                    0 => ("api", refused(401)),
                    1 => ("slas", refused(500)),
                    2 => ("slas", refused(409)),
                    3 => ("api", Effect::Reset { at: ResetAt::Before }),
                    4 => (
                        "slas",
                        Effect::Status {
                            code: 400,
                            retry_after: None,
                            body: Some(r#"{"error":"invalid_grant"}"#.into()),
                        },
                    ),
                    _ => ("slas", Effect::Delay { ms: 200 }),
                };
                let fault = Fault::on(service, effect).times(5);
                world.simulator.inject(if service == "slas" { fault.flow("token:refresh_token") } else { fault });
            }
            let client = if random & 64 == 0 { &world.client } else { h2 };
            let is_guest = random & 1920 == 0;
            let mark = if is_guest { format!("guest{who}") } else { format!("user{who}") };
            let request = client.get(format!("http://{}{}", world.gateway.address, search(&mark)));
            let request = if is_guest {
                request.bearer_auth(&guests[who])
            } else {
                let request = if random & 256 == 0 { basic(request) } else { request.bearer_auth(system) };
                request.header("X-On-Behalf-Of", format!("user{who}")).header("X-On-Behalf-Of-Idp", "google")
            };
            let answer = world.send(request).await;
            assert_eq!(answer.header("authorization"), None, "nobody's token is handed out");
            done.fetch_add(usize::from(answer.status == StatusCode::OK), Ordering::Relaxed);
        }
    };
    stream::iter(0..REQUESTS).map(send).buffer_unordered(64).collect::<Vec<()>>().await;
    let sent = world.forwarded("shopper-products.getProducts");
    // While SLAS fails, expired tokens are refused without a call. Their number depends on the machine's speed.
    assert!(sent.len() >= REQUESTS / 10, "{} of {REQUESTS} came through", sent.len());
    assert!(done.load(Ordering::Relaxed) >= REQUESTS / 10, "{done:?}");
    let mut mismatches = 0;
    for entry in &sent {
        let claims = claims(entry);
        let mark = entry.query.split(['=', '&']).nth(1).unwrap();
        let own = if mark.starts_with("guest") { format!("::gcid:{mark}::") } else { format!("::upn:{mark}::") };
        mismatches += usize::from(!claims.contains(&own));
    }
    assert_eq!(mismatches, 0);
    let metrics = world.metrics().await;
    assert!(!metrics.contains("user1") && !metrics.contains("google"), "no label is a caller's to choose");
}

#[tokio::test]
async fn requests_with_refused_token_share_one_replacement() {
    let world = World::start().await;
    for on_behalf in [false, true] {
        let request = || {
            let request = basic(world.get(&if on_behalf { search("a") } else { orders() }));
            if on_behalf { request.header("X-On-Behalf-Of", LOGIN) } else { request }
        };
        assert_eq!(world.send(request()).await.status, StatusCode::OK);
        world.simulator.clear_ledger();
        world.simulator.inject(Fault::on("api", Effect::Delay { ms: 300 }).times(30));
        world.simulator.inject(Fault::on("api", refused(401)).times(30));
        let answers = join_all((0..30).map(|_| world.send(request()))).await;
        let good = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
        assert_eq!(good, 30, "on behalf: {on_behalf}");
        let got = if on_behalf { world.simulator.count("slas", "token:refresh_token") } else { exchanges(&world) };
        assert_eq!(got, 1, "one replacement for all; on behalf: {on_behalf}");
        world.simulator.clear_faults();
    }
}

#[tokio::test]
async fn concurrent_secret_guesses_are_limited() {
    let world = World::start().await;
    world.simulator.inject(Fault::on("account_manager", Effect::Delay { ms: 200 }).flow("access_token"));
    let guess = |number: usize| world.get(&orders()).basic_auth(CALLER_CLIENT, Some(format!("guess-{number}")));
    let answers = join_all((0..300).map(|number| world.send(guess(number)))).await;
    for answer in &answers {
        assert!(matches!(answer.status.as_u16(), 401 | 429), "{}", answer.status);
    }
    assert!(exchanges(&world) < 20, "{} guesses were shown to Account Manager", exchanges(&world));
    // A client that has authenticated with one scope does not wait with another scope.
    let world = World::start().await;
    assert_eq!(world.send(basic(world.get(&orders()))).await.status, StatusCode::OK);
    join_all(
        (0..50).map(|number| world.send(world.get(&orders()).basic_auth(CALLER_CLIENT, Some(number.to_string())))),
    )
    .await;
    let answer = world.send(basic(world.get(&search("a"))).header("X-On-Behalf-Of", LOGIN)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test]
async fn caller_that_starts_with_many_operations_is_not_limited_as_guesser() {
    let world = World::with(|config| config["callers"][0]["operations"] = toml::Value::Array(vec!["*".into()])).await;
    let operations = shopper_gateway::gateway::policy::Operations::published().unwrap();
    let mut of_systems = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.method == Method::GET && operation.accepts_system())
    {
        let target = operation.template.replace("{organizationId}", ORGANIZATION).replace(['{', '}'], "");
        of_systems.entry(operation.api.clone()).or_insert(target);
    }
    of_systems.retain(|_, target| target.contains(ORGANIZATION));
    assert!(of_systems.len() > 12, "{of_systems:?}");
    world.simulator.inject(Fault::on("account_manager", Effect::Delay { ms: 100 }).flow("access_token"));
    for answer in join_all(of_systems.values().map(|target| world.send(basic(world.get(target))))).await {
        assert_ne!(answer.status.as_u16(), 429, "{}", answer.text());
        assert_ne!(answer.status.as_u16(), 401, "{}", answer.text());
    }
}

#[tokio::test]
async fn account_manager_response_with_odd_values_is_handled() {
    let world = World::start().await;
    let huge = "18446744073709551615";
    for effect in [
        Effect::Status { code: 429, retry_after: Some(huge.into()), body: None },
        Effect::Status {
            code: 200,
            retry_after: None,
            body: Some(format!(r#"{{"access_token":"a.b.c","token_type":"Bearer","expires_in":{huge}}}"#)),
        },
        Effect::Status {
            code: 200,
            retry_after: None,
            body: Some(r#"{"access_token":"a\nb","token_type":"Bearer","expires_in":1799}"#.into()),
        },
        Effect::Status {
            code: 200,
            retry_after: None,
            body: Some(r#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":0}"#.into()),
        },
        Effect::Garbage { html: true },
        Effect::HugeBody { bytes: 20_000_000 },
        Effect::Truncate,
    ] {
        let world = World::start().await;
        let shown = format!("{effect:?}");
        world.simulator.inject(Fault::on("account_manager", effect).flow("access_token"));
        for _ in 0..2 {
            let answer = world.send(basic(world.get(&orders()))).await;
            // The API refuses a value that is no token.
            let is_told = answer.status == StatusCode::UNAUTHORIZED && answer.refusal().1 == "none";
            assert!(is_told || answer.status == StatusCode::SERVICE_UNAVAILABLE, "{shown}: {}", answer.text());
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!(wait <= 3600, "{shown}: nobody waits for {wait} seconds");
            }
        }
    }
    assert_eq!(world.send(basic(world.get(&orders()))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn on_behalf_login_reaches_slas_unchanged() {
    let world = world_with_create_shoppers(|_| {}).await;
    for login in ["Zoë.Müller@example.com", "100%25 + a/b?c&login_id=x;=\"'<>@example.com", "a b\tc", "山田@example.jp"]
    {
        let request = basic(world.get(&search("a"))).header("X-On-Behalf-Of", login.as_bytes());
        let answer = world.send(request.header("X-On-Behalf-Of-Idp", "google")).await;
        if login.contains('\t') {
            assert_eq!(answer.refusal(), (400, "request_invalid"));
            continue;
        }
        assert_eq!(answer.status, StatusCode::OK, "{login}: {}", answer.text());
        let claims: serde_json::Value =
            serde_json::from_str(&claims(world.forwarded("shopper-products.getProducts").last().unwrap())).unwrap();
        let isb = claims["isb"].as_str().unwrap();
        assert!(isb.contains(&format!("::upn:{login}::")), "{isb}");
    }
    // A login that the token's claims would show as another shopper gets no token.
    let before = world.forwarded("shopper-products.getProducts").len();
    for login in ["x::rcid:someone", "x::tsob:x", "x::chid:RefArchGlobal"] {
        let request = basic(world.get(&search("a"))).header("X-On-Behalf-Of", login);
        let answer = world.send(request.header("X-On-Behalf-Of-Idp", "google")).await;
        assert_eq!(answer.refusal(), (503, "slas_unavailable"), "{login}");
    }
    assert_eq!(world.forwarded("shopper-products.getProducts").len(), before);
    // Logins in Latin-1, with an invalid byte, blank or too long are refused.
    for bytes in [&b"Zo\xeb@example.com"[..], b"\xff", b" ", &[b'a'; 1025]] {
        let answer = world.send(basic(world.get(&search("a"))).header("X-On-Behalf-Of", bytes)).await;
        assert_eq!(answer.refusal(), (400, "request_invalid"), "{bytes:?}");
    }
}

#[tokio::test]
async fn trusted_system_login_rejects_invalid_and_guest_logins() {
    let world = World::start().await;
    let target = customers("/customers/trusted-system/actions/login?siteId=RefArch");
    let send = async |login: &str| {
        let body = json!({"login": login, "clientId": PUBLIC_CLIENT}).to_string();
        world.send(basic(world.post(&target)).header("content-type", "application/json").body(body)).await
    };
    let long = "a".repeat(1025);
    for login in ["", " ", "a\u{0}b", "a\r\nb", "a\u{85}b", &long] {
        assert_eq!(send(login).await.refusal(), (400, "request_invalid"), "{login:?}");
    }
    // The deprecated login served registered shoppers only; one guest's token would be shared by all callers.
    for login in ["guest", "Guest", "GUEST"] {
        assert_eq!(send(login).await.refusal(), (404, "shopper_unknown"), "{login:?}");
    }
    assert_eq!(world.simulator.count("slas", "trusted-system"), 0);
}

#[tokio::test]
async fn x_on_behalf_of_is_rejected_by_logins_and_slas_endpoints() {
    let world = World::start().await;
    let guest = world.guest(PUBLIC_CLIENT).await.token();
    let body = json!({"login": LOGIN, "clientId": PUBLIC_CLIENT}).to_string();
    let jwks = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/jwks");
    let logins = world.simulator.ledger().len();
    for name in ["X-On-Behalf-Of", "x_on_behalf_of", "X-On-Behalf-Of-Idp"] {
        for request in [
            world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"guest"}"#),
            world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(&guest).body(r#"{"type":"refresh"}"#),
            world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch")).bearer_auth(&guest),
            basic(world.post(&customers("/customers/trusted-system/actions/login?siteId=RefArch"))).body(body.clone()),
            world.get(&jwks),
        ] {
            let answer = world.send(request.header(name, LOGIN)).await;
            assert_eq!(answer.refusal(), (403, "caller_not_allowed"), "{name}");
        }
    }
    assert_eq!(world.simulator.ledger().len(), logins);
    let nominated = format!(
        "GET {} HTTP/1.1\r\nHost: a\r\nConnection: X-On-Behalf-Of\r\nX-On-Behalf-Of: {LOGIN}\r\n\r\n",
        search("a")
    );
    assert!(world.raw(nominated.as_bytes()).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn report_mode_forwards_no_caller_secret_and_no_on_behalf_header() {
    let world = World::with(|config| {
        config.insert("policy".into(), "mode = 'report'".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let shopper = world.mint(|_| {});
    for request in [
        basic(world.get(&search("a"))).header("X-On-Behalf-Of", "nobody@example.com"),
        world.get(&search("a")).basic_auth(CALLER_CLIENT, Some("wrong-secret")).header("X-On-Behalf-Of", LOGIN),
        world.get(&search("a")).basic_auth("stranger", Some("wrong-secret")).header("x_on_behalf_of", LOGIN),
        world.get(&search("a")).bearer_auth(&shopper).header("X-On-Behalf-Of", LOGIN),
        world.get(&orders()).basic_auth("stranger", Some("wrong-secret")),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.header("x-shopper-gateway-error"), None, "only reported: {}", answer.text());
    }
    let sent: Vec<LedgerEntry> = world.simulator.ledger().into_iter().filter(|entry| entry.service == "api").collect();
    assert_eq!(sent.len(), 5);
    for entry in sent {
        for (name, value) in &entry.headers {
            assert!(!name.replace('_', "-").starts_with("x-on-behalf-of"), "{name}");
            assert!(!value.starts_with("Basic") && !value.contains(LOGIN), "{name}: {value}");
        }
    }
    // Report mode refuses a trusted login too, because no upstream operation could serve it.
    let target = customers("/customers/trusted-system/actions/login?siteId=RefArch");
    let answer = world.send(world.post(&target).body("{}")).await;
    assert_eq!(answer.refusal(), (401, "token_missing"));
}

#[tokio::test]
async fn on_behalf_tokens_are_separate_for_each_organization() {
    let world = World::with(|config| {
        config["callers"][0]["organizations"] =
            toml::Value::Array(vec![ORGANIZATION.into(), OTHER_ORGANIZATION.into()]);
        config["callers"][0]["may"] = toml::Value::Array(vec!["on_behalf".into(), "create_shoppers".into()]);
    })
    .await;
    let token = |tenant: &str| world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], tenant, 600);
    for (organization, site) in [(ORGANIZATION, "RefArch"), (OTHER_ORGANIZATION, "SiteGenesis")].repeat(2) {
        let target = search("a").replace(ORGANIZATION, organization).replace("RefArch", site);
        let request = world
            .get(&target)
            .bearer_auth(token(&organization["f_ecom_".len()..]))
            .header("X-On-Behalf-Of", "ada@example.com");
        let answer = world.send(request.header("X-On-Behalf-Of-Idp", "google")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let claims = claims(world.forwarded("shopper-products.getProducts").last().unwrap());
        assert!(claims.contains(&format!("prod/{}", &organization["f_ecom_".len()..])), "{claims}");
    }
    assert_eq!(world.simulator.count("slas", "trusted-system"), 2);
    // A token of one tenant's client is valid for that tenant only.
    let target = search("a").replace(ORGANIZATION, OTHER_ORGANIZATION).replace("RefArch", "SiteGenesis");
    for (request, refusal) in [
        (world.get(&target).bearer_auth(token("zzrf_001")), (403, "token_wrong_organization")),
        (basic(world.get(&target)), (403, "caller_not_allowed")),
    ] {
        assert_eq!(world.send(request.header("X-On-Behalf-Of", LOGIN)).await.refusal(), refusal);
    }
}

#[tokio::test]
async fn request_body_is_sent_again_after_401_over_http_2() {
    let json = |request: RequestBuilder| {
        basic(request).header("content-type", "application/json").header("X-On-Behalf-Of", LOGIN)
    };
    for (padding, status) in [(0, 200), (60_000, 200), (200_000, 401)] {
        let mut world = World::start().await;
        world.client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let basket = world.send(json(world.post(&baskets("?siteId=RefArch"))).body("{}")).await;
        let items = baskets(&format!("/{}/items?siteId=RefArch", basket.json()["basketId"].as_str().unwrap()));
        world.simulator.inject(Fault::on("api", refused(401)).times(1));
        let body = format!(r#"[{{"productId":"793775362380M","quantity":1,"c_padding":"{}"}}]"#, "a".repeat(padding));
        let answer = world.send(json(world.post(&items)).body(body.clone())).await;
        assert_eq!(answer.status.as_u16(), status, "{padding}: {}", answer.text());
        let sent = world.forwarded("shopper-baskets-v1.addItemToBasket");
        assert_eq!(sent.len(), if status == 200 { 2 } else { 1 });
        assert!(sent.iter().all(|entry| entry.body_length == body.len()), "{padding}");
    }
}

#[tokio::test]
async fn failing_slas_is_reported_in_time_and_called_at_most_twice() {
    for (effect, refusal) in [
        (refused(409), (409, "login_conflict")),
        (refused(500), (503, "slas_unavailable")),
        (Effect::Hang, (503, "slas_unavailable")),
        (Effect::Garbage { html: false }, (503, "slas_unavailable")),
        (refused(401), (503, "slas_unavailable")),
        (Effect::Status { code: 429, retry_after: Some("7".into()), body: None }, (429, "slas_rate_limited")),
    ] {
        let world = World::with(|config| {
            config.insert("timeouts".into(), "upstream = '5s'\nexchange = '1s'".parse::<toml::Table>().unwrap().into());
        })
        .await;
        let shown = format!("{effect:?}");
        world.simulator.inject(Fault::on("slas", effect).flow("trusted-system"));
        let ask = || world.send(basic(world.get(&search("a"))).header("X-On-Behalf-Of", LOGIN));
        for answer in join_all((0..20).map(|_| ask())).await {
            assert_eq!(answer.refusal(), refusal, "{shown}");
        }
        let before = world.simulator.count("slas", "trusted-system");
        assert!(before <= 2, "{shown}: {before} calls");
        ask().await;
        assert_eq!(world.simulator.count("slas", "trusted-system"), before, "{shown}: not asked again at once");
    }
}
