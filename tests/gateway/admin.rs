//! The operators' listener.

use reqwest::StatusCode;

use crate::world::{PUBLIC_CLIENT, World, products};

#[tokio::test]
async fn metrics_count_logins_requests_and_rejections() {
    let world = World::start().await;
    world.guest(PUBLIC_CLIENT).await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    for _ in 0..2 {
        world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token)).await;
    }
    world.send(world.get(&products("?ids=a&siteId=RefArch"))).await;

    let metrics = world.metrics().await;
    for line in [
        r#"shopper_gateway_legacy_requests_total{client_id="11111111-1111-4111-8111-111111111111",endpoint="login"} 2"#,
        r#"shopper_gateway_refusals_total{code="token_missing"} 1"#,
        r#"shopper_gateway_requests_total{api="shopper-products",caller="guest",operation="shopper-products.getProducts",source="upstream",status="200",tenant="f_ecom_zzrf_001"} 2"#,
        r#"shopper_gateway_token_verifications_total{result="cached"} 2"#,
        r#"shopper_gateway_token_exchanges_total{flow="authorize_guest",outcome="ok",service="slas"} 2"#,
        "shopper_gateway_sessions 2",
        "shopper_gateway_ready 1",
        r#"shopper_gateway_config_reloads_total{outcome="failed"} 0"#,
        r#"shopper_gateway_config_reloads_total{outcome="ok"} 0"#,
        "shopper_gateway_config_last_reload_success_timestamp_seconds ",
        r#"shopper_gateway_slas_rate_limit_remaining{tenant="f_ecom_zzrf_001"} "#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
    }
    assert!(!metrics.contains(&token), "a token in the metrics");
}

#[tokio::test]
async fn public_listener_does_not_serve_admin_paths() {
    let world = World::start().await;
    for path in ["/metrics", "/livez", "/readyz", "/status"] {
        let answer = world.send(world.get(path)).await;
        assert_eq!(answer.refusal(), (404, "operation_unknown"), "{path}");
        let own = world.client.get(format!("http://{}{path}", world.gateway.admin)).send().await.unwrap();
        assert_eq!(own.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn admin_request_for_foreign_host_returns_421() {
    let world = World::start().await;
    for path in ["/metrics", "/readyz", "/status"] {
        let status = async |host: &str| {
            let own = world.client.get(format!("http://{}{path}", world.gateway.admin)).header("host", host);
            own.send().await.unwrap().status()
        };
        assert_eq!(status("evil.example:9090").await, StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert_eq!(status("localhost:9090").await, StatusCode::OK, "{path}");
    }
}
