//! HTTP/2 on both sides: callers without TLS (prior knowledge), and an API that accepts only HTTP/2.

pub mod api;

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use reqwest::{Client, RequestBuilder, Version};
use salesforce_simulator::{Effect, Fault, Seed};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use self::api::{Http2Api, Unprocessed};
use crate::{
    reload::metric,
    replica::Replica,
    tls::authority::{Authority, text},
    world::{
        Answer, Gateway, LOGIN, PASSWORD, PUBLIC_CLIENT, World, baskets, customers, eventually, install_cryptography,
        products,
    },
};

/// A world whose client uses HTTP/2 with prior knowledge.
async fn world(change: impl FnOnce(&mut toml::Table)) -> World {
    let mut world = World::with(change).await;
    world.client = client();
    world
}

fn client() -> Client {
    Client::builder().no_proxy().http2_prior_knowledge().build().unwrap()
}

async fn send(world: &World, request: RequestBuilder) -> Answer {
    let answer = world.send(request).await;
    for name in ["connection", "transfer-encoding", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name} means nothing in HTTP/2");
    }
    answer
}

#[tokio::test]
async fn logins_and_requests_work_over_http_2_without_tls() {
    let world = world(|_| {}).await;
    let version = world.get("/").send().await.unwrap().version();
    assert_eq!(version, Version::HTTP_2);
    for login in [world.guest(PUBLIC_CLIENT).await, world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await] {
        assert_eq!(login.status, 200, "{}", login.text());
        let basket = world
            .post(&baskets("?siteId=RefArch&locale=en-US"))
            .bearer_auth(login.token())
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3")
            .header("x-forwarded-for", "192.0.2.1")
            .header("te", "trailers")
            .body(r#"{ "currency" : "USD" }"#);
        let answer = send(&world, basket).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let entry = world.forwarded("shopper-baskets-v1.createBasket").pop().unwrap();
        assert_eq!(entry.body, r#"{ "currency" : "USD" }"#);
        assert_eq!(entry.query, "siteId=RefArch&locale=en-US");
        let cookies: Vec<_> = entry.headers.iter().filter(|(name, _)| name == "cookie").collect();
        assert_eq!(cookies.len(), 1, "{cookies:?}");
        assert_eq!(entry.header("cookie"), Some("a=1; b=2; c=3"));
        let hosts: Vec<_> = entry.headers.iter().filter(|(name, _)| name == "host").map(|(_, value)| value).collect();
        assert_eq!(hosts, [&world.simulator.address().to_string()]);
        assert_eq!((entry.header("x-forwarded-for"), entry.header("te")), (None, None));
    }
}

#[tokio::test]
async fn rejected_stream_leaves_other_streams_open() {
    let world = world(|config| {
        config
            .insert("limits".into(), "body = 100000\nmax_header_bytes = 16384".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let post = || world.post(&baskets("?siteId=RefArch"));
    let long = "x".repeat(100_001);
    let refused: [(RequestBuilder, (u16, &str)); 6] = [
        (post().body("{}"), (401, "token_missing")),
        (post().bearer_auth("x").body("{}"), (401, "token_invalid")),
        (world.get("/nothing"), (404, "operation_unknown")),
        (post().bearer_auth(&token).body(long.clone()), (413, "request_too_large")),
        (world.post(&crate::world::login_target(PUBLIC_CLIENT)).body(long.clone()), (413, "request_too_large")),
        (post().header("x-long", "x".repeat(20_000)), (431, "request_too_large")),
    ];
    let slow = Fault::on("api", Effect::Delay { ms: 1500 }).flow("getProduct");
    world.simulator.inject(slow);
    let waiting = world.get(&products("/25518447M")).query(&[("siteId", "RefArch")]).bearer_auth(&token).send();
    let waiting = tokio::spawn(waiting);
    for (request, expected) in refused {
        let answer = send(&world, request).await;
        assert_eq!(answer.refusal(), expected, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.json()["type"].is_string());
    }
    // The HTTP library itself refuses two names for the host.
    let ambiguous = post().header("host", "another.example").bearer_auth(&token).body("{}").send().await.unwrap();
    assert_eq!(ambiguous.status(), 400);
    assert!(world.forwarded("shopper-baskets-v1.createBasket").is_empty());
    assert_ne!(waiting.await.unwrap().unwrap().status().as_u16() / 100, 5);
    let basket = send(&world, post().bearer_auth(&token).body("{}")).await;
    assert_eq!(basket.status, 200);
}

#[tokio::test]
async fn streams_of_one_connection_do_not_block_each_other() {
    let world = world(|_| {}).await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let read = |id: &str| world.get(&products(&format!("?ids={id}&siteId=RefArch"))).bearer_auth(&token);
    world.simulator.inject(Fault::on("api", Effect::Hang).flow("getProducts").times(1));
    let hanging = tokio::spawn(read("hanging").send());
    eventually("the first request hangs", async || !world.forwarded("shopper-products.getProducts").is_empty()).await;
    let ids: Vec<String> = (0..90).map(|number| format!("p{number}")).collect();
    let answers = futures::future::join_all(ids.iter().map(|id| send(&world, read(id)))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let entries = world.forwarded("shopper-products.getProducts");
    for id in ids {
        let query = format!("ids={id}&siteId=RefArch");
        assert_eq!(entries.iter().filter(|entry| entry.query == query).count(), 1, "{id}");
    }
    hanging.abort();
}

#[tokio::test]
async fn stop_finishes_streams_in_flight() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    for client in [client(), Client::builder().no_proxy().build().unwrap()] {
        let mut replica = Replica::start(&simulator.url(), |_| {}).await;
        let jwks = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/jwks";
        let url = format!("http://{}{jwks}", replica.address);
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
        simulator.inject(Fault::on("slas", Effect::Delay { ms: 2500 }));
        simulator.clear_ledger();
        let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(client.get(&url).send())).collect();
        eventually("the requests are in flight", async || simulator.count("slas", "jwks") >= 10).await;
        replica.terminate();
        for answer in waiting {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.status(), 200);
            let text = answer.text().await.unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
        assert_eq!(replica.wait().await, Some(0));
        simulator.clear_faults();
    }
}

/// A client that reads nothing for a while, with flow-control windows large enough for everything.
async fn slow_reader(replica: &Replica) -> (SendRequest<Bytes>, h2::client::Connection<TcpStream, Bytes>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(replica.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 26);
    builder.handshake(stream).await.unwrap()
}

#[tokio::test]
async fn stop_finishes_responses_not_yet_flushed() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let mut replica = Replica::start(&simulator.url(), |_| {}).await;
    // All responses exceed the socket's buffers; each fits into the gateway's buffer of a stream.
    let (streams, bytes) = (100, 60_000);
    simulator.inject(Fault::on("slas", Effect::HugeBody { bytes }).flow("jwks"));
    let (mut requests, mut connection) = slow_reader(&replica).await;
    let url = format!("http://{}/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/jwks", replica.address);
    let answers: Vec<_> =
        (0..streams).map(|_| requests.send_request(Request::get(&url).body(()).unwrap(), true).unwrap().0).collect();
    drop(requests);
    let all = format!(r#"source="upstream",status="200",tenant="f_ecom_zzrf_001"}} {streams}"#);
    // The client sends the requests, and reads as little as possible.
    eventually("all answers are written", async || {
        let _ = futures::poll!(&mut connection);
        metric(&replica, &all).await
    })
    .await;
    replica.terminate();
    // Longer than the gateway waits without progress.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reading = tokio::spawn(connection);
    for answer in answers {
        let mut body = answer.await.unwrap().into_body();
        let mut read = 0;
        while let Some(piece) = body.data().await {
            read += piece.unwrap().len();
        }
        assert_eq!(read, bytes);
    }
    reading.abort();
    assert_eq!(replica.wait().await, Some(0));
}

#[tokio::test]
async fn stop_does_not_wait_for_idle_connections() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let mut replica = Replica::start(&simulator.url(), |config| {
        config
            .insert("timeouts".into(), "drain = \"10m\"\nclient_head = \"10m\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let url = format!("http://{}/", replica.address);
    let resting = [client(), Client::builder().no_proxy().build().unwrap()];
    for client in &resting {
        assert_eq!(client.get(&url).send().await.unwrap().status(), 404);
    }
    let mut begun = Vec::new();
    for bytes in ["", "G", "GET / HTTP/1.1\r\nX-A: ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(replica.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        begun.push(stream);
    }
    replica.terminate();
    assert_eq!(replica.wait().await, Some(0));
}

/// A gateway in front of an API that accepts only HTTP/2, and a token for it.
struct Fixture {
    api: Http2Api,
    gateway: Gateway,
    token: String,
    /// Parts that must run as long as the others.
    _running: (Authority, [salesforce_simulator::Simulator; 2]),
}

async fn start_http2_api(scopes: &[&str], breaks_off: bool) -> Fixture {
    install_cryptography();
    let authority = Authority::new();
    let signer = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let api = Http2Api::start(signer.slas_jwks().to_string(), &authority.server(), breaks_off).await;
    let (gateway, simulator) = in_front_of(&api, &authority).await;
    let token = signer.mint_shopper_token(salesforce_simulator::ShopperTokenSpec {
        scopes: Some(scopes.iter().map(|scope| (*scope).to_owned()).collect()),
        ..Default::default()
    });
    Fixture { api, gateway, token, _running: (authority, [signer, simulator]) }
}

/// A gateway whose API accepts only HTTP/2 over TLS.
async fn in_front_of(api: &Http2Api, authority: &Authority) -> (Gateway, salesforce_simulator::Simulator) {
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let url = format!("https://localhost:{}", api.address.port());
    let gateway = Gateway::start(&simulator.url(), |config| {
        for tenant in config["tenants"].as_array_mut().unwrap() {
            let tenant = tenant.as_table_mut().unwrap();
            tenant.insert("api".into(), url.clone().into());
            tenant.insert("api_ca".into(), text(&authority.certificate).into());
        }
    })
    .await;
    // On a busy machine the first fetch of keys may time out.
    let (client, readyz) = (Client::builder().no_proxy().build().unwrap(), format!("http://{}/readyz", gateway.admin));
    eventually("the gateway has keys", async || {
        client.get(&readyz).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    (gateway, simulator)
}

#[tokio::test]
async fn http_2_api_gets_request_with_its_own_authority() {
    let Fixture { api, gateway, token, _running } = start_http2_api(&["sfcc.shopper-baskets-orders.rw"], false).await;
    for client in [client(), Client::builder().no_proxy().build().unwrap()] {
        let request = client
            .post(format!("http://{}{}", gateway.address, baskets("?siteId=RefArch")))
            .bearer_auth(&token)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body("{}");
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "{}"));
        let (head, body) = api.received().pop().unwrap();
        assert_eq!(head.version(), Version::HTTP_2);
        let expected = format!("https://localhost:{}{}", api.address.port(), baskets("?siteId=RefArch"));
        assert_eq!(head.uri().to_string(), expected);
        assert_eq!(head.headers().get("host"), None);
        assert_eq!(head.headers()["cookie"], "a=1; b=2");
        assert_eq!(head.headers()["authorization"], format!("Bearer {token}"));
        assert_eq!(body, b"{}");
    }
}

#[tokio::test]
async fn http_2_response_is_not_chunked_for_http_1_0_client() {
    let Fixture { api: _api, gateway, token, _running } = start_http2_api(&["sfcc.shopper-standard"], false).await;
    for keep in ["", "Connection: keep-alive\r\n"] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let target = products("/a1?siteId=RefArch");
        let request = format!("GET {target} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n{keep}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && body == "{}", "{answer}");
        assert!(
            !head.to_ascii_lowercase().contains("transfer-encoding") && head.contains("Connection: close"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn stream_reset_by_api_never_looks_complete() {
    let Fixture { api, gateway, token, .. } =
        start_http2_api(&["sfcc.shopper-customers.login", "sfcc.shopper-myaccount"], true).await;
    for client in [client(), Client::builder().no_proxy().build().unwrap()] {
        let target = customers("/customers/guest-1?siteId=RefArch");
        let request = client.get(format!("http://{}{target}", gateway.address)).bearer_auth(&token);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        answer.text().await.unwrap_err();
        assert_eq!(api.received().len(), 1, "nothing is repeated");
    }
}

#[tokio::test]
async fn request_not_processed_by_api_is_sent_again() {
    let Fixture { api, gateway, token, _running } = start_http2_api(&["sfcc.shopper-baskets-orders.rw"], false).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let send = async |method: reqwest::Method, body: String| {
        let target = format!("http://{}{}", gateway.address, baskets("/b1?siteId=RefArch"));
        let target = if method == "POST" { target.replace("/b1?", "?") } else { target };
        let answer = client.request(method, target).bearer_auth(&token).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for how in [Unprocessed::RefusedStream, Unprocessed::GoAway] {
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            for body in [String::new(), "{}".to_owned(), "b".repeat(30_000)] {
                let method: reqwest::Method = method.parse().unwrap();
                let warm = send(reqwest::Method::GET, String::new()).await;
                assert_eq!(warm, (200, "{}".to_owned()));
                api.received();
                api.refuse(how, 1);
                let what = format!("{how:?} {method} {}", body.len());
                assert_eq!(send(method.clone(), body.clone()).await, (200, "{}".to_owned()), "{what}");
                let received = api.received();
                assert_eq!(received.len(), 1, "{what}: {received:?}");
                assert_eq!((received[0].0.method(), received[0].1.as_slice()), (&method, body.as_bytes()), "{what}");
            }
        }
    }
    // An API that refuses everything gets three requests.
    api.refuse(Unprocessed::RefusedStream, 100);
    let (status, _) = send(reqwest::Method::POST, "{}".to_owned()).await;
    assert_eq!(status, 502);
    assert_eq!(api.left_to_refuse(), 97);
}
