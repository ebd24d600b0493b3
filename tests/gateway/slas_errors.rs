//! What the gateway does on SLAS's published refusals, in their published form.

use std::time::Duration;

use reqwest::StatusCode;
use salesforce_simulator::{Effect, Fault};

use crate::{
    callers::CALLER_SECRET,
    world::{CALLER_CLIENT, LOGIN, PUBLIC_CLIENT, World, expired, products},
};

const VOID: &str = r#"{"error":"invalid_request","error_description":"Bad or missing refresh token."}"#;

fn refuse(world: &World, body: &str) {
    let refusal = Effect::Status { code: 400, retry_after: None, body: Some(body.into()) };
    world.simulator.inject(Fault::on("slas", refusal).flow("token:refresh_token"));
}

fn search() -> String {
    products("?ids=793775362380M&siteId=RefArch")
}

#[tokio::test]
async fn void_refresh_token_in_slas_published_form_ends_the_session_after_one_call() {
    let world = World::with(|_| {}).await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
    let token = world.guest(PUBLIC_CLIENT).await.token();
    expired(&token).await;
    refuse(&world, VOID);
    for _ in 0..3 {
        let answer = world.send(world.get(&search()).bearer_auth(&token)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.text());
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
}

#[tokio::test]
async fn void_refresh_token_of_a_token_on_behalf_begins_a_new_session() {
    let world = World::with(|_| {}).await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 1;
        behaviour.tsob_window_ms = 100;
    });
    let on_behalf = || {
        let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        world.send(request.header("X-On-Behalf-Of", LOGIN))
    };
    assert_eq!(on_behalf().await.status, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    refuse(&world, VOID);
    let answer = on_behalf().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}
