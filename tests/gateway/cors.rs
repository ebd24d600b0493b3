//! Pages of other origins (CORS): preflights, the fields of every response, other methods, and the end of a browser login.
//!
//! The client is no browser: it sends what browsers send (Fetch standard), and the tests judge the fields that browsers judge.

mod errors;

use std::collections::BTreeSet;

use reqwest::{Client, Method, RequestBuilder, redirect::Policy};
use salesforce_simulator::{Effect, Fault, Seed};

use crate::{
    streaming::scripted_api::ScriptedApi,
    world::{
        Answer, Gateway, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World,
        baskets, customers, eventually, install_cryptography, login_target, products,
    },
};

/// Allowed for every site.
pub const SHOP: &str = "https://www.shop.example";
/// Allowed for the site RefArch only, with cookies.
const REF_ARCH: &str = "https://refarch.shop.example";
/// Allowed by the pattern of one label.
const PREVIEW: &str = "https://feature-1.preview.example";
/// Allowed by the pattern of any port.
const LOCAL: &str = "http://localhost:5173";
/// Allowed by the other tenant only.
const OTHER_SHOP: &str = "https://www.other.example";
/// Allowed by no tenant.
pub const FOREIGN: &str = "https://www.evil.example";

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_METHODS: &str = "access-control-allow-methods";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";
/// What the SDK asks for.
const SDK_FIELDS: &str = "authorization,content-type,correlation-id,sfdc_user_agent";

const ORIGINS: &str = r#"
[[origins]]
origin = "https://www.shop.example"
headers = ["X-Experiment"]
[[origins]]
origin = "https://refarch.shop.example"
sites = ["RefArch"]
credentials = true
max_age = "10m"
[[origins]]
origin = "https://*.preview.example"
private_network = true
[[origins]]
origin = "http://localhost:*"
"#;

/// A change of the configuration: the first tenant allows the origins above, the second one its own.
pub fn with_origins(config: &mut toml::Table) {
    set_origins(config, 0, ORIGINS);
    set_origins(config, 1, &format!("[[origins]]\norigin = \"{OTHER_SHOP}\""));
}

fn set_origins(config: &mut toml::Table, tenant: usize, origins: &str) {
    let tenant = config["tenants"].as_array_mut().unwrap()[tenant].as_table_mut().unwrap();
    tenant.extend(origins.parse::<toml::Table>().unwrap());
}

async fn world() -> World {
    let mut world = World::with(with_origins).await;
    world.client = client();
    world
}

/// A client that follows no redirect.
fn client() -> Client {
    Client::builder().no_proxy().redirect(Policy::none()).build().unwrap()
}

/// Clients of both versions of HTTP.
fn clients() -> [Client; 2] {
    let http2 = Client::builder().no_proxy().redirect(Policy::none()).http2_prior_knowledge().build().unwrap();
    [client(), http2]
}

pub fn slas(rest: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}")
}

/// A preflight as a browser sends it.
fn preflight(world: &World, origin: &str, method: &str, target: &str) -> RequestBuilder {
    let request = world.request(Method::OPTIONS, target).header("origin", origin);
    request.header("access-control-request-method", method).header("access-control-request-headers", SDK_FIELDS)
}

/// The names of a field's list, in lower case.
fn list<'a>(answer: &'a Answer, name: &str) -> BTreeSet<&'a str> {
    let lines = answer.headers.get_all(name).iter().map(|line| line.to_str().unwrap());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// Checks that a page of `origin` can read a response.
#[track_caller]
pub fn assert_readable(answer: &Answer, origin: &str, what: &str) {
    assert_eq!(answer.header(ALLOW_ORIGIN), Some(origin), "{what}: {answer:?}");
    assert_eq!(answer.headers.get_all(ALLOW_ORIGIN).iter().count(), 1, "{what}");
    let exposed = list(answer, EXPOSE_HEADERS);
    for name in ["authorization", "correlation-id", "retry-after", "x-shopper-gateway-error", "location", "etag"] {
        assert!(exposed.contains(name), "{what}: {name} is not exposed");
    }
    assert!(list(answer, "vary").contains("Origin"), "{what}: {answer:?}");
}

/// Checks that no page of another origin can read a response.
#[track_caller]
pub fn assert_unreadable(answer: &Answer, what: &str) {
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{what}: {answer:?}");
    assert!(list(answer, "vary").contains("Origin"), "{what}: {answer:?}");
}

