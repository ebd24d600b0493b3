//! Sessions after the login: refresh, logout, revocation, changed credentials.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::caller::*;

#[tokio::test]
async fn public_refresh_rotates_token_and_revokes_the_old() {
    let caller = Caller::new().await;
    let tokens = caller.guest().await;
    let old = text(&tokens, "refresh_token");
    let (status, renewed) = caller.refresh(PUBLIC, old, None).await;
    assert_eq!(status, StatusCode::OK);
    let new = text(&renewed, "refresh_token");
    assert_ne!(new, old);
    assert_eq!((&renewed["customer_id"], &renewed["usid"]), (&tokens["customer_id"], &tokens["usid"]));
    let (status, error) = caller.refresh(PUBLIC, old, None).await;
    assert_eq!((status, text(&error, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    assert_eq!(caller.refresh(PUBLIC, new, None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn concurrent_public_refreshes_succeed_once() {
    let caller = Caller::new().await;
    let tokens = caller.guest().await;
    let old = text(&tokens, "refresh_token");
    let (one, two) = tokio::join!(caller.refresh(PUBLIC, old, None), caller.refresh(PUBLIC, old, None));
    let mut statuses = [one.0.as_u16(), two.0.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
}

#[tokio::test]
async fn private_refresh_needs_secret_and_keeps_token() {
    let caller = Caller::new().await;
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    let tokens = read(caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await.1;
    let old = text(&tokens, "refresh_token");
    assert_eq!(caller.refresh(PRIVATE, old, None).await.0, StatusCode::UNAUTHORIZED);
    for _ in 0..2 {
        let (status, renewed) = caller.refresh(PRIVATE, old, Some(SECRET)).await;
        assert_eq!((status, text(&renewed, "refresh_token")), (StatusCode::OK, old));
    }
}

#[tokio::test]
async fn refresh_token_is_bound_to_its_client() {
    let caller = Caller::new().await;
    let tokens = caller.guest().await;
    let token = text(&tokens, "refresh_token");
    assert_eq!(caller.refresh(PRIVATE, token, Some(SECRET)).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(caller.refresh(PUBLIC, token, None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn refresh_token_expires() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.guest_refresh_token_seconds = 0);
    let tokens = caller.guest().await;
    assert_eq!(caller.refresh(PUBLIC, text(&tokens, "refresh_token"), None).await.0, StatusCode::BAD_REQUEST);
}

async fn logout(caller: &Caller, tokens: &serde_json::Value, more: &[(&str, &str)]) -> Reply {
    let mut query =
        vec![("client_id", PUBLIC), ("channel_id", "RefArch"), ("refresh_token", text(tokens, "refresh_token"))];
    query.extend_from_slice(more);
    let request = caller.slas(Method::GET, "logout").query_pairs(&query);
    read(request.bearer_auth(text(tokens, "access_token")).send().await.unwrap()).await
}

#[tokio::test]
async fn logout_revokes_both_tokens_of_one_session() {
    let caller = Caller::new().await;
    let (one, other) = (caller.registered().await, caller.registered().await);
    let path = format!("{CUSTOMERS}/{}", text(&one, "customer_id"));
    assert_eq!(caller.get(&path, text(&one, "access_token")).await.0, StatusCode::OK);
    let (status, answer) = logout(&caller, &one, &[]).await;
    assert_eq!((status, text(&answer, "access_token"), text(&answer, "dnt")), (StatusCode::OK, "", "null"));
    assert_eq!(caller.get(&path, text(&one, "access_token")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(caller.refresh(PUBLIC, text(&one, "refresh_token"), None).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(caller.get(&path, text(&other, "access_token")).await.0, StatusCode::OK);
    assert_eq!(caller.refresh(PUBLIC, text(&other, "refresh_token"), None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn logout_with_all_sessions_hint_ends_other_sessions() {
    let caller = Caller::new().await;
    let (one, other) = (caller.registered().await, caller.registered().await);
    assert_eq!(logout(&caller, &one, &[("hint", "all-sessions")]).await.0, StatusCode::OK);
    assert_eq!(caller.refresh(PUBLIC, text(&other, "refresh_token"), None).await.0, StatusCode::BAD_REQUEST);
    let path = format!("{CUSTOMERS}/{}", text(&other, "customer_id"));
    assert_eq!(caller.get(&path, text(&other, "access_token")).await.0, StatusCode::UNAUTHORIZED);
    let later = caller.registered().await;
    assert_eq!(caller.get(&path, text(&later, "access_token")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn guest_logout_is_rejected() {
    let caller = Caller::new().await;
    let tokens = caller.guest().await;
    assert_eq!(logout(&caller, &tokens, &[]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(caller.refresh(PUBLIC, text(&tokens, "refresh_token"), None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn password_change_revokes_earlier_tokens() {
    let caller = Caller::new().await;
    let tokens = caller.registered().await;
    let access = text(&tokens, "access_token");
    let path = format!("{CUSTOMERS}/{}", text(&tokens, "customer_id"));
    let change = |current: &str| json!({"currentPassword": current, "password": "An0ther!password"});
    let password = format!("{path}/password");
    let wrong = caller.api(Method::PUT, &password, access, change("wrong")).await;
    assert_eq!(wrong.0, StatusCode::BAD_REQUEST);
    let changed = caller.api(Method::PUT, &password, access, change(PASSWORD)).await;
    assert_eq!(changed.0, StatusCode::NO_CONTENT);
    assert_eq!(caller.get(&path, access).await.0, StatusCode::UNAUTHORIZED);
    let (status, error) = caller.refresh(PUBLIC, text(&tokens, "refresh_token"), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text(&error, "error_description").contains("credentials changed"), "{error}");
    let request = caller.login(PUBLIC, &pkce().challenge, &[]).basic_auth(LOGIN, Some(PASSWORD));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let fresh = caller.registered_with(LOGIN, "An0ther!password", &[]).await;
    assert_eq!(caller.get(&path, text(&fresh, "access_token")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn introspect_and_userinfo_report_token_state_after_revoke() {
    let caller = Caller::new().await;
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    let tokens = read(caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await.1;
    let refresh = text(&tokens, "refresh_token");
    let ask = async |endpoint: &str, token: &str, secret: &str| {
        let request = caller.slas(Method::POST, endpoint).form(&[("token", token)]);
        read(request.basic_auth(PRIVATE, Some(secret)).send().await.unwrap()).await
    };
    assert_eq!(ask("introspect", refresh, "wrong").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("introspect", refresh, SECRET).await.1["token_type"], "refresh_token");
    assert_eq!(ask("introspect", text(&tokens, "access_token"), SECRET).await.1["token_type"], "access_token");
    let revoked = ask("revoke", refresh, SECRET).await;
    assert_eq!((revoked.0, revoked.1.get("dnt")), (StatusCode::OK, None));
    assert_eq!(ask("introspect", refresh, SECRET).await.1, json!({"active": false}));
    assert_eq!(caller.refresh(PRIVATE, refresh, Some(SECRET)).await.0, StatusCode::BAD_REQUEST);

    let shopper = caller.registered().await;
    let request = caller.slas(Method::GET, "userinfo").bearer_auth(text(&shopper, "access_token"));
    let (_, info) = read(request.send().await.unwrap()).await;
    assert_eq!((text(&info, "email"), text(&info, "name")), (LOGIN, "Ada Shopper"));
}

#[tokio::test]
async fn logout_needs_channel_for_shoppers_of_b2c_commerce_only() {
    let caller = Caller::new().await;
    let own = caller.registered().await;
    let other = caller.simulator.mint_shopper_token(salesforce_simulator::ShopperTokenSpec {
        origin: "google".into(),
        login: "someone".into(),
        registered_customer_id: Some("abSomeone".into()),
        ..Default::default()
    });
    for (token, description) in
        [(text(&own, "access_token"), "Bad or missing channel_id."), (&other, "Bad or missing refresh token.")]
    {
        let query = [("client_id", PUBLIC), ("refresh_token", "x")];
        let request = caller.slas(Method::GET, "logout").query_pairs(&query).bearer_auth(token);
        let (status, error) = read(request.send().await.unwrap()).await;
        assert_eq!((status, text(&error, "error_description")), (StatusCode::BAD_REQUEST, description));
    }
}
