//! Strangers guess a trusted system's secret or client id.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::{Client, StatusCode};
use salesforce_simulator::{Effect, Fault};
use tokio::task::JoinHandle;

use crate::{
    callers::CALLER_SECRET,
    redis::{Redis, in_redis},
    world::{Answer, CALLER_CLIENT, Gateway, ORGANIZATION, World, eventually, eventually_every},
};

fn order() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn calls(world: &World) -> usize {
    world.simulator.count("account_manager", "access_token")
}

/// A client with this loopback address.
fn client_at(last: u8) -> Client {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    Client::builder().no_proxy().local_address(address).build().unwrap()
}

async fn ask(client: &Client, gateway: &Gateway, user: &str, secret: &str) -> (StatusCode, String) {
    let url = format!("http://{}{}", gateway.address, order());
    let answer = client.get(url).basic_auth(user, Some(secret)).send().await.unwrap();
    let code = answer.headers().get("x-shopper-gateway-error").map(|code| code.to_str().unwrap().to_owned());
    (answer.status(), code.unwrap_or_default())
}

/// Sends 200 guesses a second until it is dropped.
struct GuessFlood {
    is_over: Arc<AtomicBool>,
    rejected: Arc<AtomicUsize>,
    _guessing: JoinHandle<()>,
}

