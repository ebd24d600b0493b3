//! Every error response as the caller sees it: status, header fields, wording.
//!
//! Each error is produced over a socket, so the snapshots hold the bytes that a caller receives. A new error code does
//! not compile here until it has a case.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use salesforce_simulator::{Effect, Fault, ResetAt};
use shopper_gateway::gateway::{
    error::{GatewayError, RejectionReason, RequiredToken, TooLargePart},
    policy::Methods,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    callers::CALLER_SECRET,
    cors,
    redis::{Redis, in_redis},
    world::{
        Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PASSWORD, PUBLIC_CLIENT, World, baskets,
        customers, login_target, products,
    },
};

/// Texts that no response may contain.
const SECRETS: [&str; 5] =
    [PASSWORD, "account-manager-secret", "private-client-secret", "strict-client-secret", "s3cret-refresh"];

/// The file name of an error's snapshot.
fn name(refusal: &GatewayError) -> &'static str {
    match refusal {
        GatewayError::Ambiguous(_) => "ambiguous",
        GatewayError::RequestInvalid(_) => "request_invalid",
        GatewayError::CredentialsConflicting => "credentials_conflicting",
        GatewayError::TokenMissing => "token_missing",
        GatewayError::TokenInvalid(_) => "token_invalid",
        GatewayError::TokenExpired => "token_expired",
        GatewayError::LoginRejected { login: Some(_) } => "login_rejected",
        GatewayError::LoginRejected { login: None } => "login_rejected_without_login",
        // The response does not tell the caller which one.
        GatewayError::CallerRejected(_) => "caller_rejected",
        GatewayError::TokenWrongOrganization => "token_wrong_organization",
        GatewayError::TokenWrongSite => "token_wrong_site",
        GatewayError::TokenKindWrong(RequiredToken::Shopper) => "token_kind_wrong_shopper",
        GatewayError::TokenKindWrong(RequiredToken::OnBehalf) => "token_kind_wrong_on_behalf",
        GatewayError::TokenKindWrong(RequiredToken::AgentOnBehalf) => "token_kind_wrong_agent_on_behalf",
        GatewayError::TokenKindWrong(RequiredToken::System) => "token_kind_wrong_system",
        GatewayError::ScopeMissing(_) => "scope_missing",
        GatewayError::CallerNotAllowed => "caller_not_allowed",
        GatewayError::CallerMayNotCreateShoppers => "caller_may_not_create_shoppers",
        GatewayError::OperationNotAllowed => "operation_not_allowed",
        GatewayError::OperationUnknown => "operation_unknown",
        GatewayError::OriginNotAllowed => "origin_not_allowed",
        GatewayError::OriginsNotConfigured => "origins_not_configured",
        GatewayError::MethodNotAllowed(_) => "method_not_allowed",
        // In the form of PWA Kit's runtime, not as problem documents: `storefronts` tests them.
        GatewayError::SiteHeaderMissing => "site_header_missing",
        GatewayError::AccessCookieMissing => "access_cookie_missing",
        GatewayError::RefreshCookieInvalid => "refresh_cookie_invalid",
        GatewayError::CookieTooLarge(_) => "cookie_too_large",
        GatewayError::ShopperUnknown => "shopper_unknown",
        GatewayError::LoginConflict => "login_conflict",
        GatewayError::TooLarge(TooLargePart::Body) => "too_large_body",
        GatewayError::TooLarge(TooLargePart::Target) => "too_large_target",
        GatewayError::TooLarge(TooLargePart::Head) => "too_large_head",
        GatewayError::SlasRateLimited { retry_after: Some(_) } => "slas_rate_limited",
        GatewayError::SlasRateLimited { retry_after: None } => "slas_rate_limited_without_time",
        GatewayError::CallerRateLimited { .. } => "caller_rate_limited",
        GatewayError::UpstreamUnavailable => "upstream_unavailable",
        GatewayError::UpstreamTimeout => "upstream_timeout",
        GatewayError::KeysUnavailable => "keys_unavailable",
        GatewayError::SlasUnavailable => "slas_unavailable",
        GatewayError::SlasClientRejected => "slas_client_refused",
        GatewayError::AccountManagerUnavailable { .. } => "account_manager_unavailable",
        GatewayError::StoreUnavailable => "store_unavailable",
        GatewayError::Overloaded => "overloaded",
    }
}