/// What reached Salesforce, apart from the gateway's own requests for keys.
fn arrived(world: &World) -> Vec<String> {
    let ledger = world.simulator.ledger().into_iter().filter(|entry| entry.flow != "jwks");
    ledger.map(|entry| format!("{} {}", entry.method, entry.path)).collect()
}

#[tokio::test]
async fn preflight_of_allowed_origin_is_answered_without_salesforce() {
    let mut world = World::with(|config| {
        with_origins(config);
        let route = "[[routes]]\nname = 'loyalty.setPoints'\nmethod = 'PUT'\nsecurity = 'shopper'\nscopes = ['c_loyalty']\n\
             path = '/custom/loyalty/v1/organizations/{organizationId}/points/{id}'";
        config.extend(route.parse::<toml::Table>().unwrap());
    })
    .await;
    for client in clients() {
        world.client = client;
        for (method, target, methods) in [
            ("GET", products("?ids=a&siteId=RefArch"), "GET, HEAD"),
            ("HEAD", products("?ids=a"), "GET, HEAD"),
            ("POST", baskets("?siteId=RefArch"), "POST"),
            ("DELETE", baskets("/b1?siteId=RefArch"), "GET, HEAD, PATCH, DELETE"),
            ("PATCH", customers("/customers/c1/addresses/home%2Foffice"), "GET, HEAD, PATCH, DELETE"),
            ("PUT", format!("/custom/loyalty/v1/organizations/{ORGANIZATION}/points/1"), "PUT"),
            ("POST", login_target(PUBLIC_CLIENT), "POST"),
            ("POST", slas("token"), "POST"),
            ("GET", slas("authorize?channel_id=RefArch"), "GET, HEAD"),
            ("GET", slas("logout"), "GET, HEAD, POST"),
            ("POST", format!("/mobify/slas/private{}", slas("token")), "POST"),
        ] {
            for origin in [SHOP, PREVIEW, LOCAL] {
                let answer = world.send(preflight(&world, origin, method, &target)).await;
                let what = format!("{origin} {method} {target}: {answer:?}");
                assert_eq!(answer.status, 204, "{what}");
                assert_eq!(answer.header(ALLOW_ORIGIN), Some(origin), "{what}");
                assert_eq!(answer.header(ALLOW_METHODS), Some(methods), "{what}");
                assert_eq!(list(&answer, ALLOW_HEADERS), SDK_FIELDS.split(',').collect(), "{what}");
                assert_eq!(answer.header("access-control-max-age"), Some("7200"), "{what}");
                let vary = ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"];
                assert_eq!(list(&answer, "vary"), BTreeSet::from(vary), "{what}");
                for absent in
                    ["access-control-allow-credentials", "content-length", "access-control-allow-private-network"]
                {
                    assert_eq!(answer.header(absent), None, "{what}");
                }
            }
        }
        assert_eq!(arrived(&world), [""; 0]);
    }
}

#[tokio::test]
async fn preflight_of_other_origin_gets_403_that_no_page_can_read() {
    let mut world = world().await;
    for client in clients() {
        world.client = client;
        for origin in [
            FOREIGN,
            OTHER_SHOP,
            "null",
            "*",
            "",
            "https://WWW.shop.example",
            "https://www.shop.example:443",
            "https://www.shop.example/",
            "https://www.shop.example.evil.example",
            "https://a.b.preview.example",
            "https://preview.example",
            "http://localhost.evil.example:5173",
            "https://www.shop.example https://www.evil.example",
        ] {
            for target in [products("?siteId=RefArch"), slas("token")] {
                let answer = world.send(preflight(&world, origin, "GET", &target)).await;
                assert_eq!(answer.refusal(), (403, "origin_not_allowed"), "{origin} {target}");
                assert!(answer.json()["detail"].as_str().unwrap().contains("[[tenants.origins]]"), "{answer:?}");
                assert_unreadable(&answer, origin);
            }
        }
        let two = preflight(&world, SHOP, "GET", &products("")).header("origin", SHOP);
        assert_eq!(world.send(two).await.refusal(), (403, "origin_not_allowed"), "two origins");
        let of_other = preflight(&world, SHOP, "GET", &products("").replace(ORGANIZATION, OTHER_ORGANIZATION));
        assert_eq!(world.send(of_other).await.refusal(), (403, "origin_not_allowed"), "another tenant's");
    }
    assert_eq!(arrived(&world), [""; 0]);
}

