//! Limits per client address: connections, requests that await their body, memory for bodies, calls to SLAS.
//!
//! The addresses come from a trusted proxy's header, or are loopback addresses to which the test binds its connections.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Request};
use reqwest::{Client, RequestBuilder, redirect::Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use crate::{
    scale::{self, figure},
    world::{
        LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, baskets, eventually, expired,
        login_target, products,
    },
};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORM: &str = "application/x-www-form-urlencoded";
const OVERLOADED: (u16, &str) = (503, "overloaded");
const RATE_LIMITED: (u16, &str) = (429, "caller_rate_limited");
/// Requests of one HTTP/2 connection whose body has not arrived to its end.
const INCOMPLETE_PER_CONNECTION: usize = 16;

fn set(config: &mut toml::Table, table: &str, keys: &str) {
    let entry = config.entry(table).or_insert_with(|| toml::Table::new().into());
    entry.as_table_mut().unwrap().extend(keys.parse::<toml::Table>().unwrap());
}

/// A gateway behind a proxy, in enforce or report mode, with these keys of `[limits]`.
async fn behind_a_proxy(mode: &str, limits: &str) -> World {
    World::with(|config| {
        set(config, "server", "trusted_proxies = [\"127.0.0.0/8\"]");
        set(config, "policy", &format!("mode = \"{mode}\""));
        set(config, "limits", limits);
    })
    .await
}

fn slas(path: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2{path}")
}

fn guest_form() -> String {
    format!("grant_type=client_credentials&channel_id=RefArch&client_id={PRIVATE_CLIENT}")
}

fn form(world: &World, client: &str, path: &str, body: &str) -> RequestBuilder {
    let request = world.post(&slas(path)).header(FORWARDED_FOR, client).header("content-type", FORM);
    request.body(body.to_owned())
}

/// An HTTP/2 connection that lets the gateway send `window` bytes of each answer.
struct Http2 {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
    connection: JoinHandle<()>,
}

impl Http2 {
    async fn connect(world: &World, window: u32) -> Self {
        let address = world.gateway.address;
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_max_send_streams(100);
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            // The task ends with the test.
            let _ = connection.await;
        });
        Self { requests, address, connection }
    }

    fn begin_request(
        &mut self,
        request: http::request::Builder,
        path: &str,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let request = request.uri(format!("http://{}{path}", self.address)).body(()).unwrap();
        self.requests.send_request(request, end).unwrap()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The next `count` responses: status, error code, and the unread body.
async fn next_responses(
    pending: &mut FuturesUnordered<ResponseFuture>,
    count: usize,
) -> (Vec<(u16, String)>, Vec<RecvStream>) {
    let (mut answers, mut bodies) = (Vec::new(), Vec::new());
    while answers.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), pending.next()).await;
        let answer = next.unwrap_or_else(|_| panic!("{} of {count} answers", answers.len())).unwrap().unwrap();
        let code = answer.headers().get("x-shopper-gateway-error").map_or("none", |code| code.to_str().unwrap());
        answers.push((answer.status().as_u16(), code.to_owned()));
        bodies.push(answer.into_body());
    }
    (answers, bodies)
}

#[tokio::test]
async fn http2_connection_with_16_incomplete_requests_gets_503_for_more() {
    let world = World::with(|config| set(config, "timeouts", "held_body = \"60s\"\nupstream = \"60s\"")).await;
    let bearer = format!("Bearer {}", world.mint(|_| {}));
    let post = |kind: &'static str| Request::builder().method(Method::POST).header("content-type", kind);
    let kinds: [(&str, http::request::Builder, String); 3] = [
        ("a form for SLAS", post(FORM), slas("/token")),
        ("a deprecated login", post("application/json"), login_target(PUBLIC_CLIENT)),
        ("an upload", post("application/json").header("authorization", bearer), baskets("?siteId=RefArch")),
    ];
    for (what, request, path) in kinds {
        let mut connection = Http2::connect(&world, 65_535).await;
        let (mut pending, mut bodies) = (FuturesUnordered::new(), Vec::new());
        let mut builder = Some(request);
        let head = builder.take().unwrap().uri(&path).body(()).unwrap().into_parts().0;
        for _ in 0..40 {
            let mut request = Request::builder().method(&head.method);
            request.headers_mut().unwrap().extend(head.headers.clone());
            let (answer, mut body) = connection.begin_request(request, &path, false);
            body.send_data(Bytes::from_static(b"{"), false).unwrap();
            pending.push(answer);
            bodies.push(body);
        }
        let (refused, _) = next_responses(&mut pending, 40 - INCOMPLETE_PER_CONNECTION).await;
        assert!(refused.iter().all(|answer| (answer.0, &*answer.1) == OVERLOADED), "{what}: {refused:?}");
        assert_eq!(world.in_flight().await, INCOMPLETE_PER_CONNECTION, "{what}");
        // Another connection of the same address is served meanwhile.
        assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200, "{what}");
        drop((bodies, pending, connection));
        eventually("all of it is gone with the connection", async || world.in_flight().await == 0).await;
    }
}

