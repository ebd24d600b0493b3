//! Bodies are forwarded chunk by chunk as they arrive, and a body that breaks off never looks complete.

pub mod scripted_api;

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use reqwest::{Client, RequestBuilder, Response};
use salesforce_simulator::{Effect, Fault, ResetAt, Seed};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use self::scripted_api::ScriptedApi;
use crate::world::{Gateway, PUBLIC_CLIENT, World, baskets, install_cryptography, products};

/// More bytes than the gateway buffers of a response with a known length.
const BUFFERED_BYTES: usize = 256 * 1024;
/// Long enough for every expected event.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A gateway in front of an API that the test scripts. The simulator only signs tokens.
struct Fixture {
    world: World,
    api: ScriptedApi,
    token: String,
}

impl Fixture {
    async fn start(timeouts: &str) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let api = ScriptedApi::start(simulator.slas_jwks().to_string()).await;
        let gateway = Gateway::start(&simulator.url(), |config| {
            config.insert("timeouts".into(), timeouts.parse::<toml::Table>().unwrap().into());
            for tenant in config["tenants"].as_array_mut().unwrap() {
                tenant.as_table_mut().unwrap().insert("api".into(), format!("http://{}", api.address).into());
            }
        })
        .await;
        let world = World { simulator, gateway, client: Client::builder().no_proxy().build().unwrap() };
        world.ready().await;
        let token = world.mint(|spec| {
            spec.scopes = Some(vec!["sfcc.shopper-products".into(), "sfcc.shopper-baskets-orders.rw".into()]);
        });
        Self { world, api, token }
    }

    fn get(&self, client: &Client) -> RequestBuilder {
        client.get(self.url(&products("/a1?siteId=RefArch"))).bearer_auth(&self.token)
    }

    fn post(&self, client: &Client) -> RequestBuilder {
        client.post(self.url(&baskets("?siteId=RefArch"))).bearer_auth(&self.token)
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.world.gateway.address)
    }
}

/// Callers of both versions of HTTP.
fn callers() -> [Client; 2] {
    let builder = || Client::builder().no_proxy();
    [builder().build().unwrap(), builder().http2_prior_knowledge().build().unwrap()]
}

fn spawn_send(request: RequestBuilder) -> JoinHandle<Response> {
    tokio::spawn(async { tokio::time::timeout(WAIT_TIMEOUT, request.send()).await.unwrap().unwrap() })
}

fn refusal(response: &Response) -> (u16, &str) {
    let code = response.headers().get("x-shopper-gateway-error").map_or("none", |code| code.to_str().unwrap());
    (response.status().as_u16(), code)
}

async fn chunk(response: &mut Response) -> Option<Bytes> {
    tokio::time::timeout(WAIT_TIMEOUT, response.chunk()).await.unwrap().unwrap()
}

/// A request body that a test sends piece by piece.
pub struct Pieces(pub mpsc::UnboundedReceiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test]
async fn response_reaches_client_before_api_has_finished_it() {
    let mut fixture = Fixture::start("").await;
    let piece = "a".repeat(BUFFERED_BYTES);
    let framings = [
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{BUFFERED_BYTES:x}\r\n{piece}\r\n"),
            "4\r\nlast\r\n0\r\n\r\n",
        ),
        (format!("Content-Length: {}", BUFFERED_BYTES + 4), piece, "last"),
    ];
    for client in callers() {
        for (field, first, last) in &framings {
            let waiting = spawn_send(fixture.get(&client));
            let mut exchange = fixture.api.request().await;
            exchange.write(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n{first}")).await;
            let mut response = waiting.await.unwrap();
            assert_eq!(response.status(), 200);
            let mut received = 0;
            while received < BUFFERED_BYTES / 2 {
                received += chunk(&mut response).await.unwrap().len();
            }
            exchange.write(last).await;
            while let Some(chunk) = chunk(&mut response).await {
                received += chunk.len();
            }
            assert_eq!(received, BUFFERED_BYTES + 4);
        }
    }
}

