//! Requests that must not act for a shopper, or set cookies.

use reqwest::Method;

use salesforce_simulator::{Effect, Fault, ResetAt};

use super::{Browser, CHALLENGE, PWA_KIT, REDIRECT, REFERENCE, set_cookies, world};
use crate::world::{LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, login_target, products};

fn foreign(world: &World, method: Method, target: &str, browser: &Browser<'_>) -> reqwest::RequestBuilder {
    world.request(method, target).header("x-site-id", "RefArch").header("cookie", browser.cookies())
}

#[tokio::test]
async fn page_of_a_foreign_origin_does_not_act_for_the_shopper() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    let call = format!("/mobify/proxy/api{}", products(super::PRODUCTS));
    let (refresh, logout) = (browser.slas("token"), browser.slas("logout?channel_id=RefArch"));
    for fields in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "null"), ("sec-fetch-site", "same-origin")],
        &[("origin", "https://evil.example"), ("sec-fetch-site", "same-site")],
        &[("referer", "https://evil.example/")],
    ] {
        let form = format!("grant_type=refresh_token&refresh_token=&client_id={PRIVATE_CLIENT}&channel_id=RefArch");
        for (method, target) in [(Method::GET, &call), (Method::POST, &refresh), (Method::GET, &logout)] {
            let mut request = foreign(&world, method.clone(), target, &browser);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            if method == Method::POST {
                request = request.header("content-type", "application/x-www-form-urlencoded");
                request = request.header("x-grant-type", "refresh_token").body(form.clone());
            }
            let answer = world.send(request).await;
            assert_eq!(answer.refusal(), (403, "origin_not_allowed"), "{target} {fields:?}");
            assert!(set_cookies(&answer).is_empty(), "{target} {fields:?}");
        }
    }
    assert!(world.forwarded("shopper-products.getProducts").is_empty());
    assert_eq!(browser.send(browser.read()).await.status, 200, "the session is as before");
}

#[tokio::test]
async fn write_without_fields_of_a_browser_has_no_authority_by_cookie() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    let baskets = format!("/mobify/proxy/api{}", crate::world::baskets("?siteId=RefArch"));
    let request = foreign(&world, Method::POST, &baskets, &browser).header("content-type", "application/json");
    assert_eq!(world.send(request.body("{}")).await.refusal(), (403, "origin_not_allowed"));
}

#[tokio::test]
async fn page_of_a_foreign_origin_sets_no_cookies_by_a_login() {
    let world = world(PWA_KIT).await;
    let browser = Browser::new(&world);
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
    let request = world.post(&browser.slas("token")).header("x-site-id", "RefArch").form(&form);
    let answer = world.send(request.header("origin", "https://evil.example")).await;
    assert_eq!(answer.refusal(), (403, "origin_not_allowed"));
    assert!(set_cookies(&answer).is_empty());
    // A server that renders pages sends none of a browser's fields.
    let request = world.post(&browser.slas("token")).header("x-site-id", "RefArch").form(&form);
    assert!(!set_cookies(&world.send(request).await).is_empty());
}

#[tokio::test]
async fn token_request_without_the_site_of_its_storefront_issues_no_tokens() {
    let world = world(PWA_KIT).await;
    let browser = Browser::new(&world);
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
    for site in [None, Some("RefArchGlobal"), Some("Unknown")] {
        let mut request = world.post(&browser.slas("token")).form(&form);
        if let Some(site) = site {
            request = request.header("x-site-id", site);
        }
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), (500, "request_invalid"), "{site:?}");
        assert_eq!(answer.json()["error"], "Internal server error", "{site:?}");
        assert!(!answer.text().contains("eyJ") && set_cookies(&answer).is_empty(), "{site:?}");
    }
    let logins = world.simulator.ledger().into_iter().filter(|entry| entry.flow.starts_with("token:"));
    assert_eq!(logins.count(), 0, "SLAS was not asked");
}

