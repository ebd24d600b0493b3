//! Logins, calls, refreshes and logouts with cookies.

use reqwest::Method;
use salesforce_simulator::{Effect, Fault};

use super::{Browser, CHALLENGE, PWA_KIT, REDIRECT, REFERENCE, names, set_cookies, world, world_of};
use crate::{
    redis::{Redis, in_redis},
    world::{
        Gateway, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, claim, eventually, products,
    },
};

const TOKEN_FIELDS: [&str; 4] = ["access_token", "refresh_token", "idp_access_token", "idp_refresh_token"];

fn lifetime(world: &World, seconds: u64) {
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = seconds);
}

#[tokio::test]
async fn login_moves_tokens_into_cookies_of_pwa_kit() {
    let world = world(PWA_KIT).await;
    for (is_registered, refresh, other) in
        [(false, "cc-nx-g_RefArch", "cc-nx_RefArch"), (true, "cc-nx_RefArch", "cc-nx-g_RefArch")]
    {
        let mut browser = Browser::new(&world);
        let answer = browser.log_in(is_registered).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        for field in TOKEN_FIELDS {
            assert!(answer.json().get(field).is_none(), "{field}");
        }
        assert!(answer.json()["usid"].is_string() && answer.json()["expires_in"].is_number());
        let names: Vec<&str> = names(&answer).into_iter().filter(|name| *name != "dwsid").collect();
        let position =
            |name: &str| names.iter().position(|own| *own == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
        assert!(position(other) < position(refresh), "a deletion comes before the value: {names:?}");
        for name in ["cc-at-expires", "customer_type", "customer_id", "usid", "cc-nx-expires", "cc-at-dnt", "uido"] {
            position(&format!("{name}_RefArch"));
        }
        let access = set_cookies(&answer).into_iter().find(|cookie| cookie.starts_with("cc-at_RefArch=")).unwrap();
        assert!(
            access.contains("; Path=/; Expires=") && access.ends_with("; Secure; HttpOnly; SameSite=lax"),
            "{access}"
        );
        let readable = set_cookies(&answer).into_iter().find(|cookie| cookie.starts_with("usid_")).unwrap();
        assert!(readable.ends_with("; Secure; SameSite=lax"), "{readable}");
        let token = &browser.jar["cc-at_RefArch"];
        assert_eq!(claim(token, "exp").to_string(), browser.jar["cc-at-expires_RefArch"]);
        assert_eq!(browser.jar["customer_type_RefArch"], if is_registered { "registered" } else { "guest" });
    }
}

#[tokio::test]
async fn call_uses_the_token_of_the_cookie_and_no_session_cookie_goes_upstream() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    browser.jar.insert("theme".into(), "dark".into());
    browser.jar.insert("dwsid".into(), "server-7".into());
    let answer = browser.send(browser.read()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("authorization"), None);
    let sent = world.forwarded("shopper-products.getProducts").pop().unwrap();
    assert_eq!(sent.header("authorization"), Some(&*format!("Bearer {}", browser.jar["cc-at_RefArch"])));
    assert_eq!(sent.header("sfdc_dwsid"), Some("server-7"));
    for name in ["x-site-id", "x-grant-type", "x-pwakit-preview-parent"] {
        assert_eq!(sent.header(name), None, "{name}");
    }
    let cookies = sent.header("cookie").unwrap();
    assert!(cookies.contains("theme=dark"), "{cookies}");
    for secret in ["cc-at_", "cc-nx", "dwsid"] {
        assert!(!cookies.split("; ").any(|pair| pair.starts_with(secret) && !pair.contains("expires")), "{cookies}");
    }
}

#[tokio::test]
async fn session_cookies_go_upstream_on_no_path() {
    let world = world(PWA_KIT).await;
    let token = world.mint(|_| {});
    let request = world.get(&products(super::PRODUCTS)).bearer_auth(&token);
    let request = request.header("cookie", "a=1; cc-at_RefArch=secret; __Host-cc-nx_RefArch=secret");
    assert_eq!(world.send(request).await.status, 200);
    let sent = world.forwarded("shopper-products.getProducts").pop().unwrap();
    assert_eq!(sent.header("cookie"), Some("a=1"));
}

