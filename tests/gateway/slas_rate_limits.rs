//! SLAS's rate limits: gateways share the tenant's limit, obey `Retry-After`, and retry only idempotent calls.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use salesforce_simulator::{Effect, Fault, Seed};

use crate::{
    redis::{Redis, in_redis},
    scale::{self, figure},
    world::{
        Gateway, LOGIN, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, eventually, expired, install_cryptography,
        login_target, products,
    },
};

fn status(code: u16, retry_after: Option<&str>) -> Effect {
    Effect::Status { code, retry_after: retry_after.map(str::to_owned), body: Some("{}".into()) }
}

fn read(world: &World, token: &str) -> RequestBuilder {
    world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)
}

/// Calls to SLAS, without key sets and health probes.
fn calls(world: &World) -> usize {
    let ledger = world.simulator.ledger();
    ledger.iter().filter(|entry| entry.service == "slas" && !["jwks", "userinfo"].contains(&&*entry.flow)).count()
}

fn wait(answer: &crate::world::Answer) -> u64 {
    answer.header("retry-after").unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_gateways_together_stay_below_slas_limit() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let redis = Redis::start().await;
    let limited = |config: &mut toml::Table| {
        in_redis(config, &redis.url());
        // All logins of this test come from one address.
        let limits = "slas_calls_per_address = 0".parse::<toml::Table>().unwrap();
        config.insert("limits".into(), limits.into());
        for tenant in config["tenants"].as_array_mut().unwrap() {
            tenant.as_table_mut().unwrap().insert("slas_requests_per_minute".into(), 100.into());
        }
    };
    let one = Gateway::start(&simulator.url(), limited).await;
    let other = Gateway::start(&simulator.url(), limited).await;
    let world = World { simulator, gateway: one, client: reqwest::Client::builder().no_proxy().build().unwrap() };
    world.ready().await;
    let url = format!("http://{}/readyz", other.admin);
    eventually("the other is ready", async || world.client.get(&url).send().await.unwrap().status() == 200).await;

    let start = Instant::now();
    let logins = (0..60).map(|number| {
        let address = if number % 2 == 0 { world.gateway.address } else { other.address };
        let request = world.client.post(format!("http://{address}{}", login_target(PRIVATE_CLIENT)));
        world.send(request.body(r#"{"type":"guest"}"#))
    });
    let answers = futures::future::join_all(logins).await;
    // A fifth of the limit is available at once, the rest in the course of the minute.
    let most = 20 + (start.elapsed().as_secs_f64() * 80.0 / 60.0) as usize + 1;
    let made = calls(&world);
    assert!((10..=most).contains(&made), "{made} of {most}");
    let limited: Vec<_> = answers.iter().filter(|answer| answer.refusal() == (429, "slas_rate_limited")).collect();
    assert_eq!(limited.len(), 60 - made, "each login of a private client is one call");
    assert!(limited.iter().all(|answer| (1..=10).contains(&wait(answer))));
    // Both gateways can use the refilled part.
    for address in [world.gateway.address, other.address] {
        eventually("a login succeeds again", async || {
            let request = world.client.post(format!("http://{address}{}", login_target(PRIVATE_CLIENT)));
            world.send(request.body(r#"{"type":"guest"}"#)).await.status == 200
        })
        .await;
    }
}

#[tokio::test]
async fn slas_429_is_repeated_without_calls_until_retry_after() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let ended = world.guest(PRIVATE_CLIENT).await.token();
    expired(&ended).await;
    let wait_for = scale::of(6, 30);
    let limited = status(429, Some(&wait_for.to_string()));
    world.simulator.inject(Fault::on("slas", limited).flow("authorize:guest").times(1));
    let start = Instant::now();
    assert_eq!(world.guest(PUBLIC_CLIENT).await.refusal(), (429, "slas_rate_limited"));
    world.simulator.clear_ledger();
    let mut answers = 0;
    while start.elapsed() < Duration::from_secs(wait_for - 2) {
        for answer in [
            world.guest(PUBLIC_CLIENT).await,
            world.guest(PRIVATE_CLIENT).await,
            // Each login id differs, because logins of one id are queued.
            world.log_in(PUBLIC_CLIENT, &format!("{answers}@example.com"), PASSWORD).await,
            world.send(read(&world, &ended)).await,
        ] {
            assert_eq!(answer.refusal(), (429, "slas_rate_limited"));
            assert!((1..=wait_for).contains(&wait(&answer)));
            answers += 1;
        }
    }
    assert!(answers > 20 && calls(&world) == 0, "{} calls for {answers} answers", calls(&world));
    eventually("it is over", async || world.guest(PUBLIC_CLIENT).await.status == 200).await;
    assert!(start.elapsed() >= Duration::from_secs(wait_for));
    figure("R7", format!("429 with Retry-After {wait_for}: {answers} requests, 0 calls before it was over"));
}

#[tokio::test]
async fn last_slas_requests_of_a_minute_are_reserved_for_logins() {
    let world = World::start().await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 2;
        behaviour.slas_requests_per_minute = 40;
    });
    let ended = world.guest(PRIVATE_CLIENT).await.token();
    while calls(&world) < 36 {
        assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200);
    }
    expired(&ended).await;
    let refused = world.send(read(&world, &ended)).await;
    assert_eq!(refused.refusal(), (429, "slas_rate_limited"));
    assert!(wait(&refused) > 20, "until SLAS's minute is over");
    assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200);
    let metrics = world.metrics().await;
    assert!(metrics.contains("slas_rate_limit_remaining{tenant=\"f_ecom_zzrf_001\"} 3"), "{metrics}");
    while calls(&world) < 40 {
        assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200);
    }
    assert_eq!(world.guest(PRIVATE_CLIENT).await.refusal(), (429, "slas_rate_limited"));
    assert_eq!(calls(&world), 40, "SLAS had to refuse nothing");
}

#[tokio::test]
async fn idempotent_calls_are_retried_once_and_others_never() {
    let world = World::start().await;
    let once = |service: &str, flow: &str| {
        world.simulator.inject(Fault::on(service, status(503, None)).flow(flow).times(1));
    };
    for flow in ["login", "token:authorization_code_pkce"] {
        once("slas", flow);
        world.simulator.clear_ledger();
        assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.refusal(), (503, "slas_unavailable"), "{flow}");
        assert_eq!(world.simulator.count("slas", flow), 1, "{flow}");
    }
    once("slas", "token:client_credentials");
    assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200);
    for _ in 0..10 {
        assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200);
    }
    once("api", "shopper-customers.getCustomer");
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.status, 200);
    // At most a tenth of the calls is retried.
    world.simulator.inject(Fault::on("slas", status(503, None)).flow("token:client_credentials"));
    world.simulator.clear_ledger();
    for _ in 0..4 {
        assert_eq!(world.guest(PRIVATE_CLIENT).await.refusal(), (503, "slas_unavailable"));
    }
    assert!(calls(&world) <= 5, "{}", calls(&world));
}
