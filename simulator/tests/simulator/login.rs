//! Logins: PKCE, codes, redirect URIs, strict clients, the login window.

use reqwest::{Method, StatusCode};

use crate::caller::*;

#[tokio::test]
async fn public_guest_gets_published_token_response() {
    let caller = Caller::new().await;
    let tokens = caller.guest().await;
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(tokens["expires_in"], 1800);
    assert_eq!(tokens["refresh_token_expires_in"], 30 * 86_400);
    for name in ["id_token", "refresh_token", "usid", "customer_id", "enc_user_id", "idp_access_token"] {
        assert!(tokens[name].is_string(), "{name}");
    }
    let claims = claims(text(&tokens, "access_token"));
    let isb = text(&claims, "isb");
    assert!(isb.starts_with("uido:slas::upn:Guest::uidn:Guest User::gcid:"), "{isb}");
    assert!(isb.ends_with("::chid:RefArch"), "{isb}");
    assert!(isb.contains(text(&tokens, "customer_id")));
    assert_eq!(text(&tokens, "customer_id").len(), 26);
}

#[tokio::test]
async fn registered_shopper_gets_both_customer_ids_and_90_day_refresh_token() {
    let caller = Caller::new().await;
    let tokens = caller.registered().await;
    assert_eq!(tokens["refresh_token_expires_in"], 90 * 86_400);
    let claims = claims(text(&tokens, "access_token"));
    let isb = text(&claims, "isb");
    assert!(isb.starts_with("uido:ecom::upn:shopper@example.com::uidn:Ada Shopper::gcid:"), "{isb}");
    assert!(isb.contains(&format!("::rcid:{}::", text(&tokens, "customer_id"))), "{isb}");
}

#[tokio::test]
async fn redirect_carries_code_usid_and_state() {
    let caller = Caller::new().await;
    let response = caller
        .login(PUBLIC, &pkce().challenge, &[("state", "a b&c"), ("usid", "18cda486-fe32-4e27-888b-6e4f89938e67")])
        .basic_auth(LOGIN, Some(PASSWORD))
        .send()
        .await
        .unwrap();
    let code = code_of(&response);
    assert_eq!(code.usid, "18cda486-fe32-4e27-888b-6e4f89938e67");
    assert!(code.location.starts_with("http://localhost:3000/callback?"));
    assert!(code.location.contains("state=a%20b%26c"), "{}", code.location);
}