#[tokio::test]
async fn request_body_reaches_api_before_client_has_finished_it() {
    let mut fixture = Fixture::start("").await;
    for client in callers() {
        let (pieces, body) = mpsc::unbounded_channel();
        let waiting = spawn_send(fixture.post(&client).body(reqwest::Body::wrap(Pieces(body))));
        pieces.send("first".into()).unwrap();
        let mut exchange = fixture.api.request().await;
        assert!(exchange.head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{}", exchange.head);
        exchange.read_until("first").await;
        pieces.send("second".into()).unwrap();
        exchange.read_until("second").await;
        drop(pieces);
        exchange.read_until("0\r\n\r\n").await;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
        assert_eq!(waiting.await.unwrap().text().await.unwrap(), "{}");
    }
}

#[tokio::test]
async fn response_before_end_of_request_body_is_forwarded() {
    let mut fixture = Fixture::start("").await;
    for client in callers() {
        let (pieces, body) = mpsc::unbounded_channel();
        let waiting = spawn_send(fixture.post(&client).body(reqwest::Body::wrap(Pieces(body))));
        pieces.send("first".into()).unwrap();
        let mut exchange = fixture.api.request().await;
        exchange.read_until("first").await;
        exchange.write("HTTP/1.1 409 Conflict\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}").await;
        let response = waiting.await.unwrap();
        assert_eq!(refusal(&response), (409, "none"));
        assert_eq!(response.text().await.unwrap(), "{}");
        drop(pieces);
    }
}

#[tokio::test]
async fn large_response_is_not_buffered_for_slow_reader() {
    const MEBIBYTE: usize = 1024 * 1024;
    const SIZE: usize = 256 * MEBIBYTE;
    let mut fixture = Fixture::start("").await;
    for client in callers() {
        let waiting = spawn_send(fixture.get(&client));
        let mut exchange = fixture.api.request().await;
        exchange.write(&format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        let piece = vec![b'a'; MEBIBYTE];
        let mut written = exchange.stream.write(&piece).await.unwrap();
        let mut response = waiting.await.unwrap();
        while let Ok(result) = tokio::time::timeout(Duration::from_secs(2), exchange.stream.write(&piece)).await {
            written += result.unwrap();
            assert!(written < SIZE / 2, "the gateway holds what nobody reads");
        }
        let rest = tokio::spawn(async move {
            while written < SIZE {
                written += exchange.stream.write(&piece[..MEBIBYTE.min(SIZE - written)]).await.unwrap();
            }
        });
        let mut read = 0;
        while let Some(chunk) = chunk(&mut response).await {
            read += chunk.len();
        }
        assert_eq!(read, SIZE);
        rest.await.unwrap();
    }
}

#[tokio::test]
async fn truncated_response_never_looks_complete() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n";
    const MEASURED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"a\"";
    const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"a\"";
    const NO_CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\nnonsense\r\n";
    let mut fixture = Fixture::start("").await;
    for client in callers() {
        for (answer, reset) in [
            (CHUNKED, false),
            (CHUNKED, true),
            (MEASURED, false),
            (MEASURED, true),
            (UNTIL_CLOSE, true),
            (NO_CHUNK, false),
        ] {
            let request = fixture.get(&client);
            let whole = tokio::spawn(async { request.send().await?.error_for_status()?.bytes().await });
            let mut exchange = fixture.api.request().await;
            exchange.write(answer).await;
            if reset {
                // A reset discards what the gateway has not read yet, and nothing shows how much it has read.
                tokio::time::sleep(Duration::from_millis(200)).await;
                exchange.reset();
            } else {
                drop(exchange);
            }
            let whole = tokio::time::timeout(WAIT_TIMEOUT, whole).await.unwrap().unwrap();
            assert!(whole.is_err(), "reset: {reset}, {answer:?}: {whole:?}");
        }
    }
    assert_eq!(fixture.api.further(), 0, "nothing is repeated");

    // The raw response has no last chunk, and the connection ends.
    let mut stream = TcpStream::connect(fixture.world.gateway.address).await.unwrap();
    let target = products("/a1?siteId=RefArch");
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", fixture.token);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut exchange = fixture.api.request().await;
    exchange.write(CHUNKED).await;
    drop(exchange);
    let mut answer = String::new();
    // A reset is accepted like an end.
    let _ = tokio::time::timeout(WAIT_TIMEOUT, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("\r\n0\r\n"), "{answer}");
}

#[tokio::test]
async fn api_failure_before_response_is_reported_without_retry() {
    let mut fixture = Fixture::start("upstream = \"1s\"").await;
    for client in callers() {
        // Each case is the API's action after the request has arrived.
        for (answer, reset, expected) in [
            ("", false, (502, "upstream_unavailable")),
            ("", true, (502, "upstream_unavailable")),
            ("HTTP/1.1 2", false, (502, "upstream_unavailable")),
            ("HTTP/1.1 200 OK\r\nContent-", true, (502, "upstream_unavailable")),
            ("SSH-2.0-OpenSSH\r\n\r\n", false, (502, "upstream_unavailable")),
        ] {
            let waiting = spawn_send(fixture.post(&client).body("{}"));
            let mut exchange = fixture.api.request().await;
            exchange.read_until("{}").await;
            exchange.write(answer).await;
            if reset {
                exchange.reset();
            } else {
                drop(exchange);
            }
            let response = waiting.await.unwrap();
            assert_eq!(refusal(&response), expected, "{answer:?}");
            assert_eq!(fixture.api.further(), 0, "{answer:?}: the request is repeated");
        }
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-"] {
            let waiting = spawn_send(fixture.post(&client).body("{}"));
            let mut exchange = fixture.api.request().await;
            exchange.write(answer).await;
            assert_eq!(refusal(&waiting.await.unwrap()), (504, "upstream_timeout"), "{answer:?}");
            assert_eq!(fixture.api.further(), 0, "{answer:?}: the request is repeated");
        }
    }
    let Fixture { world, api, token } = fixture;
    drop(api);
    for client in callers() {
        crate::world::eventually("the API takes no connection", async || {
            let target = format!("http://{}{}", world.gateway.address, products("/a1?siteId=RefArch"));
            let response = client.get(target).bearer_auth(&token).send().await.unwrap();
            refusal(&response) == (502, "upstream_unavailable")
        })
        .await;
    }
}