/// Compares a response with the rules for all errors and with its snapshot.
fn check(refusal: &GatewayError, answer: &Answer, token: &str) {
    let (what, status) = (name(refusal), answer.status.as_u16());
    let shown = snapshot(answer);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    assert_eq!(
        answer.header("x-shopper-gateway-error"),
        Some(shopper_gateway::gateway::problem::code(refusal)),
        "{what}"
    );
    let problem = answer.json();
    let members: BTreeSet<&str> = problem.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["detail", "title", "type"]), "{what}");
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge.is_some(), status == 401 || *what == *"scope_missing", "{what}: {challenge:?}");
    assert_eq!(answer.header("retry-after").is_some(), matches!(status, 429 | 503), "{what}");
    for secret in SECRETS.iter().chain([&token]) {
        assert!(secret.is_empty() || !shown.contains(secret), "{what} tells a secret");
    }
    insta::assert_snapshot!(what, shown);
}

/// The response as text, without the values that differ each time.
fn snapshot(answer: &Answer) -> String {
    let mut fields: Vec<String> = answer
        .headers
        .iter()
        .map(|(name, value)| match name.as_str() {
            "correlation-id" | "date" => format!("{name}: …"),
            // The rest of a running wait.
            "retry-after" if answer.refusal().1 == "caller_rate_limited" => format!("{name}: …"),
            _ => format!("{name}: {}", value.to_str().unwrap()),
        })
        .collect();
    fields.sort();
    let body: serde_json::Value = answer.json();
    format!("{}\n{}\n\n{}", answer.status, fields.join("\n"), serde_json::to_string_pretty(&body).unwrap())
}

fn good(world: &World) -> RequestBuilder {
    world.get(&products("?ids=a&siteId=RefArch"))
}

