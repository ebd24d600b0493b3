//! Errors are readable by pages of allowed origins, whatever makes them: otherwise a page sees a network error only.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use salesforce_simulator::{Effect, Fault, ResetAt, Seed};

use super::{FOREIGN, OTHER_SHOP, SHOP, assert_readable, assert_unreadable, clients, slas, with_origins};
use crate::world::{
    Gateway, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PUBLIC_CLIENT, World, baskets, customers, install_cryptography,
    login_target, products,
};

/// A world with these keys of some tables, for example `limits.body = 1000`.
async fn world(keys: &[&str]) -> World {
    World::with(|config| {
        with_origins(config);
        for key in keys {
            for (table, value) in key.parse::<toml::Table>().unwrap() {
                let entry = config.entry(table).or_insert_with(|| toml::Table::new().into());
                entry.as_table_mut().unwrap().extend(value.as_table().unwrap().clone());
            }
        }
    })
    .await
}

/// Sends a request from an allowed and from another origin, and checks the error and who can read it.
async fn check(world: &World, request: impl Fn() -> RequestBuilder, expected: (u16, &str)) {
    for (origin, allowed) in [(Some(SHOP), true), (Some(FOREIGN), false), (None, false)] {
        let request = match origin {
            Some(origin) => request().header("origin", origin),
            None => request(),
        };
        let answer = world.send(request).await;
        let what = format!("{expected:?} {origin:?}");
        assert_eq!(answer.refusal(), expected, "{what}: {}", answer.text());
        match origin.filter(|_| allowed) {
            Some(origin) => assert_readable(&answer, origin, &what),
            None => assert_unreadable(&answer, &what),
        }
    }
}

