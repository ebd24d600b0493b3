//! Logins that callers perform at SLAS through the gateway become sessions.

use std::{net::SocketAddr, time::Duration};

use reqwest::{Client, RequestBuilder, redirect::Policy};
use salesforce_simulator::{Effect, Fault, Seed, Simulator};
use serde_json::Value;

use crate::{
    redis::{Redis, in_redis},
    replica::Replica,
    world::{
        Answer, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, eventually, expired,
        install_cryptography, products, register_sessions,
    },
};

const PRODUCTS: &str = "?ids=a&siteId=RefArch";
const REDIRECT: &str = "http://localhost:3000/callback";
/// A verifier and its challenge (RFC 7636, appendix B). The simulator refuses a challenge's second use.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn slas(rest: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}")
}

async fn world() -> World {
    let mut world = World::with(register_sessions).await;
    world.client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    world
}

/// The tokens of a login at SLAS.
#[derive(Debug, Clone)]
struct Tokens {
    access: String,
    refresh: String,
}

impl Tokens {
    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = |name: &str| answer.json()[name].as_str().unwrap_or_default().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

/// A guest or, with a login, a registered shopper, by the calls that a storefront makes.
async fn log_in(world: &World, client: &'static str, login: bool) -> Tokens {
    if client == PRIVATE_CLIENT && !login {
        let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", client)];
        return Tokens::of(&world.send(world.post(&slas("token")).form(&form)).await);
    }
    let fields =
        [("client_id", client), ("channel_id", "RefArch"), ("redirect_uri", REDIRECT), ("code_challenge", CHALLENGE)];
    let request = if login {
        world.post(&slas("login")).basic_auth(LOGIN, Some(PASSWORD)).form(&fields)
    } else {
        world.get(&slas("authorize")).query(&[&fields[..], &[("response_type", "code"), ("hint", "guest")]].concat())
    };
    let redirect = world.send(request).await;
    let location = redirect.header("location").unwrap_or_else(|| panic!("{}", redirect.text()));
    let code = location.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap();
    let form = [
        ("grant_type", "authorization_code_pkce"),
        ("client_id", client),
        ("channel_id", "RefArch"),
        ("redirect_uri", REDIRECT),
        ("code", code),
        ("code_verifier", VERIFIER),
    ];
    Tokens::of(&world.send(world.post(&slas("token")).form(&form)).await)
}

/// A refresh by the caller.
fn refresh(world: &World, client: &str, token: &str) -> RequestBuilder {
    let form = refresh_form(client, token);
    world.post(&slas("token")).form(&form)
}

fn refresh_form<'t>(client: &'t str, token: &'t str) -> [(&'t str, &'t str); 4] {
    [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", client), ("channel_id", "RefArch")]
}

fn read(world: &World, token: &str) -> RequestBuilder {
    world.get(&products(PRODUCTS)).bearer_auth(token)
}

fn new_token(answer: &Answer) -> Option<String> {
    answer.header("authorization").map(|value| value.strip_prefix("Bearer ").unwrap().to_owned())
}

fn lifetime(world: &World, seconds: u64) {
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = seconds);
}

/// Waits until a token has expired, and gives later ones a long lifetime.
async fn wait_for_expiry(world: &World, token: &str) {
    expired(token).await;
    lifetime(world, 600);
}

/// A login with an expired token, whose session the gateway has renewed since. SLAS no longer accepts a public
/// client's own refresh token.
async fn renewed_by_gateway(world: &World, client: &'static str, login: bool) -> Tokens {
    lifetime(world, 2);
    let tokens = log_in(world, client, login).await;
    wait_for_expiry(world, &tokens.access).await;
    let answer = world.send(read(world, &tokens.access)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(new_token(&answer).is_some());
    tokens
}

#[tokio::test]
async fn slas_login_session_outlives_its_token() {
    for (client, login) in
        [(PUBLIC_CLIENT, false), (PUBLIC_CLIENT, true), (PRIVATE_CLIENT, false), (PRIVATE_CLIENT, true)]
    {
        let world = world().await;
        renewed_by_gateway(&world, client, login).await;
        assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
    }
}

#[tokio::test]
async fn slas_login_is_no_session_unless_tenant_registers_sessions() {
    let mut world = World::start().await;
    world.client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let tokens = log_in(&world, PUBLIC_CLIENT, false).await;
    assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await.status, 200);
    assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await.status, 400, "as SLAS has it");
}