#[tokio::test]
async fn forged_and_foreign_cookies_are_rejected() {
    for (keys, name, refresh) in
        [(PWA_KIT, "cc-at_RefArch", "cc-nx_RefArch"), (REFERENCE, "__Host-cc-at_RefArch", "__Host-cc-nx_RefArch")]
    {
        let world = world(keys).await;
        let mut browser = Browser::new(&world);
        let other_site = world.mint(|spec| spec.site = "RefArchGlobal".into());
        let forged = {
            let token = world.mint(|_| {});
            let (rest, _) = token.rsplit_once('.').unwrap();
            format!("{rest}.{}", "A".repeat(86))
        };
        let long = "a".repeat(5000);
        for (value, statuses) in [
            (forged.as_str(), &[400, 401][..]),
            (other_site.as_str(), &[400, 403]),
            (long.as_str(), &[400, 431]),
            ("refresh", &[400]),
            ("a.b.c", &[400]),
            ("0123456789012345678901234567890123456789012", &[400]),
        ] {
            browser.jar.clear();
            browser.jar.insert(name.into(), value.into());
            let answer = world.send(browser.read()).await;
            assert!(
                statuses.contains(&answer.status.as_u16()),
                "{keys} {value:.20}: {} {}",
                answer.status,
                answer.text()
            );
            assert!(set_cookies(&answer).is_empty(), "{keys} {value:.20}");
            assert!(!answer.text().contains(value), "{keys}");
            browser.jar.insert(refresh.into(), value.into());
            browser.jar.remove(name);
            let answer = world.send(browser.read()).await;
            assert!([400, 431].contains(&answer.status.as_u16()), "{keys} refresh {value:.20}: {}", answer.text());
        }
        assert!(world.forwarded("shopper-products.getProducts").is_empty(), "{keys}");
    }
}

#[tokio::test]
async fn two_cookies_of_one_name_are_ambiguous() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    for name in ["cc-at_RefArch", "cc-nx_RefArch"] {
        let cookies = format!("{name}=tossed; {}; {name}=other", browser.cookies());
        let target = format!("/mobify/proxy/api{}", products(super::PRODUCTS));
        let request = world.get(&target).header("x-site-id", "RefArch").header("sec-fetch-site", "same-origin");
        let answer = world.send(request.header("cookie", cookies)).await;
        assert_eq!(answer.refusal(), (400, "request_ambiguous"), "{name}");
        assert!(set_cookies(&answer).is_empty());
    }
}

#[tokio::test]
async fn login_gives_new_ids_whatever_cookies_came_with_it() {
    let world = world(REFERENCE).await;
    let mut browser = Browser::new(&world);
    browser.log_in(false).await;
    let planted = browser.jar.clone();
    browser.log_in(true).await;
    for name in ["__Host-cc-at_RefArch", "__Host-cc-nx-g_RefArch"] {
        assert_ne!(browser.jar.get(name), planted.get(name), "{name}");
    }
}

#[tokio::test]
async fn cookie_gives_no_authority_outside_the_paths_of_storefronts() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    let answer = world.send(browser.request(Method::GET, &products(super::PRODUCTS))).await;
    assert_eq!(answer.refusal(), (401, "token_missing"));
}

/// Each login deletes one of the two refresh cookies. Another host of the domain may have set the other one.
#[tokio::test]
async fn refresh_cookies_of_guest_and_registered_shopper_together_are_rejected() {
    let world = world(PWA_KIT).await;
    let (mut guest, mut attacker) = (Browser::new(&world), Browser::new(&world));
    guest.log_in(false).await;
    attacker.log_in(true).await;
    guest.jar.remove("cc-at_RefArch");
    guest.jar.insert("cc-nx_RefArch".into(), attacker.jar["cc-nx_RefArch"].clone());
    for request in [guest.read(), guest.refresh()] {
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), (400, "request_ambiguous"), "{}", answer.text());
        assert!(set_cookies(&answer).is_empty());
    }
    guest.send(guest.logout()).await;
    assert!(!guest.jar.keys().any(|name| name.starts_with("cc-")), "a logout deletes both: {:?}", guest.jar);
}

