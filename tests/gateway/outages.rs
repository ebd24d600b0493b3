//! SLAS is down, slow or responds with garbage: the errors that callers get, and the calls that SLAS gets.

mod tcp_proxy;

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use salesforce_simulator::{Effect, Fault, ResetAt};

use self::tcp_proxy::TcpProxy;
use crate::{
    scale::{self, figure, ms, percentile},
    world::{Answer, Gateway, LOGIN, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, eventually, expired, products},
};

/// Shoppers with expired tokens.
const SHOPPERS: usize = 8;

fn status(code: u16) -> Effect {
    Effect::Status { code, retry_after: None, body: Some("{}".into()) }
}

fn read(world: &World, token: &str) -> RequestBuilder {
    world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)
}

/// Expired tokens of live sessions, so that a request with one of them needs SLAS.
async fn expired_tokens(world: &World) -> Vec<String> {
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let mut tokens = Vec::new();
    for _ in 0..SHOPPERS {
        tokens.push(world.guest(PRIVATE_CLIENT).await.token());
    }
    expired(tokens.last().unwrap()).await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1800);
    tokens
}

async fn read_all(world: &World, tokens: &[String]) -> Vec<Answer> {
    futures::future::join_all(tokens.iter().map(|token| world.send(read(world, token)))).await
}

/// The kind of SLAS's failure.
#[derive(Clone, Debug, PartialEq)]
enum Failure {
    By(Effect),
    /// The port is closed.
    Closed,
}

/// A world whose SLAS can fail in each of these ways.
struct Fixture {
    world: World,
    port: TcpProxy,
}

impl Fixture {
    async fn start() -> Self {
        let mut world = World::start().await;
        let port = TcpProxy::to(world.simulator.address()).await;
        world.gateway = Gateway::start(&format!("http://{}", port.address), |config| {
            config.insert("timeouts".into(), "exchange = \"1s\"".parse::<toml::Table>().unwrap().into());
        })
        .await;
        world.ready().await;
        Self { world, port }
    }

    async fn fail(&mut self, failure: &Failure) {
        match failure {
            Failure::By(effect) => self.world.simulator.inject(Fault::on("slas", effect.clone())),
            Failure::Closed => self.port.close().await,
        }
    }

    async fn recover(&mut self, failure: &Failure) {
        match failure {
            Failure::By(_) => self.world.simulator.clear_faults(),
            Failure::Closed => self.port.open().await,
        }
    }

    /// Calls to SLAS so far, including failed connections.
    async fn attempts(&self) -> usize {
        let metrics = self.world.metrics().await;
        let calls = metrics.lines().filter(|line| {
            line.starts_with("shopper_gateway_token_exchanges_total{") && line.contains("service=\"slas\"")
        });
        let unreached = calls.filter(|line| line.contains("outcome=\"unreachable\""));
        let unreached: usize = unreached.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        let ledger = self.world.simulator.ledger();
        unreached.max(ledger.iter().filter(|entry| entry.service == "slas").count())
    }
}

/// The measurements of one outage.
struct OutageReport {
    valid: usize,
    ended: Vec<Duration>,
    attempts_per_second: f64,
    recovery: Duration,
}