#[tokio::test]
async fn login_sends_no_field_of_the_page_upstream() {
    let world = world(PWA_KIT).await;
    let browser = Browser::new(&world);
    let challenge = ("code_challenge", CHALLENGE);
    let fields = [("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch"), ("redirect_uri", REDIRECT), challenge];
    let login = browser.request(Method::POST, &browser.slas("login")).basic_auth(LOGIN, Some(PASSWORD)).form(&fields);
    let login =
        login.header("x-grant-type", "a").header("x-pwakit-preview-parent", "https://runtime.commercecloud.com");
    let answer = world.send(login).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    let sent = world.simulator.ledger().into_iter().find(|entry| entry.path.ends_with("/oauth2/login")).unwrap();
    assert!(sent.header("authorization").is_some());
    for name in ["x-site-id", "x-grant-type", "x-pwakit-preview-parent"] {
        assert_eq!(sent.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn bearer_token_wins_over_the_cookie_and_empty_bearer_does_not() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    let own = world.mint(|_| {});
    browser.send(browser.read().bearer_auth(&own)).await;
    assert_eq!(world.forwarded_token("shopper-products.getProducts"), own);
    for other in ["Bearer ", "Bearer", "Basic c2hvcDpwYWdl"] {
        let answer = browser.send(browser.read().header("authorization", other)).await;
        assert_eq!(answer.status, 200, "{other:?}: {}", answer.text());
        assert_eq!(world.forwarded_token("shopper-products.getProducts"), browser.jar["cc-at_RefArch"], "{other:?}");
    }
}

#[tokio::test]
async fn page_without_a_session_gets_the_answers_of_pwa_kit() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    let answer = browser.send(browser.read()).await;
    assert_eq!(
        (answer.refusal(), &*answer.text()),
        ((400, "token_missing"), r#"{"message":"access_token_cookie_missing"}"#)
    );
    let answer = browser.send(browser.refresh()).await;
    assert_eq!((answer.refusal(), &*answer.text()), ((401, "token_invalid"), r#"{"message":"invalid refresh_token"}"#));
    assert!(browser.jar.is_empty());
}

#[tokio::test]
async fn call_without_x_site_id_uses_no_cookie() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    let target = format!("/mobify/proxy/api{}", products(super::PRODUCTS));
    let request = world.get(&target).header("cookie", browser.cookies()).header("sec-fetch-site", "same-origin");
    assert_eq!(world.send(request).await.refusal(), (401, "token_missing"));
}

#[tokio::test]
async fn call_with_ended_access_cookie_is_renewed_and_sets_cookies() {
    for (keys, access, refresh) in
        [(PWA_KIT, "cc-at_RefArch", "cc-nx-g_RefArch"), (REFERENCE, "__Host-cc-at_RefArch", "__Host-cc-nx-g_RefArch")]
    {
        let world = world(keys).await;
        let mut browser = Browser::new(&world);
        browser.log_in(false).await;
        for ended in [None, Some("refresh")] {
            let before = browser.jar.remove(access).unwrap();
            if let Some(ended) = ended {
                browser.jar.insert(access.into(), ended.into());
            }
            let answer = browser.send(browser.read()).await;
            assert_eq!(answer.status, 200, "{keys}: {}", answer.text());
            assert_eq!(answer.header("authorization"), None);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert!(names(&answer).contains(&access) && names(&answer).contains(&refresh), "{:?}", names(&answer));
            assert_eq!(browser.send(browser.read()).await.status, 200);
            assert!(
                !browser.jar[access].is_empty() && ended.is_none_or(|_| browser.jar[access] != "refresh"),
                "{before}"
            );
        }
    }
}

#[tokio::test]
async fn refresh_with_the_cookie_gives_new_cookies_and_keeps_consent() {
    for (world, public) in [(world(PWA_KIT).await, false), (world_of(PUBLIC_CLIENT, PWA_KIT).await, true)] {
        let mut browser = if public { Browser::public(&world) } else { Browser::new(&world) };
        let form = [
            ("grant_type", "client_credentials"),
            ("channel_id", "RefArch"),
            ("client_id", browser.client),
            ("dnt", "true"),
        ];
        if public {
            browser.log_in(false).await;
        } else {
            browser.send(browser.request(Method::POST, &browser.slas("token")).form(&form)).await;
            assert_eq!(browser.jar["cc-at-dnt_RefArch"], "1");
        }
        let answer = browser.send(browser.refresh()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(names(&answer).contains(&"cc-at_RefArch"));
        // The page's own refresh decides about consent. The gateway's keeps it.
        if !public {
            browser.send(browser.request(Method::POST, &browser.slas("token")).form(&form)).await;
            browser.jar.remove("cc-at_RefArch");
            assert_eq!(browser.send(browser.read()).await.status, 200);
            assert_eq!(browser.jar["cc-at-dnt_RefArch"], "1");
        }
    }
}

#[tokio::test]
async fn two_tabs_that_refresh_at_once_both_stay_logged_in() {
    for keys in [PWA_KIT, REFERENCE] {
        let world = world_of(PUBLIC_CLIENT, keys).await;
        let mut browser = Browser::public(&world);
        browser.log_in(true).await;
        for round in 0..20 {
            let (one, two, three) = tokio::join!(
                world.send(browser.refresh()),
                world.send(browser.refresh()),
                world.send(browser.refresh())
            );
            for answer in [&one, &two, &three] {
                assert_eq!(answer.status, 200, "{keys}, round {round}: {}", answer.text());
            }
            browser.send(browser.refresh()).await;
        }
        assert_eq!(browser.send(browser.read()).await.status, 200);
    }
}

#[tokio::test]
async fn logout_ends_the_session_and_all_cookies() {
    for (keys, prefix) in [(PWA_KIT, ""), (REFERENCE, "__Host-")] {
        let world = world(keys).await;
        let mut browser = Browser::new(&world);
        browser.log_in(true).await;
        let before = browser.jar.clone();
        let answer = browser.send(browser.logout()).await;
        assert!(answer.status.is_success() || answer.status.is_redirection(), "{keys}: {}", answer.text());
        let left: Vec<&String> = browser.jar.keys().filter(|name| *name != "dwsid").collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(names(&answer).contains(&"__Host-pwakit_preview_ctx"));
        browser.jar = before;
        let answer = browser.send(browser.read()).await;
        let rejected = if keys == PWA_KIT { 401 } else { 400 };
        assert_eq!(answer.status, rejected, "{keys}: the old access cookie is rejected");
        browser.jar.remove(&format!("{prefix}cc-at_RefArch"));
        let answer = browser.send(browser.read()).await;
        assert_eq!(answer.text(), r#"{"message":"access_token_cookie_missing"}"#, "{keys}");
        let answer = browser.send(browser.refresh()).await;
        assert_eq!(answer.json()["message"], "invalid refresh_token", "{keys}");
    }
}

#[tokio::test]
async fn logout_with_expired_access_cookie_ends_the_session() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    browser.jar.remove("cc-at_RefArch");
    let refresh = browser.jar["cc-nx_RefArch"].clone();
    let answer = browser.send(browser.logout()).await;
    assert!(answer.status.is_success() || answer.status.is_redirection(), "{}", answer.text());
    browser.jar.insert("cc-nx_RefArch".into(), refresh);
    assert_eq!(browser.send(browser.refresh()).await.json()["message"], "invalid refresh_token");
}

#[tokio::test]
async fn reference_cookies_hold_no_token() {
    let world = world(REFERENCE).await;
    let mut browser = Browser::new(&world);
    let answer = browser.log_in(true).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown = format!("{:?} {}", answer.headers, answer.text());
    assert!(!shown.contains("eyJ"), "{shown}");
    assert!(answer.json().get("id_token").is_none());
    for (name, value) in browser.jar.iter().filter(|(name, _)| name.contains("cc-at_") || name.contains("cc-nx_")) {
        assert!(name.starts_with("__Host-"), "{name}");
        assert_eq!(value.len(), 43, "{name}");
    }
    assert_eq!(browser.send(browser.read()).await.status, 200);
    assert!(world.forwarded_token("shopper-products.getProducts").starts_with("eyJ"));
    // A server that renders pages sends the id as a bearer token.
    let id = browser.jar["__Host-cc-at_RefArch"].clone();
    let target = format!("/mobify/proxy/api{}", products(super::PRODUCTS));
    let request = world.get(&target).header("x-site-id", "RefArch").bearer_auth(&id);
    assert_eq!(world.send(request).await.status, 200);
    assert_eq!(world.send(world.get(&products(super::PRODUCTS)).bearer_auth(&id)).await.status, 401);
}

#[tokio::test]
async fn cookie_domain_is_set_after_a_deletion_for_the_host() {
    let world = world("cookie_domain = \".shop.example\"").await;
    let mut browser = Browser::new(&world);
    let answer = browser.log_in(false).await;
    let access: Vec<&str> =
        set_cookies(&answer).into_iter().filter(|cookie| cookie.starts_with("cc-at_RefArch=")).collect();
    let [deletion, value] = access[..] else { panic!("{access:?}") };
    assert!(deletion.starts_with("cc-at_RefArch=; Path=/; Expires=Thu, 01 Jan 1970") && !deletion.contains("Domain"));
    assert!(value.contains("; Domain=.shop.example; Secure"), "{value}");
}

#[tokio::test]
async fn preview_frame_gets_partitioned_cookies() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", browser.client)];
    for (parent, attributes) in [
        ("https://runtime.commercecloud.com", "; SameSite=none; Partitioned"),
        ("https://runtime.commercecloud.com.evil.example", "; SameSite=lax"),
    ] {
        let request = browser.request(Method::POST, &browser.slas("token")).form(&form);
        let answer = browser.send(request.header("x-pwakit-preview-parent", parent)).await;
        let ours: Vec<&str> = set_cookies(&answer).into_iter().filter(|cookie| cookie.contains("_RefArch=")).collect();
        assert!(!ours.is_empty() && ours.iter().all(|cookie| cookie.ends_with(attributes)), "{parent}: {ours:?}");
    }
}

#[tokio::test]
async fn base_path_of_a_storefront_is_served_and_others_are_not() {
    let world = world("base_path = \"/shop\"").await;
    let mut browser = Browser { prefix: "/shop/mobify/slas/private", ..Browser::new(&world) };
    assert_eq!(browser.log_in(false).await.status, 200);
    let target = |base: &str| format!("{base}/mobify/proxy/api{}", products(super::PRODUCTS));
    assert_eq!(browser.send(browser.request(Method::GET, &target("/shop"))).await.status, 200);
    for other in ["", "/other"] {
        let answer = browser.send(browser.request(Method::GET, &target(other))).await;
        assert_eq!(answer.refusal(), (404, "operation_unknown"), "{other}");
    }
}

#[tokio::test]
async fn paths_of_storefronts_are_unknown_without_one() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    let target = format!("/mobify/proxy/api{}", products(super::PRODUCTS));
    let answer = world.send(world.get(&target).bearer_auth(&token)).await;
    assert_eq!(answer.refusal(), (404, "operation_unknown"));
    let target = format!("/mobify/slas/public/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/jwks");
    assert_eq!(world.send(world.get(&target)).await.refusal(), (404, "operation_unknown"));
}

#[tokio::test]
async fn public_prefix_adds_no_credential() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser { prefix: "/mobify/slas/public", ..Browser::new(&world) };
    let answer = browser.log_in(false).await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert!(browser.jar.is_empty());
}

#[tokio::test]
async fn client_without_storefront_keeps_its_tokens() {
    let world = world_of(PUBLIC_CLIENT, PWA_KIT).await;
    let mut browser = Browser::new(&world);
    let answer = browser.log_in(false).await;
    assert!(answer.json()["access_token"].is_string(), "{}", answer.text());
    assert!(!names(&answer).iter().any(|name| name.contains("RefArch")));
}

#[tokio::test]
async fn calls_of_one_ended_session_cause_one_refresh() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    browser.jar.remove("cc-at_RefArch");
    lifetime(&world, 600);
    let refreshes = || world.simulator.ledger().into_iter().filter(|entry| entry.flow == "token:refresh_token").count();
    let before = refreshes();
    let answers = futures::future::join_all((0..12).map(|_| world.send(browser.read()))).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(refreshes() - before, 1);
}