#[tokio::test]
async fn error_of_the_gateway_is_readable_by_allowed_pages() {
    let mut world = world(&[
        "limits.body = 1000",
        "limits.max_header_bytes = 16384",
        "logins.failed_per_address = 1000",
        "logins.failed_per_address_and_login = 1000",
        "logins.failed_per_login = 1000",
    ])
    .await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-products".into()]));
    let expired = world.mint(|spec| spec.lifetime_seconds = Some(-3600));
    let other_host = products("?ids=a").replace(ORGANIZATION, "f_ecom_aaaa_001");
    for client in clients() {
        world.client = client;
        let get = |target: &str| world.get(target);
        check(&world, || get(&products("?ids=a")), (401, "token_missing")).await;
        check(&world, || get(&products("?ids=a")).bearer_auth("a.b.c"), (401, "token_invalid")).await;
        check(&world, || get(&products("?ids=a")).bearer_auth(&expired), (401, "token_expired")).await;
        check(&world, || get(&products("/a/../b%2F..")).bearer_auth(&token), (400, "request_ambiguous")).await;
        check(&world, || get(&products("?siteId=a&siteId=b")).bearer_auth(&token), (400, "request_ambiguous")).await;
        check(&world, || get(&products("?siteId=a.b")).bearer_auth(&token), (400, "request_invalid")).await;
        let two = || get(&products("?ids=a")).bearer_auth(&token).basic_auth("a", Some("b"));
        check(&world, two, (400, "credentials_conflicting")).await;
        let other_site = || get(&products("?siteId=RefArchGlobal")).bearer_auth(&token);
        check(&world, other_site, (403, "token_wrong_site")).await;
        let scope = || get(&customers("/customers/c1?siteId=RefArch")).bearer_auth(&token);
        check(&world, scope, (403, "scope_missing")).await;
        check(&world, || get("/unknown"), (404, "operation_unknown")).await;
        check(&world, || get(&other_host), (404, "operation_unknown")).await;
        check(&world, || get(&slas("unlisted")), (403, "operation_not_allowed")).await;
        check(&world, || world.post(&products("")), (405, "method_not_allowed")).await;
        check(&world, || world.request(Method::TRACE, &products("")), (400, "request_invalid")).await;
        let large = || world.post(&baskets("?siteId=RefArch")).bearer_auth(&token).body(vec![b' '; 1001]);
        check(&world, large, (413, "request_too_large")).await;
        check(&world, || get(&products(&format!("?ids={}", "a".repeat(9000)))), (414, "request_too_large")).await;
        let long = || get(&products("?ids=a")).header("x-long", "a".repeat(17_000));
        check(&world, long, (431, "request_too_large")).await;
        let login = || world.post(&login_target(PUBLIC_CLIENT)).basic_auth(LOGIN, Some("wrong"));
        check(&world, || login().body(r#"{"type":"credentials"}"#), (401, "login_rejected")).await;
        check(&world, || login().body("no json"), (400, "request_invalid")).await;
    }
}

#[tokio::test]
async fn failure_of_the_api_is_readable_by_allowed_pages() {
    let mut world = world(&["timeouts.upstream = '1s'"]).await;
    let token = world.mint(|_| {});
    for client in clients() {
        world.client = client;
        let good = || world.get(&products("?ids=a")).bearer_auth(&token);
        world.simulator.inject(Fault::on("api", Effect::Reset { at: ResetAt::Before }));
        check(&world, good, (502, "upstream_unavailable")).await;
        world.simulator.clear_faults();
        world.simulator.inject(Fault::on("api", Effect::Hang));
        check(&world, good, (504, "upstream_timeout")).await;
        world.simulator.clear_faults();
        // Salesforce's own errors.
        for code in [400, 401, 404, 429, 500, 503] {
            let status = Effect::Status { code, retry_after: Some("7".into()), body: Some("{}".into()) };
            world.simulator.inject(Fault::on("api", status));
            check(&world, good, (code, "none")).await;
            world.simulator.clear_faults();
        }
        let unknown_key = world.mint(|spec| spec.kid = Some("unknown".into()));
        let keys = Effect::Status { code: 500, retry_after: None, body: None };
        world.simulator.inject(Fault::on("slas", keys).flow("jwks"));
        let with_unknown_key = || world.get(&products("?ids=a")).bearer_auth(&unknown_key);
        check(&world, with_unknown_key, (503, "keys_unavailable")).await;
        world.simulator.clear_faults();
    }
}

#[tokio::test]
async fn refused_connection_is_readable_by_allowed_pages() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let gateway = Gateway::start(&simulator.url(), |config| {
        with_origins(config);
        // The port of no server: the operating system refuses the connection.
        let tenant = config["tenants"].as_array_mut().unwrap()[1].as_table_mut().unwrap();
        tenant.insert("api".into(), "http://127.0.0.1:9".into());
    })
    .await;
    let world = World { simulator, gateway, client: reqwest::Client::builder().no_proxy().build().unwrap() };
    let target = format!("/shopper/auth/v1/organizations/{}/oauth2/jwks", OTHER_ORGANIZATION);
    let answer = world.send(world.get(&target).header("origin", OTHER_SHOP)).await;
    assert_eq!(answer.refusal(), (502, "upstream_unavailable"));
    assert_readable(&answer, OTHER_SHOP, "502");
    assert_unreadable(&world.send(world.get(&target).header("origin", SHOP)).await, "another tenant's origin");
}

#[tokio::test]
async fn rate_limit_is_readable_by_allowed_pages() {
    let world = World::with(|config| {
        with_origins(config);
        for client in config["tenants"].as_array_mut().unwrap()[0]["slas_clients"].as_array_mut().unwrap() {
            client.as_table_mut().unwrap().insert("requests_per_second".into(), 1.into());
        }
    })
    .await;
    let token = world.mint(|_| {});
    let limited = async |origin: &str| {
        for _ in 0..200 {
            let answer = world.send(world.get(&products("?ids=a")).bearer_auth(&token).header("origin", origin)).await;
            if answer.refusal() == (429, "caller_rate_limited") {
                return answer;
            }
        }
        panic!("no request was limited");
    };
    let answer = limited(SHOP).await;
    assert_readable(&answer, SHOP, "429");
    assert!(answer.header("retry-after").is_some());
    assert_unreadable(&limited(FOREIGN).await, "429");
}

#[tokio::test]
async fn malformed_body_is_readable_by_allowed_pages() {
    let world = world(&["timeouts.held_body = '1s'"]).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nOrigin: {SHOP}\r\nContent-Type: application/json\r\n",
        login_target(PUBLIC_CLIENT)
    );
    for rest in ["Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "Content-Length: 10\r\n\r\nshort"] {
        let request = format!("{head}{rest}");
        let answer = tokio::time::timeout(Duration::from_secs(30), raw_until_end(&world, &request));
        let answer = answer.await.unwrap().to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 400 "), "{answer}");
        assert!(answer.contains(&format!("access-control-allow-origin: {SHOP}\r\n")), "{answer}");
    }
    let framing = format!("GET {} HTTP/1.1\r\nHost: a\r\nOrigin: {SHOP}\r\nContent_Length: 1\r\n\r\n", products(""));
    let answer = raw_until_end(&world, &framing).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 400 "), "{answer}");
    assert!(answer.contains(&format!("access-control-allow-origin: {SHOP}\r\n")), "{answer}");
}

/// Sends bytes and returns all received bytes until the gateway closes the connection.
async fn raw_until_end(world: &World, bytes: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(world.gateway.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the response loses none of it here.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