#[tokio::test]
async fn gateway_rejections_match_snapshots() {
    let world = World::start().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-products".into()]));
    let expired = world.mint(|spec| spec.lifetime_seconds = Some(-3600));
    let system = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.products"], "zzrf_001", 600);
    let nobody = world.simulator.mint_account_manager_token("nobody", &["sfcc.orders"], "zzrf_001", 600);
    let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1");
    let catalogs = format!("/product/catalogs/v1/organizations/{ORGANIZATION}/catalogs");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let tampered = format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    let agent = {
        let operations = shopper_gateway::gateway::policy::Operations::published().unwrap();
        let of_agents = operations.iter().find(|operation| {
            let kind = operation.security.first().map(|security| security.kind.as_str());
            kind == Some("shopper_taob") && operation.method.as_str() == "POST"
        });
        of_agents.unwrap().template.replace("{organizationId}", ORGANIZATION).replace(['{', '}'], "")
    };
    let on_behalf_of_shopper = {
        let operations = shopper_gateway::gateway::policy::Operations::published().unwrap();
        let of_systems = operations.iter().find(|operation| {
            operation.security.first().map(|security| security.kind.as_str()) == Some("shopper_tsob")
        });
        let operation = of_systems.unwrap();
        let target = operation.template.replace("{organizationId}", ORGANIZATION).replace(['{', '}'], "");
        world.request(operation.method.as_str().parse().unwrap(), &target)
    };
    for (refusal, request) in [
        (GatewayError::Ambiguous(String::new()), world.get(&products("/a/../b%2F..")).bearer_auth(&token)),
        (GatewayError::RequestInvalid(String::new()), world.get(&products("?siteId=a.b")).bearer_auth(&token)),
        (GatewayError::CredentialsConflicting, good(&world).bearer_auth(&token).basic_auth("a", Some(PASSWORD))),
        (GatewayError::TokenMissing, good(&world)),
        (GatewayError::TokenInvalid(String::new()), good(&world).bearer_auth(tampered)),
        (GatewayError::TokenExpired, good(&world).bearer_auth(expired)),
        (
            GatewayError::LoginRejected { login: Some(String::new()) },
            world
                .post(&login_target(PUBLIC_CLIENT))
                .basic_auth(LOGIN, Some("s3cret-refresh"))
                .body(r#"{"type":"credentials"}"#),
        ),
        (
            GatewayError::LoginRejected { login: None },
            world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"credentials"}"#),
        ),
        (GatewayError::CallerRejected(RejectionReason::NotConfigured), world.get(&order).bearer_auth(nobody)),
        (
            GatewayError::CallerRejected(RejectionReason::NotConfigured),
            world.get(&order).basic_auth("nobody", Some("s3cret-refresh")),
        ),
        (
            GatewayError::CallerRejected(RejectionReason::CredentialsRejected),
            world.get(&order).basic_auth(CALLER_CLIENT, Some("s3cret-refresh")),
        ),
        (
            GatewayError::ShopperUnknown,
            good(&world).bearer_auth(&system).header("X-On-Behalf-Of", "nobody@example.com"),
        ),
        (
            GatewayError::TokenWrongOrganization,
            world.get(&products("?ids=a").replace(ORGANIZATION, OTHER_ORGANIZATION)).bearer_auth(&token),
        ),
        (GatewayError::TokenWrongSite, world.get(&products("?ids=a&siteId=RefArchGlobal")).bearer_auth(&token)),
        (GatewayError::TokenKindWrong(RequiredToken::Shopper), good(&world).bearer_auth(&system)),
        (GatewayError::TokenKindWrong(RequiredToken::OnBehalf), on_behalf_of_shopper.bearer_auth(&token)),
        (GatewayError::TokenKindWrong(RequiredToken::AgentOnBehalf), world.post(&agent).bearer_auth(&token)),
        (GatewayError::TokenKindWrong(RequiredToken::System), world.get(&order).bearer_auth(&token)),
        (GatewayError::ScopeMissing("a".parse().unwrap()), world.post(&baskets("?siteId=RefArch")).bearer_auth(&token)),
        (GatewayError::CallerNotAllowed, world.get(&catalogs).bearer_auth(&system)),
        (
            GatewayError::CallerMayNotCreateShoppers,
            good(&world).bearer_auth(&system).header("X-On-Behalf-Of", LOGIN).header("X-On-Behalf-Of-Idp", "google"),
        ),
        (
            GatewayError::OperationNotAllowed,
            world.get(&format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/anything")),
        ),
        (GatewayError::OperationUnknown, world.get("/unknown").bearer_auth(&token)),
        (GatewayError::OriginsNotConfigured, preflight(&world)),
        (GatewayError::MethodNotAllowed(Methods::default()), world.get(&baskets("?siteId=RefArch"))),
        (
            GatewayError::TooLarge(TooLargePart::Body),
            world.post(&baskets("?siteId=RefArch")).bearer_auth(&token).body(vec![b' '; 1024 * 1024 + 1]),
        ),
        (GatewayError::TooLarge(TooLargePart::Target), world.get(&products(&format!("?ids={}", "a".repeat(9000))))),
        (GatewayError::TooLarge(TooLargePart::Head), good(&world).header("x-large", "a".repeat(66_000))),
    ] {
        check(&refusal, &world.send(request).await, &token);
    }
}

fn preflight(world: &World) -> RequestBuilder {
    let request = world.request(Method::OPTIONS, &products("?ids=a"));
    request.header("origin", "https://www.evil.example").header("access-control-request-method", "GET")
}

#[tokio::test]
async fn rejected_preflight_matches_snapshot() {
    let world = World::with(cors::with_origins).await;
    check(&GatewayError::OriginNotAllowed, &world.send(preflight(&world)).await, "");
}

#[tokio::test]
async fn upstream_failures_match_snapshots() {
    let status = |code: u16, retry_after: Option<&str>| Effect::Status {
        code,
        retry_after: retry_after.map(str::to_owned),
        body: Some(r#"{"error":"s3cret-refresh"}"#.into()),
    };
    let slas = |effect: Effect, flow: &str| Fault::on("slas", effect).flow(flow);
    let wait = Some(std::time::Duration::ZERO);
    for (refusal, fault) in [
        (GatewayError::LoginConflict, slas(status(409, None), "login")),
        (GatewayError::SlasRateLimited { retry_after: wait }, slas(status(429, Some("17")), "authorize:guest")),
        (GatewayError::SlasRateLimited { retry_after: None }, slas(status(429, None), "authorize:guest")),
        (GatewayError::SlasUnavailable, slas(status(500, None), "authorize:guest")),
        (GatewayError::SlasClientRejected, slas(status(401, None), "authorize:guest")),
        (GatewayError::KeysUnavailable, slas(status(500, None), "jwks")),
        (GatewayError::UpstreamUnavailable, Fault::on("api", Effect::Reset { at: ResetAt::Before })),
        (GatewayError::UpstreamTimeout, Fault::on("api", Effect::Hang)),
    ] {
        let world = World::with(|config| {
            config.insert("timeouts".into(), "upstream = '1s'".parse::<toml::Table>().unwrap().into());
        })
        .await;
        let unknown = world.mint(|spec| spec.kid = Some("unknown".into()));
        let token = world.mint(|_| {});
        world.simulator.inject(fault);
        let request = match refusal {
            GatewayError::LoginConflict => world
                .post(&login_target(PUBLIC_CLIENT))
                .basic_auth(LOGIN, Some(PASSWORD))
                .body(r#"{"type":"credentials"}"#),
            GatewayError::KeysUnavailable => good(&world).bearer_auth(&unknown),
            GatewayError::UpstreamUnavailable | GatewayError::UpstreamTimeout => good(&world).bearer_auth(&token),
            _ => world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"guest"}"#),
        };
        check(&refusal, &world.send(request).await, &token);
    }
}

#[tokio::test]
async fn overload_and_rate_limit_responses_match_snapshots() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    world.simulator.set(|behaviour| behaviour.load_status = Some("THROTTLE".into()));
    assert_eq!(world.send(good(&world).bearer_auth(&token)).await.status, 200, "nothing was said before");
    check(&GatewayError::Overloaded, &world.send(good(&world).bearer_auth(&token)).await, &token);

    let taken = Effect::Status { code: 429, retry_after: Some("17".into()), body: None };
    world.simulator.inject(Fault::on("slas", taken).flow("authorize:guest").times(1));
    let (of_slas, our_own) = (world.guest(PUBLIC_CLIENT).await, world.guest(PUBLIC_CLIENT).await);
    check(&GatewayError::SlasRateLimited { retry_after: Some(std::time::Duration::ZERO) }, &of_slas, &token);
    assert_eq!(world.simulator.count("slas", "authorize:guest"), 1);
    assert_eq!((our_own.refusal(), &our_own.body), (of_slas.refusal(), &of_slas.body));
    let wait: u64 = our_own.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=17).contains(&wait), "{wait}");
}

