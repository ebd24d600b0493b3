//! Injected faults, and their end.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use salesforce_simulator::{Effect, Fault, ResetAt};
use serde_json::json;

use crate::caller::*;

fn guest(caller: &Caller) -> reqwest::RequestBuilder {
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    caller.token(&form).basic_auth(PRIVATE, Some(SECRET))
}

#[tokio::test]
async fn status_fault_hits_only_its_flow_and_ends_after_its_count() {
    let caller = Caller::new().await;
    let effect = Effect::Status { code: 503, retry_after: Some("7".into()), body: Some("{\"error\":\"x\"}".into()) };
    caller.simulator.inject(Fault::on("slas", effect).flow("token:client_credentials").times(2));
    assert_eq!(caller.slas(Method::GET, "jwks").send().await.unwrap().status(), StatusCode::OK);
    for _ in 0..2 {
        let answer = guest(&caller).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "7");
        assert_eq!(read(answer).await.1, json!({"error": "x"}));
    }
    assert_eq!(guest(&caller).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn fault_hits_only_its_service_and_path() {
    let caller = Caller::new().await;
    let effect = || Effect::Status { code: 500, retry_after: None, body: None };
    caller.simulator.inject(Fault::on("account_manager", effect()));
    let mut below = Fault::on("api", effect()).flow("getBasket");
    below.path_prefix = Some(format!("{BASKETS}/slow"));
    caller.simulator.inject(below);
    let token = text(&caller.guest().await, "access_token").to_owned();
    assert_eq!(caller.get(&format!("{BASKETS}/slow"), &token).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(caller.get(&format!("{BASKETS}/fast"), &token).await.0, StatusCode::NOT_FOUND);
    let keys = caller.request(Method::GET, "/dwsso/oauth2/connect/jwk_uri");
    assert_eq!(keys.send().await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    caller.simulator.clear_faults();
    assert_eq!(caller.get(&format!("{BASKETS}/slow"), &token).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn delay_fault_delays_and_hang_fault_never_responds() {
    let caller = Caller::new().await;
    caller.simulator.inject(Fault::on("slas", Effect::Delay { ms: 200 }).times(1));
    let start = Instant::now();
    assert_eq!(guest(&caller).send().await.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_millis(200));
    caller.simulator.inject(Fault::on("slas", Effect::Hang).times(1));
    let error = guest(&caller).timeout(Duration::from_millis(300)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(caller.simulator.ledger().last().unwrap().status, None);
    assert_eq!(guest(&caller).send().await.unwrap().status(), StatusCode::OK);
}

/// Whether an I/O error of that kind is among the causes.
fn caused_by(error: &reqwest::Error, kind: std::io::ErrorKind) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == kind) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn reset_fault_resets_connection_at_its_point() {
    let caller = Caller::new().await;
    for at in [ResetAt::Before, ResetAt::After] {
        caller.simulator.inject(Fault::on("slas", Effect::Reset { at }).times(1));
        let error = guest(&caller).send().await.unwrap_err();
        assert!(caused_by(&error, std::io::ErrorKind::ConnectionReset), "{at:?}: {error:?}");
    }
    caller.simulator.inject(Fault::on("slas", Effect::Reset { at: ResetAt::MidBody }).times(1));
    let answer = guest(&caller).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes().await.is_err());
    assert_eq!(guest(&caller).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn reset_after_processing_keeps_effects_of_request() {
    let caller = Caller::new().await;
    for (at, works) in [(ResetAt::Before, true), (ResetAt::After, false)] {
        let tokens = caller.guest().await;
        let old = text(&tokens, "refresh_token");
        caller.simulator.inject(Fault::on("slas", Effect::Reset { at }).times(1));
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", old), ("client_id", PUBLIC), ("channel_id", "RefArch")];
        assert!(caller.token(&form).send().await.is_err());
        assert_eq!(caller.refresh(PUBLIC, old, None).await.0.is_success(), works, "{at:?}");
    }
}

#[tokio::test]
async fn truncate_garbage_and_huge_body_faults_change_response() {
    let caller = Caller::new().await;
    caller.simulator.inject(Fault::on("slas", Effect::Truncate).times(1));
    let answer = guest(&caller).send().await.unwrap();
    assert!(answer.content_length().unwrap() > 100);
    assert!(answer.bytes().await.is_err());
    caller.simulator.inject(Fault::on("slas", Effect::Garbage { html: false }).times(1));
    let answer = guest(&caller).send().await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/json"));
    assert!(serde_json::from_slice::<serde_json::Value>(&answer.bytes().await.unwrap()).is_err());
    caller.simulator.inject(Fault::on("slas", Effect::Garbage { html: true }).times(1));
    let answer = guest(&caller).send().await.unwrap();
    assert!(answer.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    caller.simulator.inject(Fault::on("slas", Effect::HugeBody { bytes: 1_000_000 }).times(1));
    let bytes = guest(&caller).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes.len(), 1_000_000);
    assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
}
