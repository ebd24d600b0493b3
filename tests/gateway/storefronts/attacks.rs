//! Requests that must not act for a shopper, or set cookies.

use reqwest::Method;

use super::{Browser, PWA_KIT, REFERENCE, set_cookies, world};
use crate::world::{PRIVATE_CLIENT, World, products};

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