#[tokio::test]
async fn preflight_allows_requested_fields_that_pages_may_send() {
    let world = world().await;
    for (origin, requested, allowed) in [
        (SHOP, "x-experiment", "x-experiment"),
        (PREVIEW, "x-experiment", ""),
        (SHOP, "c_loyalty,C_Points", "c_loyalty,c_points"),
        (SHOP, "Authorization, X-Unknown", "authorization"),
        (SHOP, "x-on-behalf-of,x-forwarded-for,x-shopper-gateway-error,cookie", ""),
        (SHOP, "*", ""),
        (
            SHOP,
            "x-site-id,sfdc_dwsid,x-grant-type,x-pwakit-preview-parent,sfdc_refresh_token,_sfdc_client_auth,traceparent,tracestate",
            "x-site-id,sfdc_dwsid,x-grant-type,x-pwakit-preview-parent,sfdc_refresh_token,_sfdc_client_auth,traceparent,tracestate",
        ),
    ] {
        let request = world.request(Method::OPTIONS, &products("")).header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        let answer = world.send(request.header("access-control-request-headers", requested)).await;
        assert_eq!(answer.status, 204, "{requested}");
        let allowed = allowed.split(',').filter(|name| !name.is_empty()).collect();
        assert_eq!(list(&answer, ALLOW_HEADERS), allowed, "{origin} {requested}");
    }
    let without = world.request(Method::OPTIONS, &products("")).header("origin", SHOP);
    let answer = world.send(without.header("access-control-request-method", "GET")).await;
    assert_eq!((answer.status.as_u16(), answer.header(ALLOW_HEADERS)), (204, None));
}

#[tokio::test]
async fn origin_of_some_sites_is_allowed_for_these_only() {
    let world = world().await;
    let token = world.mint(|_| {});
    let other_site = world.mint(|spec| spec.site = "RefArchGlobal".into());
    for (target, allowed) in [
        (products("?ids=a&siteId=RefArch"), true),
        (products("?ids=a"), true),
        (products("?ids=a&siteId="), true),
        (products("?ids=a&siteId=RefArchGlobal"), false),
        (slas("authorize?channel_id=RefArch"), true),
        (slas("authorize?channel_id=RefArchGlobal"), false),
    ] {
        let answer = world.send(preflight(&world, REF_ARCH, "GET", &target)).await;
        let expected = if allowed { (204, "none") } else { (403, "origin_not_allowed") };
        assert_eq!(answer.refusal(), expected, "{target}");
        if allowed {
            assert_eq!(answer.header("access-control-max-age"), Some("600"));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        }
        let token = if target.contains("RefArchGlobal") { &other_site } else { &token };
        let answer = world.send(world.get(&target).bearer_auth(token).header("origin", REF_ARCH)).await;
        match allowed {
            true => {
                assert_readable(&answer, REF_ARCH, &target);
                assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{target}");
            }
            false => assert_unreadable(&answer, &target),
        }
        assert_ne!(answer.refusal().1, "origin_not_allowed", "a request with a token goes on");
    }
}

#[tokio::test]
async fn site_of_form_decides_about_origin() {
    let world = world().await;
    for (channel, allowed) in [("RefArch", true), ("RefArchGlobal", false)] {
        for (operation, more) in
            [("token", "grant_type=client_credentials"), ("passwordless/login", "user_id=a&mode=sms")]
        {
            let form = format!("{more}&channel_id={channel}&client_id={PRIVATE_CLIENT}");
            let request = world.post(&slas(operation)).header("origin", REF_ARCH);
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            let answer = world.send(request).await;
            assert_eq!(answer.refusal().1, "none", "{answer:?}");
            match allowed {
                true => assert_readable(&answer, REF_ARCH, operation),
                false => assert_unreadable(&answer, operation),
            }
        }
    }
}

