//! SLAS is down, slow or talks nonsense: what callers notice of it, and what SLAS does.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use salesforce_simulator::{Effect, Fault, ResetAt};

use crate::world::{Answer, LOGIN, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, eventually, products};

/// Shoppers whose tokens have ended.
const SHOPPERS: usize = 8;
const OUTAGE: Duration = Duration::from_secs(5);

fn status(code: u16) -> Effect {
    Effect::Status { code, retry_after: None, body: Some("{}".into()) }
}

fn read(world: &World, token: &str) -> RequestBuilder {
    world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)
}

async fn patient(seconds: u64) -> World {
    World::with(|config| {
        let timeouts = format!("exchange = \"{seconds}s\"").parse::<toml::Table>().unwrap();
        config.insert("timeouts".into(), timeouts.into());
    })
    .await
}

/// Tokens of sessions that have ended, so that a request with one of them needs SLAS.
async fn ended(world: &World) -> Vec<String> {
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let mut tokens = Vec::new();
    for _ in 0..SHOPPERS {
        tokens.push(world.guest(PRIVATE_CLIENT).await.token());
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1800);
    tokens
}

async fn all(world: &World, tokens: &[String]) -> Vec<Answer> {
    futures::future::join_all(tokens.iter().map(|token| world.send(read(world, token)))).await
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn an_outage_costs_one_attempt_a_second_and_nobody_with_a_valid_token() {
    let effects = [
        status(500),
        status(429),
        Effect::Hang,
        Effect::Reset { at: ResetAt::Before },
        Effect::Reset { at: ResetAt::MidBody },
        Effect::Garbage { html: true },
        Effect::HugeBody { bytes: 2 * 1024 * 1024 },
    ];
    let outage = async |effect: Effect| {
        let kind = format!("{effect:?}");
        let world = patient(1).await;
        let (valid, tokens) = (world.guest(PUBLIC_CLIENT).await.token(), ended(&world).await);
        world.simulator.inject(Fault::on("slas", effect.clone()));
        let expected = if effect == status(429) { (429, "slas_rate_limited") } else { (503, "slas_unavailable") };
        for answer in all(&world, &tokens).await {
            assert_eq!(answer.refusal(), expected, "{kind}");
        }
        world.simulator.clear_ledger();
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < OUTAGE {
            for token in &tokens {
                let began = Instant::now();
                let answer = world.send(read(&world, token)).await;
                times.push(began.elapsed());
                assert_eq!(answer.refusal(), expected, "{kind}");
                assert!(answer.header("retry-after").is_some(), "{kind}");
                assert_eq!(world.send(read(&world, &valid)).await.status, 200, "{kind}");
            }
        }
        let attempts = world.simulator.ledger().iter().filter(|entry| entry.service == "slas").count();
        let most = start.elapsed().as_secs() as usize + 2;
        assert!((1..=most).contains(&attempts), "{kind}: {attempts} attempts in {:?}", start.elapsed());
        assert!(times.len() > 20 && median(times.clone()) < Duration::from_millis(250), "{kind}: nobody waits");
        world.simulator.clear_faults();
        let back = Instant::now();
        eventually("everybody is served", async || {
            all(&world, &tokens).await.iter().all(|answer| answer.status == 200)
        })
        .await;
        // Two seconds, and as much again for a slow machine.
        assert!(back.elapsed() < Duration::from_secs(4), "{kind}: back after {:?}", back.elapsed());
        assert!(world.metrics().await.contains("shopper_gateway_circuit_state{service=\"slas\"} 0"), "{kind}");
    };
    futures::future::join_all(effects.into_iter().map(outage)).await;
}

#[tokio::test]
async fn what_fails_is_one_class_of_calls_and_the_others_go_on() {
    let world = World::start().await;
    let tokens = ended(&world).await;
    world.simulator.inject(Fault::on("slas", status(500)).flow("authorize:guest"));
    for _ in 0..6 {
        assert_eq!(world.guest(PUBLIC_CLIENT).await.refusal(), (503, "slas_unavailable"));
    }
    assert!(world.metrics().await.contains("shopper_gateway_circuit_state{service=\"slas\"} 1"));
    assert!(all(&world, &tokens).await.iter().all(|answer| answer.status == 200), "refreshes are no logins");
}

#[tokio::test]
async fn what_slas_refuses_is_no_outage() {
    let world = World::start().await;
    for number in 0..10 {
        let answer = world.log_in(PUBLIC_CLIENT, &format!("nobody-{number}@example.com"), PASSWORD).await;
        assert_eq!(answer.refusal(), (401, "login_rejected"));
    }
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn an_account_manager_that_is_down_is_left_in_peace_and_tried_again() {
    let world = World::start().await;
    let order = format!("/checkout/orders/v1/organizations/{}/orders/1", crate::world::ORGANIZATION);
    let ask = async |secret: String| {
        let request = world.get(&order).basic_auth(crate::world::CALLER_CLIENT, Some(secret));
        world.send(request).await.refusal().0
    };
    world.simulator.inject(Fault::on("account_manager", status(500)).flow("access_token"));
    // Each secret is another credential, which nothing is remembered of.
    for number in 0..60 {
        assert_eq!(ask(format!("secret-{number}")).await, 503);
    }
    let asked = world.simulator.count("account_manager", "access_token");
    assert!((5..30).contains(&asked), "{asked}");
    assert!(world.metrics().await.contains("shopper_gateway_circuit_state{service=\"account_manager\"} 1"));
    world.simulator.clear_faults();
    eventually("it is asked again", async || ask("caller-secret".into()).await != 503).await;
    assert!(world.metrics().await.contains("shopper_gateway_circuit_state{service=\"account_manager\"} 0"));
}