#[tokio::test]
async fn passwordless_bridge_and_on_behalf_logins_become_sessions() {
    let world = world().await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let passwordless = async || {
        let form = [
            ("client_id", PRIVATE_CLIENT),
            ("channel_id", "RefArch"),
            ("user_id", LOGIN),
            ("mode", "callback"),
            ("callback_uri", "http://localhost:3000/delivery"),
        ];
        assert_eq!(world.send(world.post(&slas("passwordless/login")).form(&form)).await.status, 200);
        let token = world.simulator.outbox().pop().unwrap().token;
        let form = [
            ("grant_type", "client_credentials"),
            ("hint", "pwdless_login"),
            ("pwdless_login_token", &token),
            ("client_id", PRIVATE_CLIENT),
        ];
        world.send(world.post(&slas("passwordless/token")).form(&form)).await
    };
    let bridge = async || {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", PRIVATE_CLIENT),
            ("channel_id", "RefArch"),
            ("login_id", "guest"),
            ("dwsgst", "any"),
        ];
        world.send(world.post(&slas("session-bridge/token")).form(&form)).await
    };
    let on_behalf = async || {
        let form = [
            ("grant_type", "client_credentials"),
            ("hint", "ts_ext_on_behalf_of"),
            ("login_id", LOGIN),
            ("idp_origin", "ecom"),
            ("channel_id", "RefArch"),
            ("client_id", PRIVATE_CLIENT),
        ];
        let request = world.post(&slas("trusted-system/token")).form(&form);
        world.send(request.basic_auth(PRIVATE_CLIENT, Some("private-client-secret"))).await
    };
    lifetime(&world, 2);
    let answers = [passwordless().await, bridge().await, on_behalf().await];
    for answer in &answers {
        expired(&Tokens::of(answer).access).await;
    }
    lifetime(&world, 600);
    for answer in answers {
        let tokens = Tokens::of(&answer);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let renewed = world.send(read(&world, &tokens.access)).await;
        assert!(renewed.status == 200 && new_token(&renewed).is_some(), "{}", renewed.text());
    }
}

#[tokio::test]
async fn slas_response_and_request_pass_unchanged() {
    let world = world().await;
    let tokens = log_in(&world, PUBLIC_CLIENT, false).await;
    for (form, status) in [
        (vec![("grant_type", "odd"), ("client_id", PUBLIC_CLIENT)], 400),
        (
            vec![
                ("grant_type", "refresh_token"),
                ("refresh_token", "unknown"),
                ("client_id", PUBLIC_CLIENT),
                ("channel_id", "RefArch"),
            ],
            400,
        ),
        (vec![("grant_type", "client_credentials"), ("channel_id", "RefArch")], 401),
        (refresh_form(PUBLIC_CLIENT, &tokens.refresh).to_vec(), 200),
    ] {
        let answer = world.send(world.post(&slas("token")).form(&form)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-shopper-gateway-error")),
            (status, None),
            "{}",
            answer.text()
        );
        assert!(answer.header("x-ratelimit-1m-limit").is_some(), "SLAS's own fields");
        for name in ["date", "content-length", "content-type", "correlation-id"] {
            assert_eq!(answer.headers.get_all(name).iter().count(), 1, "{name}");
        }
        assert!(answer.json().get(if status == 200 { "id_token" } else { "error" }).is_some());
    }
    // The caller's request arrived unchanged, without the fields that no caller may send.
    let body = "grant_type=refresh_token&refresh_token=a%2Eb&client_id=c&channel_id=RefArch&x=%7a+%zz";
    let request =
        world.post(&format!("{}?a=1", slas("token"))).header("content-type", "application/x-www-form-urlencoded");
    let request = request.header("x-forwarded-for", "192.0.2.1").header("cookie", "a=1").header("cookie", "b=2");
    let request = request.header("x-hop", "1").header("accept-encoding", "gzip").header("correlation-id", "mine");
    world.simulator.clear_ledger();
    world.send(request.body(body)).await;
    let entry = world.simulator.ledger().pop().unwrap();
    assert_eq!((entry.body.as_str(), entry.query.as_str()), (body, "a=1"));
    assert_eq!(entry.header("cookie"), Some("a=1; b=2"));
    assert_eq!(entry.header("correlation-id"), Some("mine"));
    assert_eq!(entry.header("accept-encoding"), Some("identity"));
    assert_eq!(entry.header("x-forwarded-for"), None);
    assert_eq!(entry.headers.iter().filter(|(name, _)| name == "content-length").count(), 1);
}