#[tokio::test]
async fn refused_http2_request_with_open_body_is_released() {
    let world = World::start().await;
    let mut connection = Http2::connect(&world, 65_535).await;
    let (mut pending, mut bodies) = (FuturesUnordered::new(), Vec::new());
    for _ in 0..80 {
        let (answer, mut body) = connection.begin_request(Request::post("/"), &baskets("?siteId=RefArch"), false);
        body.send_data(Bytes::from_static(b"{"), false).unwrap();
        pending.push(answer);
        bodies.push(body);
    }
    let (refused, _) = next_responses(&mut pending, 80).await;
    assert!(refused.iter().all(|(status, code)| (*status, &**code) == (401, "token_missing")), "{refused:?}");
    eventually("none is left", async || world.in_flight().await == 0).await;
}

#[tokio::test]
async fn many_small_requests_of_one_http2_connection_are_served() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    let mut connection = Http2::connect(&world, 65_535).await;
    let (mut pending, mut bodies) = (FuturesUnordered::new(), Vec::new());
    for _ in 0..80 {
        let request = Request::post("/").header("authorization", format!("Bearer {token}"));
        let (answer, mut body) = connection.begin_request(
            request.header("content-type", "application/json"),
            &baskets("?siteId=RefArch"),
            false,
        );
        body.send_data(Bytes::from_static(b"{"), false).unwrap();
        pending.push(answer);
        bodies.push(body);
    }
    // The gateway has started all of them.
    eventually("they wait for their bodies", async || world.in_flight().await > INCOMPLETE_PER_CONNECTION).await;
    for mut body in bodies {
        body.send_data(Bytes::from_static(b"}"), true).unwrap();
    }
    let (served, _) = next_responses(&mut pending, 80).await;
    assert!(served.iter().all(|(_, code)| code == "none"), "{served:?}");
}

/// HTTP/1.1 connections on which a client has sent a part of its form.
async fn connections_with_incomplete_form(world: &World, client: &str, count: usize, bytes: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        let before = world.in_flight().await;
        let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nContent-Type: {FORM}\r\n\
             Content-Length: {}\r\n\r\n",
            slas("/token"),
            bytes + 1,
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'a'; bytes]).await.unwrap();
        eventually("it is under way", async || world.in_flight().await > before).await;
        connections.push(stream);
    }
    connections
}