#[tokio::test]
async fn logout_deletes_cookies_even_if_slas_fails() {
    // With the access cookie SLAS is asked to log out. Without it, the gateway first asks for a token.
    for access in [true, false] {
        let world = world(PWA_KIT).await;
        let mut browser = Browser::new(&world);
        browser.log_in(true).await;
        world.simulator.inject(Fault::on("slas", Effect::Status { code: 500, retry_after: None, body: None }));
        if !access {
            browser.jar.remove("cc-at_RefArch");
        }
        let answer = browser.send(browser.logout()).await;
        assert!(answer.status.is_server_error(), "{}", answer.status);
        assert!(!browser.jar.contains_key("cc-nx_RefArch"), "{access}: {:?}", names(&answer));
    }
}

#[tokio::test]
async fn reference_cookies_work_at_every_replica() {
    let redis = Redis::start().await;
    let entry = format!("site = \"RefArch\"\nclient_id = \"{PRIVATE_CLIENT}\"\n{REFERENCE}");
    let change = |config: &mut toml::Table| {
        in_redis(config, &redis.url());
        let tenant = config["tenants"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        let entry: toml::Table = entry.parse().unwrap();
        tenant.insert("storefronts".into(), toml::Value::Array(vec![entry.into()]));
    };
    let world = World::with(change).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    let other = Gateway::start(&world.simulator.url(), change).await;
    let url = format!("http://{}/mobify/proxy/api{}", other.address, products(super::PRODUCTS));
    let ask = async |cookies: String| {
        let request = world.client.get(&url).header("x-site-id", "RefArch").header("cookie", cookies);
        request.header("sec-fetch-site", "same-origin").send().await.unwrap()
    };
    eventually("the second replica has keys", async || ask(browser.cookies()).await.status() == 200).await;
    browser.jar.remove("__Host-cc-at_RefArch");
    let renewed = ask(browser.cookies()).await;
    assert_eq!(renewed.status(), 200);
    assert!(renewed.headers().contains_key("set-cookie"));
}