#[tokio::test]
async fn client_refresh_works_after_gateway_refresh() {
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        let world = world().await;
        let first = renewed_by_gateway(&world, client, false).await;
        let second = Tokens::of(&world.send(refresh(&world, client, &first.refresh)).await);
        assert_eq!(second.refresh == first.refresh, client == PRIVATE_CLIENT, "rotated for a public client only");
        let sent = world.simulator.ledger().into_iter().rfind(|entry| entry.flow == "token:refresh_token").unwrap();
        assert_eq!(sent.body.contains(&first.refresh), client == PRIVATE_CLIENT, "the valid one went to SLAS");

        // Both access tokens belong to the one session, and the new refresh token works.
        for token in [&first.access, &second.access] {
            assert_eq!(world.send(read(&world, token)).await.status, 200);
        }
        assert_eq!(new_token(&world.send(read(&world, &first.access)).await), Some(second.access.clone()));
        let third = Tokens::of(&world.send(refresh(&world, client, &second.refresh)).await);
        assert_eq!(world.send(read(&world, &third.access)).await.status, 200);
        // Another browser tab still has the old token.
        assert_eq!(world.send(refresh(&world, client, &first.refresh)).await.status, 200);
    }
}

#[tokio::test]
async fn session_continues_after_client_refresh() {
    let world = world().await;
    let first = renewed_by_gateway(&world, PUBLIC_CLIENT, false).await;
    lifetime(&world, 2);
    let second = Tokens::of(&world.send(refresh(&world, PUBLIC_CLIENT, &first.refresh)).await);
    wait_for_expiry(&world, &second.access).await;
    let renewed = world.send(read(&world, &second.access)).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    assert!(new_token(&renewed).is_some(), "the gateway renews what its caller refreshed");
    assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &second.refresh)).await.status, 200);
}

#[tokio::test]
async fn racing_client_and_gateway_refreshes_all_succeed() {
    let world = world().await;
    let first = renewed_by_gateway(&world, PUBLIC_CLIENT, false).await;
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 150 }).flow("token:refresh_token"));
    let mine = [(); 3].map(|()| world.send(refresh(&world, PUBLIC_CLIENT, &first.refresh)));
    let (answers, renewed) =
        futures::future::join(futures::future::join_all(mine), world.send(read(&world, &first.access))).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    for answer in answers {
        let tokens = Tokens::of(&answer);
        assert_eq!(world.send(read(&world, &tokens.access)).await.status, 200);
        assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await.status, 200, "each goes on");
    }
}

#[tokio::test]
async fn client_that_disconnects_during_refresh_loses_no_token() {
    let world = world().await;
    let first = renewed_by_gateway(&world, PUBLIC_CLIENT, false).await;
    let before = world.simulator.count("slas", "token:refresh_token");
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 400 }).flow("token:refresh_token").times(1));
    let request = refresh(&world, PUBLIC_CLIENT, &first.refresh).timeout(Duration::from_millis(150));
    assert!(request.send().await.unwrap_err().is_timeout());
    eventually("SLAS has refreshed", async || world.simulator.count("slas", "token:refresh_token") > before).await;
    assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &first.refresh)).await.status, 200);
}