#[tokio::test]
async fn account_manager_failures_match_snapshots() {
    let world = World::start().await;
    let orders = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
    let ask = async |secret: &str| world.send(world.get(&orders).basic_auth(CALLER_CLIENT, Some(secret))).await;
    let down = Effect::Status { code: 503, retry_after: Some("17".into()), body: Some(PASSWORD.into()) };
    world.simulator.inject(Fault::on("account_manager", down).flow("access_token"));
    check(&GatewayError::AccountManagerUnavailable { retry_after: None }, &ask(CALLER_SECRET).await, CALLER_SECRET);
    world.simulator.clear_faults();
    let limited = GatewayError::CallerRateLimited { retry_after: std::time::Duration::ZERO };
    for guess in 0.. {
        let answer = ask(&format!("s3cret-refresh-{guess}")).await;
        if answer.refusal() == (429, "caller_rate_limited") {
            let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=6).contains(&wait), "{wait}");
            check(&limited, &answer, CALLER_SECRET);
            break;
        }
        assert!(guess < 20, "nobody is slowed down");
    }
}

#[tokio::test]
async fn store_outage_matches_snapshot() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let world = World::with(|config| in_redis(config, &url)).await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    redis.kill();
    let refresh = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(&token).body(r#"{"type":"refresh"}"#);
    check(&GatewayError::StoreUnavailable, &world.send(refresh).await, &token);
}