#[tokio::test]
async fn verifier_of_another_challenge_is_rejected() {
    let caller = Caller::new().await;
    let code = code_of(&caller.authorize(PUBLIC, &pkce().challenge).await);
    let (status, error) = read(caller.exchange(PUBLIC, &code, &pkce().verifier).send().await.unwrap()).await;
    assert_eq!((status, text(&error, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
}

#[tokio::test]
async fn verifier_below_43_characters_is_rejected() {
    let caller = Caller::new().await;
    let verifier = "a".repeat(42);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    let challenge = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, hash);
    let code = code_of(&caller.authorize(PUBLIC, &challenge).await);
    let response = caller.exchange(PUBLIC, &code, &verifier).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn authorization_code_works_once() {
    let caller = Caller::new().await;
    let pkce = pkce();
    let code = code_of(&caller.authorize(PUBLIC, &pkce.challenge).await);
    let first = caller.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let second = caller.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap();
    assert_eq!(second.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn code_challenge_works_once() {
    let caller = Caller::new().await;
    let pkce = pkce();
    assert_eq!(caller.authorize(PUBLIC, &pkce.challenge).await.status(), StatusCode::SEE_OTHER);
    let (status, error) = read(caller.authorize(PUBLIC, &pkce.challenge).await).await;
    assert_eq!((status, text(&error, "error")), (StatusCode::BAD_REQUEST, "invalid_request"));
}

#[tokio::test]
async fn authorization_code_is_bound_to_client_channel_and_redirect_uri() {
    let caller = Caller::new().await;
    for (name, other) in
        [("client_id", PRIVATE), ("channel_id", "RefArchGlobal"), ("redirect_uri", "http://localhost:3000/callback/")]
    {
        let pkce = pkce();
        let code = code_of(&caller.authorize(PUBLIC, &pkce.challenge).await);
        let mut form = vec![
            ("grant_type", "authorization_code_pkce"),
            ("client_id", PUBLIC),
            ("channel_id", "RefArch"),
            ("code", &code.code),
            ("code_verifier", &pkce.verifier),
            ("redirect_uri", REDIRECT),
        ];
        form.iter_mut().find(|(key, _)| *key == name).unwrap().1 = other;
        // With its own credentials the other client is accepted.
        let response = caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{name}");
    }
}

#[tokio::test]
async fn authorization_code_expires() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.code_seconds = 0);
    let pkce = pkce();
    let code = code_of(&caller.authorize(PUBLIC, &pkce.challenge).await);
    let response = caller.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn login_with_missing_or_unknown_parameter_returns_400() {
    let caller = Caller::new().await;
    for (name, value) in [
        ("client_id", "99999999-9999-4999-8999-999999999999"),
        ("channel_id", ""),
        ("channel_id", "SiteGenesis"),
        ("redirect_uri", "http://localhost:3000/callback/"),
        ("redirect_uri", "http://localhost:3000/Callback"),
        ("code_challenge", "tooshort"),
    ] {
        let challenge = pkce().challenge;
        let mut form = vec![
            ("client_id", PUBLIC),
            ("channel_id", "RefArch"),
            ("code_challenge", &challenge),
            ("redirect_uri", REDIRECT),
        ];
        form.iter_mut().find(|(key, _)| *key == name).unwrap().1 = value;
        caller.simulator.set(|behaviour| behaviour.enforce_windows = false);
        let response =
            caller.slas(Method::POST, "login").form(&form).basic_auth(LOGIN, Some(PASSWORD)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{name}={value}");
    }
}

#[tokio::test]
async fn wrong_password_returns_401_in_slas_format() {
    let caller = Caller::new().await;
    let request = caller.login(PUBLIC, &pkce().challenge, &[]).basic_auth(LOGIN, Some("wrong"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let (status, error) = read(response).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(error["error"], "invalid_client");
    assert_eq!(error["error_description"], "Basic Authorization failed.");
}

#[tokio::test]
async fn second_login_within_a_second_conflicts() {
    let caller = Caller::new().await;
    let login = async || {
        let request = caller.login(PUBLIC, &pkce().challenge, &[]).basic_auth(LOGIN, Some(PASSWORD));
        request.send().await.unwrap().status()
    };
    assert_eq!(login().await, StatusCode::SEE_OTHER);
    assert_eq!(login().await, StatusCode::CONFLICT);
    let other = caller.login(PUBLIC, &pkce().challenge, &[]).basic_auth("second@example.com", Some("Passw0rd!second"));
    assert_eq!(other.send().await.unwrap().status(), StatusCode::SEE_OTHER);
    caller.simulator.set(|behaviour| behaviour.login_window_ms = 0);
    assert_eq!(login().await, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn strict_client_must_authenticate_at_login_and_authorize() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let proof = bare_basic(STRICT, "strict-client-secret");
    for (header, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some(bare_basic(STRICT, "wrong")), StatusCode::UNAUTHORIZED),
        (Some(bare_basic(PRIVATE, SECRET)), StatusCode::UNAUTHORIZED),
        (Some(proof), StatusCode::SEE_OTHER),
    ] {
        let mut login = caller.login(STRICT, &pkce().challenge, &[]).basic_auth(LOGIN, Some(PASSWORD));
        let query = [
            ("client_id", STRICT),
            ("channel_id", "RefArch"),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("hint", "guest"),
        ];
        let mut authorize = caller.slas(Method::GET, "authorize").query_pairs(&query);
        if let Some(value) = &header {
            login = login.header("x-slas-client-auth", value);
            authorize = authorize.header("x-slas-client-auth", value);
        }
        assert_eq!(login.send().await.unwrap().status(), expected, "{header:?}");
        assert_eq!(authorize.send().await.unwrap().status(), expected, "{header:?}");
    }
}

#[tokio::test]
async fn private_client_needs_secret_and_verifier() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.enforce_windows = false);
    for (secret, right_verifier, expected) in [
        (None, true, StatusCode::UNAUTHORIZED),
        (Some("wrong"), true, StatusCode::UNAUTHORIZED),
        (Some(SECRET), false, StatusCode::BAD_REQUEST),
        (Some(SECRET), true, StatusCode::OK),
    ] {
        let pair = pkce();
        let request = caller.login(PRIVATE, &pair.challenge, &[]).basic_auth(LOGIN, Some(PASSWORD));
        let code = code_of(&request.send().await.unwrap());
        let verifier = if right_verifier { pair.verifier } else { pkce().verifier };
        let mut request = caller.exchange(PRIVATE, &code, &verifier);
        if let Some(secret) = secret {
            request = request.basic_auth(PRIVATE, Some(secret));
        }
        assert_eq!(request.send().await.unwrap().status(), expected, "{secret:?} {right_verifier}");
    }
}

#[tokio::test]
async fn private_guest_with_usid_keeps_its_customer() {
    let caller = Caller::new().await;
    let guest = async |usid: &str| {
        let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("usid", usid)];
        let (status, tokens) = read(caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        tokens
    };
    let first = guest("").await;
    let again = guest(text(&first, "usid")).await;
    assert_eq!((&again["usid"], &again["customer_id"]), (&first["usid"], &first["customer_id"]));
    assert_ne!(guest("").await["customer_id"], first["customer_id"]);
}

#[tokio::test]
async fn token_request_without_channel_is_rejected() {
    let caller = Caller::new().await;
    let form = [("grant_type", "client_credentials")];
    let response = caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn public_client_cannot_use_client_credentials_grant() {
    let caller = Caller::new().await;
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PUBLIC)];
    let response = caller.token(&form).basic_auth(PUBLIC, Some("")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

/// The answer to a guest's `/authorize` without `channel_id`, as `commerce-sdk` and the b2c command line send it.
async fn authorize_without_channel(caller: &Caller, challenge: &str) -> reqwest::Response {
    let query = [
        ("client_id", PUBLIC),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("hint", "guest"),
        ("code_challenge", challenge),
    ];
    caller.slas(Method::GET, "authorize").query_pairs(&query).send().await.unwrap()
}

#[tokio::test]
async fn authorize_without_channel_takes_site_of_token_request() {
    let caller = Caller::new().await;
    let pkce = pkce();
    let code = code_of(&authorize_without_channel(&caller, &pkce.challenge).await);
    let (status, tokens) = read(caller.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert!(text(&claims(text(&tokens, "access_token")), "isb").ends_with("::chid:RefArch"));
    let renewed = caller.refresh(PUBLIC, text(&tokens, "refresh_token"), None).await.1;
    assert!(text(&claims(text(&renewed, "access_token")), "isb").ends_with("::chid:RefArch"));
}

#[tokio::test]
async fn token_request_needs_channel_unless_behaviour_says_otherwise() {
    let caller = Caller::new().await;
    let exchange = async || {
        let pkce = pkce();
        let code = code_of(&authorize_without_channel(&caller, &pkce.challenge).await);
        let form = [
            ("grant_type", "authorization_code_pkce"),
            ("client_id", PUBLIC),
            ("code", &code.code),
            ("code_verifier", &pkce.verifier),
            ("redirect_uri", REDIRECT),
        ];
        read(caller.token(&form).send().await.unwrap()).await
    };
    let (status, error) = exchange().await;
    assert_eq!((status, text(&error, "error_description")), (StatusCode::BAD_REQUEST, "Bad or missing channel_id."));
    caller.simulator.set(|behaviour| behaviour.tokens_need_channel_id = false);
    let (status, tokens) = exchange().await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    let token = text(&tokens, "access_token");
    assert!(text(&claims(token), "isb").ends_with("::chid: "), "SLAS writes a space for no site");
    assert_eq!(caller.get(&format!("{BASKETS}/none?siteId=RefArchGlobal"), token).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn user_of_identity_provider_gets_its_tokens_too() {
    let caller = Caller::new().await;
    let pkce = pkce();
    let query = [
        ("client_id", PUBLIC),
        ("channel_id", "RefArch"),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("hint", "google"),
        ("code_challenge", &pkce.challenge),
    ];
    let code = code_of(&caller.slas(Method::GET, "authorize").query_pairs(&query).send().await.unwrap());
    let (status, tokens) = read(caller.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    let isb = text(&claims(text(&tokens, "access_token")), "isb").to_owned();
    assert!(isb.starts_with("uido:google::upn:google-oauth2|1001::uidn:Mary Social::gcid:"), "{isb}");
    assert_eq!(claims(text(&tokens, "idp_access_token"))["iss"], "https://google.example");
    let renewed = caller.refresh(PUBLIC, text(&tokens, "refresh_token"), None).await.1;
    for name in ["customer_id", "idp_access_token", "idp_refresh_token"] {
        assert_eq!(text(&renewed, name), text(&tokens, name), "{name}");
    }
    for hint in ["facebook", ""] {
        let query = query.map(|(name, value)| if name == "hint" { (name, hint) } else { (name, value) });
        let refused = caller.slas(Method::GET, "authorize").query_pairs(&query).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{hint:?}");
    }
}

#[tokio::test]
async fn only_password_logins_and_identity_providers_have_idp_tokens() {
    let caller = Caller::new().await;
    assert_eq!(text(&caller.guest().await, "idp_access_token"), "");
    let tokens = caller.registered().await;
    assert_ne!(text(&tokens, "idp_access_token"), "");
    assert!(tokens.get("idp_refresh_token").is_none());
}

#[tokio::test]
async fn private_client_may_log_in_without_challenge() {
    let caller = Caller::new().await;
    let form = [("client_id", PRIVATE), ("channel_id", "RefArch"), ("redirect_uri", REDIRECT)];
    for grant in ["authorization_code", "authorization_code_pkce"] {
        caller.simulator.set(|behaviour| behaviour.enforce_windows = false);
        let request = caller.slas(Method::POST, "login").form(&form).basic_auth(LOGIN, Some(PASSWORD));
        let code = code_of(&request.send().await.unwrap());
        let exchange = [
            ("grant_type", grant),
            ("client_id", PRIVATE),
            ("channel_id", "RefArch"),
            ("code", &code.code),
            ("redirect_uri", REDIRECT),
        ];
        let (status, tokens) =
            read(caller.token(&exchange).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{grant}: {tokens}");
    }
    let form = [("client_id", PUBLIC), ("channel_id", "RefArch"), ("redirect_uri", REDIRECT)];
    let request = caller.slas(Method::POST, "login").form(&form).basic_auth(LOGIN, Some(PASSWORD));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn hybrid_storefront_gets_one_session_cookie_for_all_tokens_of_a_session() {
    let caller = Caller::new().await;
    let guest = async || {
        let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
        caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()
    };
    assert!(!guest().await.headers().contains_key("set-cookie"));
    caller.simulator.set(|behaviour| behaviour.session_cookie_domain = Some(".shop.example".into()));
    let answer = guest().await;
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("dwsid="), "{cookie}");
    assert!(cookie.ends_with("==; Path=/; Domain=.shop.example; HttpOnly; Secure; SameSite=None"), "{cookie}");
    let tokens = read(answer).await.1;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", text(&tokens, "refresh_token")),
        ("client_id", PRIVATE),
        ("channel_id", "RefArch"),
    ];
    let renewed = caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap();
    assert_eq!(renewed.headers()["set-cookie"], cookie);
}