impl GuessFlood {
    /// Returns when the gateway rejects guesses with 429.
    async fn start(client: Client, gateway: &Gateway) -> Self {
        let (is_over, rejected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let url = format!("http://{}{}", gateway.address, order());
        let (over, away) = (Arc::clone(&is_over), Arc::clone(&rejected));
        let guessing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            for guess in 0.. {
                ticks.tick().await;
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let request = client.get(&url).basic_auth(CALLER_CLIENT, Some(format!("guess-{guess}")));
                let away = Arc::clone(&away);
                tokio::spawn(async move {
                    if request.send().await.is_ok_and(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS) {
                        away.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let flood = Self { is_over, rejected, _guessing: guessing };
        eventually("guesses are turned away", async || flood.rejected.load(Ordering::Relaxed) > 50).await;
        flood
    }
}

impl Drop for GuessFlood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

async fn slow_account_manager(change: impl FnOnce(&mut toml::Table)) -> World {
    let world = World::with(change).await;
    world.simulator.inject(Fault::on("account_manager", Effect::Delay { ms: 50 }).flow("access_token"));
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_guesses_do_not_block_right_secret_from_another_address() {
    let world = slow_account_manager(|_| {}).await;
    let began = Instant::now();
    let _flood = GuessFlood::start(client_at(1), &world.gateway).await;
    // A request from another address succeeds at once.
    assert_eq!(ask(&client_at(2), &world.gateway, CALLER_CLIENT, CALLER_SECRET).await.0, StatusCode::OK);
    let most = 20 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(calls(&world) <= most, "{} calls to Account Manager, {most} at most", calls(&world));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_secret_from_guessing_address_succeeds_after_a_short_wait() {
    let world = slow_account_manager(|_| {}).await;
    let _flood = GuessFlood::start(client_at(1), &world.gateway).await;
    let (client, began, mut tries) = (client_at(1), Instant::now(), 0);
    eventually_every(Duration::from_millis(250), "the right secret is accepted", async || {
        tries += 1;
        assert!(tries <= 40, "kept out for {:?}", began.elapsed());
        ask(&client, &world.gateway, CALLER_CLIENT, CALLER_SECRET).await.0 == StatusCode::OK
    })
    .await;
    let most = 20 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(calls(&world) <= most, "{} calls to Account Manager, {most} at most", calls(&world));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_replica_accepts_secret_verified_by_another_during_guesses() {
    let redis = Redis::start().await;
    let url = redis.url();
    let world = slow_account_manager(|config| in_redis(config, &url)).await;
    assert_eq!(ask(&client_at(1), &world.gateway, CALLER_CLIENT, CALLER_SECRET).await.0, StatusCode::OK);
    eventually("the proof is written", async || {
        !redis.run::<Vec<String>>(redis::cmd("KEYS").arg("*:k:*")).await.is_empty()
    })
    .await;
    let second = Gateway::start(&world.simulator.url(), |config| in_redis(config, &url)).await;
    let _flood = GuessFlood::start(client_at(1), &second).await;
    for last in [1, 2] {
        assert_eq!(ask(&client_at(last), &second, CALLER_CLIENT, CALLER_SECRET).await.0, StatusCode::OK, "{last}");
    }
    let stored = redis.run::<Vec<String>>(redis::cmd("KEYS").arg("*")).await.join("\n");
    assert!(!stored.contains(CALLER_SECRET) && !stored.contains(CALLER_CLIENT), "{stored}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_rejected_by_account_manager_is_forgotten() {
    let redis = Redis::start().await;
    let url = redis.url();
    let world = World::with(|config| in_redis(config, &url)).await;
    world.simulator.set(|behaviour| behaviour.account_manager_token_seconds = 2);
    let proofs = async || redis.run::<Vec<String>>(redis::cmd("KEYS").arg("*:k:*")).await.len();
    let before = proofs().await;
    assert_eq!(ask(&world.client, &world.gateway, CALLER_CLIENT, CALLER_SECRET).await.0, StatusCode::OK);
    eventually("the proof is written", async || proofs().await > before).await;
    let refused = Effect::Status { code: 401, retry_after: None, body: Some(r#"{"error":"invalid_client"}"#.into()) };
    world.simulator.inject(Fault::on("account_manager", refused).flow("access_token"));
    eventually("the secret is refused", async || {
        ask(&world.client, &world.gateway, CALLER_CLIENT, CALLER_SECRET).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    eventually("the proof is gone", async || proofs().await == before).await;
}

/// The response without the values that differ each time.
fn comparable(answer: &Answer) -> String {
    let field = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| match name.as_str() {
        "correlation-id" | "date" | "retry-after" => format!("{name}"),
        _ => format!("{name}: {value:?}"),
    };
    format!("{} {:?} {}", answer.status, answer.headers.iter().map(field).collect::<Vec<_>>(), answer.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_client_gets_same_responses_and_delays_as_known_one() {
    let world = World::start().await;
    world.simulator.inject(Fault::on("account_manager", Effect::Delay { ms: 60 }).flow("access_token"));
    let unknown = "dddddddd-dddd-4ddd-8ddd-dddddddddddd";
    // The responses and durations of a run of guesses, whose first guess is repeated at once.
    let guesses = async |user: &str| {
        let mut run = Vec::new();
        for guess in [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
            let began = Instant::now();
            let answer = world.send(world.get(&order()).basic_auth(user, Some(format!("guess-{guess}")))).await;
            run.push((comparable(&answer), began.elapsed()));
        }
        run
    };
    let (known, other) = tokio::join!(guesses(CALLER_CLIENT), guesses(unknown));
    let answers = |run: &[(String, Duration)]| run.iter().map(|(shown, _)| shown.clone()).collect::<Vec<_>>();
    assert_eq!(answers(&known), answers(&other));
    assert!(known[0].0.contains("caller_rejected") && known[14].0.contains("caller_rate_limited"), "{known:?}");
    // Guesses are refused after a call, from the cache, and without a call. The limits allow for a busy machine.
    for (number, ((_, known), (_, other))) in known.iter().zip(&other).enumerate() {
        let difference = known.abs_diff(*other);
        assert!(difference < Duration::from_millis(150), "guess {number}: {known:?} and {other:?}");
    }
    assert!(known[0].1 >= Duration::from_millis(450) && known[1].1 < Duration::from_millis(250), "{known:?}");
    assert!(calls(&world) <= 11, "{}", calls(&world));
    let seen = world.simulator.ledger();
    assert!(seen.iter().all(|entry| entry.service != "account_manager" || !entry.body.contains(unknown)));
    let metrics = world.metrics().await;
    for reason in ["not_configured", "credentials_refused"] {
        assert!(
            metrics.contains(&format!("shopper_gateway_caller_rejections_total{{reason=\"{reason}\"}} 11")),
            "{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invented_clients_do_not_evict_limits_of_a_configured_one() {
    let world = World::start().await;
    for guess in 0..12 {
        ask(&world.client, &world.gateway, CALLER_CLIENT, &format!("guess-{guess}")).await;
    }
    let before = calls(&world);
    let invented: Vec<_> = (0..300).map(|number| format!("invented-{number}")).collect();
    join_all(invented.iter().map(|user| ask(&world.client, &world.gateway, user, "x"))).await;
    assert_eq!(calls(&world), before);
    // The limit would have refilled by twelve; on a busy machine by some of them.
    let more: Vec<_> = (13..25).map(|number| format!("guess-{number}")).collect();
    let answers = join_all(more.iter().map(|guess| ask(&world.client, &world.gateway, CALLER_CLIENT, guess))).await;
    assert!(answers.contains(&(StatusCode::TOO_MANY_REQUESTS, "caller_rate_limited".to_owned())), "{answers:?}");
}

#[tokio::test]
async fn unknown_client_gets_503_like_known_one_while_account_manager_fails() {
    let world = World::start().await;
    let down = Effect::Status { code: 500, retry_after: None, body: None };
    world.simulator.inject(Fault::on("account_manager", down).flow("access_token"));
    let known = ask(&world.client, &world.gateway, CALLER_CLIENT, "guess").await;
    assert_eq!(known, (StatusCode::SERVICE_UNAVAILABLE, "account_manager_unavailable".to_owned()));
    assert_eq!(ask(&world.client, &world.gateway, "unknown", "guess").await, known);
    world.simulator.clear_faults();
    eventually("Account Manager answers again", async || {
        ask(&world.client, &world.gateway, CALLER_CLIENT, CALLER_SECRET).await.0 == StatusCode::OK
    })
    .await;
    let unknown = ask(&world.client, &world.gateway, "unknown", "another guess").await;
    assert_eq!(unknown, (StatusCode::UNAUTHORIZED, "caller_rejected".to_owned()));
}
