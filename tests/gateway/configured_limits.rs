//! Every limit of the configuration holds, in enforce mode and in report mode.
//!
//! The list of limits comes from the JSON Schema of the configuration: a new key without an arm in [`holds`] fails
//! here.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault};
use serde_json::Value;

use crate::world::{
    Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, PRIVATE_CLIENT, PUBLIC_CLIENT, World, eventually, eventually_every,
    login_target, products,
};

const MODES: [&str; 2] = ["enforce", "report"];
const TOO_LARGE: &str = "request_too_large";
const OVERLOADED: (u16, &str) = (503, "overloaded");
const RATE_LIMITED: (u16, &str) = (429, "caller_rate_limited");
const SLAS_LIMITED: (u16, &str) = (429, "slas_rate_limited");

/// Sections in which every key is a limit, and parts of the names of limits elsewhere.
const SECTIONS: [&str; 3] = ["limits", "load", "logins"];
const PARTS: [&str; 4] = ["_per_", "capacity", "_streams", "max_concurrent"];

/// Keys that look like limits for clients but are not.
const NOT_CLIENT_LIMITS: [&str; 3] = [
    // The number of cached sessions, and of calls that the gateway makes by itself.
    "sessions.capacity",
    "sessions.background_refreshes_per_minute",
    // The number of exported traces; requests beyond it are served.
    "traces.parent_sampled_per_second",
];

/// The listener checks these limits before the policy. The named tests exceed them.
const LISTENER_LIMITS: [(&str, &str); 9] = [
    ("limits.min_body_rate", "slow_clients.rs"),
    ("limits.connections", "resource_exhaustion.rs"),
    ("limits.connections_per_address", "floods.rs"),
    ("limits.requests", "address_limits.rs"),
    ("limits.requests_per_address", "address_limits.rs"),
    ("limits.incomplete_requests", "address_limits.rs"),
    ("limits.incomplete_requests_per_address", "address_limits.rs"),
    ("limits.held_bodies", "address_limits.rs"),
    ("limits.held_bodies_per_address", "address_limits.rs"),
];

/// The overrides of other limits for single networks.
const NETWORK_LIMITS: &str = "limits.networks";

/// The keys of the configuration that limit clients.
fn client_limits() -> BTreeSet<String> {
    let schema = shopper_gateway::config::schema();
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &schema, "", &mut keys);
    keys.retain(|key| {
        let in_section = SECTIONS.iter().any(|section| key.starts_with(&format!("{section}.")));
        let is_named_so = PARTS.iter().any(|part| key.rsplit('.').next().unwrap().contains(part));
        (in_section || is_named_so) && !NOT_CLIENT_LIMITS.contains(&key.as_str())
    });
    keys
}

/// The paths of all keys below a part of the schema.
fn collect_keys(schema: &Value, part: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(name) = part.get("$ref").and_then(Value::as_str) {
        let definition = schema.pointer(name.trim_start_matches('#')).unwrap();
        return collect_keys(schema, definition, path, keys);
    }
    if let Some(items) = part.get("items") {
        collect_keys(schema, items, path, keys);
    }
    for (name, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        keys.insert(below.clone());
        collect_keys(schema, property, &below, keys);
    }
}

async fn world(mode: &str, change: impl FnOnce(&mut toml::Table)) -> World {
    let world = World::with(|config| {
        set(config, "policy", &format!("mode = \"{mode}\""));
        change(config);
    })
    .await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    world
}

fn set(config: &mut toml::Table, table: &str, keys: &str) {
    let entry = config.entry(table).or_insert_with(|| toml::Table::new().into());
    entry.as_table_mut().unwrap().extend(keys.parse::<toml::Table>().unwrap());
}

fn slas(path: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2{path}")
}