async fn outage(failure: Failure) -> OutageReport {
    let kind = format!("{failure:?}");
    let mut fixture = Fixture::start().await;
    let (valid, tokens) = (fixture.world.guest(PUBLIC_CLIENT).await.token(), expired_tokens(&fixture.world).await);
    // Fills the pool of connections to the API, because a closed port accepts no new ones. Each request is slow, so
    // that the pool gets one connection per concurrent request.
    fixture.world.simulator.inject(Fault::on("api", Effect::Delay { ms: 500 }));
    for answer in read_all(&fixture.world, &vec![valid.clone(); 8]).await {
        assert_eq!(answer.status, 200, "{kind}");
    }
    fixture.world.simulator.clear_faults();
    fixture.fail(&failure).await;
    let is_limit = failure == Failure::By(status(429));
    let expected = if is_limit { (429, "slas_rate_limited") } else { (503, "slas_unavailable") };
    for answer in read_all(&fixture.world, &tokens).await {
        assert_eq!(answer.refusal(), expected, "{kind}");
    }
    fixture.world.simulator.clear_ledger();
    let (before, start) = (fixture.attempts().await, Instant::now());
    let mut cost = OutageReport { valid: 0, ended: Vec::new(), attempts_per_second: 0.0, recovery: Duration::ZERO };
    while start.elapsed() < scale::outage() {
        for token in &tokens {
            let began = Instant::now();
            let answer = fixture.world.send(read(&fixture.world, token)).await;
            cost.ended.push(began.elapsed());
            assert_eq!(answer.refusal(), expected, "{kind}");
            assert!(answer.header("retry-after").is_some(), "{kind}");
            // Gives the gateway time to return the connection to its pool: where the API's port is closed, no other can be made.
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(fixture.world.send(read(&fixture.world, &valid)).await.status, 200, "{kind}");
            cost.valid += 1;
        }
        // At full scale an outage lasts a minute, and the ledger holds a limited number of requests.
        tokio::time::sleep(scale::of(Duration::ZERO, Duration::from_millis(500))).await;
    }
    let (attempts, took) = (fixture.attempts().await - before, start.elapsed());
    let most = took.as_secs() as usize + 2;
    assert!((1..=most).contains(&attempts), "{kind}: {attempts} attempts in {took:?}");
    cost.attempts_per_second = attempts as f64 / took.as_secs_f64();
    assert!(cost.ended.len() > 20 && percentile(&cost.ended, 50) < Duration::from_millis(250), "{kind}: nobody waits");
    fixture.recover(&failure).await;
    let recovery = Instant::now();
    eventually("everybody is served", async || {
        read_all(&fixture.world, &tokens).await.iter().all(|answer| answer.status == 200)
    })
    .await;
    cost.recovery = recovery.elapsed();
    // Recovery takes two seconds; the rest is for a slow machine.
    assert!(cost.recovery < Duration::from_secs(4), "{kind}: recovery after {:?}", cost.recovery);
    assert!(
        fixture.world.metrics().await.contains("shopper_gateway_circuit_breakers_open{service=\"slas\"} 0"),
        "{kind}"
    );
    cost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slas_outage_causes_one_attempt_a_second_and_spares_valid_tokens() {
    let failures = [
        status(500),
        status(429),
        Effect::Hang,
        Effect::Reset { at: ResetAt::Before },
        Effect::Reset { at: ResetAt::MidBody },
        Effect::Garbage { html: true },
        Effect::HugeBody { bytes: 2 * 1024 * 1024 },
    ];
    let failures = failures.map(Failure::By).into_iter().chain([Failure::Closed]);
    let costs = futures::future::join_all(failures.map(outage)).await;
    let ended: Vec<_> = costs.iter().flat_map(|cost| cost.ended.clone()).collect();
    let line = format!(
        "SLAS down for {} s in {} ways: of {} requests with valid tokens 0 failed; {} with ended ones refused in {} \
         (p50), {} (p99); at most {:.2} calls to SLAS a second; normal {} after its return",
        scale::outage().as_secs(),
        costs.len(),
        costs.iter().map(|cost| cost.valid).sum::<usize>(),
        ended.len(),
        ms(percentile(&ended, 50)),
        ms(percentile(&ended, 99)),
        costs.iter().map(|cost| cost.attempts_per_second).fold(0.0, f64::max),
        ms(costs.iter().map(|cost| cost.recovery).max().unwrap()),
    );
    figure("R5", line);
}

#[tokio::test]
async fn failing_guest_logins_do_not_stop_refreshes() {
    let world = World::start().await;
    let tokens = expired_tokens(&world).await;
    world.simulator.inject(Fault::on("slas", status(500)).flow("authorize:guest"));
    for _ in 0..6 {
        assert_eq!(world.guest(PUBLIC_CLIENT).await.refusal(), (503, "slas_unavailable"));
    }
    assert!(world.metrics().await.contains("shopper_gateway_circuit_breakers_open{service=\"slas\"} 1"));
    assert!(read_all(&world, &tokens).await.iter().all(|answer| answer.status == 200), "refreshes are no logins");
}

#[tokio::test]
async fn logins_rejected_by_slas_do_not_open_circuit_breaker() {
    let world = World::start().await;
    for number in 0..10 {
        let answer = world.log_in(PUBLIC_CLIENT, &format!("nobody-{number}@example.com"), PASSWORD).await;
        assert_eq!(answer.refusal(), (401, "login_rejected"));
    }
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn logins_during_slas_failure_do_not_count_as_failed() {
    let mut world = World::with(|config| {
        let logins = "failed_per_address = 3\nfailed_per_address_and_login = 3\nfailed_per_login = 3";
        config.insert("logins".into(), logins.parse::<toml::Table>().unwrap().into());
    })
    .await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    world.client = client.build().unwrap();
    let target = format!("/shopper/auth/v1/organizations/{}/oauth2/login", crate::world::ORGANIZATION);
    let mut asked = 0;
    let mut login = async |password: &str| {
        asked += 1;
        let form = [
            ("client_id", PUBLIC_CLIENT),
            ("channel_id", "RefArch"),
            ("redirect_uri", "http://localhost:3000/callback"),
            ("code_challenge", &format!("{asked:c>43}")),
        ];
        world.send(world.post(&target).basic_auth(LOGIN, Some(password)).form(&form)).await
    };
    for effect in [Effect::Reset { at: ResetAt::After }, status(503)] {
        world.simulator.inject(Fault::on("slas", effect));
        for _ in 0..5 {
            let answer = login(PASSWORD).await;
            assert!(answer.status.is_server_error(), "{}: {}", answer.status, answer.text());
        }
        world.simulator.clear_faults();
    }
    let answer = login(PASSWORD).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    for _ in 0..3 {
        assert_eq!(login("wrong").await.status, 401);
    }
    assert_eq!(login(PASSWORD).await.refusal(), (429, "caller_rate_limited"));
}

#[tokio::test]
async fn account_manager_outage_opens_circuit_breaker_until_recovery() {
    let world = World::start().await;
    let order = format!("/checkout/orders/v1/organizations/{}/orders/1", crate::world::ORGANIZATION);
    let ask = async |secret: String| {
        let request = world.get(&order).basic_auth(crate::world::CALLER_CLIENT, Some(secret));
        world.send(request).await.refusal().0
    };
    world.simulator.inject(Fault::on("account_manager", status(500)).flow("access_token"));
    // Each secret is a new credential, so no cached result exists.
    for number in 0..60 {
        assert_eq!(ask(format!("secret-{number}")).await, 503);
    }
    let asked = world.simulator.count("account_manager", "access_token");
    assert!((5..30).contains(&asked), "{asked}");
    assert!(world.metrics().await.contains("shopper_gateway_circuit_breakers_open{service=\"account_manager\"} 1"));
    world.simulator.clear_faults();
    eventually("it is asked again", async || ask("caller-secret".into()).await != 503).await;
    assert!(world.metrics().await.contains("shopper_gateway_circuit_breakers_open{service=\"account_manager\"} 0"));
}
