//! Every call to Salesforce carries the correlation id of its request. A call without a request has an id of its own.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use reqwest::{Method, RequestBuilder};
use salesforce_simulator::{Effect, Fault, LedgerEntry, Seed};
use serde_json::json;

use crate::{
    callers::CALLER_SECRET,
    replica::{BINARY, Replica},
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, STRICT_CLIENT, World, customers,
        eventually, expired, install_cryptography, login_target, products, register_sessions,
    },
};

const SLAS_TOKEN: &str = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/token";

fn search() -> String {
    products("?ids=793775362380M&siteId=RefArch")
}

fn id_of(entry: &LedgerEntry) -> &str {
    let ids: Vec<&str> =
        entry.headers.iter().filter(|(name, _)| name == "correlation-id").map(|(_, value)| value.as_str()).collect();
    let [id] = ids.as_slice() else { panic!("{} {} has {ids:?}", entry.service, entry.flow) };
    id
}

/// Sends a request with a correlation id, and returns the calls that carried it, as `service flow`. All calls meanwhile
/// must carry it.
async fn calls_for(world: &World, id: &str, request: RequestBuilder) -> BTreeSet<String> {
    world.simulator.clear_ledger();
    let answer = world.send(request.header("correlation-id", id)).await;
    assert!(answer.status.is_success(), "{id}: {} {}", answer.status, answer.text());
    assert_eq!(answer.header("correlation-id"), Some(id));
    let ledger = world.simulator.ledger();
    for entry in &ledger {
        assert_eq!(id_of(entry), id, "{} {}", entry.service, entry.flow);
    }
    ledger.iter().map(|entry| format!("{} {}", entry.service, entry.flow)).collect()
}

fn set(calls: &[&str]) -> BTreeSet<String> {
    calls.iter().map(|call| (*call).to_owned()).collect()
}

#[tokio::test]
async fn login_refresh_and_logout_calls_carry_request_id() {
    let world = World::start().await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 2;
        behaviour.enforce_windows = false;
    });
    let guest = |client: &str| world.post(&login_target(client)).body(r#"{"type":"guest"}"#);
    assert_eq!(
        calls_for(&world, "guest", guest(PUBLIC_CLIENT)).await,
        set(&["slas authorize:guest", "slas token:authorization_code_pkce"])
    );
    assert_eq!(calls_for(&world, "private", guest(PRIVATE_CLIENT)).await, set(&["slas token:client_credentials"]));
    let registered = |client: &str| {
        world.post(&login_target(client)).basic_auth(LOGIN, Some(PASSWORD)).body(r#"{"type":"credentials"}"#)
    };
    let login = set(&["slas login", "slas token:authorization_code_pkce", "api shopper-customers.getCustomer"]);
    assert_eq!(calls_for(&world, "strict", registered(STRICT_CLIENT)).await, login);
    assert_eq!(calls_for(&world, "registered", registered(PUBLIC_CLIENT)).await, login);

    let token = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.token();
    expired(&token).await;
    assert_eq!(
        calls_for(&world, "refresh", world.get(&search()).bearer_auth(&token)).await,
        set(&["slas token:refresh_token", "api shopper-products.getProducts"])
    );
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
    let token = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.token();
    let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
    assert_eq!(calls_for(&world, "logout", logout.bearer_auth(&token)).await, set(&["slas logout"]));
}

#[tokio::test]
async fn trusted_system_calls_carry_request_id() {
    let world = World::start().await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 2;
        behaviour.enforce_windows = false;
    });
    let on_behalf = |login: &str| {
        let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        request.header("X-On-Behalf-Of", login)
    };
    let seen = calls_for(&world, "first", on_behalf(LOGIN)).await;
    let expected = ["account_manager access_token", "api", "slas trusted-system"];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for begin in expected {
        assert!(seen.iter().any(|call| call.starts_with(begin)), "{begin}: {seen:?}");
    }
    let sent = world.forwarded("shopper-products.getProducts");
    expired(sent[0].header("authorization").unwrap().strip_prefix("Bearer ").unwrap()).await;
    let seen = calls_for(&world, "again", on_behalf(LOGIN)).await;
    assert!(seen.contains("slas token:refresh_token"), "{seen:?}");
    assert!(
        calls_for(&world, "new-guest", on_behalf("guest")).await.iter().any(|call| call.starts_with("slas trusted"))
    );

    let body = json!({"login": LOGIN, "clientId": PUBLIC_CLIENT}).to_string();
    let login = world.post(&customers("/customers/trusted-system/actions/login?siteId=RefArch"));
    let login = login.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).body(body);
    let seen = calls_for(&world, "trusted-login", login).await;
    assert!(seen.contains("api shopper-customers.getCustomer"), "{seen:?}");
    // A token that the API refuses is replaced for the same request.
    let refused = Effect::Status { code: 401, retry_after: None, body: None };
    world.simulator.inject(Fault::on("api", refused).flow("shopper-products.getProducts").times(1));
    let seen = calls_for(&world, "replaced", on_behalf("guest")).await;
    assert!(seen.iter().any(|call| call.starts_with("slas trusted")), "{seen:?}");
}

#[tokio::test]
async fn refresh_by_client_carries_request_id_once() {
    let world = World::with(register_sessions).await;
    let token = |form: &[(&str, &str)]| {
        let request = world.post(SLAS_TOKEN).basic_auth(PRIVATE_CLIENT, Some("private-client-secret"));
        request.form(form)
    };
    assert!(SLAS_TOKEN.contains(ORGANIZATION));
    let login = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    assert_eq!(calls_for(&world, "own-login", token(&login)).await, set(&["slas token:client_credentials"]));
    let answer = world.send(token(&login)).await.json();
    let refresh_token = answer["refresh_token"].as_str().unwrap();
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("channel_id", "RefArch")];
    assert_eq!(calls_for(&world, "own-refresh", token(&refresh)).await, set(&["slas token:refresh_token"]));
}

#[tokio::test]
async fn background_call_has_its_own_id_in_log() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let down = Effect::Status { code: 500, retry_after: None, body: None };
    simulator.inject(Fault::on("slas", down).flow("jwks").times(1));
    let mut command = Command::new(BINARY);
    command.env("RUST_LOG", "info").stderr(Stdio::piped());
    let mut replica = Replica::start_by(&mut command, &simulator.url(), |_| {}).await;
    let (lines, log) = channel();
    let stderr = BufReader::new(replica.take_stderr());
    thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
    let line = loop {
        let line = log.recv_timeout(Duration::from_secs(20)).expect("a line about the key set");
        if line.contains("key set fetch failed") {
            break line;
        }
    };
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let id = line["correlation_id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 36, "{id}");
    eventually("the call that failed has that id", async || {
        let ledger = simulator.ledger();
        ledger.iter().any(|entry| entry.flow == "jwks" && id_of(entry) == id)
    })
    .await;
    let ids: Vec<String> = simulator.ledger().iter().map(|entry| id_of(entry).to_owned()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each call has its own: {ids:?}");
    replica.terminate();
    assert_eq!(replica.wait().await, Some(0));
}