#[tokio::test]
async fn tenant_without_origins_answers_as_without_cors() {
    let world = World::with(|config| set_origins(config, 1, &format!("[[origins]]\norigin = \"{OTHER_SHOP}\""))).await;
    let plain = World::start().await;
    for world in [&world, &plain] {
        for target in [products("?siteId=RefArch"), slas("token")] {
            for origin in [SHOP, OTHER_SHOP, FOREIGN] {
                let answer = world.send(preflight(world, origin, "GET", &target)).await;
                assert_eq!(answer.refusal(), (404, "operation_unknown"), "{target}");
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains("[[tenants.origins]]"), "{detail}");
                assert_eq!((answer.header("vary"), answer.header(ALLOW_ORIGIN)), (None, None), "{target}");
            }
        }
        let token = world.mint(|_| {});
        let answer = world.send(world.get(&products("?ids=a")).bearer_auth(token).header("origin", OTHER_SHOP)).await;
        assert_eq!((answer.status.as_u16(), answer.header("vary"), answer.header(ALLOW_ORIGIN)), (200, None, None));
    }
    assert_eq!(plain.send(plain.get("/callback?code=a").header("origin", SHOP)).await.status, 404);
    let metrics = plain.metrics().await;
    for line in metrics.lines().filter(|line| line.starts_with("shopper_gateway_cors_requests_total{")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

#[tokio::test]
async fn preflight_of_unpublished_path_fails_as_its_request_does() {
    let world = world().await;
    for (target, expected) in [
        (format!("/product/unknown/v1/organizations/{ORGANIZATION}/a"), (404, "operation_unknown")),
        (products("").replace(ORGANIZATION, "f_ecom_aaaa_001"), (404, "operation_unknown")),
        (slas("unlisted"), (403, "operation_not_allowed")),
        (format!("/mobify/slas/private{}", products("")), (403, "operation_not_allowed")),
        (products("/a/..%2f"), (400, "request_ambiguous")),
        (products("?siteId=a&siteId=b"), (400, "request_ambiguous")),
    ] {
        let answer = world.send(preflight(&world, SHOP, "GET", &target)).await;
        assert_eq!(answer.refusal(), expected, "{target}");
        assert_eq!(answer.header(ALLOW_ORIGIN), Some(SHOP), "{target}");
    }
}

#[tokio::test]
async fn preflight_counts_against_limits_of_its_address_only() {
    let mut world = World::with(|config| {
        with_origins(config);
        let limits = "max_concurrent_requests = 1\nqueue_timeout = '1ms'\nrequests_per_address = 2";
        config.insert("limits".into(), limits.parse::<toml::Table>().unwrap().into());
    })
    .await;
    let [_, http2] = clients();
    world.client = http2;
    let token = world.mint(|_| {});
    world.simulator.set(|behaviour| behaviour.load_status = Some("THROTTLE".into()));
    assert_eq!(world.send(world.get(&products("?ids=a")).bearer_auth(&token)).await.status, 200);
    world.simulator.inject(Fault::on("api", Effect::Hang));
    let hanging = world.post(&baskets("?siteId=RefArch")).bearer_auth(&token).body("{}");
    let hanging = tokio::spawn(async move { hanging.send().await });
    eventually("the request hangs", async || !world.forwarded("shopper-baskets-v1.createBasket").is_empty()).await;
    assert_eq!(world.send(world.get(&products("?ids=a")).bearer_auth(&token)).await.refusal(), (503, "overloaded"));
    for _ in 0..10 {
        let answer = world.send(preflight(&world, SHOP, "GET", &products(""))).await;
        assert_eq!(answer.status, 204, "concurrency and load of the API do not concern it");
    }
    hanging.abort();
}

#[tokio::test]
async fn preflight_beyond_limit_of_its_address_gets_429_that_its_page_can_read() {
    let mut world = World::with(|config| {
        with_origins(config);
        config.insert("limits".into(), "requests_per_address = 1".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let [_, http2] = clients();
    world.client = http2;
    let token = world.mint(|_| {});
    world.simulator.inject(Fault::on("api", Effect::Hang));
    let hanging = world.get(&products("?ids=a")).bearer_auth(&token);
    let hanging = tokio::spawn(async move { hanging.send().await });
    eventually("the request hangs", async || !world.forwarded("shopper-products.getProducts").is_empty()).await;
    let answer = world.send(preflight(&world, SHOP, "GET", &products(""))).await;
    assert_eq!(answer.refusal(), (429, "caller_rate_limited"));
    assert_eq!(answer.header(ALLOW_ORIGIN), Some(SHOP));
    let answer = world.send(world.get(&products("?ids=a")).header("origin", SHOP)).await;
    assert_eq!(answer.refusal(), (429, "caller_rate_limited"));
    assert_readable(&answer, SHOP, "429");
    hanging.abort();
}

#[tokio::test]
async fn response_is_readable_by_pages_of_allowed_origins_only() {
    let mut world = world().await;
    let token = world.mint(|_| {});
    for client in clients() {
        world.client = client;
        let good = || world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token);
        for origin in [SHOP, REF_ARCH, PREVIEW, LOCAL] {
            let answer = world.send(good().header("origin", origin)).await;
            assert_eq!(answer.status, 200);
            assert_readable(&answer, origin, origin);
        }
        for origin in [FOREIGN, OTHER_SHOP, "null", "https://www.shop.example:443"] {
            let answer = world.send(good().header("origin", origin)).await;
            assert_eq!(answer.status, 200, "{origin}: a request with a token goes on");
            assert_unreadable(&answer, origin);
        }
        let two = world.send(good().header("origin", SHOP).header("origin", SHOP)).await;
        assert_unreadable(&two, "two origins");
        assert_unreadable(&world.send(good()).await, "no origin");
    }
}

#[tokio::test]
async fn deprecated_login_lets_the_page_read_its_token() {
    let world = world().await;
    let request = world.post(&login_target(PUBLIC_CLIENT)).basic_auth(LOGIN, Some(PASSWORD)).header("origin", SHOP);
    let answer = world.send(request.body(r#"{"type":"credentials"}"#)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.token().is_empty());
    assert_readable(&answer, SHOP, "deprecated login");
    let exposed = list(&answer, EXPOSE_HEADERS);
    assert!(["deprecation", "sunset", "link"].iter().all(|name| exposed.contains(name)), "{exposed:?}");
}

#[tokio::test]
async fn fields_of_the_api_about_cors_are_replaced() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let mut api = ScriptedApi::start(simulator.slas_jwks().to_string()).await;
    let address = api.address;
    let gateway = Gateway::start(&simulator.url(), |config| {
        with_origins(config);
        for tenant in config["tenants"].as_array_mut().unwrap() {
            tenant.as_table_mut().unwrap().insert("api".into(), format!("http://{address}").into());
        }
    })
    .await;
    let mut world = World { simulator, gateway, client: client() };
    world.ready().await;
    let token = world.mint(|_| {});
    for (client, origin, own_vary, vary) in clients().into_iter().flat_map(|client| {
        [
            (client.clone(), Some(SHOP), "", "Origin"),
            (client.clone(), Some(FOREIGN), "Vary: Accept-Encoding\r\n", "Accept-Encoding, Origin"),
            (client.clone(), None, "Vary: Accept\r\nvary: origin\r\n", "Accept, origin"),
            (client, Some(SHOP), "Vary: *\r\n", "*"),
        ]
    }) {
        world.client = client;
        let request = world.get(&products("/a1?siteId=RefArch")).bearer_auth(&token);
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        let sent = tokio::spawn(request.send());
        let mut exchange = api.request().await;
        // More than the gateway buffers.
        let first = "a".repeat(256 * 1024);
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nAccess-Control-Allow-Origin: *\r\n\
                    access-control-allow-origin: https://www.evil.example\r\nAccess-Control-Allow-Credentials: true\r\n\
                    Access-Control-Expose-Headers: x-secret\r\nX-RateLimit-1H-Limit: 7\r\n";
        exchange.write(&format!("{head}{own_vary}\r\n{:x}\r\n{first}\r\n", first.len())).await;
        // The head arrives before the body is complete.
        let response = tokio::time::timeout(std::time::Duration::from_secs(30), sent).await.unwrap().unwrap().unwrap();
        exchange.write("5\r\n-last\r\n0\r\n\r\n").await;
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = Answer { status, headers, body: response.bytes().await.unwrap().to_vec() };
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(first.as_bytes()) && answer.text().ends_with("-last"));
        let own: Vec<_> = answer.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).collect();
        if origin == Some(SHOP) {
            assert_eq!(own.len(), 2, "{own:?}");
            assert_eq!(answer.headers.get_all(ALLOW_ORIGIN).iter().count(), 1);
            assert_eq!(answer.header(ALLOW_ORIGIN), Some(SHOP));
            let exposed = list(&answer, EXPOSE_HEADERS);
            assert!(exposed.contains("x-ratelimit-1h-limit") && !exposed.contains("x-secret"), "{exposed:?}");
        } else {
            assert!(own.is_empty(), "{own:?}");
        }
        let varies = answer.headers.get_all("vary").iter().map(|value| value.to_str().unwrap());
        assert_eq!(varies.collect::<Vec<_>>().join(", "), vary);
    }
}

#[tokio::test]
async fn head_of_published_get_is_that_get_without_body() {
    let world = world().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-products".into()]));
    let target = products("?ids=a&siteId=RefArch");
    let head = |target: &str| world.request(Method::HEAD, target);
    assert_eq!(world.send(head(&target)).await.refusal(), (401, "token_missing"));
    let other_site = world.send(head(&products("?ids=a&siteId=RefArchGlobal")).bearer_auth(&token)).await;
    assert_eq!(other_site.refusal(), (403, "token_wrong_site"));
    let no_scope = head(&customers("/customers/c1?siteId=RefArch")).bearer_auth(&token);
    assert_eq!(world.send(no_scope).await.refusal(), (403, "scope_missing"));
    assert!(world.forwarded("shopper-products.getProducts").is_empty());

    let answer = world.send(head(&target).bearer_auth(&token).header("origin", SHOP)).await;
    assert_eq!((answer.refusal(), answer.body.len()), ((200, "none"), 0));
    assert_readable(&answer, SHOP, "HEAD");
    let reached: Vec<_> = world.simulator.ledger().into_iter().filter(|entry| entry.service == "api").collect();
    let [entry] = reached.as_slice() else { panic!("{reached:?}") };
    assert_eq!((entry.method.as_str(), entry.query.as_str()), ("HEAD", "ids=a&siteId=RefArch"));
    let operation = r#"operation="shopper-products.getProducts",source="upstream",status="200""#;
    assert!(world.metrics().await.contains(operation), "HEAD counts as its GET");
}

#[tokio::test]
async fn options_of_published_path_returns_allow_without_token() {
    let mut world = world().await;
    for client in clients() {
        world.client = client;
        for (target, allow) in [
            (products("?ids=a"), "GET, HEAD, OPTIONS"),
            (baskets("/b1"), "GET, HEAD, PATCH, DELETE, OPTIONS"),
            (slas("token"), "POST, OPTIONS"),
            (slas("logout"), "GET, HEAD, POST, OPTIONS"),
            ("/callback".to_owned(), "GET, HEAD, OPTIONS"),
        ] {
            for origin in [None, Some(SHOP), Some(FOREIGN)] {
                let request = world.request(Method::OPTIONS, &target);
                let request = match origin {
                    Some(origin) => request.header("origin", origin),
                    None => request,
                };
                let answer = world.send(request).await;
                assert_eq!((answer.status.as_u16(), answer.header("allow")), (204, Some(allow)), "{target}");
                assert_eq!(answer.header(ALLOW_ORIGIN), origin.filter(|origin| *origin == SHOP), "{target}");
                assert_eq!(answer.header("content-length"), None);
            }
        }
    }
    let unknown = world.send(world.request(Method::OPTIONS, "/unknown")).await;
    assert_eq!(unknown.refusal(), (404, "operation_unknown"));
    assert_eq!(arrived(&world), [""; 0]);
}

#[tokio::test]
async fn other_method_of_published_path_gets_405_with_allow() {
    let world = world().await;
    let token = world.mint(|_| {});
    for (method, target, allow) in [
        (Method::POST, products("?ids=a"), "GET, HEAD, OPTIONS"),
        (Method::GET, baskets("?siteId=RefArch"), "POST, OPTIONS"),
        (Method::HEAD, baskets("?siteId=RefArch"), "POST, OPTIONS"),
        (Method::PUT, baskets("/b1"), "GET, HEAD, PATCH, DELETE, OPTIONS"),
        (Method::GET, slas("token"), "POST, OPTIONS"),
        (Method::HEAD, slas("token"), "POST, OPTIONS"),
        (Method::DELETE, format!("/mobify/slas/private{}", slas("logout")), "GET, HEAD, POST, OPTIONS"),
        (Method::POST, "/callback".to_owned(), "GET, HEAD, OPTIONS"),
        (Method::DELETE, login_target(PUBLIC_CLIENT), "POST, OPTIONS"),
    ] {
        let answer =
            world.send(world.request(method.clone(), &target).bearer_auth(&token).header("origin", SHOP)).await;
        assert_eq!(answer.refusal(), (405, "method_not_allowed"), "{method} {target}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
        assert_readable(&answer, SHOP, &target);
    }
    for target in [products("").replace(ORGANIZATION, "f_ecom_aaaa_001"), format!("/a/organizations/{ORGANIZATION}")] {
        let answer = world.send(world.post(&target).bearer_auth(&token)).await;
        assert_eq!(answer.refusal(), (404, "operation_unknown"), "{target}");
    }
    let misplaced = format!("/mobify/slas/private{}", baskets("?siteId=RefArch"));
    assert_eq!(world.send(world.get(&misplaced)).await.refusal(), (403, "operation_not_allowed"));
    assert_eq!(arrived(&world), [""; 0]);
}

#[tokio::test]
async fn unknown_operations_that_are_forwarded_have_preflights_too() {
    for policy in ["unknown_operations = 'forward'", "mode = 'report'"] {
        let world = World::with(|config| {
            with_origins(config);
            config.insert("policy".into(), policy.parse::<toml::Table>().unwrap().into());
        })
        .await;
        let unknown = format!("/product/unknown/v1/organizations/{ORGANIZATION}/a");
        let answer = world.send(preflight(&world, SHOP, "PUT", &unknown)).await;
        assert_eq!(answer.status, 204, "{policy}");
        assert_eq!(answer.header(ALLOW_METHODS), Some("GET, HEAD, POST, PUT, PATCH, DELETE"), "{policy}");
        let of_foreign = world.send(preflight(&world, FOREIGN, "PUT", &unknown)).await;
        assert_eq!(of_foreign.refusal(), (403, "origin_not_allowed"), "{policy}");
        let unlisted = world.send(preflight(&world, SHOP, "POST", &slas("unlisted"))).await;
        assert_eq!(unlisted.refusal(), (403, "operation_not_allowed"), "{policy}");
        let other_method = world.send(world.get(&slas("token"))).await;
        assert_eq!(other_method.refusal(), (405, "method_not_allowed"), "{policy}");
        assert_eq!(arrived(&world), [""; 0], "{policy}");
    }
}

#[tokio::test]
async fn browser_login_ends_at_callback() {
    let mut world = World::with(|config| {
        with_origins(config);
        let clients = config["tenants"].as_array_mut().unwrap()[0]["slas_clients"].as_array_mut().unwrap();
        clients[1]
            .as_table_mut()
            .unwrap()
            .insert("redirect_uri".into(), "https://gateway.example/app/signed-in".into());
        clients[2].as_table_mut().unwrap().insert("redirect_uri".into(), "https://gateway.example/".into());
    })
    .await;
    for client in clients() {
        world.client = client;
        for (method, path) in [
            (Method::GET, "/callback"),
            (Method::HEAD, "/callback"),
            (Method::GET, "/callback?code=secret-code&usid=u1&state=s"),
            (Method::GET, "/app/signed-in?code=secret-code"),
        ] {
            for (origin, allowed) in [
                (Some(SHOP), true),
                (Some(OTHER_SHOP), true),
                (Some(FOREIGN), false),
                (Some("null"), false),
                (None, false),
            ] {
                let request = world.request(method.clone(), path);
                let request = match origin {
                    Some(origin) => request.header("origin", origin),
                    None => request,
                };
                let answer = world.send(request).await;
                assert_eq!((answer.refusal(), answer.body.len()), ((200, "none"), 0), "{method} {path}");
                assert_eq!(answer.header("cache-control"), Some("no-store"));
                assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
                match origin.filter(|_| allowed) {
                    Some(origin) => assert_readable(&answer, origin, path),
                    None => assert_unreadable(&answer, path),
                }
            }
        }
        let answer = world.send(preflight(&world, SHOP, "GET", "/callback?code=a")).await;
        assert_eq!((answer.status.as_u16(), answer.header(ALLOW_METHODS)), (204, Some("GET, HEAD")));
        assert_eq!(answer.header(ALLOW_ORIGIN), Some(SHOP));
        let answer = world.send(preflight(&world, FOREIGN, "GET", "/callback?code=a")).await;
        assert_eq!(answer.refusal(), (403, "origin_not_allowed"));
        assert_unreadable(&answer, "/callback");
        for other in ["/", "/callback/a", "/Callback", "/app", "/app/signed-in/a"] {
            assert_eq!(world.send(world.get(other)).await.refusal(), (404, "operation_unknown"), "{other}");
        }
    }
    assert_eq!(arrived(&world), [""; 0]);
}

#[tokio::test]
async fn redirect_of_slas_is_readable_and_followed_to_the_callback() {
    let world = world().await;
    let query = format!(
        "redirect_uri=http%3A%2F%2Flocalhost%3A3000%2Fcallback&response_type=code&client_id={PUBLIC_CLIENT}&hint=guest\
         &channel_id=RefArch&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
    );
    let answer = world.send(world.get(&slas(&format!("authorize?{query}"))).header("origin", SHOP)).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_readable(&answer, SHOP, "authorize");
    let location = answer.header("location").unwrap().to_owned();
    // The browser follows to the gateway, with the same origin, because the redirect URI is at the gateway.
    let rest = location.strip_prefix("http://localhost:3000").unwrap();
    let answer = world.send(world.get(rest).header("origin", SHOP)).await;
    assert_eq!(answer.status, 200);
    assert_readable(&answer, SHOP, "callback");
    let code = rest.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap();
    let usid = rest.split(['?', '&']).find_map(|pair| pair.strip_prefix("usid=")).unwrap();
    let form = [
        ("grant_type", "authorization_code_pkce"),
        ("code", code),
        ("usid", usid),
        ("client_id", PUBLIC_CLIENT),
        ("channel_id", "RefArch"),
        ("redirect_uri", "http://localhost:3000/callback"),
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    ];
    let answer = world.send(world.post(&slas("token")).form(&form).header("origin", SHOP)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_readable(&answer, SHOP, "token");
    assert!(answer.json()["access_token"].is_string());
}

#[tokio::test]
async fn private_network_is_allowed_where_configured_and_asked_for() {
    let world = world().await;
    for (origin, asks, allowed) in [(PREVIEW, true, Some("true")), (PREVIEW, false, None), (SHOP, true, None)] {
        let request = preflight(&world, origin, "GET", &products(""));
        let request = if asks { request.header("access-control-request-private-network", "true") } else { request };
        let answer = world.send(request).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-private-network"), allowed, "{origin} {asks}");
    }
}

#[tokio::test]
async fn requests_of_pages_are_counted_by_result() {
    let world = world().await;
    let token = world.mint(|_| {});
    let get = |origin: &str| world.get(&products("?ids=a")).bearer_auth(&token).header("origin", origin);
    world.send(preflight(&world, SHOP, "GET", &products(""))).await;
    world.send(preflight(&world, FOREIGN, "GET", &products(""))).await;
    world.send(preflight(&world, SHOP, "PUT", &products(""))).await;
    world
        .send(preflight(&world, SHOP, "GET", &products("")).header("access-control-request-headers", "x-unknown"))
        .await;
    world.send(preflight(&world, SHOP, "GET", &format!("/unknown/organizations/{ORGANIZATION}/a"))).await;
    world.send(get(SHOP)).await;
    world.send(get(SHOP).header("authorization", "Bearer two")).await;
    world.send(get(FOREIGN)).await;
    world.send(world.get(&products("?ids=a")).bearer_auth(&token)).await;
    // A page of the gateway's own host is of no other origin.
    world.send(get(&format!("http://{}", world.gateway.address))).await;
    world.send(world.get("/callback").header("origin", OTHER_SHOP)).await;
    world.send(world.get("/unknown").header("origin", FOREIGN)).await;
    let metrics = world.metrics().await;
    for (tenant, result, count) in [
        (ORGANIZATION, "preflight_allowed", 1),
        (ORGANIZATION, "preflight_refused", 4),
        (ORGANIZATION, "allowed", 2),
        (ORGANIZATION, "refused", 1),
        (OTHER_ORGANIZATION, "allowed", 1),
        (OTHER_ORGANIZATION, "preflight_refused", 0),
        ("none", "refused", 1),
    ] {
        let line = format!("shopper_gateway_cors_requests_total{{result=\"{result}\",tenant=\"{tenant}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn reload_changes_the_allowed_origins() {
    let mut world = world().await;
    let preflight_status = async |world: &World, origin: &str| {
        world.send(preflight(world, origin, "GET", &products(""))).await.refusal().0
    };
    assert_eq!((preflight_status(&world, SHOP).await, preflight_status(&world, FOREIGN).await), (204, 403));
    let change = |config: &mut toml::Table| set_origins(config, 0, &format!("[[origins]]\norigin = \"{FOREIGN}\""));
    assert_eq!(world.gateway.reload(change).unwrap(), [""; 0], "no key needs a restart");
    assert_eq!((preflight_status(&world, SHOP).await, preflight_status(&world, FOREIGN).await), (403, 204));
}