/// Sends on a persistent connection, and reads one response. A response to HEAD has no body.
async fn exchange(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap_or_else(|error| panic!("{error} behind {request:.60}")));
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .to_ascii_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; if request.starts_with("HEAD") { 0 } else { length }];
    stream.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn connection_stays_usable_after_rejection() {
    let world = World::start().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-products".into()]));
    let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let authorization = format!("Authorization: Bearer {token}\r\n");
    let allowed = products("?ids=a&siteId=RefArch");
    let small = "POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ".to_owned();
    let chunked =
        "POST /unknown HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n".to_owned();
    for (status, request) in [
        (401, get(&allowed, "")),
        (401, get(&allowed, "Authorization: Bearer a.b.c\r\n")),
        (400, get(&allowed, "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n")),
        (403, get(&products("?siteId=RefArchGlobal"), &authorization)),
        (404, get("/unknown", "")),
        (404, small),
        (404, chunked),
        (414, get(&products(&format!("?ids={}", "a".repeat(9000))), "")),
        (431, get(&allowed, &"X: y\r\n".repeat(120))),
    ] {
        let (head, body) = exchange(&mut stream, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("\r\nConnection: keep-alive\r\n") && body.starts_with('{'), "{head}{body}");
        let (head, body) = exchange(&mut stream, &get(&allowed, &authorization)).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body.starts_with('{'), "behind {status}: {head}{body}");
    }
    // The gateway does not read the rest of an oversized body, except for the time in which the client reads the
    // response.
    let large = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\n{authorization}Content-Length: 1100000\r\n\r\n{}",
        baskets("?siteId=RefArch"),
        " ".repeat(1_100_000)
    );
    let (head, body) = exchange(&mut stream, &large).await;
    assert!(head.starts_with("HTTP/1.1 413 ") && body.starts_with('{'), "{head}{body}");
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn response_to_head_has_no_body() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
    for target in
        [products("?ids=a"), "/unknown".to_owned(), format!("/shopper/auth/v1/organizations/{ORGANIZATION}/a")]
    {
        let request = |method: &str| format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, body) = exchange(&mut stream, &request("HEAD")).await;
        assert!(body.is_empty() && head.starts_with("HTTP/1.1 40"), "{head}");
        // The next response begins directly after the last head, so there was no body.
        let (of_get, body) = exchange(&mut stream, &request("GET")).await;
        assert!(of_get.starts_with("HTTP/1.1 40") && body.starts_with('{'), "{of_get}{body}");
        let length = |head: &str| {
            head.split("Content-Length: ").nth(1).map(|rest| rest.split("\r\n").next().unwrap().to_owned())
        };
        assert_eq!(length(&head), Some(body.len().to_string()), "{head}");
    }
}

#[tokio::test]
async fn www_authenticate_names_scheme_error_and_scope_only() {
    let world = World::start().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-products".into()]));
    let challenge = async |request: RequestBuilder| {
        let answer = world.send(request).await;
        answer.header("www-authenticate").map(str::to_owned)
    };
    let bearer = r#"Bearer realm="shopper-gateway""#;
    assert_eq!(challenge(good(&world)).await.unwrap(), bearer);
    assert_eq!(
        challenge(good(&world).bearer_auth("a.b.c")).await.unwrap(),
        format!(r#"{bearer}, error="invalid_token""#)
    );
    let scope = challenge(world.post(&baskets("?siteId=RefArch")).bearer_auth(&token)).await.unwrap();
    assert!(scope.starts_with(&format!(r#"{bearer}, error="insufficient_scope", scope="sfcc."#)), "{scope}");
    assert!(scope.contains("sfcc.shopper-baskets-orders.rw"), "{scope}");
    let wrong_site = world.get(&products("?siteId=RefArchGlobal")).bearer_auth(&token);
    assert_eq!(challenge(wrong_site).await, None);
    let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
    assert_eq!(challenge(logout).await.unwrap(), bearer);
}
