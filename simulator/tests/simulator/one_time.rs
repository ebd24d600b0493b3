//! One-time tokens: passwordless login, SLAS's password reset, OTP.

use reqwest::{Method, StatusCode};
use salesforce_simulator::Purpose;

use crate::caller::*;

const CALLBACK: &str = "http://localhost:3000/delivery";

async fn post(caller: &Caller, endpoint: &str, form: &[(&str, &str)], secret: Option<&str>) -> Reply {
    let request = caller.slas(Method::POST, endpoint).form(form);
    let request = match secret {
        Some(secret) => request.basic_auth(PRIVATE, Some(secret)),
        None => request,
    };
    read(request.send().await.unwrap()).await
}

fn to<'f>(user: &'f str, callback: &'f str) -> Vec<(&'f str, &'f str)> {
    vec![("user_id", user), ("mode", "callback"), ("channel_id", "RefArch"), ("callback_uri", callback)]
}

#[tokio::test]
async fn passwordless_login_token_works_once() {
    let caller = Caller::new().await;
    let login = "passwordless/login";
    assert_eq!(post(&caller, login, &to(LOGIN, CALLBACK), None).await.0, StatusCode::UNAUTHORIZED);
    // Storefronts look for these words.
    for (user, callback, status, message) in [
        (LOGIN, "http://evil", StatusCode::BAD_REQUEST, "callback_uri doesn't match the registered callbacks"),
        ("stranger", CALLBACK, StatusCode::NOT_FOUND, "User Not Found"),
    ] {
        let (actual, error) = post(&caller, login, &to(user, callback), Some(SECRET)).await;
        assert_eq!((actual, text(&error, "message")), (status, message));
    }
    assert_eq!(post(&caller, login, &to(LOGIN, CALLBACK), Some(SECRET)).await.0, StatusCode::OK);
    let delivery = caller.simulator.outbox().pop().unwrap();
    assert_eq!((delivery.purpose, delivery.callback_uri.as_deref()), (Purpose::Passwordless, Some(CALLBACK)));
    let form =
        |token| [("grant_type", "client_credentials"), ("hint", "pwdless_login"), ("pwdless_login_token", token)];
    let wrong = post(&caller, "passwordless/token", &form("00000000x"), Some(SECRET)).await;
    assert_eq!(wrong.0, StatusCode::BAD_REQUEST);
    let (status, tokens) = post(&caller, "passwordless/token", &form(&delivery.token), Some(SECRET)).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert!(text(&claims(text(&tokens, "access_token")), "isb").contains("::login:pwdless::"));
    let again = post(&caller, "passwordless/token", &form(&delivery.token), Some(SECRET)).await;
    assert_eq!(again.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn passwordless_login_registers_new_customer() {
    let caller = Caller::new().await;
    let mut form = to("new@example.com", CALLBACK);
    form.push(("last_name", "New"));
    let path = "passwordless/login?register_customer=true";
    assert_eq!(post(&caller, path, &form, Some(SECRET)).await.0, StatusCode::OK);
    let token = caller.simulator.outbox().pop().unwrap().token;
    let form = [("grant_type", "client_credentials"), ("hint", "pwdless_login"), ("pwdless_login_token", &token)];
    let (status, tokens) = post(&caller, "passwordless/token", &form, Some(SECRET)).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert!(text(&claims(text(&tokens, "access_token")), "isb").contains("upn:new@example.com"));
}

#[tokio::test]
async fn password_reset_requires_verifier_of_its_request() {
    let caller = Caller::new().await;
    let tokens = caller.registered().await;
    let pair = pkce();
    let mut form = to(LOGIN, CALLBACK);
    form.extend([("client_id", PUBLIC), ("code_challenge", pair.challenge.as_str())]);
    assert_eq!(post(&caller, "password/reset", &form, None).await.0, StatusCode::OK);
    let token = caller.simulator.outbox().pop().unwrap().token;
    let action = |verifier| {
        [
            ("client_id", PUBLIC),
            ("channel_id", "RefArch"),
            ("pwd_action_token", token.as_str()),
            ("new_password", "An0ther!password"),
            ("code_verifier", verifier),
        ]
    };
    let other = pkce();
    let wrong = post(&caller, "password/action", &action(&other.verifier), None).await;
    assert_eq!(wrong.0, StatusCode::BAD_REQUEST);
    assert_eq!(post(&caller, "password/action", &action(&pair.verifier), None).await.0, StatusCode::OK);
    let (status, error) = post(&caller, "password/action", &action(&pair.verifier), None).await;
    assert_eq!((status, text(&error, "message")), (StatusCode::BAD_REQUEST, "Invalid token"));
    let refresh = caller.refresh(PUBLIC, text(&tokens, "refresh_token"), None).await;
    assert_eq!(refresh.0, StatusCode::BAD_REQUEST);
    caller.registered_with(LOGIN, "An0ther!password", &[]).await;
}

#[tokio::test]
async fn password_reset_of_unknown_shopper_returns_200_and_sends_nothing() {
    let caller = Caller::new().await;
    let challenge = pkce().challenge;
    let mut form = to("stranger", CALLBACK);
    form.extend([("client_id", PUBLIC), ("code_challenge", challenge.as_str())]);
    assert_eq!(post(&caller, "password/reset", &form, None).await.0, StatusCode::OK);
    assert!(caller.simulator.outbox().is_empty());
}

#[tokio::test]
async fn otp_requires_shopper_token_and_works_once() {
    let caller = Caller::new().await;
    let tokens = caller.registered().await;
    let mut form = to(LOGIN, CALLBACK);
    form.push(("client_id", PUBLIC));
    assert_eq!(post(&caller, "otp/request", &form, None).await.0, StatusCode::UNAUTHORIZED);
    let bearer = text(&tokens, "access_token");
    let send = async |endpoint: &str, form: &[(&str, &str)]| {
        let request = caller.slas(Method::POST, endpoint).form(form).bearer_auth(bearer);
        request.send().await.unwrap().status()
    };
    assert_eq!(send("otp/request", &form).await, StatusCode::ACCEPTED);
    let first = caller.simulator.outbox().pop().unwrap().token;
    assert_eq!(send("otp/request", &form).await, StatusCode::ACCEPTED);
    let second = caller.simulator.outbox().pop().unwrap().token;
    for (token, expected) in
        [(&first, StatusCode::BAD_REQUEST), (&second, StatusCode::NO_CONTENT), (&second, StatusCode::BAD_REQUEST)]
    {
        let form = [
            ("pwd_action_token", token.as_str()),
            ("client_id", PUBLIC),
            ("channel_id", "RefArch"),
            ("user_id", LOGIN),
        ];
        assert_eq!(send("otp/verify", &form).await, expected);
    }
}