#[tokio::test]
async fn cookie_of_a_stranger_with_other_characters_hides_no_session() {
    for other in ["name=José", "José=a", "name=\u{ff}"] {
        let world = world(PWA_KIT).await;
        let mut browser = Browser::new(&world);
        browser.log_in(true).await;
        let refresh = browser.jar["cc-nx_RefArch"].clone();
        let cookies = format!("{other}; {}; {other}", browser.cookies());
        let with = |method, target: &str| {
            let cookies = reqwest::header::HeaderValue::from_bytes(cookies.as_bytes()).unwrap();
            let request = world.request(method, target).header("x-site-id", "RefArch").header("cookie", cookies);
            request.header("sec-fetch-site", "same-origin")
        };
        let read = format!("/mobify/proxy/api{}", products(super::PRODUCTS));
        assert_eq!(world.send(with(Method::GET, &read)).await.status, 200, "{other}");
        let logout = browser.slas(&format!("logout?client_id={PRIVATE_CLIENT}&channel_id=RefArch&refresh_token="));
        assert_eq!(world.send(with(Method::GET, &logout)).await.status, 200, "{other}");
        browser.jar.clear();
        browser.jar.insert("cc-nx_RefArch".into(), refresh);
        let answer = world.send(browser.refresh()).await;
        assert_eq!(answer.json()["message"], "invalid refresh_token", "{other}: the session has ended");
    }
}