#[tokio::test]
async fn refresh_token_in_header_field_is_accepted() {
    let world = world().await;
    let first = renewed_by_gateway(&world, PUBLIC_CLIENT, false).await;
    let form = [("grant_type", "refresh_token"), ("client_id", PUBLIC_CLIENT), ("channel_id", "RefArch")];
    let request = world.post(&slas("token")).form(&form).header("sfdc_refresh_token", &first.refresh);
    let second = Tokens::of(&world.send(request).await);
    assert_ne!(second.refresh, first.refresh);
    let two = refresh(&world, PUBLIC_CLIENT, &first.refresh).header("sfdc_refresh_token", &second.refresh);
    assert_eq!(world.send(two).await.refusal(), (400, "request_ambiguous"));
    let twice =
        world.post(&slas("token")).form(&form).header("sfdc_refresh_token", "a").header("sfdc_refresh_token", "b");
    assert_eq!(world.send(twice).await.refusal(), (400, "request_ambiguous"));
}

#[tokio::test]
async fn refresh_by_another_client_site_or_secret_does_not_touch_session() {
    let world = world().await;
    let first = renewed_by_gateway(&world, PRIVATE_CLIENT, false).await;
    let form = |client: &'static str, site: &'static str| {
        [
            ("grant_type", "refresh_token"),
            ("refresh_token", first.refresh.as_str()),
            ("client_id", client),
            ("channel_id", site),
        ]
    };
    for (client, site) in [(PUBLIC_CLIENT, "RefArch"), (PRIVATE_CLIENT, "RefArchGlobal")] {
        let answer = world.send(world.post(&slas("token")).form(&form(client, site))).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let wrong = world.post(&slas("token")).form(&form(PRIVATE_CLIENT, "RefArch"));
    assert_eq!(world.send(wrong.basic_auth(PRIVATE_CLIENT, Some("wrong"))).await.status, 401);
    let other = slas("token").replace(ORGANIZATION, "f_ecom_zzrf_002");
    assert_eq!(world.send(world.post(&other).form(&form(PRIVATE_CLIENT, "SiteGenesis"))).await.status, 400);
    assert_eq!(world.send(read(&world, &first.access)).await.status, 200);
    assert_eq!(world.send(refresh(&world, PRIVATE_CLIENT, &first.refresh)).await.status, 200);
}

#[tokio::test]
async fn logout_sends_current_refresh_token_to_slas() {
    for prefix in ["", "/mobify/slas/private"] {
        let world = world().await;
        let tokens = renewed_by_gateway(&world, PUBLIC_CLIENT, true).await;
        let second = Tokens::of(&world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await);
        // The gateway renews the session once more.
        let renewed = world.simulator.count("slas", "token:refresh_token");
        let target = format!("{prefix}{}", slas("logout"));
        let query = |refresh: &str| {
            [("client_id", PUBLIC_CLIENT), ("channel_id", "RefArch"), ("refresh_token", refresh)]
                .map(|(a, b)| (a, b.to_owned()))
        };
        let logout = world.get(&target).query(&query(&tokens.refresh)).bearer_auth(&second.access);
        let answer = world.send(logout).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(world.simulator.count("slas", "token:refresh_token"), renewed);
        for token in [&tokens.access, &second.access] {
            assert_eq!(world.send(read(&world, token)).await.status, 401);
        }
        for token in [&tokens.refresh, &second.refresh] {
            let again = world.send(refresh(&world, PUBLIC_CLIENT, token)).await;
            assert_eq!((again.status.as_u16(), again.json()["message"].as_str()), (400, Some("invalid refresh_token")));
        }
    }
}

#[tokio::test]
async fn slas_rejection_ends_session_and_slas_failure_does_not() {
    let world = world().await;
    let tokens = renewed_by_gateway(&world, PUBLIC_CLIENT, false).await;
    for effect in [
        Effect::Status { code: 500, retry_after: None, body: None },
        Effect::Reset { at: salesforce_simulator::ResetAt::Before },
        Effect::Status { code: 429, retry_after: Some("1".into()), body: None },
    ] {
        world.simulator.inject(Fault::on("slas", effect).flow("token:refresh_token").times(1));
        world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await;
    }
    // The `Retry-After` of the 429, until which nothing is sent.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let hang = Fault::on("slas", Effect::Hang).flow("token:refresh_token").times(1);
    world.simulator.inject(hang);
    assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await.refusal(), (504, "upstream_timeout"));
    assert_eq!(world.send(refresh(&world, PUBLIC_CLIENT, &tokens.refresh)).await.status, 200);

    // A different session, because the last response of this one is repeated for a while.
    let tokens = log_in(&world, PRIVATE_CLIENT, false).await;
    let no = r#"{"error":"invalid_grant","message":"invalid refresh_token"}"#;
    let refused = Effect::Status { code: 400, retry_after: None, body: Some(no.into()) };
    world.simulator.inject(Fault::on("slas", refused).flow("token:refresh_token").times(1));
    let answer = world.send(refresh(&world, PRIVATE_CLIENT, &tokens.refresh)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (400, no));
    assert_eq!(world.send(read(&world, &tokens.access)).await.status, 401);
}

