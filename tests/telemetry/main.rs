//! Telemetry of requests: the access log, its level at run time, and traces at a collector.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected has failed")]

#[path = "../serving/mod.rs"]
mod serving;
mod traces;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use salesforce_simulator::{Seed, Simulator};
use serde_json::Value;
use serving::{Serving, eventually};

const CLIENT: &str = "11111111-1111-4111-8111-111111111111";
const LOGIN: &str = "/customer/shopper-customers/v1/organizations/f_ecom_zzrf_001/customers/actions/login?siteId=RefArch&clientId=11111111-1111-4111-8111-111111111111";
const PRODUCTS: &str = "/product/shopper-products/v1/organizations/f_ecom_zzrf_001/products?ids=PLANTED&siteId=RefArch";

/// A gateway in a process of its own, in front of a simulator.
struct World {
    simulator: Simulator,
    serving: Serving,
    client: Client,
    public: SocketAddr,
    admin: SocketAddr,
}

impl World {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let simulator =
            salesforce_simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), Seed::default()).await.unwrap();
        let url = simulator.url();
        let own = [
            ("SHOPPER_GATEWAY__TENANTS__0__API", url.as_str()),
            ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", url.as_str()),
        ];
        let serving = Serving::start(own.into_iter().chain(environment.iter().copied()));
        let (public, admin) = (serving.address("listening"), serving.address("listening for operators"));
        // The test's HTTP client needs a cryptography provider too.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let world = Self { simulator, serving, client, public, admin };
        let began = Instant::now();
        while world.client.get(format!("http://{admin}/readyz")).send().await.unwrap().status() != StatusCode::OK {
            assert!(began.elapsed() < Duration::from_secs(60), "it is never ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world
    }

    /// A guest's token, by the deprecated login.
    async fn guest(&self, correlation_id: &str) -> String {
        let request = self.client.post(format!("http://{}{LOGIN}", self.public)).body(r#"{"type":"guest"}"#);
        let answer = request.header("correlation-id", correlation_id).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.headers()["authorization"].to_str().unwrap().to_owned()
    }

    async fn products(&self, authorization: &str, more: &[(&str, &str)]) -> StatusCode {
        let mut request = self.client.get(format!("http://{}{PRODUCTS}", self.public));
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status()
    }

    /// Requests on one connection, each answered before the next is sent.
    fn one_after_the_other(&self, authorization: &str, correlation_ids: &[&str]) {
        let mut stream = BufReader::new(TcpStream::connect(self.public).unwrap());
        for id in correlation_ids {
            let head = format!(
                "GET {PRODUCTS} HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\ncorrelation-id: {id}\r\n\r\n"
            );
            stream.get_mut().write_all(head.as_bytes()).unwrap();
            let (mut line, mut length) = (String::new(), 0);
            while stream.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            assert!(length > 0, "an answer without a length");
        }
    }

    async fn set_level(&self, body: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut request = self.client.put(format!("http://{}/log-level", self.admin)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// The access lines so far.
    fn access(&self) -> Vec<Value> {
        self.serving.lines(|line| line["target"] == "shopper_gateway::access")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_log_has_one_line_per_request_without_secrets() {
    let world = World::start(&[]).await;
    let token = world.guest("login-1").await;
    assert_eq!(world.products(&token, &[("correlation-id", "forward-1")]).await, StatusCode::OK);
    assert_eq!(world.products("", &[("correlation-id", "refused-1")]).await, StatusCode::UNAUTHORIZED);
    eventually("three lines are there", || world.access().len() == 3);
    let line = |correlation_id: &str| {
        world.access().into_iter().find(|line| line["correlation_id"] == correlation_id).unwrap()
    };
    let forward = line("forward-1");
    for (field, value) in [
        ("route", "/product/shopper-products/v1/organizations/{organizationId}/products"),
        ("operation", "shopper-products.getProducts"),
        ("tenant", "f_ecom_zzrf_001"),
        ("caller", "guest"),
        ("source", "upstream"),
        ("method", "GET"),
    ] {
        assert_eq!(forward[field], value, "{forward}");
    }
    assert_eq!(forward["status"], 200);
    let time = |field: &str| forward[field].as_f64().unwrap();
    assert!(time("gateway_ms") > 0.0 && time("upstream_ms") > 0.0, "{forward}");
    assert!(time("gateway_ms") + time("upstream_ms") <= time("total_ms"), "{forward}");
    for field in ["gateway_ms", "upstream_ms", "total_ms"] {
        let microseconds = time(field) * 1e3;
        assert!((microseconds - microseconds.round()).abs() < 1e-6, "{field} is finer than a microsecond: {forward}");
    }
    let refused = line("refused-1");
    assert_eq!(
        (&refused["code"], &refused["status"], &refused["source"]),
        (&"token_missing".into(), &401.into(), &"gateway".into())
    );
    let all = format!("{:?}", world.serving.lines(|_| true));
    for secret in ["PLANTED", token.trim_start_matches("Bearer "), "account-manager-secret", "?ids", "clientId="] {
        assert!(!all.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_log_samples_successes_and_keeps_rejections() {
    let world = World::start(&[("SHOPPER_GATEWAY__LOG__SUCCESS_SAMPLE_RATE", "0.000001")]).await;
    let token = world.guest("login-1").await;
    for _ in 0..30 {
        assert_eq!(world.products(&token, &[]).await, StatusCode::OK);
        assert_eq!(world.products("", &[]).await, StatusCode::UNAUTHORIZED);
    }
    eventually("all refusals are there", || world.access().len() >= 30);
    let lines = world.access();
    // With a sampling rate of one in a million a second success among 31 is practically impossible.
    let successes = lines.iter().filter(|line| line["status"] == 200).count();
    assert!(successes <= 1, "{successes} of 31 successes are logged");
    assert_eq!(lines.len() - successes, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_log_keeps_all_slow_successes() {
    // Every request takes longer than a nanosecond.
    let sample = ("SHOPPER_GATEWAY__LOG__SUCCESS_SAMPLE_RATE", "0.000001");
    let world = World::start(&[sample, ("SHOPPER_GATEWAY__LOG__SLOW", "1ns")]).await;
    let token = world.guest("login-1").await;
    for _ in 0..10 {
        assert_eq!(world.products(&token, &[]).await, StatusCode::OK);
    }
    eventually("all successes are there", || world.access().len() == 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_level_changes_at_run_time() {
    let world = World::start(&[]).await;
    let json = ("content-type", "application/json");
    let token = world.guest("login-1").await;
    eventually("a line is there", || world.access().len() == 1);

    assert_eq!(world.set_level(r#"{"level":"warn"}"#, &[json]).await.0, StatusCode::OK);
    // At the second response on a connection, the line of the first request would have been written.
    world.one_after_the_other(&token, &["unseen", "perhaps"]);
    let (status, text) = world.set_level(r#"{"level":null}"#, &[json]).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, r#"{"level":"info","at_start":"info"}"#));
    world.products(&token, &[("correlation-id", "seen")]).await;
    eventually("the second line is there", || world.access().len() >= 2);
    let is_seen = |id: &str| world.access().iter().any(|line| line["correlation_id"] == id);
    eventually("its line is there", || is_seen("seen"));
    assert!(is_seen("login-1") && !is_seen("unseen"), "{:?}", world.access());
    let before = world.access().len();

    // The libraries' logs of raw heads stay off at any level.
    assert_eq!(world.set_level(r#"{"level":"trace"}"#, &[json]).await.0, StatusCode::OK);
    world.products(&token, &[]).await;
    eventually("the next line is there", || world.access().len() > before);
    let all = format!("{:?}", world.serving.lines(|_| true));
    assert!(!all.contains(token.trim_start_matches("Bearer ")) && !all.contains("PLANTED"), "a head is in the log");

    for (body, headers, status) in [
        (r#"{"level":"loud"}"#, &[json][..], StatusCode::BAD_REQUEST),
        (r#"{"lever":"info"}"#, &[json], StatusCode::BAD_REQUEST),
        // An invalid request must not reset the level.
        ("{}", &[json], StatusCode::BAD_REQUEST),
        (r#"{"level":"info"}"#, &[("content-type", "text/plain")], StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (r#"{"level":"info"}"#, &[], StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (r#"{"level":"info"}"#, &[json, ("origin", "http://127.0.0.1:9090")], StatusCode::FORBIDDEN),
        (r#"{"level":"info"}"#, &[json, ("sec-fetch-site", "same-origin")], StatusCode::FORBIDDEN),
    ] {
        assert_eq!(world.set_level(body, headers).await.0, status, "{body} {headers:?}");
    }
    let shown = world.client.get(format!("http://{}/log-level", world.admin)).send().await.unwrap();
    assert_eq!(shown.text().await.unwrap(), r#"{"level":"trace","at_start":"info"}"#);

    // Operators filter for this target, so it does not change with the code's modules.
    let audited = || world.serving.lines(|line| line["target"] == "shopper_gateway::audit" && line["event"] == "admin");
    // The response does not wait for the line.
    eventually("ten lines are there", || audited().len() >= 10);
    let audited = audited();
    let told: Vec<_> =
        audited.iter().map(|line| (line["operation"].as_str().unwrap(), line["result"].as_str().unwrap())).collect();
    let (changes, refusals) = told.split_at(3);
    assert_eq!(changes, [("log-level=warn", "ok"), ("log-level=info", "ok"), ("log-level=trace", "ok")]);
    assert_eq!(refusals, [("log-level", "refused"); 7]);
    assert!(audited.iter().all(|line| line["who"] == "operator at 127.0.0.1"), "{audited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_request_has_access_log_line() {
    let world = World::start(&[]).await;
    let mut stream = TcpStream::connect(world.public).unwrap();
    stream.write_all(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    eventually("its line is there", || world.access().len() == 1);
    let line = &world.access()[0];
    for (field, value) in [("source", "gateway"), ("code", "request_invalid"), ("method", "none"), ("route", "none")] {
        assert_eq!(line[field], value, "{line}");
    }
    // The value is a number in every line, so that a collector has one type for it.
    assert_eq!(line["status"], 400);
    assert!(line["total_ms"].is_number() && answer.contains(line["correlation_id"].as_str().unwrap()), "{line}");
}
