//! Trusted systems and trusted agents, and the session bridge.

use reqwest::{Method, StatusCode};

use crate::caller::*;

const SYSTEM: &str = "trusted-system/token";

fn tsob<'f>(login: &'f str, origin: &'f str) -> Vec<(&'f str, &'f str)> {
    vec![
        ("grant_type", "client_credentials"),
        ("hint", "ts_ext_on_behalf_of"),
        ("login_id", login),
        ("idp_origin", origin),
        ("channel_id", "RefArch"),
        ("client_id", PRIVATE),
    ]
}

async fn system(caller: &Caller, form: &[(&str, &str)], client: &str, secret: &str) -> Reply {
    let request = caller.slas(Method::POST, SYSTEM).form(form).basic_auth(client, Some(secret));
    read(request.send().await.unwrap()).await
}

#[tokio::test]
async fn trusted_system_gets_shopper_token_with_tsob_mark() {
    let caller = Caller::new().await;
    let (status, tokens) = system(&caller, &tsob(LOGIN, "ecom"), PRIVATE, SECRET).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    let claims = claims(text(&tokens, "access_token"));
    assert!(text(&claims, "isb").contains("::tsob:ts_ext_on_behalf_of::chid:RefArch"));
    assert!(text(&claims, "scp").split(' ').any(|scope| scope == "sfcc.orders.rw"));
    let own = caller.registered().await;
    assert_eq!(tokens["customer_id"], own["customer_id"]);
    let refresh = text(&tokens, "refresh_token");
    assert_eq!(caller.refresh(PRIVATE, refresh, Some(SECRET)).await.0, StatusCode::OK);
    assert_eq!(caller.refresh(PUBLIC, refresh, None).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn second_token_for_shopper_within_three_seconds_conflicts() {
    let caller = Caller::new().await;
    let form = tsob(LOGIN, "ecom");
    assert_eq!(system(&caller, &form, PRIVATE, SECRET).await.0, StatusCode::OK);
    assert_eq!(system(&caller, &form, PRIVATE, SECRET).await.0, StatusCode::CONFLICT);
    let other = tsob("second@example.com", "ecom");
    assert_eq!(system(&caller, &other, PRIVATE, SECRET).await.0, StatusCode::OK);
    caller.simulator.set(|behaviour| behaviour.enforce_windows = false);
    assert_eq!(system(&caller, &form, PRIVATE, SECRET).await.0, StatusCode::OK);
}

#[tokio::test]
async fn unknown_login_is_created_only_for_external_identity_provider() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let guest = system(&caller, &tsob("guest", "ecom"), PRIVATE, SECRET).await.1;
    let isb = text(&claims(text(&guest, "access_token")), "isb").to_owned();
    assert!(isb.starts_with("uido:slas::upn:Guest::") && isb.contains("::tsob:"), "{isb}");
    assert_eq!(system(&caller, &tsob("stranger", "ecom"), PRIVATE, SECRET).await.0, StatusCode::BAD_REQUEST);
    let created = system(&caller, &tsob("stranger@google.example", "google"), PRIVATE, SECRET).await.1;
    let again = system(&caller, &tsob("stranger@google.example", "google"), PRIVATE, SECRET).await.1;
    assert_eq!(created["customer_id"], again["customer_id"]);
    assert!(text(&claims(text(&again, "access_token")), "isb").starts_with("uido:google::"));
    assert_eq!(system(&caller, &tsob("x", "made-up"), PRIVATE, SECRET).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn trusted_system_token_requires_permitted_private_client() {
    let caller = Caller::new().await;
    let mut strict = tsob(LOGIN, "ecom");
    strict.last_mut().unwrap().1 = STRICT;
    let mut public = tsob(LOGIN, "ecom");
    public.last_mut().unwrap().1 = PUBLIC;
    for (form, client, secret, expected) in [
        (tsob(LOGIN, "ecom"), PRIVATE, "wrong", StatusCode::UNAUTHORIZED),
        (strict, STRICT, "strict-client-secret", StatusCode::UNAUTHORIZED),
        (public.clone(), PUBLIC, "", StatusCode::UNAUTHORIZED),
        (public, PRIVATE, SECRET, StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(system(&caller, &form, client, secret).await.0, expected, "{client}");
    }
}

#[tokio::test]
async fn subject_over_256_characters_is_rejected() {
    let caller = Caller::new().await;
    let email = format!("{}@example.com", "a".repeat(90));
    let (status, error) = system(&caller, &tsob(&email, "google"), PRIVATE, SECRET).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text(&error, "error_description").contains("256"), "{error}");
}

/// Performs an agent's login at Account Manager. Returns the bearer token and the state.
async fn agent(caller: &Caller, client: &str, challenge: Option<&str>, login: &str, origin: &str) -> (String, String) {
    let mut query = vec![
        ("client_id", client),
        ("channel_id", "RefArch"),
        ("login_id", login),
        ("idp_origin", origin),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
    ];
    query.extend(challenge.map(|challenge| ("code_challenge", challenge)));
    let sent = caller.slas(Method::GET, "trusted-agent/authorize").query_pairs(&query).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::SEE_OTHER);
    let target = sent.headers()["location"].to_str().unwrap().to_owned();
    let back = caller.http.get(target).send().await.unwrap();
    let location = reqwest::Url::parse(back.headers()["location"].to_str().unwrap()).unwrap();
    assert!(location.as_str().starts_with(REDIRECT));
    let of = |name: &str| location.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let form = [("grant_type", "authorization_code"), ("code", &of("code"))];
    let request = caller.request(Method::POST, "/dwsso/oauth2/access_token").form(&form);
    let request = request.basic_auth("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", Some("account-manager-secret"));
    let (status, answer) = read(request.send().await.unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    (text(&answer, "access_token").to_owned(), of("state"))
}

fn taob<'f>(client: &'f str, login: &'f str, origin: &'f str) -> Vec<(&'f str, &'f str)> {
    vec![
        ("grant_type", "client_credentials"),
        ("client_id", client),
        ("channel_id", "RefArch"),
        ("login_id", login),
        ("idp_origin", origin),
        ("agent_id", "agent@example.com"),
    ]
}

#[tokio::test]
async fn agent_of_public_client_needs_pkce_verifier() {
    let caller = Caller::new().await;
    let pair = pkce();
    let (bearer, _) = agent(&caller, PUBLIC, Some(&pair.challenge), LOGIN, "ecom").await;
    let mut form = taob(PUBLIC, LOGIN, "ecom");
    let send = async |form: &[(&str, &str)], bearer: &str| {
        let request = caller.slas(Method::POST, "trusted-agent/token").form(form).bearer_auth(bearer);
        read(request.send().await.unwrap()).await
    };
    assert_eq!(send(&form, &bearer).await.0, StatusCode::BAD_REQUEST);
    form.push(("code_verifier", &pair.verifier));
    assert_eq!(send(&form, "nonsense").await.0, StatusCode::UNAUTHORIZED);
    let (status, tokens) = send(&form, &bearer).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert_eq!((&tokens["expires_in"], tokens.get("refresh_token")), (&900.into(), None));
    let isb = text(&claims(text(&tokens, "access_token")), "isb").to_owned();
    assert!(isb.contains("::taob:ta_ext_on_behalf_of::agent:agent@example.com::chid:"), "{isb}");
    assert_eq!(claims(text(&tokens, "access_token"))["dnt"], "1", "an agent is not tracked by default");
    assert_eq!(send(&form, &bearer).await.0, StatusCode::BAD_REQUEST, "an authorization works once");
}

#[tokio::test]
async fn agent_of_private_client_needs_client_secret() {
    let caller = Caller::new().await;
    let (bearer, _) = agent(&caller, PRIVATE, None, LOGIN, "ecom").await;
    for (proof, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some(bare_basic(PRIVATE, "wrong")), StatusCode::UNAUTHORIZED),
        (Some(bare_basic(PRIVATE, SECRET)), StatusCode::OK),
    ] {
        let form = taob(PRIVATE, LOGIN, "ecom");
        let mut request = caller.slas(Method::POST, "trusted-agent/token").form(&form).bearer_auth(&bearer);
        if let Some(proof) = &proof {
            request = request.header("_sfdc_client_auth", proof);
        }
        assert_eq!(request.send().await.unwrap().status(), expected, "{proof:?}");
    }
}

#[tokio::test]
async fn agent_for_guest_sends_state_with_token_request() {
    let caller = Caller::new().await;
    let pair = pkce();
    let (bearer, state) = agent(&caller, PUBLIC, Some(&pair.challenge), "Guest", "slas").await;
    assert!(state.starts_with("taobgst."));
    let mut form = taob(PUBLIC, "Guest", "slas");
    form.extend([("code_verifier", pair.verifier.as_str()), ("state", state.as_str())]);
    let request = caller.slas(Method::POST, "trusted-agent/token").form(&form).bearer_auth(&bearer);
    let (status, tokens) = read(request.send().await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert!(text(&claims(text(&tokens, "access_token")), "isb").contains("upn:Guest"));
}

/// As storefronts do it: they name a state and a lower-case guest, and the bearer is Account Manager's code itself.
#[tokio::test]
async fn storefront_agent_presents_code_of_account_manager() {
    let caller = Caller::new().await;
    for (login, origin, private) in [(LOGIN, "ecom", false), ("guest", "slas", false), (LOGIN, "ecom", true)] {
        let pair = pkce();
        let client = if private { PRIVATE } else { PUBLIC };
        let mut query = vec![
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("login_id", login),
            ("redirect_uri", REDIRECT),
            ("idp_origin", origin),
            ("response_type", "code"),
            ("state", "a-state_~."),
        ];
        let mut form = vec![
            ("channel_id", "RefArch"),
            ("grant_type", "client_credentials"),
            ("redirect_uri", REDIRECT),
            ("login_id", login),
            ("idp_origin", origin),
            ("dnt", "true"),
            ("state", "a-state_~."),
        ];
        if !private {
            query.push(("code_challenge", &pair.challenge));
            form.extend([("client_id", client), ("code_verifier", &pair.verifier)]);
        }
        let sent = caller.slas(Method::GET, "trusted-agent/authorize").query_pairs(&query).send().await.unwrap();
        let target = sent.headers()["location"].to_str().unwrap().to_owned();
        let back = caller.http.get(target).send().await.unwrap();
        let location = reqwest::Url::parse(back.headers()["location"].to_str().unwrap()).unwrap();
        let of = |name: &str| location.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
        assert_eq!(of("state"), "a-state_~.");
        let send = async || {
            let request = caller.slas(Method::POST, "trusted-agent/token").form(&form).bearer_auth(of("code"));
            let proof = format!("Basic {}", bare_basic(PRIVATE, SECRET));
            let request = if private { request.header("_sfdc_client_auth", proof) } else { request };
            read(request.send().await.unwrap()).await
        };
        let (status, tokens) = send().await;
        assert_eq!(status, StatusCode::OK, "{login}: {tokens}");
        let isb = text(&claims(text(&tokens, "access_token")), "isb").to_owned();
        assert!(isb.contains("::agent:agent@example.com::"), "{isb}");
        assert_eq!(send().await.0, StatusCode::UNAUTHORIZED, "the code works once");
    }
}

#[tokio::test]
async fn session_bridge_requires_proof_of_its_kind_of_shopper() {
    let caller = Caller::new().await;
    let form = |login, proof| {
        vec![("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("login_id", login), (proof, "jwt")]
    };
    for (login, proof, expected) in [
        ("guest", "dwsgst", StatusCode::OK),
        ("guest", "dwsid", StatusCode::BAD_REQUEST),
        (LOGIN, "dwsrst", StatusCode::OK),
        (LOGIN, "dwsgst", StatusCode::BAD_REQUEST),
        ("stranger", "dwsrst", StatusCode::BAD_REQUEST),
    ] {
        let request = caller.slas(Method::POST, "session-bridge/token").form(&form(login, proof));
        let (status, tokens) = read(request.basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await;
        assert_eq!(status, expected, "{login} {proof}");
        if status == StatusCode::OK {
            assert!(text(&claims(text(&tokens, "access_token")), "isb").contains("::sesb:session_bridge::"));
        }
    }
}