#[tokio::test]
async fn incomplete_requests_are_limited_per_address_and_in_total() {
    for mode in ["enforce", "report"] {
        let world = behind_a_proxy(mode, "incomplete_requests = 5\nincomplete_requests_per_address = 3").await;
        let log_in = async |client: &str| world.send(form(&world, client, "/token", &guest_form())).await;
        let mut held = connections_with_incomplete_form(&world, "198.51.100.7", 3, 4).await;
        let refused = log_in("198.51.100.7").await;
        assert_eq!(refused.refusal(), RATE_LIMITED, "{mode}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(log_in("198.51.100.8").await.status, 200, "{mode}: another address");
        held[0].write_all(b"a").await.unwrap();
        eventually("the address may again", async || log_in("198.51.100.7").await.status == 200).await;
        eventually("two are left", async || world.in_flight().await == 2).await;
        // When half of the slots are in use, one address gets only a part of the free ones.
        for client in ["2001:db8::7", "2001:db8:a::7", "2001:db8:b::7"] {
            held.extend(connections_with_incomplete_form(&world, client, 1, 4).await);
        }
        let refused = log_in("2001:db8:1::1").await;
        assert_eq!(refused.refusal(), OVERLOADED, "{mode}");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(log_in("2001:db8::ffff").await.refusal(), RATE_LIMITED, "{mode}: the same /64");
        drop(held);
        eventually("all may again", async || log_in("2001:db8:1::1").await.status == 200).await;
    }
}

#[tokio::test]
async fn buffered_bodies_are_limited_by_bytes_until_request_ends() {
    let limits = "held_bodies = \"150KiB\"\nheld_bodies_per_address = \"100KiB\"";
    let world = behind_a_proxy("enforce", limits).await;
    let large = format!("{}&pad={}", guest_form(), "a".repeat(60_000));
    let log_in = async |client: &str| world.send(form(&world, client, "/token", &large)).await;
    assert_eq!(log_in("198.51.100.7").await.status, 200);
    let held = connections_with_incomplete_form(&world, "198.51.100.7", 1, 60_000).await;
    eventually("the bytes have arrived", async || log_in("198.51.100.7").await.refusal() == RATE_LIMITED).await;
    assert_eq!(log_in("198.51.100.8").await.status, 200);
    let more = connections_with_incomplete_form(&world, "198.51.100.9", 1, 60_000).await;
    eventually("no more is left", async || log_in("198.51.100.8").await.refusal() == OVERLOADED).await;
    drop((held, more));
    eventually("all is given back", async || log_in("198.51.100.7").await.status == 200).await;
}

#[tokio::test]
async fn buffered_body_has_shorter_timeout_than_upload() {
    let world = World::with(|config| set(config, "timeouts", "held_body = \"1s\"\nclient_body = \"60s\"")).await;
    let mut held = connections_with_incomplete_form(&world, "198.51.100.7", 1, 10).await;
    let (began, mut answer) = (Instant::now(), [0; 12]);
    held[0].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn unread_responses_are_limited_per_address() {
    let world = World::with(|config| set(config, "limits", "requests_per_address = 20")).await;
    let mut pending = FuturesUnordered::new();
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut connection = Http2::connect(&world, 0).await;
        pending
            .extend((0..30).map(|_| connection.begin_request(Request::get("/"), &products("?siteId=RefArch"), true).0));
        connections.push(connection);
    }
    let (answers, untaken) = next_responses(&mut pending, 60).await;
    let refused = answers.iter().filter(|answer| (answer.0, &*answer.1) == RATE_LIMITED).count();
    assert_eq!(refused, 40, "{answers:?}");
    eventually("the others are gone at once", async || world.in_flight().await == 20).await;
    drop((untaken, connections));
    eventually("the address may again", async || world.in_flight().await == 0).await;
}

/// A client whose connections come from one loopback address.
fn client_at(address: &str) -> Client {
    Client::builder().no_proxy().local_address(address.parse::<IpAddr>().ok()).build().unwrap()
}

async fn can_connect_from(world: &World, address: &str) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(world.gateway.address).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", slas("/jwks"));
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    // The gateway resets a refused connection.
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn connection_limit_follows_network_and_spares_trusted_proxies() {
    let mut world = World::with(|config| {
        set(config, "server", "trusted_proxies = [\"127.0.0.4\"]");
        let networks = "[[networks]]\nnetwork = \"127.0.0.0/24\"\nconnections_per_address = 1\n\
                        [[networks]]\nnetwork = \"127.0.0.3\"\nconnections_per_address = 0\n";
        set(config, "limits", &format!("connections_per_address = 50\n{networks}"));
    })
    .await;
    let mut held = Vec::new();
    for address in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        held.push(socket.connect(world.gateway.address).await.unwrap());
    }
    for (address, is_served) in [("127.0.0.2", false), ("127.0.0.3", true), ("127.0.0.4", true), ("127.0.0.5", true)] {
        assert_eq!(can_connect_from(&world, address).await, is_served, "{address}");
    }
    world.gateway.reload(|config| set(config, "limits", "networks = []")).unwrap();
    assert!(can_connect_from(&world, "127.0.0.2").await, "another configuration counts for the next connection");
}

#[tokio::test]
async fn slas_operations_without_credential_are_rejected_in_both_modes() {
    for mode in ["enforce", "report"] {
        let world = behind_a_proxy(mode, "").await;
        world.simulator.clear_ledger();
        for (method, path) in [
            (Method::GET, "/userinfo"),
            (Method::GET, "/logout?channel_id=RefArch&refresh_token=a"),
            (Method::POST, "/introspect"),
            (Method::POST, "/revoke"),
        ] {
            for prefix in ["", "/mobify/slas/private"] {
                let target = format!("{prefix}{}", slas(path));
                let answer = world.send(world.request(method.clone(), &target)).await;
                assert_eq!(answer.refusal(), (401, "token_missing"), "{mode} {target}");
                assert!(answer.header("www-authenticate").is_some());
            }
        }
        let flows = world.simulator.ledger();
        assert!(flows.iter().all(|entry| entry.flow == "jwks"), "{flows:?}");
        // A request with a credential is forwarded, and SLAS decides.
        let answer = world.send(world.get(&slas("/userinfo")).bearer_auth("a")).await;
        assert_eq!(answer.header("x-shopper-gateway-error"), None, "{}", answer.text());
    }
}