/// A request to an API that the policy allows, and in report mode also one that it refuses. Each must meet the limit.
fn reads(world: &World, mode: &str, token: &str) -> Vec<RequestBuilder> {
    let read = world.get(&products("?ids=a&siteId=RefArch"));
    let mut reads = vec![read.try_clone().unwrap().bearer_auth(token)];
    if mode == "report" {
        reads.push(read.try_clone().unwrap());
        reads.push(read.basic_auth("stranger", Some("x")).header("X-On-Behalf-Of", LOGIN));
    }
    reads
}

/// Sends a request many times at once.
async fn at_once(world: &World, request: &RequestBuilder, number: usize) -> Vec<Answer> {
    futures::future::join_all((0..number).map(|_| world.send(request.try_clone().unwrap()))).await
}

fn count(answers: &[Answer], refusal: (u16, &str)) -> usize {
    answers.iter().filter(|answer| answer.refusal() == refusal).count()
}

/// Exceeds one limit in one mode.
async fn assert_limit_holds(key: &str, mode: &str) {
    match key {
        "limits.body" | "limits.max_header_bytes" | "limits.max_headers" | "limits.max_uri_bytes" => {
            assert_size_limits(key, mode).await
        }
        "limits.max_concurrent_requests" | "limits.queue_timeout" => assert_concurrency_limit(mode).await,
        "load.low_priority" => {
            let world = world(mode, |_| {}).await;
            let token = world.mint(|_| {});
            let status = Some("THROTTLE".to_owned());
            world.simulator.set(|behaviour| (behaviour.load, behaviour.load_status) = (Some(95), status));
            for read in reads(&world, mode, &token) {
                world.send(read.try_clone().unwrap()).await;
                let shed = count(&at_once(&world, &read, 20).await, OVERLOADED);
                assert!(shed >= 15, "{mode}: {shed} of 20");
            }
        }
        "logins.max_concurrent" => {
            let world = world(mode, |config| set(config, "logins", "max_concurrent = 1")).await;
            world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 1500 }));
            let answers = futures::future::join_all((0..4).map(|_| world.guest(PRIVATE_CLIENT))).await;
            assert_eq!(count(&answers, OVERLOADED), 3, "{mode}");
        }
        "logins.failed_per_address" | "logins.failed_per_address_and_login" | "logins.failed_per_login" => {
            assert_failed_login_limits(key, mode).await;
        }
        "limits.slas_calls_per_address" => {
            let world = world(mode, |config| set(config, "limits", "slas_calls_per_address = 3")).await;
            let authorize = world.get(&slas("/authorize?hint=guest"));
            assert_eq!(count(&at_once(&world, &authorize, 8).await, RATE_LIMITED), 5, "{mode}");
        }
        "logins.guests_per_address" => {
            let world = world(mode, |config| set(config, "logins", "guests_per_address = 3")).await;
            let answers = futures::future::join_all((0..8).map(|_| world.guest(PRIVATE_CLIENT))).await;
            assert_eq!(count(&answers, RATE_LIMITED), 5, "{mode}");
        }
        "callers.requests_per_second" | "tenants.slas_clients.requests_per_second" => {
            assert_rate_limits(key, mode).await
        }
        "tenants.slas_requests_per_minute" => assert_slas_rate_limit(mode).await,
        _ if LISTENER_LIMITS.iter().any(|(covered, _)| *covered == key) => {}
        _ => panic!("nothing goes over {key}: add it to tests/gateway/configured_limits.rs, for both modes"),
    }
}

