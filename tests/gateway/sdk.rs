//! Salesforce's SDKs, unmodified, run in Node against the gateway.
//!
//! Each file in `tests/sdk` runs with its own gateway and simulator, whose addresses are in environment variables.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    callers::CALLER_SECRET,
    node_tests,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, STRICT_CLIENT, World,
        register_sessions,
    },
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk");

#[tokio::test]
async fn isomorphic_sdk_1_keeps_removed_logins() {
    run_file("isomorphic-1.test.mjs").await;
}

#[tokio::test]
async fn node_sdk_2_keeps_removed_logins() {
    run_file("node-2.test.mjs").await;
}

#[tokio::test]
async fn isomorphic_sdk_5_logs_in_to_slas_through_gateway() {
    run_file("isomorphic-5.test.mjs").await;
}

#[tokio::test]
async fn isomorphic_sdk_5_continues_after_gateway_refresh() {
    let world = World::with(register_sessions).await;
    world.simulator.set(|behaviour| {
        behaviour.enforce_windows = false;
        behaviour.shopper_token_seconds = 4;
    });
    run_file_in(&world, "isomorphic-5-sessions.test.mjs").await;
}

#[tokio::test]
async fn shops_with_removed_logins_work_end_to_end() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    run_file_in(&world, "use-cases.test.mjs").await;
    // A caller's own credentials are never forwarded.
    for entry in world.simulator.ledger().iter().filter(|entry| entry.service != "account_manager") {
        assert!(!format!("{:?}{}", entry.headers, entry.body).contains(CALLER_SECRET), "{}", entry.flow);
        assert!(entry.header("x-on-behalf-of").is_none(), "{}", entry.flow);
    }
    let on_behalf = world.simulator.count("slas", "trusted-system");
    assert!((1..=5).contains(&on_behalf), "one token, used by all: {on_behalf}");
}

#[tokio::test]
async fn basket_survives_thirty_token_lifetimes_without_client_refresh() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 4);
    run_file_in(&world, "lifetimes.test.mjs").await;
    // Thirty token lifetimes of two sessions; a request each second finds a token due after three or four.
    let refreshes = world.simulator.count("slas", "token:refresh_token");
    assert!(refreshes >= 50, "{refreshes} refreshes");
}

#[tokio::test]
async fn newest_sdks_call_only_known_operations() {
    run(&World::start().await, "operations.test.mjs").await;
}

/// Runs one file of tests in a world of its own.
async fn run_file(file: &str) {
    let world = World::start().await;
    // One shopper logs in many times a second in this test.
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    run_file_in(&world, file).await;
}

/// Runs one file of tests in this world.
async fn run_file_in(world: &World, file: &str) {
    run(world, file).await;
    assert!(world.simulator.count("slas", "token:authorization_code_pkce") > 0, "{file} never logged anyone in");
}

/// Runs one file of tests, and fails with its output.
async fn run(world: &World, file: &str) {
    let scopes = ["sfcc.shopper-customers.login", "sfcc.orders.rw"];
    let token = world.simulator.mint_account_manager_token(CALLER_CLIENT, &scopes, "zzrf_001", 600);
    let environment = [
        ("GATEWAY_URL", &*format!("http://{}", world.gateway.address)),
        ("ORGANIZATION", ORGANIZATION),
        ("SITE", "RefArch"),
        ("REDIRECT_URI", "http://localhost:3000/callback"),
        ("PUBLIC_CLIENT", PUBLIC_CLIENT),
        ("PRIVATE_CLIENT", PRIVATE_CLIENT),
        ("STRICT_CLIENT", STRICT_CLIENT),
        ("CALLBACK_URI", "http://localhost:3000/delivery"),
        ("PRIVATE_CLIENT_SECRET", "private-client-secret"),
        ("CALLER_TOKEN", &token),
        ("CALLER_BASIC", &STANDARD.encode(format!("{CALLER_CLIENT}:{CALLER_SECRET}"))),
        ("TOKEN_SECONDS", "4"),
        ("LIFETIMES", "30"),
        ("SHOPPER_LOGIN", LOGIN),
        ("SHOPPER_PASSWORD", PASSWORD),
    ];
    node_tests::run(FOLDER, file, &environment).await;
}