#[tokio::test]
async fn silent_client_times_out() {
    let mut fixture = Fixture::start("upstream = \"1s\"\nclient_body = \"1s\"").await;
    for client in callers() {
        for target in [baskets("?siteId=RefArch"), crate::world::login_target(PUBLIC_CLIENT)] {
            let (pieces, body) = mpsc::unbounded_channel();
            let request =
                client.post(fixture.url(&target)).bearer_auth(&fixture.token).body(reqwest::Body::wrap(Pieces(body)));
            let waiting = tokio::spawn(async { tokio::time::timeout(WAIT_TIMEOUT, request.send()).await.unwrap() });
            pieces.send("{".into()).unwrap();
            let exchange = if target.contains("/baskets") { Some(fixture.api.request().await) } else { None };
            if let Ok(response) = waiting.await.unwrap() {
                assert!(response.status().is_client_error() || response.status().is_server_error(), "{response:?}");
            }
            drop((exchange, pieces));
        }
    }
}

#[tokio::test]
async fn slow_upload_is_not_limited_by_upstream_timeout() {
    let mut fixture = Fixture::start("upstream = \"1s\"").await;
    for client in callers() {
        let (pieces, body) = mpsc::unbounded_channel();
        let waiting = spawn_send(fixture.post(&client).body(reqwest::Body::wrap(Pieces(body))));
        let sending = tokio::spawn(async move {
            // The whole upload takes longer than `timeouts.upstream`.
            for number in 0..8 {
                pieces.send(format!("piece {number};").into()).unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let mut exchange = fixture.api.request().await;
        exchange.read_until("0\r\n\r\n").await;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
        assert_eq!(waiting.await.unwrap().status(), 200);
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn simulated_faults_return_502_or_504() {
    let world = World::with(|config| {
        config.insert("timeouts".into(), "upstream = \"1s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    for client in callers() {
        let url = format!("http://{}{}", world.gateway.address, baskets("?siteId=RefArch"));
        let send = async || spawn_send(client.post(&url).bearer_auth(&token).body("{}")).await.unwrap();
        for (effect, expected) in [
            (Effect::Hang, (504, "upstream_timeout")),
            (Effect::Reset { at: ResetAt::Before }, (502, "upstream_unavailable")),
            (Effect::Reset { at: ResetAt::After }, (502, "upstream_unavailable")),
        ] {
            let before = world.forwarded("shopper-baskets-v1.createBasket").len();
            world.simulator.inject(Fault::on("api", effect.clone()).times(1));
            assert_eq!(refusal(&send().await), expected, "{effect:?}");
            assert_eq!(world.forwarded("shopper-baskets-v1.createBasket").len() - before, 1, "{effect:?}");
        }
        for effect in [Effect::Reset { at: ResetAt::MidBody }, Effect::Truncate] {
            world.simulator.inject(Fault::on("api", effect.clone()).times(1));
            let body = send().await.bytes().await;
            assert!(body.is_err(), "{effect:?}: {body:?}");
        }
        world.simulator.inject(Fault::on("api", Effect::HugeBody { bytes: 20_000_000 }).times(1));
        assert_eq!(send().await.bytes().await.unwrap().len(), 20_000_000);
        assert!(!send().await.status().is_server_error());
    }
}