#[tokio::test]
async fn agent_login_is_forwarded_and_becomes_no_session() {
    let world = world().await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", PRIVATE_CLIENT),
        ("channel_id", "RefArch"),
        ("login_id", LOGIN),
        ("idp_origin", "ecom"),
    ];
    let agent = world.simulator.mint_account_manager_token("agent@example.com", &["openid"], "zzrf_001", 600);
    let answer = world.send(world.post(&slas("trusted-agent/token")).form(&form).bearer_auth(agent)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json().get("refresh_token"), None::<&Value>);
}

/// Two gateways, one Redis.
struct TwoReplicas {
    simulator: Simulator,
    redis: Redis,
    replicas: Vec<Replica>,
    client: Client,
}

impl TwoReplicas {
    async fn start() -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let redis = Redis::start().await;
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let change = |config: &mut toml::Table| {
                in_redis(config, &redis.url());
                register_sessions(config);
            };
            replicas.push(Replica::start(&simulator.url(), change).await);
        }
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { simulator, redis, replicas, client }
    }

    fn address(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].address
    }

    async fn post(&self, replica: usize, form: &[(&str, &str)]) -> (u16, Value) {
        let url = format!("http://{}{}", self.address(replica), slas("token"));
        let answer = self.client.post(url).form(form).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    async fn read(&self, replica: usize, token: &str) -> u16 {
        let url = format!("http://{}{}", self.address(replica), products(PRODUCTS));
        self.client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn replicas_share_sessions_held_by_callers() {
    let mut pair = TwoReplicas::start().await;
    let guest = format!(
        "http://{}{}?client_id={PUBLIC_CLIENT}&channel_id=RefArch&redirect_uri={REDIRECT}&code_challenge={CHALLENGE}&response_type=code&hint=guest",
        pair.address(0),
        slas("authorize")
    );
    let redirect = pair.client.get(guest).send().await.unwrap();
    let location = redirect.headers()["location"].to_str().unwrap().to_owned();
    let code = location.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap();
    pair.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let (status, login) = pair
        .post(
            0,
            &[
                ("grant_type", "authorization_code_pkce"),
                ("client_id", PUBLIC_CLIENT),
                ("channel_id", "RefArch"),
                ("redirect_uri", REDIRECT),
                ("code", code),
                ("code_verifier", VERIFIER),
            ],
        )
        .await;
    assert_eq!(status, 200, "{login}");
    let text = |answer: &Value, name: &str| answer[name].as_str().unwrap().to_owned();
    let (access, refresh) = (text(&login, "access_token"), text(&login, "refresh_token"));
    expired(&access).await;
    pair.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
    assert_eq!(pair.read(1, &access).await, 200, "renewed by the other");

    // Both replicas get the caller's refresh token at once.
    let form = refresh_form(PUBLIC_CLIENT, &refresh);
    pair.simulator.inject(Fault::on("slas", Effect::Delay { ms: 200 }).flow("token:refresh_token").times(2));
    let (one, other) = futures::future::join(pair.post(0, &form), pair.post(1, &form)).await;
    for (status, answer) in [one, other] {
        assert_eq!(status, 200, "{answer}");
        for replica in [0, 1] {
            assert_eq!(pair.read(replica, &text(&answer, "access_token")).await, 200);
            let next = pair.post(replica, &refresh_form(PUBLIC_CLIENT, &text(&answer, "refresh_token"))).await;
            assert_eq!(next.0, 200, "{}", next.1);
        }
    }
    // Without the store no gateway knows the valid token, and none reveals one.
    pair.redis.kill();
    let (status, answer) = pair.post(0, &form).await;
    assert_eq!((status, answer["title"].as_str()), (503, Some("Service Unavailable")));
}