async fn assert_size_limits(key: &str, mode: &str) {
    let world = world(mode, |config| {
        set(config, "limits", "body = 1024\nmax_header_bytes = 4096\nmax_headers = 20\nmax_uri_bytes = 512")
    })
    .await;
    let token = world.mint(|_| {});
    world.simulator.clear_ledger();
    for read in reads(&world, mode, &token) {
        let head = read.build().unwrap();
        let request = match key {
            "limits.body" => world.get(head.url().path()).body("x".repeat(2000)),
            "limits.max_uri_bytes" => world.get(&products(&format!("?ids={}", "a".repeat(600)))),
            "limits.max_headers" => (0..30)
                .fold(world.get(head.url().path()), |request, number| request.header(format!("x-field-{number}"), "x")),
            _ => world.get(head.url().path()).header("x-field", "x".repeat(5000)),
        };
        let request = request.headers(head.headers().clone());
        let answer = world.send(request).await;
        assert_eq!(answer.refusal().1, TOO_LARGE, "{key} {mode}: {}", answer.status);
    }
    let sent = world.simulator.ledger().into_iter().filter(|entry| entry.service == "api").count();
    assert_eq!(sent, 0, "{key} {mode}");
}

async fn assert_concurrency_limit(mode: &str) {
    let world = world(mode, |config| {
        set(config, "limits", "max_concurrent_requests = 2\nqueue_timeout = \"10ms\"");
        set(config, "load", "low_priority = []");
    })
    .await;
    let token = world.mint(|_| {});
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 1500 }));
    for read in reads(&world, mode, &token) {
        world.simulator.clear_ledger();
        let answers = at_once(&world, &read, 20).await;
        assert_eq!(count(&answers, OVERLOADED), 18, "{mode}");
        assert_eq!(world.forwarded("shopper-products.getProducts").len(), 2, "{mode}");
    }
}

async fn assert_failed_login_limits(key: &str, mode: &str) {
    let world = world(mode, |config| {
        let name = key.trim_start_matches("logins.");
        set(config, "logins", "failed_per_address = 0\nfailed_per_address_and_login = 0\nfailed_per_login = 0");
        set(config, "logins", &format!("{name} = 3"));
    })
    .await;
    let challenge = "c".repeat(43);
    let form = [
        ("client_id", PUBLIC_CLIENT),
        ("channel_id", "RefArch"),
        ("redirect_uri", "http://localhost:3000/callback"),
        ("code_challenge", &challenge),
        ("user_id", "ada"),
        ("mode", "sms"),
    ];
    let guess = |login: &str| {
        [
            world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"credentials"}"#).basic_auth(login, Some("x")),
            world.post(&slas("/login")).form(&form).basic_auth(login, Some("x")),
        ]
    };
    for (number, request) in guess("ada@example.com").into_iter().chain(guess(" ADA@example.com")).enumerate() {
        let answer = world.send(request).await;
        assert_eq!(answer.refusal() == RATE_LIMITED, number == 3, "{key} {mode} {number}: {}", answer.text());
    }
    // A login with X-On-Behalf-Of is refused at once, in report mode too.
    for name in ["X-On-Behalf-Of", "x_on_behalf_of", "X-On-Behalf-Of-Idp"] {
        for request in guess("bob@example.com") {
            let answer = world.send(request.header(name, LOGIN)).await;
            assert_eq!(answer.refusal(), (403, "caller_not_allowed"), "{mode} {name}");
        }
    }
    // The policy refuses a request without a token, and report mode forwards it.
    if mode == "report" {
        world.simulator.clear_ledger();
        let request = || world.post(&slas("/otp/request")).form(&form);
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(world.send(request()).await);
        }
        let most = if key == "logins.failed_per_address" { 0 } else { 3 };
        assert_eq!(answers.len() - count(&answers, RATE_LIMITED), most, "{key}");
    }
}

