//! Gateways that start while an issuer is down become ready later.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use salesforce_simulator::{Effect, Fault, ResetAt};

use super::{Issuers, SERVED, UNAVAILABLE, status};
use crate::{
    redis::{Redis, in_redis},
    scale::{figure, ms, percentile},
    world::{Gateway, eventually},
};

/// An outage longer than the gateway's first attempts, so that its retry interval has grown.
const OUTAGE: Duration = Duration::from_secs(7);
/// A gateway is ready within two seconds of the issuer's return. Without health probes it would fetch keys every ten seconds; the
/// time between is for a slow machine.
const SOON: Duration = Duration::from_secs(9);

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
        let issuers = Issuers::start().await;
        let kind = format!("{effect:?}");
        issuers.stop_serving_keys(&effect);
        let gateway = issuers.start_gateway(|_| {}).await;
        let token = issuers.shopper_token(|_| {});
        let start = Instant::now();
        while start.elapsed() < OUTAGE {
            assert_eq!(issuers.present(&gateway, &token).await, UNAVAILABLE, "{kind}");
            assert!(!issuers.is_ready(&gateway).await, "{kind}");
            // Two requests a second, by far fewer than the fetches they could cause.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(issuers.fetches() <= 12, "{kind}: {} fetches", issuers.fetches());
        issuers.simulator.clear_faults();
        let back = Instant::now();
        eventually("it is ready", async || issuers.is_ready(&gateway).await).await;
        let took = back.elapsed();
        assert!(took < SOON, "{kind}: ready after {took:?}");
        assert_eq!(issuers.present(&gateway, &token).await, SERVED, "{kind}");
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
    // The gateway's attempts fail at the operating system, so no ledger shows them.
    tokio::time::sleep(OUTAGE).await;
    let issuers = Issuers::start_at(&place.to_string()).await;
    let back = Instant::now();
    eventually("it is ready", async || issuers.is_ready(&gateway).await).await;
    assert!(back.elapsed() < SOON, "ready after {:?}", back.elapsed());
    assert_eq!(issuers.present(&gateway, &issuers.shopper_token(|_| {})).await, SERVED);
}

#[tokio::test]
async fn fetch_started_in_outage_does_not_delay_readiness() {
    let issuers = Issuers::start().await;
    issuers.stop_serving_keys(&Effect::Hang);
    let patient = |config: &mut toml::Table| {
        config.insert("timeouts".into(), "exchange = \"1m\"".parse::<toml::Table>().unwrap().into());
    };
    let gateway = issuers.start_gateway(patient).await;
    eventually("it asked in vain for a sign of life", async || issuers.simulator.count("slas", "userinfo") >= 2).await;
    issuers.simulator.clear_faults();
    let back = Instant::now();
    eventually("it is ready", async || issuers.is_ready(&gateway).await).await;
    assert!(back.elapsed() < SOON, "ready after {:?}", back.elapsed());
}

#[tokio::test]
async fn readiness_lists_missing_keys() {
    let issuers = Issuers::start().await;
    issuers.simulator.inject(Fault::on("account_manager", status(503)));
    let mut fault = Fault::on("slas", status(503));
    fault.path_prefix = Some("/shopper/auth/v1/organizations/f_ecom_zzrf_002".into());
    issuers.simulator.inject(fault);
    let gateway = issuers.start_gateway(|_| {}).await;
    let expected = ["f_ecom_zzrf_001/account_manager", "f_ecom_zzrf_002/slas", "f_ecom_zzrf_002/account_manager"];
    eventually("the first organization's keys are there", async || {
        issuers.missing_key_sets(&gateway).await == expected
    })
    .await;
    assert!(!issuers.is_ready(&gateway).await);
    assert_eq!(issuers.present(&gateway, &issuers.shopper_token(|_| {})).await, SERVED);
    assert_eq!(issuers.present_system(&gateway, &issuers.system_token()).await, UNAVAILABLE);

    issuers.simulator.clear_faults();
    issuers.simulator.inject(Fault::on("account_manager", status(503)));
    eventually("shoppers can be served", async || issuers.is_ready(&gateway).await).await;
    assert_eq!(
        issuers.missing_key_sets(&gateway).await,
        ["f_ecom_zzrf_001/account_manager", "f_ecom_zzrf_002/account_manager"]
    );
    issuers.simulator.clear_faults();
    eventually("nothing is missing", async || issuers.missing_key_sets(&gateway).await.is_empty()).await;
    assert_eq!(issuers.present_system(&gateway, &issuers.system_token()).await, (404, None));
}

