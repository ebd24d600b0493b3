//! The deprecated logins: the gateway performs them at SLAS and responds in their old format.

use reqwest::Method;

use crate::world::{
    CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, STRICT_CLIENT, World, baskets,
    customers, login_target, products,
};

#[tokio::test]
async fn guest_login_works_with_each_kind_of_client() {
    let world = World::start().await;
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT, STRICT_CLIENT] {
        let answer = world.guest(client).await;
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        let document = answer.json();
        assert_eq!(document["authType"], "guest");
        assert!(document["customerId"].as_str().is_some_and(|id| !id.is_empty()));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let products = world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(answer.token())).await;
        assert_eq!(products.status, 200, "{client}: {}", products.text());
    }
}

#[tokio::test]
async fn registered_login_returns_profile_byte_for_byte() {
    let world = World::start().await;
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT, STRICT_CLIENT] {
        world.simulator.set(|behaviour| behaviour.enforce_windows = false);
        let answer = world.log_in(client, LOGIN, PASSWORD).await;
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        let document = answer.json();
        assert_eq!((&document["authType"], &document["login"]), (&"registered".into(), &LOGIN.into()));
        let id = document["customerId"].as_str().unwrap();
        let profile = world.get(&customers(&format!("/customers/{id}?siteId=RefArch"))).bearer_auth(answer.token());
        assert_eq!(world.send(profile).await.body, answer.body, "{client}");
    }
}

