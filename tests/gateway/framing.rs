//! One request that arrives causes at most one upstream request, in any framing of its body.
//!
//! The cases are the framings of HTTP/1.1 and HTTP/2, empty and padded frames, trailers, truncated bodies, buffered
//! bodies, and bodies that are sent again. The upstream parses strictly and records the requests. After each request
//! another client sends its own on the same pooled connection: it arrives complete and gets its own response.

mod client;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};
use reqwest::Client;
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};

use self::client::{Answer, Head, Http1, Http2};
use crate::{
    callers::CALLER_SECRET,
    http2::api::Http2Api,
    scale::{self, figure},
    smuggling::upstream::RawUpstream,
    tls::authority::{Authority, text},
    world::{
        CALLER_CLIENT, Gateway, ORGANIZATION, PRIVATE_CLIENT, baskets, eventually, install_cryptography, products,
    },
};

/// Shoppers on whose behalf requests are sent again.
const SHOPPERS: usize = 40;

/// Bytes that fit into one HTTP/2 frame with its padding (RFC 9113, 6.5.2).
const MAX_PIECE: usize = 16_000;

/// The way in which a client marks the end of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Http1None,
    Http1Length,
    Http1Chunked,
    Http2None,
    Http2Length,
    Http2,
}

/// The gateway's handling of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// The body is streamed.
    Streamed,
    /// The body is buffered before the upstream request starts: SLAS's form that names a private client.
    Held,
    /// The body is sent a second time with another token, after the API's 401.
    SentAgain,
}

/// The end of a body in HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    LastPiece,
    EmptyFrame,
    Trailers,
}

/// The way in which a client breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abort {
    /// The stream, with this reason; in HTTP/1.1 the connection.
    Stream(u32),
    /// HTTP/2: the connection, with a GOAWAY first.
    GoAway,
    Connection,
}

#[derive(Debug, Clone)]
struct Case {
    framing: Framing,
    method: &'static str,
    treatment: Treatment,
    /// Bytes added to the body, so that it is short or long.
    padding: usize,
    is_empty: bool,
    /// Where the body is cut; equal places make empty pieces.
    cuts: Vec<f64>,
    frame_padding: Option<u8>,
    end: End,
    /// The piece before which the client breaks off, as a fraction of all pieces.
    abort: Option<(f64, Abort)>,
    /// Each piece is sent by itself, when the one before has been read.
    slowly: bool,
}

impl Case {
    fn is_http2(&self) -> bool {
        matches!(self.framing, Framing::Http2None | Framing::Http2Length | Framing::Http2)
    }

    fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Http1None | Framing::Http2None)
    }

    fn head(&self, fixture: &Fixture, marker: &str, shopper: &str) -> Head {
        let basic = STANDARD.encode(format!("{CALLER_CLIENT}:{CALLER_SECRET}"));
        let (credential, target) = match (self.treatment, self.method) {
            (Treatment::Held, _) => (None, format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token?")),
            (_, "POST") => (Some(&fixture.token), baskets("?siteId=RefArch&")),
            (_, "DELETE") => (Some(&fixture.token), baskets("/b1?siteId=RefArch&")),
            _ => (Some(&fixture.token), products("?siteId=RefArch&ids=a&")),
        };
        let mut fields = vec![("x-marker", marker.to_owned())];
        match (self.treatment, credential) {
            (Treatment::SentAgain, _) => {
                fields.push(("authorization", format!("Basic {basic}")));
                fields.push(("x-on-behalf-of", shopper.to_owned()));
            }
            (_, Some(token)) => fields.push(("authorization", format!("Bearer {token}"))),
            (_, None) => {}
        }
        let kind =
            if self.treatment == Treatment::Held { "application/x-www-form-urlencoded" } else { "application/json" };
        fields.push(("content-type", kind.to_owned()));
        Head { method: self.method, target: format!("{target}marker={marker}"), fields }
    }

    fn body(&self, marker: &str) -> String {
        if self.is_empty || !self.has_body() {
            return String::new();
        }
        let padding = "a".repeat(self.padding);
        match self.treatment {
            Treatment::Held => format!(
                "grant_type=client_credentials&channel_id=RefArch&client_id={PRIVATE_CLIENT}&marker={marker}&x={padding}"
            ),
            Treatment::Streamed | Treatment::SentAgain => format!(r#"{{"marker":"{marker}","x":"{padding}"}}"#),
        }
    }

    fn pieces<'b>(&self, body: &'b str) -> Vec<&'b [u8]> {
        let mut places: Vec<usize> = self.cuts.iter().map(|cut| (cut * body.len() as f64) as usize).collect();
        places.sort_unstable();
        let (mut from, mut pieces) = (0, Vec::new());
        for place in places.into_iter().chain([body.len()]) {
            let piece = &body.as_bytes()[from..place];
            if piece.is_empty() {
                pieces.push(piece)
            } else {
                pieces.extend(piece.chunks(MAX_PIECE))
            }
            from = place;
        }
        pieces
    }

    /// The encoded pieces, and the end of the body. HTTP/1.1 has no empty chunks, because an empty chunk is the last.
    fn written(&self, body: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
        let pieces = self.pieces(body);
        let whole = || pieces.iter().map(|piece| piece.to_vec()).collect();
        match self.framing {
            Framing::Http1None | Framing::Http2None => (Vec::new(), Vec::new()),
            Framing::Http1Length => (whole(), Vec::new()),
            Framing::Http1Chunked => {
                let chunk = |piece: &&[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                let end = if self.end == End::Trailers { "0\r\nX-Trailer: a\r\n\r\n" } else { "0\r\n\r\n" };
                (pieces.iter().filter(|piece| !piece.is_empty()).map(chunk).collect(), end.into())
            }
            Framing::Http2Length | Framing::Http2 => {
                let last = pieces.len() - 1;
                let ends = |number| number == last && self.end == End::LastPiece;
                let frames = pieces.iter().enumerate();
                let frames = frames.map(|(number, piece)| Http2::data(piece, self.frame_padding, 1, ends(number)));
                let end = match self.end {
                    End::LastPiece => Vec::new(),
                    End::EmptyFrame => Http2::data(&[], self.frame_padding, 1, true),
                    End::Trailers => Http2::trailers(1),
                };
                (frames.collect(), end)
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let framing = prop_oneof![
        1 => Just(Framing::Http1None),
        3 => Just(Framing::Http1Length),
        3 => Just(Framing::Http1Chunked),
        1 => Just(Framing::Http2None),
        3 => Just(Framing::Http2Length),
        6 => Just(Framing::Http2),
    ];
    let treatment =
        prop_oneof![3 => Just(Treatment::Streamed), 2 => Just(Treatment::Held), 2 => Just(Treatment::SentAgain)];
    let method = prop_oneof![3 => Just("POST"), 2 => Just("GET"), 1 => Just("DELETE"), 1 => Just("HEAD")];
    let abort = prop_oneof![
        Just(Abort::Stream(8)),
        Just(Abort::Stream(0)),
        Just(Abort::Stream(2)),
        Just(Abort::GoAway),
        Just(Abort::Connection),
    ];
    let cut = prop_oneof![Just(0.0), Just(1.0), 0.0..1.0];
    (
        (framing, treatment, method),
        (prop_oneof![Just(0_usize), 0..200_usize, Just(20_000)], prop::bool::weighted(0.2)),
        prop::collection::vec(cut, 0..5),
        prop_oneof![2 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(17))],
        prop_oneof![2 => Just(End::LastPiece), 3 => Just(End::EmptyFrame), 1 => Just(End::Trailers)],
        prop::option::weighted(0.25, (0.0..=1.0, abort)),
        prop::bool::weighted(0.3),
    )
        .prop_map(
            |((framing, treatment, method), (padding, is_empty), cuts, frame_padding, end, abort, slowly)| Case {
                framing,
                // Token requests to SLAS are POST requests.
                method: if treatment == Treatment::Held { "POST" } else { method },
                treatment,
                padding,
                // A token request to SLAS without a form is not buffered.
                is_empty: is_empty && treatment != Treatment::Held,
                cuts,
                frame_padding,
                end,
                abort,
                slowly,
            },
        )
}

/// A request as the upstream received it.
#[derive(Debug)]
struct ReceivedRequest {
    target: String,
    body: String,
    fault: Option<String>,
}

enum Upstream {
    Http1(RawUpstream),
    Http2(Http2Api),
}

impl Upstream {
    /// Takes the received requests, without the gateway's own token requests.
    fn received(&self) -> Vec<ReceivedRequest> {
        let seen: Vec<ReceivedRequest> = match self {
            Self::Http1(upstream) => {
                let received = upstream.received().into_iter();
                received
                    .map(|one| ReceivedRequest { target: one.target().to_owned(), body: one.body, fault: one.fault })
                    .collect()
            }
            Self::Http2(api) => {
                let received = api.received().into_iter();
                let text = |bytes| String::from_utf8(bytes).unwrap();
                received
                    .map(|(head, body)| ReceivedRequest {
                        target: head.uri().to_string(),
                        body: text(body),
                        fault: None,
                    })
                    .collect()
            }
        };
        let own = |one: &ReceivedRequest| one.fault.is_none() && !one.target.contains("marker=");
        seen.into_iter().filter(|one| !own(one)).collect()
    }
}

/// A gateway with one worker, so that all requests share its connections to the upstream.
struct Fixture {
    upstream: Upstream,
    gateway: Gateway,
    token: String,
    other_client: Client,
    requests: AtomicUsize,
    /// Shoppers whose tokens are held, and when one was last replaced.
    shoppers: Vec<Mutex<Instant>>,
    broken_off: Mutex<HashSet<String>>,
    _simulator: Arc<Simulator>,
}

/// The marker of a target.
fn marker(target: &str) -> Option<&str> {
    target.split("marker=").nth(1)
}

/// The upstream's response: it echoes the marker, and refuses the first of two requests where the gateway must send it
/// again. For SLAS it signs tokens on behalf, whose refresh tokens name the shopper.
fn respond(simulator: &Simulator, refused: &Mutex<HashSet<String>>, target: &str, body: &str) -> (u16, String) {
    let Some(marker) = marker(target) else {
        let named = |field: &str| body.split('&').find_map(|pair| pair.strip_prefix(field));
        let shopper = named("login_id=").or(named("refresh_token=")).unwrap_or_default();
        let token = simulator.mint_shopper_token(ShopperTokenSpec {
            usid: Some(format!("00000000-0000-4000-8000-{shopper:0>12}")),
            guest_customer_id: Some(format!("guest{shopper}")),
            registered_customer_id: Some(format!("registered{shopper}")),
            marks: vec![("tsob".into(), "ts_ext_on_behalf_of".into())],
            scopes: Some(vec!["sfcc.shopper-standard".into()]),
            ..ShopperTokenSpec::default()
        });
        let answer = serde_json::json!({
            "access_token": token, "refresh_token": shopper, "expires_in": 1800, "refresh_token_expires_in": 2_592_000,
            "token_type": "Bearer",
        });
        return (200, answer.to_string());
    };
    let is_refused = marker.contains("again") && refused.lock().unwrap().insert(marker.to_owned());
    (if is_refused { 401 } else { 200 }, marker.to_owned())
}

impl Fixture {
    async fn start(is_http2: bool) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let simulator = Arc::new(simulator);
        let jwks = simulator.slas_jwks().to_string();
        let (one, refused) = (Arc::clone(&simulator), Mutex::default());
        let mut trusted = None;
        let (upstream, url) = if is_http2 {
            let authority = Authority::new();
            let api = Http2Api::start(jwks, &authority.server(), false).await;
            api.respond_with(Box::new(move |target, body| respond(&one, &refused, target, body)));
            let url = format!("https://localhost:{}", api.address.port());
            trusted = Some(authority);
            (Upstream::Http2(api), url)
        } else {
            let upstream = RawUpstream::start(jwks).await;
            upstream.respond_with(Box::new(move |target, body| respond(&one, &refused, target, body)));
            let url = upstream.url();
            (Upstream::Http1(upstream), url)
        };
        let gateway = Gateway::start(&simulator.url(), |config| {
            config["server"].as_table_mut().unwrap().insert("threads".into(), 1.into());
            config.insert("limits".into(), "slas_calls_per_address = 0".parse::<toml::Table>().unwrap().into());
            for tenant in config["tenants"].as_array_mut().unwrap() {
                let tenant = tenant.as_table_mut().unwrap();
                tenant.insert("api".into(), url.clone().into());
                if let Some(authority) = &trusted {
                    tenant.insert("api_ca".into(), text(&authority.certificate).into());
                }
            }
        })
        .await;
        let token = simulator.mint_shopper_token(ShopperTokenSpec {
            scopes: Some(vec!["sfcc.shopper-standard".into()]),
            ..ShopperTokenSpec::default()
        });
        let other_client = Client::builder().no_proxy().build().unwrap();
        let ready = format!("http://{}/readyz", gateway.admin);
        eventually("the gateway is ready", async || {
            other_client.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        let shoppers = (0..SHOPPERS).map(|_| Mutex::new(Instant::now())).collect();
        let (requests, broken_off) = (AtomicUsize::new(0), Mutex::default());
        let fixture =
            Self { upstream, gateway, token, other_client, requests, shoppers, broken_off, _simulator: simulator };
        for shopper in 0..SHOPPERS {
            let url = format!("http://{}{}", fixture.gateway.address, products("?siteId=RefArch&ids=a&marker=first"));
            let request = fixture.other_client.get(url).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
            let answer = request.header("x-on-behalf-of", shopper.to_string()).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        }
        fixture.upstream.received();
        fixture
    }

    /// A shopper whose token may be replaced now: the gateway replaces one at most once a second.
    async fn shopper(&self) -> usize {
        let number = self.requests.load(Ordering::Relaxed) % SHOPPERS;
        let since = self.shoppers[number].lock().unwrap().elapsed();
        tokio::time::sleep(Duration::from_millis(1100).saturating_sub(since)).await;
        number
    }

    fn new_marker(&self, what: &str) -> String {
        format!("{what}-{}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    fn read(&self, marker: &str) -> Head {
        Head {
            method: "GET",
            target: products(&format!("?siteId=RefArch&ids=a&marker={marker}")),
            fields: vec![("authorization", format!("Bearer {}", self.token))],
        }
    }

    /// Sends a case, and checks the upstream requests of it and of the other client's following request.
    async fn check(&self, case: &Case) -> Result<(), TestCaseError> {
        let is_again = case.treatment == Treatment::SentAgain;
        let own = self.new_marker(if is_again { "again" } else { "own" });
        let (following, other_client) = (self.new_marker("following"), self.new_marker("other"));
        let body = case.body(&own);
        let sent = self.send(case, &own, &body, &following).await;

        let url = format!("http://{}{}", self.gateway.address, self.read(&other_client).target);
        let answer = self.other_client.get(url).bearer_auth(&self.token).send().await;
        let answer =
            answer.map_err(|error| TestCaseError::fail(format!("the other client's request failed: {error}")))?;
        prop_assert_eq!(answer.status().as_u16(), 200, "the other client's status");
        prop_assert_eq!(&answer.text().await.unwrap(), &other_client, "the other client's request got another answer");

        let seen = self.upstream.received();
        let of = |marker: &str| -> Vec<&ReceivedRequest> {
            seen.iter().filter(|one| one.target.ends_with(marker)).collect()
        };
        prop_assert_eq!(of(&other_client).len(), 1, "the other client's request did not arrive once: {:?}", seen);
        for one in &seen {
            let own_marker = marker(&one.target).unwrap_or_default();
            let is_broken_off = self.broken_off.lock().unwrap().contains(own_marker);
            prop_assert!(one.fault.is_none() || is_broken_off, "no strict HTTP arrived: {:?}", seen);
        }
        let arrived = of(&own);
        let whole: Vec<_> = arrived.iter().filter(|one| one.fault.is_none()).collect();
        prop_assert!(whole.iter().all(|one| one.body == body), "another body arrived: {:?}", seen);
        match sent {
            Sent::BrokenOff { is_whole } => {
                prop_assert!(arrived.len() <= 1 + usize::from(is_again), "{:?}", seen);
                prop_assert!(whole.is_empty() || is_whole, "what broke off arrived as whole: {:?}", seen);
            }
            Sent::Whole { answer, followed } => {
                let own_body = if case.method == "HEAD" { "" } else { &own };
                prop_assert!(answer.is_ok && answer.body == own_body, "the answer is {:?}", answer);
                prop_assert_eq!(arrived.len(), 1 + usize::from(is_again), "{:?}", seen);
                if let Some(followed) = followed {
                    prop_assert!(followed.is_ok && followed.body == following, "what follows got {:?}", followed);
                    prop_assert_eq!(of(&following).len(), 1, "{:?}", seen);
                }
            }
        }
        Ok(())
    }

    async fn send(&self, case: &Case, own: &str, body: &str, following: &str) -> Sent {
        let shopper = if case.treatment == Treatment::SentAgain { Some(self.shopper().await) } else { None };
        let head = case.head(self, own, &shopper.map(|number| number.to_string()).unwrap_or_default());
        let sent = self.send_framed(case, own, &head, body, following).await;
        if let Some(number) = shopper {
            *self.shoppers[number].lock().unwrap() = Instant::now();
        }
        sent
    }

    async fn send_framed(&self, case: &Case, own: &str, head: &Head, body: &str, following: &str) -> Sent {
        let (pieces, end) = case.written(body);
        let abort = case.abort.map(|(part, abort)| (((pieces.len() as f64) * part) as usize, abort));
        let abort = abort.filter(|_| case.has_body());
        let sent = abort.map_or(&pieces[..], |(place, _)| &pieces[..place]);
        if let Some((place, abort)) = abort {
            self.broken_off.lock().unwrap().insert(own.to_owned());
            // The last piece has already ended the stream, or the declared length is complete.
            let ended = case.framing == Framing::Http2 && case.end == End::LastPiece && place == pieces.len();
            let is_declared = matches!(case.framing, Framing::Http1Length | Framing::Http2Length);
            let arrived: usize = case.pieces(body).iter().take(place).map(|piece| piece.len()).sum();
            let is_whole = ended || (is_declared && arrived == body.len());
            self.write(case, head, body, sent, &[], Some(abort)).await;
            return Sent::BrokenOff { is_whole };
        }
        self.write_and_read(case, head, body, sent, &end, following).await
    }

    async fn write(
        &self,
        case: &Case,
        head: &Head,
        body: &str,
        pieces: &[Vec<u8>],
        end: &[u8],
        abort: Option<Abort>,
    ) -> Option<Connection> {
        let mut connection = if case.is_http2() {
            Connection::Http2(Http2::connect(self.gateway.address).await)
        } else {
            Connection::Http1(Http1::connect(self.gateway.address).await)
        };
        let first = match case.framing {
            Framing::Http1None => Http1::head(head, ""),
            Framing::Http1Length => Http1::head(head, &format!("Content-Length: {}\r\n", body.len())),
            Framing::Http1Chunked => Http1::head(head, "Transfer-Encoding: chunked\r\n"),
            Framing::Http2None => Http2::head(head, None, 1, true),
            Framing::Http2Length => Http2::head(head, Some(body.len()), 1, false),
            Framing::Http2 => Http2::head(head, None, 1, false),
        };
        let all = [first].into_iter().chain(pieces.iter().cloned()).chain([end.to_vec()]);
        if case.slowly {
            for piece in all {
                connection.write(&piece).await;
                // Usually the gateway reads each piece separately; no assertion depends on it.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        } else {
            connection.write(&all.collect::<Vec<_>>().concat()).await;
        }
        let Some(abort) = abort else { return Some(connection) };
        match (connection, abort) {
            (Connection::Http2(mut connection), Abort::Stream(reason)) => {
                connection.write(&Http2::reset(1, reason)).await;
                // The connection stays open for a moment, so that only the stream has ended.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            (Connection::Http2(mut connection), Abort::GoAway) => connection.write(&Http2::go_away()).await,
            (Connection::Http1(connection), Abort::Stream(_)) => connection.reset(),
            (connection, _) => drop(connection),
        }
        None
    }

    async fn write_and_read(
        &self,
        case: &Case,
        head: &Head,
        body: &str,
        pieces: &[Vec<u8>],
        end: &[u8],
        following: &str,
    ) -> Sent {
        let connection = self.write(case, head, body, pieces, end, None).await.unwrap();
        let next = self.read(following);
        match connection {
            Connection::Http1(mut connection) => {
                let answer = connection.read(case.method == "HEAD").await;
                let mut followed = None;
                if answer.goes_on {
                    connection.write(&Http1::head(&next, "")).await;
                    followed = Some(connection.read(false).await);
                }
                Sent::Whole { answer, followed }
            }
            Connection::Http2(mut connection) => {
                let answer = connection.read(1).await;
                let mut followed = None;
                if answer.goes_on {
                    connection.write(&Http2::head(&next, None, 3, true)).await;
                    followed = Some(connection.read(3).await);
                }
                Sent::Whole { answer, followed }
            }
        }
    }
}

/// The outcome of a case at its client.
enum Sent {
    BrokenOff { is_whole: bool },
    Whole { answer: Answer, followed: Option<Answer> },
}

enum Connection {
    Http1(Http1),
    Http2(Http2),
}

impl Connection {
    async fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Http1(connection) => connection.write(bytes).await,
            Self::Http2(connection) => connection.write(bytes).await,
        }
    }
}

/// Checks a number of cases; a failure names the smallest failing case.
fn check_all(is_http2: bool, count: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let fixture = runtime.block_on(Fixture::start(is_http2));
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    let judged = TestRunner::new(config).run(&cases(), |case| runtime.block_on(fixture.check(&case)));
    match judged {
        Ok(()) => figure(
            "R25",
            format!("{count} requests to an HTTP/{} upstream: each arrived once", if is_http2 { "2" } else { "1.1" }),
        ),
        Err(TestError::Fail(why, case)) => panic!("{why}\n{case:#?}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn body_in_any_framing_is_one_request_to_http_1_upstream() {
    check_all(false, scale::of(500, 20_000));
}

#[test]
fn body_in_any_framing_is_one_request_to_http_2_upstream() {
    check_all(true, scale::of(250, 10_000));
}

/// The smallest case that once failed: `http2.request(…).end()` of Node, `curl --http2 -T -`, a pipe of Go's client.
#[tokio::test]
async fn body_ending_in_empty_frame_has_one_last_chunk() {
    let fixture = Fixture::start(false).await;
    for (method, treatment) in [
        ("GET", Treatment::Streamed),
        ("POST", Treatment::Streamed),
        ("DELETE", Treatment::Streamed),
        ("POST", Treatment::Held),
        ("POST", Treatment::SentAgain),
    ] {
        for cuts in [vec![], vec![0.0], vec![0.5], vec![1.0, 1.0]] {
            for is_empty in [false, true].into_iter().filter(|is_empty| !is_empty || treatment != Treatment::Held) {
                let case = Case {
                    framing: Framing::Http2,
                    method,
                    treatment,
                    padding: 10,
                    is_empty,
                    cuts: cuts.clone(),
                    frame_padding: None,
                    end: End::EmptyFrame,
                    abort: None,
                    slowly: true,
                };
                fixture.check(&case).await.unwrap_or_else(|error| panic!("{case:?}: {error}"));
            }
        }
    }
}
