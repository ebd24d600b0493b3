//! The memory that strangers can make a gateway allocate.
//!
//! Each kind of memory has a limit, with allowance for the noise of an allocator and of a debug build. The gateway is a
//! process of its own, whose resident memory is read. A warm-up excludes the one-time allocations of the first
//! requests.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{SendStream, client::SendRequest};
use http::Request;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Client, RequestBuilder};
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinHandle};

use crate::{
    replica::Replica,
    scale::{self, figure},
    world::{ORGANIZATION, PRIVATE_CLIENT, PUBLIC_CLIENT, eventually, install_cryptography, login_target, products},
};

const KIBIBYTE: u64 = 1024;
const MEBIBYTE: u64 = 1024 * KIBIBYTE;
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORM: &str = "application/x-www-form-urlencoded";
/// Streams that an HTTP/2 client may have open on one connection.
const STREAMS: usize = 100;

struct Fixture {
    replica: Replica,
    simulator: Simulator,
    client: Client,
}

impl Fixture {
    /// A gateway whose memory has settled.
    async fn set(change: impl FnOnce(&mut toml::Table)) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let replica = Replica::start(&simulator.url(), change).await;
        let client = Client::builder().no_proxy().build().unwrap();
        let fixture = Self { replica, simulator, client };
        let token = fixture.simulator.mint_shopper_token(ShopperTokenSpec::default());
        for _ in 0..50 {
            let read = fixture.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token);
            assert_eq!(read.send().await.unwrap().status(), 200);
            assert_eq!(fixture.guest("198.51.100.1").send().await.unwrap().status(), 200);
        }
        fixture
    }

    fn get(&self, target: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{target}", self.replica.address))
    }

    fn guest(&self, address: &str) -> RequestBuilder {
        let url = format!("http://{}{}", self.replica.address, login_target(PRIVATE_CLIENT));
        self.client.post(url).header(FORWARDED_FOR, address).body(r#"{"type":"guest"}"#)
    }

    /// The growth of the gateway's memory after `work` has settled. The result of `work` lives until then.
    async fn memory_growth<T>(&self, work: impl Future<Output = T>) -> u64 {
        let before = self.replica.resident_bytes();
        let mut most = before;
        let kept = {
            let mut work = std::pin::pin!(work);
            loop {
                // The maximum of all readings counts.
                let done = tokio::time::timeout(Duration::from_millis(20), &mut work).await;
                most = most.max(self.replica.resident_bytes());
                if let Ok(kept) = done {
                    break kept;
                }
            }
        };
        // Nothing shows when the growth is over.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            most = most.max(self.replica.resident_bytes());
        }
        drop(kept);
        most - before
    }

    /// Asserts that the address is served again after its connections are closed.
    async fn assert_served(&self, what: &str) {
        eventually(what, async || self.guest("198.51.100.2").send().await.unwrap().status() == 200).await;
    }
}

/// Reports the growth, and asserts its limit.
fn assert_growth(what: &str, count: usize, grown: u64, bound: u64) {
    let each = grown / count as u64;
    figure(
        "R28",
        format!("{count} {what}: {} MiB more, {each} bytes each; bound {} MiB", grown / MEBIBYTE, bound / MEBIBYTE),
    );
    assert!(grown <= bound, "{count} {what}: {} KiB more, at most {} KiB", grown / KIBIBYTE, bound / KIBIBYTE);
}

fn set(config: &mut toml::Table, table: &str, keys: &str) {
    let entry = config.entry(table).or_insert_with(|| toml::Table::new().into());
    entry.as_table_mut().unwrap().extend(keys.parse::<toml::Table>().unwrap());
}

/// Disables the rate limits per address, and trusts the client address in the header.
fn disable_rate_limits(config: &mut toml::Table) {
    set(config, "server", "trusted_proxies = [\"127.0.0.0/8\"]");
    set(config, "limits", "slas_calls_per_address = 0");
    set(config, "logins", "guests_per_address = 0");
}

fn slas(path: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2{path}")
}

/// An HTTP/2 connection with requests whose bodies do not end.
struct UnfinishedRequests {
    _requests: SendRequest<Bytes>,
    _bodies: Vec<SendStream<Bytes>>,
    connection: JoinHandle<()>,
}

