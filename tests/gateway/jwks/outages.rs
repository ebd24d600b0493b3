//! Gateways that start while an issuer is down become ready later.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use salesforce_simulator::{Effect, Fault, ResetAt};

use super::{SERVED, Shop, UNAVAILABLE, status};
use crate::{
    redis::{Redis, in_redis},
    scale::{figure, ms, percentile},
    world::{Gateway, eventually},
};

/// An outage longer than the gateway's first attempts, so that it waits in earnest.
const OUTAGE: Duration = Duration::from_secs(7);
/// Ready two seconds after the issuer's return, and as much again for a slow machine.
const SOON: Duration = Duration::from_secs(4);

#[tokio::test]
async fn gateway_started_during_outage_is_ready_soon_after_recovery() {
    let effects = [
        status(500),
        status(429),
        Effect::Hang,
        Effect::Reset { at: ResetAt::Before },
        Effect::Garbage { html: true },
        Effect::HugeBody { bytes: 20 * 1024 * 1024 },
    ];
    let outage = async |effect: Effect| {
        let shop = Shop::open().await;
        let kind = format!("{effect:?}");
        shop.loses_its_keys(&effect);
        let gateway = shop.alive(|_| {}).await;
        let token = shop.shopper(|_| {});
        let start = Instant::now();
        while start.elapsed() < OUTAGE {
            assert_eq!(shop.present(&gateway, &token).await, UNAVAILABLE, "{kind}");
            assert!(!shop.is_ready(&gateway).await, "{kind}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(shop.fetches() <= 12, "{kind}: {} fetches", shop.fetches());
        shop.simulator.clear_faults();
        let back = Instant::now();
        eventually("it is ready", async || shop.is_ready(&gateway).await).await;
        let took = back.elapsed();
        assert!(took < SOON, "{kind}: ready after {took:?}");
        assert_eq!(shop.present(&gateway, &token).await, SERVED, "{kind}");
        took
    };
    let ready = futures::future::join_all(effects.into_iter().map(outage)).await;
    figure(
        "R10",
        format!("started while SLAS is down: 503 until then, ready {} after its return", ms(percentile(&ready, 100))),
    );
}

#[tokio::test]
async fn gateway_is_ready_soon_after_issuer_accepts_connections() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = {
        crate::world::install_cryptography();
        Gateway::start(&format!("http://{place}"), |_| {}).await
    };
    tokio::time::sleep(OUTAGE).await;
    let shop = Shop::at(&place.to_string()).await;
    let back = Instant::now();
    eventually("it is ready", async || shop.is_ready(&gateway).await).await;
    assert!(back.elapsed() < SOON, "ready after {:?}", back.elapsed());
    assert_eq!(shop.present(&gateway, &shop.shopper(|_| {})).await, SERVED);
}

#[tokio::test]
async fn fetch_started_in_outage_does_not_delay_readiness() {
    let shop = Shop::open().await;
    shop.loses_its_keys(&Effect::Hang);
    let patient = |config: &mut toml::Table| {
        config.insert("timeouts".into(), "exchange = \"1m\"".parse::<toml::Table>().unwrap().into());
    };
    let gateway = shop.alive(patient).await;
    eventually("it asked in vain for a sign of life", async || shop.simulator.count("slas", "userinfo") >= 2).await;
    shop.simulator.clear_faults();
    let back = Instant::now();
    eventually("it is ready", async || shop.is_ready(&gateway).await).await;
    assert!(back.elapsed() < SOON, "ready after {:?}", back.elapsed());
}

#[tokio::test]
async fn readiness_lists_missing_keys() {
    let shop = Shop::open().await;
    shop.simulator.inject(Fault::on("account_manager", status(503)));
    let mut fault = Fault::on("slas", status(503));
    fault.path_prefix = Some("/shopper/auth/v1/organizations/f_ecom_zzrf_002".into());
    shop.simulator.inject(fault);
    let gateway = shop.alive(|_| {}).await;
    let expected = ["f_ecom_zzrf_001/account_manager", "f_ecom_zzrf_002/slas", "f_ecom_zzrf_002/account_manager"];
    eventually("the first organization's keys are there", async || shop.missing(&gateway).await == expected).await;
    assert!(!shop.is_ready(&gateway).await);
    assert_eq!(shop.present(&gateway, &shop.shopper(|_| {})).await, SERVED);
    assert_eq!(shop.present_system(&gateway, &shop.system()).await, UNAVAILABLE);

    shop.simulator.clear_faults();
    shop.simulator.inject(Fault::on("account_manager", status(503)));
    eventually("shoppers can be served", async || shop.is_ready(&gateway).await).await;
    assert_eq!(shop.missing(&gateway).await, ["f_ecom_zzrf_001/account_manager", "f_ecom_zzrf_002/account_manager"]);
    shop.simulator.clear_faults();
    eventually("nothing is missing", async || shop.missing(&gateway).await.is_empty()).await;
    assert_eq!(shop.present_system(&gateway, &shop.system()).await, (404, None));
}

#[tokio::test]
async fn jwks_fetch_limit_is_shared_by_gateways() {
    let shop = Shop::open().await;
    let redis = Redis::start().await;
    shop.simulator.set(|behaviour| behaviour.jwks_requests_per_minute = 10_000);
    // SLAS lives, but its key set does not: nothing cheaper tells when it is back.
    shop.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    let start = Instant::now();
    let mut gateways = Vec::new();
    for _ in 0..6 {
        gateways.push(shop.alive(|config| in_redis(config, &redis.url())).await);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (fetches, most) = (shop.fetches(), 11 + start.elapsed().as_secs() / 6);
    assert!(fetches >= 10 && fetches as u64 <= most, "{fetches} fetches by six gateways, at most {most} are allowed");
}

#[tokio::test]
async fn jwks_fetches_without_store_are_limited_per_gateway() {
    let shop = Shop::open().await;
    let mut redis = Redis::start().await;
    redis.kill();
    shop.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    let gateway = shop.alive(|config| in_redis(config, &redis.url())).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shop.fetches(), 2);
    shop.simulator.clear_faults();
    drop(gateway);
}

#[tokio::test]
async fn jwks_fetches_are_counted_by_outcome() {
    let shop = Shop::open().await;
    let gateway = shop.ready(|_| {}).await;
    let count = async |outcome: &str| {
        let line = format!("shopper_gateway_jwks_refreshes_total{{outcome=\"{outcome}\"}}");
        shop.metric(&gateway, &line).await.unwrap_or(0.0)
    };
    assert_eq!((count("ok").await, count("failed").await), (4.0, 0.0));
    shop.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    assert_eq!(shop.present(&gateway, &shop.of_key("unknown")).await, UNAVAILABLE);
    assert_eq!((count("ok").await, count("failed").await), (4.0, 1.0));
    let age = "shopper_gateway_jwks_age_seconds{issuer=\"slas\",tenant=\"f_ecom_zzrf_001\"}";
    eventually("the age grows", async || shop.metric(&gateway, age).await.is_some_and(|age| age >= 1.0)).await;
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// How many lines about SLAS of the first organization say this.
    fn count(&self, words: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let of_it = |line: &&str| ["slas", "zzrf_001", words].iter().all(|word| line.contains(word));
        text.lines().filter(of_it).count()
    }
}

#[tokio::test]
async fn jwks_outage_is_logged_at_start_and_end() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let shop = Shop::open().await;
    shop.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    let gateway = shop.alive(|_| {}).await;
    eventually("several attempts have failed", async || shop.fetches() >= 3).await;
    assert_eq!((lines.count("key set fetch failed"), lines.count("key set fetched again")), (1, 0));
    shop.simulator.clear_faults();
    eventually("it is ready", async || shop.is_ready(&gateway).await).await;
    assert_eq!((lines.count("key set fetch failed"), lines.count("key set fetched again")), (1, 1));
}