/// SLAS's response to a passkey login has the tokens inside another object.
#[tokio::test]
async fn passkey_login_gives_no_token_to_a_page() {
    for keys in [PWA_KIT, REFERENCE] {
        let world = world(keys).await;
        let browser = Browser::new(&world);
        let tokens = r#"{"success":true,"tokenResponse":{"access_token":"eyJ.a.b","refresh_token":"secret"}}"#;
        world.simulator.inject(Fault::on("slas", status(200, tokens)));
        for prefix in ["/mobify/slas/private", "/mobify/slas/public", "/mobify/proxy/api"] {
            let path =
                format!("{prefix}/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/webauthn/authenticate/finish");
            let body = format!(r#"{{"client_id":"{PRIVATE_CLIENT}","channel_id":"RefArch","user_id":"ada"}}"#);
            let answer = world
                .send(browser.request(Method::POST, &path).header("content-type", "application/json").body(body))
                .await;
            assert_eq!(answer.refusal(), (403, "operation_not_allowed"), "{prefix}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn prefix_of_the_api_gives_no_token_of_a_storefront_to_a_page() {
    for keys in [PWA_KIT, REFERENCE] {
        let world = world(keys).await;
        let mut browser = Browser { prefix: "/mobify/proxy/api", ..Browser::new(&world) };
        let answer = browser.log_in(false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        assert!(body.get("access_token").or(body.get("refresh_token")).is_none(), "{body}");
        assert!(set_cookies(&answer).iter().any(|cookie| cookie.contains("cc-at_")));
        let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
        assert_eq!(world.send(world.post(&browser.slas("token")).form(&form)).await.status, 500, "no x-site-id");
        let login = format!("/mobify/proxy/api{}", login_target(PRIVATE_CLIENT));
        let login = browser.request(Method::POST, &login).basic_auth(LOGIN, Some(PASSWORD));
        let answer = world.send(login.body(r#"{"type":"credentials"}"#)).await;
        assert_eq!(answer.refusal(), (403, "operation_not_allowed"), "{}", answer.text());
    }
}

#[tokio::test]
async fn logout_that_slas_does_not_confirm_ends_the_session() {
    for (keys, prefix) in [(PWA_KIT, ""), (REFERENCE, "__Host-")] {
        for (is_registered, refresh) in [(true, "cc-nx_RefArch"), (false, "cc-nx-g_RefArch")] {
            for effect in [status(503, "{}"), status(400, "{}"), Effect::Reset { at: ResetAt::Before }] {
                let world = world(keys).await;
                let mut browser = Browser::new(&world);
                browser.log_in(is_registered).await;
                let stolen = browser.jar.clone();
                world.simulator.inject(Fault::on("slas", effect.clone()));
                browser.send(browser.logout()).await;
                world.simulator.clear_faults();
                assert!(!browser.jar.contains_key(&format!("{prefix}{refresh}")), "{:?}", browser.jar);
                browser.jar = stolen;
                let answer = world.send(browser.read()).await;
                assert!([400, 401].contains(&answer.status.as_u16()), "{keys} {refresh} {effect:?}: {}", answer.text());
                let answer = world.send(browser.refresh()).await;
                assert!([400, 401].contains(&answer.status.as_u16()), "{keys} {refresh} {effect:?}: {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn token_response_of_another_form_gives_no_token_to_a_page() {
    for (code, body) in [
        (200, "\u{feff}{\"access_token\":\"eyJ.a.b\",\"refresh_token\":\"secret\"}"),
        (200, "[{\"access_token\":\"eyJ.a.b\",\"refresh_token\":\"secret\"}]"),
        (201, "{\"access_token\":\"eyJ.a.b\",\"refresh_token\":\"secret\"}"),
    ] {
        let world = world(PWA_KIT).await;
        world.simulator.inject(Fault::on("slas", status(code, body)));
        let mut browser = Browser::new(&world);
        let answer = browser.log_in(false).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(!answer.text().contains("secret") && set_cookies(&answer).is_empty(), "{}", answer.text());
    }
}

/// A shared cache keeps no response to a request with `Authorization` (RFC 9111, 3.5), but one to a request with cookies.
#[tokio::test]
async fn shared_caches_keep_no_response_to_a_session_in_cookies() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    for path in [products(super::PRODUCTS), products("?siteId=RefArch&ids=unknown"), "/unknown".to_owned()] {
        let answer = world.send(browser.request(Method::GET, &format!("/mobify/proxy/api{path}"))).await;
        let scope = answer.header("cache-control").unwrap_or_default();
        assert!(
            scope.contains("private") || scope.contains("no-store"),
            "{path} {}: {:?}",
            answer.status,
            answer.headers
        );
    }
}

#[tokio::test]
async fn fields_of_a_call_do_not_disturb_its_renewal() {
    let world = world(PWA_KIT).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    browser.jar.remove("cc-at_RefArch");
    for (name, value) in [
        ("content-encoding", "identity"),
        ("content-type", "application/json"),
        ("range", "bytes=0-1"),
        ("if-none-match", "\"a\""),
        ("sfdc_refresh_token", "other"),
        ("expect", "100-continue"),
    ] {
        let answer = world.send(browser.read().header(name, value)).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn id_in_a_reference_cookie_ends_with_its_logout_and_stays_for_a_refresh_token_that_stays() {
    let world = world(REFERENCE).await;
    let mut browser = Browser::new(&world);
    browser.log_in(true).await;
    let before = browser.jar.clone();
    assert_eq!(browser.send(browser.refresh()).await.status, 200);
    assert_ne!(browser.jar["__Host-cc-at_RefArch"], before["__Host-cc-at_RefArch"]);
    // SLAS keeps the refresh token of a private client. A browser that misses the response keeps its session.
    assert_eq!(browser.jar["__Host-cc-nx_RefArch"], before["__Host-cc-nx_RefArch"]);
    let stolen = browser.jar.clone();
    browser.send(browser.logout()).await;
    browser.jar = stolen;
    assert_eq!(world.send(browser.read()).await.status, 400);
    assert_eq!(world.send(browser.refresh()).await.status, 401);
}

#[tokio::test]
async fn logout_ends_the_session_whatever_its_query_and_cookies_say() {
    for (query, cookie) in [
        ("refresh%5Ftoken=a", ""),
        ("refresh_token=a&refresh_token=b", ""),
        ("refresh_token=", "cc-at_RefArch=tossed; "),
    ] {
        let world = world(PWA_KIT).await;
        let mut browser = Browser::new(&world);
        browser.log_in(true).await;
        let refresh = browser.jar["cc-nx_RefArch"].clone();
        let target = browser.slas(&format!("logout?client_id={PRIVATE_CLIENT}&channel_id=RefArch&{query}"));
        let logout = world.request(Method::GET, &target).header("x-site-id", "RefArch");
        let logout =
            logout.header("sec-fetch-site", "same-origin").header("cookie", format!("{cookie}{}", browser.cookies()));
        browser.send(logout).await;
        assert!(!browser.jar.contains_key("cc-nx_RefArch"), "{query} {cookie}: {:?}", browser.jar);
        browser.jar.clear();
        browser.jar.insert("cc-nx_RefArch".into(), refresh);
        let answer = world.send(browser.refresh()).await;
        assert_eq!(answer.json()["message"], "invalid refresh_token", "{query} {cookie}: the session has ended");
    }
}

#[tokio::test]
async fn foreign_page_deletes_no_cookies_by_a_logout() {
    let world = world(PWA_KIT).await;
    let browser = Browser::new(&world);
    let logout = browser.slas(&format!("logout?client_id={PRIVATE_CLIENT}&channel_id=RefArch"));
    let request = world.get(&logout).header("x-site-id", "RefArch").header("origin", "https://evil.example");
    let answer = world.send(request).await;
    assert_eq!(answer.refusal(), (403, "origin_not_allowed"));
    assert!(set_cookies(&answer).is_empty());
}

#[tokio::test]
async fn token_request_for_another_site_than_that_of_its_cookies_is_rejected() {
    let world = world(REFERENCE).await;
    let browser = Browser::new(&world);
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArchGlobal"), ("client_id", PRIVATE_CLIENT)];
    let answer = world.send(browser.request(Method::POST, &browser.slas("token")).form(&form)).await;
    assert_eq!(answer.refusal(), (400, "request_ambiguous"), "{}", answer.text());
    assert!(set_cookies(&answer).is_empty());
}

#[tokio::test]
async fn client_of_a_storefront_beside_another_one_gets_no_tokens_in_the_body() {
    let world = super::world_of(PUBLIC_CLIENT, PWA_KIT).await;
    let browser = Browser::public(&world);
    let form = [("grant_type", "refresh_token"), ("refresh_token", "a"), ("client_id", PUBLIC_CLIENT)];
    let request = world.post(&browser.slas("token")).basic_auth("zzz", Some("")).form(&form);
    let answer = world.send(request).await;
    assert_eq!(answer.refusal(), (500, "request_invalid"), "{}", answer.text());
}

/// The gateway keeps a guest's session for as long as its refresh token lives, so an address gets only so many.
#[tokio::test]
async fn guests_of_one_address_are_limited() {
    for client in [PRIVATE_CLIENT, PUBLIC_CLIENT] {
        let entry = format!("site = \"RefArch\"\nclient_id = \"{client}\"\n{REFERENCE}");
        let mut world = World::with(|config| {
            let tenant = config["tenants"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
            tenant.insert("storefronts".into(), toml::Value::Array(vec![entry.parse::<toml::Table>().unwrap().into()]));
            config.insert("logins".into(), "guests_per_address = 4".parse::<toml::Table>().unwrap().into());
        })
        .await;
        world.client =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let browser = Browser { client, ..Browser::new(&world) };
        let mut refused = 0;
        for _ in 0..6 {
            let request = if client == PRIVATE_CLIENT {
                let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", client)];
                browser.request(Method::POST, &browser.slas("token")).form(&form)
            } else {
                let query =
                    [("client_id", client), ("channel_id", "RefArch"), ("hint", "guest"), ("response_type", "code")];
                let query = [&query[..], &[("redirect_uri", REDIRECT), ("code_challenge", CHALLENGE)]].concat();
                browser.request(Method::GET, &browser.slas("authorize")).query(&query)
            };
            refused += usize::from(world.send(request).await.refusal() == (429, "caller_rate_limited"));
        }
        assert_eq!(refused, 2, "{client}");
    }
}

fn status(code: u16, body: &str) -> Effect {
    Effect::Status { code, retry_after: None, body: Some(body.to_owned()) }
}