#[tokio::test]
async fn wrong_password_is_rejected_in_deprecated_format() {
    let world = World::start().await;
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        world.simulator.set(|behaviour| behaviour.enforce_windows = false);
        let answer = world.log_in(client, LOGIN, "wrong").await;
        assert_eq!(answer.refusal(), (401, "login_rejected"));
        let problem = answer.json();
        assert_eq!(problem["title"], "Authentication Failed");
        assert_eq!(problem["detail"], format!("Customer authentication based on {LOGIN} failed."));
        assert!(problem["type"].as_str().unwrap().ends_with("/errors/authentication-failed"));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.header("authorization").is_none());
    }
    let without = world.send(world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"credentials"}"#)).await;
    assert_eq!(without.refusal(), (401, "login_rejected"));
    // Credentials in Latin-1, without a user, not in base64, and of another scheme.
    for value in ["Basic /Pz8OnB3", "Basic OnB3", "Basic !", "Bearer x", "Digest x"] {
        let request = world.post(&login_target(PUBLIC_CLIENT)).header("authorization", value);
        let answer = world.send(request.body(r#"{"type":"credentials"}"#)).await;
        assert_eq!(answer.refusal(), (401, "login_rejected"), "{value}");
    }
}

#[tokio::test]
async fn deprecated_endpoint_sets_deprecation_headers() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let logout =
        world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch")).bearer_auth(token);
    for answer in [
        world.guest(PUBLIC_CLIENT).await,
        world.log_in(PUBLIC_CLIENT, LOGIN, "wrong").await,
        world.guest("unknown-client").await,
        world.send(logout).await,
    ] {
        assert!(answer.header("deprecation").is_some_and(|date| date.starts_with('@')), "{answer:?}");
        assert_eq!(answer.header("sunset"), Some("Sat, 01 Jul 2023 00:00:00 GMT"));
        assert!(answer.header("link").is_some_and(|link| link.contains(r#"rel="deprecation""#)));
    }
}

#[tokio::test]
async fn unreadable_login_request_is_rejected_with_hint() {
    let world = World::start().await;
    let cases = [
        (login_target(PUBLIC_CLIENT), r#"{"type":"other"}"#, "guest, credentials or refresh"),
        (login_target(PUBLIC_CLIENT), "not json", "must be JSON"),
        (login_target(PUBLIC_CLIENT), "", "must be JSON"),
        (login_target("unknown"), r#"{"type":"guest"}"#, "clientId"),
        (customers("/customers/actions/login?siteId=RefArch"), r#"{"type":"guest"}"#, "clientId"),
        (
            customers(&format!("/customers/actions/login?siteId=Nowhere&clientId={PUBLIC_CLIENT}")),
            r#"{"type":"guest"}"#,
            "siteId",
        ),
        (customers(&format!("/customers/actions/login?clientId={PUBLIC_CLIENT}")), r#"{"type":"guest"}"#, "siteId"),
    ];
    for (target, body, hint) in cases {
        let answer = world.send(world.post(&target).body(body)).await;
        assert_eq!(answer.refusal(), (400, "request_invalid"), "{target} {body}");
        assert!(answer.text().contains(hint), "{target} {body}: {}", answer.text());
    }
    assert_eq!(world.simulator.count("slas", "authorize:guest"), 0);
    let long = world.send(world.post(&login_target(PUBLIC_CLIENT)).body(vec![b' '; 20_000])).await;
    assert_eq!(long.refusal(), (413, "request_too_large"));
}

#[tokio::test]
async fn refresh_returns_new_token_of_same_shopper() {
    let world = World::start().await;
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        let login = world.guest(client).await;
        let refresh =
            |token: String| world.post(&login_target(client)).bearer_auth(token).body(r#"{"type":"refresh"}"#);
        let refreshed = world.send(refresh(login.token())).await;
        assert_eq!(refreshed.status, 200, "{client}: {}", refreshed.text());
        assert_eq!(refreshed.json()["customerId"], login.json()["customerId"]);
        assert_ne!(refreshed.token(), login.token());
        // A second renewal with the new token shows that the gateway stored the rotated refresh token.
        let again = world.send(refresh(refreshed.token())).await;
        assert_eq!(again.status, 200, "{client}: {}", again.text());
    }
}

#[tokio::test]
async fn concurrent_refreshes_of_one_token_are_one_at_slas() {
    let world = World::start().await;
    let login = world.guest(PUBLIC_CLIENT).await;
    world.simulator.clear_ledger();
    let refreshes = (0..20).map(|_| {
        let request = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(login.token()).body(r#"{"type":"refresh"}"#);
        world.send(request)
    });
    let mut tokens = Vec::new();
    for answer in futures::future::join_all(refreshes).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokens.push(answer.token());
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
}

#[tokio::test]
async fn refresh_without_session_of_gateway_is_rejected() {
    let world = World::start().await;
    let minted = world.mint(|_| {});
    let answer =
        world.send(world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(minted).body(r#"{"type":"refresh"}"#)).await;
    assert_eq!(answer.refusal(), (401, "token_invalid"));
    let none = world.send(world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"refresh"}"#)).await;
    assert_eq!(none.refusal(), (401, "token_missing"));
}

#[tokio::test]
async fn logout_ends_session_at_gateway_and_slas() {
    let world = World::start().await;
    let login = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await;
    let logout = || {
        world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch")).bearer_auth(login.token())
    };
    let answer = world.send(logout()).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (204, String::new()));
    assert_eq!(world.simulator.count("slas", "logout"), 1);

    let after = world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(login.token())).await;
    assert_eq!(after.refusal(), (401, "token_invalid"), "a token of an ended session");
    let refresh = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(login.token()).body(r#"{"type":"refresh"}"#);
    assert_eq!(world.send(refresh).await.refusal(), (401, "token_invalid"));
    assert_eq!(world.send(logout()).await.refusal(), (401, "token_invalid"));
}

#[tokio::test]
async fn guest_basket_survives_refresh() {
    let world = World::start().await;
    let login = world.guest(PUBLIC_CLIENT).await;
    let created = world.post(&baskets("?siteId=RefArch")).bearer_auth(login.token());
    let basket = world.send(created.header("content-type", "application/json").body("{}")).await.json();
    let refresh = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(login.token()).body(r#"{"type":"refresh"}"#);
    let token = world.send(refresh).await.token();
    let id = basket["basketId"].as_str().unwrap();
    let found = world.send(world.get(&baskets(&format!("/{id}?siteId=RefArch"))).bearer_auth(token)).await;
    assert_eq!((found.status.as_u16(), found.json()["basketId"].as_str()), (200, Some(id)));
}

#[tokio::test]
async fn trusted_system_login_accepts_both_paths() {
    let world = World::start().await;
    for path in ["/customers/trusted-system/actions/login", "/trusted-system/actions/login"] {
        let answer = world.send(world.post(&customers(&format!("{path}?siteId=RefArch"))).body("{}")).await;
        assert_ne!(answer.status, 404, "{path} of {ORGANIZATION}");
        assert!(answer.header("deprecation").is_some());
    }
}

#[tokio::test]
async fn malformed_chunked_login_body_returns_400() {
    let world = World::start().await;
    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\n", login_target(PUBLIC_CLIENT));
    let answer = world.raw(format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("x-shopper-gateway-error: request_invalid"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn switched_off_logins_are_counted_and_rejected_and_sessions_continue() {
    for mode in ["enforce", "report"] {
        let mut world = World::start().await;
        let token = world.guest(PUBLIC_CLIENT).await.token();
        let switched_off = format!("mode = '{mode}'\ndeprecated_logins = 'refuse'");
        let change = |config: &mut toml::Table| {
            config.insert("policy".into(), switched_off.parse::<toml::Table>().unwrap().into());
        };
        assert_eq!(world.gateway.reload(change).unwrap(), Vec::<&str>::new());

        let by_caller = world
            .post(&customers("/customers/trusted-system/actions/login?siteId=RefArch"))
            .basic_auth(CALLER_CLIENT, Some("caller-secret"))
            .body(format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#));
        let before = world.simulator.count("slas", "token:authorization_code_pkce");
        for answer in [
            world.guest(PUBLIC_CLIENT).await,
            world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await,
            world.guest("unknown-client").await,
            world.send(by_caller).await,
        ] {
            assert_eq!(answer.refusal(), (403, "operation_not_allowed"), "{mode}: {answer:?}");
            assert!(answer.header("sunset").is_some() && answer.header("link").is_some(), "{answer:?}");
        }
        assert_eq!(world.simulator.count("slas", "token:authorization_code_pkce"), before, "{mode}");
        let metrics = world.metrics().await;
        for (endpoint, client, count) in
            [("login", PUBLIC_CLIENT, 3), ("login", "unknown", 1), ("trusted_system_login", PUBLIC_CLIENT, 1)]
        {
            let expected = format!(
                "shopper_gateway_legacy_requests_total{{client_id=\"{client}\",endpoint=\"{endpoint}\"}} {count}"
            );
            assert!(metrics.contains(&expected), "{mode}: {expected}");
        }

        let products = world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token)).await;
        assert_eq!(products.status, 200, "{mode}: {}", products.text());
        let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
        assert_eq!(world.send(logout.bearer_auth(&token)).await.status, 204, "{mode}");
    }
}
