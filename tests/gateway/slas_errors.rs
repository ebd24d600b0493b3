//! The gateway's reactions to SLAS's error responses, in their published form.

use reqwest::StatusCode;
use salesforce_simulator::{Effect, Fault};

use crate::{
    callers::CALLER_SECRET,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, PRIVATE_CLIENT, PUBLIC_CLIENT, World, expired, products, register_sessions,
    },
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
async fn void_refresh_token_ends_session_after_one_call() {
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
async fn void_refresh_token_on_behalf_starts_new_session() {
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
    expired(&world.forwarded_token("shopper-products.getProducts")).await;
    refuse(&world, VOID);
    let answer = on_behalf().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

const UNKNOWN: &str = r#"{"error":"invalid_request","error_description":"Something that SLAS never said before."}"#;

fn refuse_with(world: &World, code: u16, body: &str, flow: &str) {
    let refusal = Effect::Status { code, retry_after: None, body: Some(body.into()) };
    world.simulator.inject(Fault::on("slas", refusal).flow(flow));
}

#[tokio::test]
async fn unknown_refresh_error_keeps_session_and_costs_one_call() {
    for (code, body) in [(400, UNKNOWN), (403, "<html>blocked</html>"), (404, ""), (422, "{}"), (409, "")] {
        let mut world = World::with(|_| {}).await;
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
        let token = world.guest(PUBLIC_CLIENT).await.token();
        let other = world.guest(PUBLIC_CLIENT).await.token();
        expired(&other).await;
        refuse_with(&world, code, body, "token:refresh_token");
        for _ in 0..5 {
            let answer = world.send(world.get(&search()).bearer_auth(&token)).await;
            let expected = if code == 409 { (409, "login_conflict") } else { (503, "slas_unavailable") };
            assert_eq!(answer.refusal(), expected, "{code}");
        }
        assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1, "{code}");
        // Another session is not affected.
        world.send(world.get(&search()).bearer_auth(&other)).await;
        assert_eq!(world.simulator.count("slas", "token:refresh_token"), 2, "{code}");
        // A reloaded configuration calls SLAS at once, and the session still exists.
        world.simulator.clear_faults();
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
        world
            .gateway
            .reload(|config| {
                drop(config.insert("log".into(), "level = 'debug'".parse::<toml::Table>().unwrap().into()))
            })
            .unwrap();
        let answer = world.send(world.get(&search()).bearer_auth(&token)).await;
        assert_eq!(answer.status, StatusCode::OK, "{code}: {}", answer.text());
    }
}

#[tokio::test]
async fn rejected_own_client_is_reported_and_costs_one_call_for_all_sessions() {
    let world = World::with(|_| {}).await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
    let tokens = [world.guest(PRIVATE_CLIENT).await.token(), world.guest(PRIVATE_CLIENT).await.token()];
    let of_another = world.guest(PUBLIC_CLIENT).await.token();
    expired(&of_another).await;
    let refused = r#"{"error":"invalid_client","error_description":"Basic Authorization failed."}"#;
    world.simulator.inject(
        Fault::on("slas", Effect::Status { code: 401, retry_after: None, body: Some(refused.into()) })
            .flow("token:refresh_token")
            .times(1),
    );
    for token in tokens.iter().chain(&tokens) {
        let answer = world.send(world.get(&search()).bearer_auth(token)).await;
        assert_eq!(answer.refusal(), (503, "slas_unavailable"));
        assert!(answer.text().contains("rejected the gateway's own client"), "{}", answer.text());
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
    let counted = format!(
        r#"shopper_gateway_slas_client_refusals_total{{client_id="{PRIVATE_CLIENT}",tenant="{ORGANIZATION}"}} 1"#
    );
    let metrics = world.metrics().await;
    assert!(metrics.contains(&counted), "{metrics}");
    assert!(metrics.contains("shopper_gateway_circuit_breakers_open{service=\"slas\"} 0"), "it is no outage");
    let answer = world.send(world.get(&search()).bearer_auth(&of_another)).await;
    assert_eq!(answer.status, StatusCode::OK, "another client's sessions go on: {}", answer.text());
}

#[tokio::test]
async fn unknown_on_behalf_error_costs_one_call() {
    for (login, idp, body) in [
        ("guest", "ecom", UNKNOWN),
        ("guest", "ecom", r#"{"error":"invalid_client","error_description":"Authorization failed."}"#),
        (LOGIN, "ecom", r#"{"error":"invalid_client","error_description":"Authorization failed."}"#),
        (LOGIN, "google", UNKNOWN),
    ] {
        let world = World::with(|config| {
            config["callers"][0].as_table_mut().unwrap()["may"] =
                toml::Value::Array(vec!["on_behalf".into(), "create_shoppers".into()]);
        })
        .await;
        refuse_with(&world, 400, body, "trusted-system");
        let before = world.simulator.ledger().len();
        for _ in 0..4 {
            let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
            let request = request.header("X-On-Behalf-Of", login).header("X-On-Behalf-Of-Idp", idp);
            let answer = world.send(request).await;
            assert_eq!(answer.refusal(), (503, "slas_unavailable"), "{login} {idp} {body}: {}", answer.text());
        }
        let ledger = world.simulator.ledger();
        let calls = ledger[before..].iter().filter(|entry| entry.service == "slas").count();
        assert_eq!(calls, 1, "{login} {idp} {body}");
    }
}

#[tokio::test]
async fn unknown_on_behalf_refresh_error_keeps_session_and_costs_one_call() {
    let mut world = World::with(|_| {}).await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 1;
        behaviour.tsob_window_ms = 100;
    });
    let on_behalf = async |world: &World| {
        let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        world.send(request.header("X-On-Behalf-Of", LOGIN)).await
    };
    assert_eq!(on_behalf(&world).await.status, StatusCode::OK);
    expired(&world.forwarded_token("shopper-products.getProducts")).await;
    refuse_with(&world, 400, UNKNOWN, "token:refresh_token");
    for _ in 0..4 {
        assert_eq!(on_behalf(&world).await.refusal(), (503, "slas_unavailable"));
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
    // A reload may mend the cause: it starts without remembered failures, and with the session.
    world.simulator.clear_faults();
    world.gateway.reload(|_| {}).unwrap();
    assert_eq!(on_behalf(&world).await.status, StatusCode::OK);
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 2);
    assert_eq!(world.simulator.count("slas", "trusted-system"), 1, "the session was refreshed, not begun anew");
}

#[tokio::test]
async fn unknown_error_of_client_refresh_is_repeated_to_same_request_only() {
    let world = World::with(register_sessions).await;
    let url = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token");
    let token = async |form: &[(&str, &str)]| {
        world.send(world.post(&url).basic_auth(PRIVATE_CLIENT, Some("private-client-secret")).form(form)).await
    };
    let login = token(&[("grant_type", "client_credentials"), ("channel_id", "RefArch")]).await.json();
    let valid = login["refresh_token"].as_str().unwrap();
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", valid), ("channel_id", "RefArch")];
    refuse_with(&world, 400, UNKNOWN, "token:refresh_token");
    for _ in 0..4 {
        let answer = token(&refresh).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::BAD_REQUEST, UNKNOWN));
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
    world.simulator.clear_faults();
    let mut other = refresh.to_vec();
    other.push(("dnt", "false"));
    assert_eq!(token(&other).await.status, StatusCode::OK, "another request is asked for, and the session lives");
}