#[tokio::test]
async fn slas_calls_are_limited_per_address_in_both_modes() {
    for mode in ["enforce", "report"] {
        let networks =
            "[[networks]]\nnetwork = \"203.0.113.0/24\"\nslas_calls_per_address = 0\nguests_per_address = 2\n";
        let world = behind_a_proxy(mode, &format!("slas_calls_per_address = 6\n{networks}")).await;
        let guest = |client: &str| {
            let request = world.post(&login_target(PRIVATE_CLIENT)).header(FORWARDED_FOR, client.to_owned());
            request.body(r#"{"type":"guest"}"#)
        };
        let password = |client: &str| {
            let request = world.post(&login_target(PUBLIC_CLIENT)).basic_auth("nobody@example.com", Some("a"));
            request.header(FORWARDED_FOR, client.to_owned()).body(r#"{"type":"credentials"}"#)
        };
        let userinfo =
            |client: &str| world.get(&slas("/userinfo")).bearer_auth("a").header(FORWARDED_FOR, client.to_owned());
        let token = |client: &str| form(&world, client, "/token", &guest_form());
        // The number of admitted requests of ten; the limit may gain one meanwhile.
        let let_through = async |request: &dyn Fn() -> RequestBuilder| {
            let mut through = 0;
            for _ in 0..10 {
                let answer = world.send(request()).await;
                let is_refused = answer.refusal() == RATE_LIMITED;
                assert!(!is_refused || answer.header("retry-after").is_some());
                through += usize::from(!is_refused);
            }
            through
        };
        for (what, through, calls) in [
            ("userinfo", let_through(&|| userinfo("198.51.100.1")).await, 1),
            ("guests", let_through(&|| guest("198.51.100.2")).await, 1),
            ("passwords", let_through(&|| password("198.51.100.3")).await, 2),
            ("guests at SLAS", let_through(&|| token("198.51.100.4")).await, 1),
        ] {
            assert!((6 / calls..=6 / calls + 1).contains(&through), "{mode}: {through} {what}");
        }
        assert_eq!(let_through(&|| userinfo("198.51.100.2")).await, 0, "{mode}: all of them together");
        assert_eq!(let_through(&|| userinfo("203.0.113.1")).await, 10, "{mode}: a network of its own");
        assert_eq!(let_through(&|| guest("203.0.113.1")).await, 2, "{mode}: guests have a rate beside it");
    }
}

#[tokio::test]
async fn known_sessions_and_trusted_systems_are_exempt_from_address_limit() {
    let world = behind_a_proxy("enforce", "slas_calls_per_address = 4").await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let mut tokens = Vec::new();
    for client in 0..6 {
        let request = world.post(&login_target(PRIVATE_CLIENT)).header(FORWARDED_FOR, format!("198.51.100.{client}"));
        tokens.push(world.send(request.body(r#"{"type":"guest"}"#)).await.token());
    }
    expired(tokens.last().unwrap()).await;
    for token in &tokens {
        let read = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token);
        let answer = world.send(read.header(FORWARDED_FOR, "198.51.100.99")).await;
        assert_eq!(answer.status, 200, "a renewal: {}", answer.text());
    }
    for number in 0..6 {
        let caller = world.get(&products("?ids=a&siteId=RefArch")).header(FORWARDED_FOR, "198.51.100.98");
        let caller = caller.basic_auth(crate::world::CALLER_CLIENT, Some("caller-secret"));
        let answer = world.send(caller.header("x-on-behalf-of", format!("shopper-{number}@example.com"))).await;
        assert_ne!(answer.status, 429, "on behalf of a shopper: {}", answer.text());
    }
}

/// The requests that an attacker repeats.
fn attack_requests<'a>(world: &'a World, client: &'static str) -> Vec<Box<dyn Fn() -> RequestBuilder + 'a>> {
    let get = move |path: &str| world.get(&slas(path)).header(FORWARDED_FOR, client);
    let whose = format!(
        "client_id={PUBLIC_CLIENT}&channel_id=RefArch&redirect_uri=http%3A%2F%2Flocalhost%3A3000%2Fcallback\
         &code_challenge={}",
        "c".repeat(43)
    );
    let authorize = format!("/authorize?{whose}&response_type=code&hint=guest");
    vec![
        Box::new(move || get("/userinfo")),
        Box::new(move || get("/userinfo").bearer_auth("a")),
        Box::new(move || form(world, client, "/token", &guest_form())),
        Box::new(move || {
            let request = world.post(&login_target(PRIVATE_CLIENT)).header(FORWARDED_FOR, client);
            request.body(r#"{"type":"guest"}"#)
        }),
        Box::new(move || form(world, client, "/passwordless/login", "user_id=a&mode=callback")),
        Box::new(move || get(&authorize)),
        Box::new(move || form(world, client, "/login", &whose).basic_auth("nobody@example.com", Some("a"))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_from_one_address_does_not_stop_logins_and_refreshes_of_others() {
    let seconds = scale::of(10, 60);
    let mut world = World::with(|config| {
        set(config, "server", "trusted_proxies = [\"127.0.0.0/8\"]");
        for tenant in config["tenants"].as_array_mut().unwrap() {
            tenant.as_table_mut().unwrap().insert("slas_requests_per_minute".into(), 500.into());
        }
    })
    .await;
    world.client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    world.simulator.set(|behaviour| {
        behaviour.slas_requests_per_minute = 500;
        behaviour.enforce_windows = false;
        behaviour.shopper_token_seconds = 2;
    });
    let shopper = |number: usize| format!("203.0.113.{number}");
    let guest = |number: usize| {
        let request = world.post(&login_target(PRIVATE_CLIENT)).header(FORWARDED_FOR, shopper(number));
        world.send(request.body(r#"{"type":"guest"}"#))
    };
    let mut ended = Vec::new();
    // One call every 250 ms, as the gateway's rate limit for SLAS refills: the attack finds it full.
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    for number in 0..seconds {
        pace.tick().await;
        ended.push(guest(number).await.token());
    }
    expired(ended.last().unwrap()).await;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let attacks = attack_requests(&world, "198.51.100.66");
    let attack = async {
        let (mut sent, mut refused, mut under_way) = (0, 0, FuturesUnordered::new());
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            pace.tick().await;
            under_way.push(world.send(attacks[sent % attacks.len()]()));
            sent += 1;
            while let Some(Some(answer)) = futures::FutureExt::now_or_never(under_way.next()) {
                refused += usize::from(answer.refusal() == RATE_LIMITED);
            }
        }
        (sent, refused)
    };
    // Four calls to SLAS a second.
    let others = async {
        let mut served = [0; 3];
        let mut pace = tokio::time::interval(Duration::from_secs(1));
        for (number, token) in ended.iter().enumerate() {
            pace.tick().await;
            let login = world.post(&login_target(PUBLIC_CLIENT)).basic_auth(LOGIN, Some(PASSWORD));
            let login = login.header(FORWARDED_FOR, shopper(100 + number)).body(r#"{"type":"credentials"}"#);
            let renewal = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token);
            let renewal = renewal.header(FORWARDED_FOR, shopper(number));
            let (login, guest, renewal) = futures::join!(world.send(login), guest(180 + number), world.send(renewal));
            for (served, answer) in served.iter_mut().zip([login, guest, renewal]) {
                *served += usize::from(answer.status == 200);
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        served
    };
    let ((sent, refused), served) = futures::join!(attack, others);
    let [logins, guests, renewals] = served;
    figure(
        "R27",
        format!(
            "{sent} requests for SLAS from one address in {seconds} s, {refused} of them refused: of others {logins} of \
             {seconds} password logins, {guests} guest logins and {renewals} renewals went well"
        ),
    );
    assert!(sent >= seconds * 100 && refused > sent / 2, "{sent} sent, {refused} refused");
    for (what, served) in [("password logins", logins), ("guest logins", guests), ("renewals", renewals)] {
        assert!(served * 100 >= seconds * 95, "{served} of {seconds} {what}");
    }
}

#[tokio::test]
async fn untrusted_forwarded_for_is_ignored_by_address_limits() {
    let world = World::with(|config| set(config, "limits", "slas_calls_per_address = 2")).await;
    let url = format!("http://{}{}", world.gateway.address, slas("/userinfo"));
    for address in ["127.0.0.2", "127.0.0.3"] {
        let client = client_at(address);
        let mut refused = 0;
        for number in 0..5 {
            let request = client.get(&url).bearer_auth("a").header(FORWARDED_FOR, format!("198.51.100.{number}"));
            refused += usize::from(request.send().await.unwrap().status() == 429);
        }
        assert_eq!(refused, 3, "{address}");
    }
}