async fn assert_rate_limits(key: &str, mode: &str) {
    let world = world(mode, |config| {
        if key.starts_with("callers") {
            let caller = config["callers"][0].as_table_mut().unwrap();
            caller.insert("requests_per_second".into(), 2.into());
            caller.insert("operations".into(), toml::Value::Array(vec!["orders.getOrder".into()]));
        } else {
            let client = config["tenants"][0]["slas_clients"][0].as_table_mut().unwrap();
            client.insert("requests_per_second".into(), 2.into());
        }
    })
    .await;
    let orders = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders");
    let requests: Vec<RequestBuilder> = if key.starts_with("callers") {
        let as_caller = |target: &str| world.get(target).basic_auth(CALLER_CLIENT, Some("caller-secret"));
        let token = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
        // The caller has no permission for the operation of the second and third request.
        let refused = [as_caller(&orders), world.get(&orders).bearer_auth(token)];
        std::iter::once(as_caller(&format!("{orders}/1")))
            .chain(refused.into_iter().filter(|_| mode == "report"))
            .collect()
    } else {
        let token = world.guest(PUBLIC_CLIENT).await.token();
        let sites = if mode == "report" { &["RefArch", "RefArchGlobal"][..] } else { &["RefArch"] };
        let read = |site: &&str| world.get(&products(&format!("?ids=a&siteId={site}"))).bearer_auth(&token);
        sites.iter().map(read).collect()
    };
    for request in requests {
        // One request alone, so that the gateway has verified its credential and holds its token.
        world.send(request.try_clone().unwrap()).await;
        // A burst of 20 needs a full rate limit. After a failed burst a second passes, in which it refills.
        eventually_every(Duration::from_secs(1), &format!("{key} {mode}: 10 to 18 of 20 are refused"), async || {
            (10..=18).contains(&count(&at_once(&world, &request, 20).await, RATE_LIMITED))
        })
        .await;
    }
}

async fn assert_slas_rate_limit(mode: &str) {
    let world = world(mode, |config| {
        for tenant in config["tenants"].as_array_mut().unwrap() {
            tenant.as_table_mut().unwrap().insert("slas_requests_per_minute".into(), 30.into());
        }
        set(config, "logins", "failed_per_address = 0\nfailed_per_address_and_login = 0\nfailed_per_login = 0");
        set(config, "limits", "slas_calls_per_address = 0");
    })
    .await;
    let authorize = world.get(&slas("/authorize?hint=guest"));
    let form = [("client_id", PUBLIC_CLIENT), ("channel_id", "RefArch"), ("user_id", "ada"), ("mode", "sms")];
    let otp = world.post(&slas("/otp/request")).form(&form);
    let requests = [authorize, otp].into_iter().take(if mode == "report" { 2 } else { 1 });
    for request in requests {
        let limited = count(&at_once(&world, &request, 60).await, SLAS_LIMITED);
        assert!(limited >= 20, "{mode}: {limited} of 60");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_configured_limit_holds_in_both_modes() {
    let keys = client_limits();
    assert!(keys.contains("logins.failed_per_login") && keys.contains("callers.requests_per_second"), "{keys:?}");
    for (key, file) in LISTENER_LIMITS {
        assert!(keys.contains(key), "{key} is no key any more");
        assert!(std::path::Path::new("tests/gateway").join(file).exists(), "{key}");
    }
    for key in keys.iter().filter(|key| !key.starts_with(NETWORK_LIMITS)) {
        for mode in MODES {
            assert_limit_holds(key, mode).await;
        }
    }
}

#[tokio::test]
async fn request_without_token_is_forwarded_in_report_mode_only() {
    // This checks the test above: only the mode decides whether its refused requests are refused or forwarded.
    for mode in MODES {
        let world = world(mode, |_| {}).await;
        for read in reads(&world, "report", "no token").into_iter().skip(1) {
            let answer = world.send(read).await;
            assert_eq!(answer.header("x-shopper-gateway-error").is_none(), mode == "report", "{}", answer.text());
        }
        // SLAS's paths accept X-On-Behalf-Of from no client.
        let caller = world.get(&slas("/userinfo")).basic_auth(CALLER_CLIENT, Some("caller-secret"));
        let answer = world.send(caller.header("X-On-Behalf-Of", LOGIN)).await;
        assert_eq!(answer.refusal(), (StatusCode::FORBIDDEN.as_u16(), "caller_not_allowed"), "{mode}");
        eventually("nothing is under way", async || world.in_flight().await == 0).await;
    }
}