impl Drop for UnfinishedRequests {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn start_unfinished_requests(
    address: SocketAddr,
    streams: usize,
    path: &str,
    bytes: usize,
) -> UnfinishedRequests {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(async move {
        // The task ends with the test.
        let _ = connection.await;
    });
    let mut bodies = Vec::new();
    for _ in 0..streams {
        let request = Request::post(format!("http://{address}{path}")).header("content-type", FORM);
        let Ok(ready) = requests.clone().ready().await else { break };
        requests = ready;
        let (_, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        // A refused stream accepts no more data.
        let _ = body.send_data(vec![b'a'; bytes].into(), false);
        bodies.push(body);
    }
    UnfinishedRequests { _requests: requests, _bodies: bodies, connection }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_http2_requests_of_one_address_use_little_memory() {
    let connections = scale::of(20, 100);
    for (what, path) in [
        ("streams with an unfinished form", slas("/token")),
        ("streams with an unfinished deprecated login", login_target(PUBLIC_CLIENT)),
        ("streams with an unfinished body that is refused", products("?siteId=RefArch")),
    ] {
        let fixture = Fixture::set(|config| set(config, "timeouts", "held_body = \"1m\"")).await;
        let address = fixture.replica.address;
        let grown = fixture.memory_growth(async {
            let mut all = Vec::new();
            for _ in 0..connections {
                all.push(start_unfinished_requests(address, STREAMS, &path, 1).await);
            }
            all
        });
        let grown = grown.await;
        assert_growth(what, connections * STREAMS, grown, scale::of(48, 64) * MEBIBYTE);
        fixture.assert_served(what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_unfinished_forms_use_memory_within_limits() {
    let connections = scale::of(20, 100);
    let fixture = Fixture::set(|config| set(config, "timeouts", "held_body = \"1m\"")).await;
    let address = fixture.replica.address;
    let grown = fixture.memory_growth(async {
        let mut all = Vec::new();
        for _ in 0..connections {
            all.push(start_unfinished_requests(address, 16, &slas("/token"), 60_000).await);
        }
        all
    });
    // One address may use 8 MiB, and growing buffers twice that; the rest is the requests themselves.
    assert_growth("forms of 60,000 bytes", connections * 16, grown.await, scale::of(64, 80) * MEBIBYTE);
    fixture.assert_served("large forms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_use_little_memory() {
    let count = scale::of(400, 5000);
    for (what, begin) in [
        ("connections in HTTP/1.1", "GET / HTTP/1.1\r\nHost: a\r\n"),
        ("connections in HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let fixture = Fixture::set(|config| {
            set(config, "timeouts", "client_head = \"1m\"");
            set(config, "limits", "connections_per_address = 0");
        })
        .await;
        let address = fixture.replica.address;
        let grown = fixture.memory_growth(async {
            let mut all = Vec::new();
            for _ in 0..count {
                let mut connection = TcpStream::connect(address).await.unwrap();
                connection.write_all(begin.as_bytes()).await.unwrap();
                all.push(connection);
            }
            all
        });
        let each = 64 * KIBIBYTE;
        assert_growth(what, count, grown.await, 8 * MEBIBYTE + each * count as u64);
        fixture.assert_served(what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_uses_a_few_kibibytes() {
    let count = scale::of(1000, 20_000);
    let fixture = Fixture::set(disable_rate_limits).await;
    fixture.simulator.set(|behaviour| behaviour.slas_requests_per_minute = u32::MAX);
    let grown = fixture.memory_growth(async {
        for _ in 0..count / 20 {
            let guests = (0..20).map(|_| async {
                let answer = fixture.guest("198.51.100.3").send().await.unwrap();
                answer.status().is_success()
            });
            futures::future::join_all(guests).await;
        }
    });
    assert_growth("guests' sessions", count, grown.await, 8 * MEBIBYTE + 12 * KIBIBYTE * count as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_keys_and_tokens_use_no_memory() {
    let count = scale::of(2000, 50_000);
    let fixture = Fixture::set(disable_rate_limits).await;
    let good = fixture.simulator.mint_shopper_token(ShopperTokenSpec::default());
    let payload = good.split('.').nth(1).unwrap().to_owned();
    let secret = EncodingKey::from_secret(b"a");
    let grown = fixture.memory_growth(async {
        for number in 0..count {
            // Each token has its own key id and an invalid signature.
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some(format!("key-{number}"));
            let forged = jsonwebtoken::encode(&header, &HashMap::from([("a", number)]), &secret).unwrap();
            let head = forged.split('.').next().unwrap();
            let token = format!("{head}.{payload}.{}", forged.rsplit('.').next().unwrap());
            let read = fixture.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token);
            assert_eq!(read.send().await.unwrap().status(), 401);
        }
    });
    assert_growth("tokens of unknown keys", count, grown.await, 16 * MEBIBYTE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_lines_of_rejected_requests_use_no_memory() {
    let count = scale::of(3000, 50_000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let fixture = Fixture::set(|config| set(config, "log", &format!("audit_file = \"{}\"", file.display()))).await;
    let grown = fixture.memory_growth(async {
        for _ in 0..count {
            let read = fixture.get(&products("?ids=a&siteId=RefArch")).header("x-on-behalf-of", "ada@example.com");
            assert_eq!(read.send().await.unwrap().status(), 403);
        }
    });
    assert_growth("refused requests on behalf of shoppers", count, grown.await, 16 * MEBIBYTE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_and_login_counters_use_bounded_memory() {
    let count = scale::of(3000, 150_000);
    let fixture = Fixture::set(|config| set(config, "server", "trusted_proxies = [\"127.0.0.0/8\"]")).await;
    let url = format!("http://{}{}", fixture.replica.address, login_target(PUBLIC_CLIENT));
    fixture.simulator.set(|behaviour| behaviour.slas_requests_per_minute = u32::MAX);
    let grown = fixture.memory_growth(async {
        for number in 0..count {
            let address = format!("2001:db8:{:x}:{:x}::1", number / 65_536, number % 65_536);
            let login = fixture.client.post(&url).header(FORWARDED_FOR, address);
            let login = login.basic_auth(format!("shopper-{number}@example.com"), Some("guess"));
            let answer = login.body(r#"{"type":"credentials"}"#).send().await.unwrap();
            assert!([401, 429].contains(&answer.status().as_u16()), "{}", answer.status());
        }
    });
    // Five tables hold at most 100,000 names each.
    assert_growth("addresses and logins", count, grown.await, 16 * MEBIBYTE + 1500 * count.min(100_000) as u64);
}