#[tokio::test]
async fn jwks_fetch_limit_is_shared_by_gateways() {
    let issuers = Issuers::start().await;
    let redis = Redis::start().await;
    issuers.simulator.set(|behaviour| behaviour.jwks_requests_per_minute = 10_000);
    // SLAS works except for its key set endpoint, so no cheaper request can detect its return.
    issuers.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    let start = Instant::now();
    let mut gateways = Vec::new();
    for _ in 0..6 {
        gateways.push(issuers.start_gateway(|config| in_redis(config, &redis.url())).await);
    }
    // The period whose fetches are counted.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (fetches, most) = (issuers.fetches(), 11 + start.elapsed().as_secs() / 6);
    assert!(fetches >= 10 && fetches as u64 <= most, "{fetches} fetches by six gateways, at most {most} are allowed");
}

#[tokio::test]
async fn jwks_fetches_without_store_are_limited_per_gateway() {
    let issuers = Issuers::start().await;
    let mut redis = Redis::start().await;
    redis.kill();
    issuers.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    let gateway = issuers.start_gateway(|config| in_redis(config, &redis.url())).await;
    // The period whose fetches are counted.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(issuers.fetches(), 2);
    issuers.simulator.clear_faults();
    drop(gateway);
}

#[tokio::test]
async fn jwks_fetches_are_counted_by_outcome() {
    let issuers = Issuers::start().await;
    let gateway = issuers.start_ready_gateway(|_| {}).await;
    let count = async |outcome: &str| {
        let line = format!("shopper_gateway_jwks_refreshes_total{{outcome=\"{outcome}\"}}");
        issuers.metric(&gateway, &line).await.unwrap_or(0.0)
    };
    assert_eq!((count("ok").await, count("failed").await), (4.0, 0.0));
    issuers.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    assert_eq!(issuers.present(&gateway, &issuers.shopper_with_kid("unknown")).await, UNAVAILABLE);
    assert_eq!((count("ok").await, count("failed").await), (4.0, 1.0));
    let age = "shopper_gateway_jwks_age_seconds{issuer=\"slas\",tenant=\"f_ecom_zzrf_001\"}";
    eventually("the age grows", async || issuers.metric(&gateway, age).await.is_some_and(|age| age >= 1.0)).await;
}

/// The log as text.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogBuffer {
    /// The number of lines about the first organization's SLAS with this text.
    fn count(&self, words: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let of_it = |line: &&str| ["slas", "zzrf_001", words].iter().all(|word| line.contains(word));
        text.lines().filter(of_it).count()
    }
}

#[tokio::test]
async fn jwks_outage_is_logged_at_start_and_end() {
    let lines = LogBuffer::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let issuers = Issuers::start().await;
    issuers.simulator.inject(Fault::on("slas", status(500)).flow("jwks"));
    let gateway = issuers.start_gateway(|_| {}).await;
    eventually("several attempts have failed", async || issuers.fetches() >= 3).await;
    assert_eq!((lines.count("key set fetch failed"), lines.count("key set fetched again")), (1, 0));
    issuers.simulator.clear_faults();
    eventually("it is ready", async || issuers.is_ready(&gateway).await).await;
    assert_eq!((lines.count("key set fetch failed"), lines.count("key set fetched again")), (1, 1));
}
