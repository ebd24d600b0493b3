//! R25: hostile clients beside innocent ones, which share the gateway's connections to the API.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Outcome,
    acts::{CONNECTIONS, Stage},
    figures::Figure,
    load::{Load, ORGANIZATION, Shopper},
    processes::{Gateway, Nginx},
};

/// Where hostile clients come from: limits by address must not hit innocent ones.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// How long a hostile client waits for an answer, which it may have made impossible.
const PATIENCE: Duration = Duration::from_millis(500);
/// Requests of one HTTP/2 connection, and how long its frames are apart.
const REQUESTS: usize = 20;
const BETWEEN_FRAMES: Duration = Duration::from_millis(1);
/// Hostile clients at a time.
const CLIENTS: usize = 8;

/// Kinds of hostile clients, one after the other.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// HTTP/2: the body ends in an empty frame.
    EmptyLastFrame,
    /// HTTP/2: empty frames first, in the middle and last, then trailers.
    EmptyFrames,
    /// HTTP/2: a form for SLAS that ends in an empty frame, without a token.
    Form,
    /// HTTP/2: the stream is reset in mid-body.
    Reset,
    /// HTTP/1.1: these bytes, and then the end of the connection.
    Bytes(&'static str),
}

/// `{target}` and `{token}` are replaced in each. The text after a request would be a second request if the gateway forwarded it.
const KINDS: [Kind; 12] = [
    Kind::EmptyLastFrame,
    Kind::EmptyFrames,
    Kind::Form,
    Kind::Reset,
    Kind::Bytes("POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{}"),
    Kind::Bytes(
        "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ),
    Kind::Bytes(
        "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n0\r\n\r\n",
    ),
    Kind::Bytes(
        "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Kind::Bytes(
        "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Kind::Bytes(
        "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Kind::Bytes(
        "GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
    ),
    Kind::Bytes(
        "GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    ),
];

/// Hostile clients until they are stopped.
struct Hostile {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Hostile {
    fn start(gateway: SocketAddr, token: &str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..CLIENTS).map(|number| {
            let (stop, sent, token) = (Arc::clone(&stop), Arc::clone(&sent), token.to_owned());
            tokio::spawn(async move {
                for kind in KINDS.iter().cycle().skip(number) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Whether it succeeds is not of interest: a refusal is as good as an answer.
                    let _ = timeout(PATIENCE * 4, send(*kind, gateway, &token)).await;
                    let requests = if matches!(kind, Kind::Bytes(_)) { 1 } else { REQUESTS };
                    sent.fetch_add(requests, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, sent, tasks }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            // A client ends by itself.
            let _ = task.await;
        }
        self.sent.load(Ordering::Relaxed)
    }
}

async fn connect(gateway: SocketAddr) -> Outcome<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ADDRESS, 0).into())?;
    Ok(socket.connect(gateway).await?)
}

async fn send(kind: Kind, gateway: SocketAddr, token: &str) -> Outcome<()> {
    let target = format!("/checkout/shopper-baskets/v1/{ORGANIZATION}/baskets?siteId=RefArch");
    let Kind::Bytes(text) = kind else { return send_http2(kind, gateway, &target, token).await };
    let mut stream = connect(gateway).await?;
    stream.write_all(text.replace("{target}", &target).replace("{token}", token).as_bytes()).await?;
    let mut answer = [0; 4096];
    // The connection ends whether an answer came or not.
    let _ = timeout(PATIENCE, stream.read(&mut answer)).await;
    Ok(())
}

/// Several requests on one connection, one after the other: each may spoil a connection to the API.
async fn send_http2(kind: Kind, gateway: SocketAddr, target: &str, token: &str) -> Outcome<()> {
    let (mut requests, connection) = h2::client::handshake(connect(gateway).await?).await?;
    let serving = tokio::spawn(connection);
    let is_form = matches!(kind, Kind::Form);
    let target = if is_form { format!("/shopper/auth/v1/{ORGANIZATION}/oauth2/token") } else { target.to_owned() };
    let (empty, text) = (Bytes::new(), Bytes::from_static(if is_form { b"grant_type=x" } else { b"{}" }));
    for _ in 0..REQUESTS {
        let mut request = Request::post(format!("http://{gateway}{target}"));
        request = match is_form {
            true => request.header("content-type", "application/x-www-form-urlencoded"),
            false => {
                request.header("authorization", format!("Bearer {token}")).header("content-type", "application/json")
            }
        };
        let (answer, mut body) = requests.send_request(request.body(())?, false)?;
        match kind {
            Kind::EmptyFrames => {
                body.send_data(empty.clone(), false)?;
                body.send_data(text.clone(), false)?;
                body.send_data(empty.clone(), false)?;
                body.send_trailers(HeaderMap::from_iter([("x-trailer".parse()?, HeaderValue::from_static("a"))]))?;
            }
            Kind::Reset => {
                body.send_data(text.clone(), false)?;
                tokio::time::sleep(BETWEEN_FRAMES).await;
                body.send_reset(h2::Reason::CANCEL);
            }
            Kind::EmptyLastFrame | Kind::Form | Kind::Bytes(_) => {
                body.send_data(text.clone(), false)?;
                tokio::time::sleep(BETWEEN_FRAMES).await;
                body.send_data(empty.clone(), true)?;
            }
        }
        // The response does not matter.
        let _ = timeout(PATIENCE, answer).await;
    }
    serving.abort();
    Ok(())
}

impl Stage<'_> {
    /// R25: hostile clients share the gateway with innocent ones.
    pub async fn hostile(&mut self) -> Outcome<Vec<Figure>> {
        // nginx answers what it cannot read on the connection where that arrived, which innocent requests share.
        let nginx = Nginx::start(self.simulator.address()).await?;
        let gateways = vec![Gateway::start(&format!("http://{}", nginx.address), "").await?];
        self.tokens_live(1800);
        let address = gateways[0].address;
        let shoppers = Shopper::several(address, 60).await?;
        let token = Shopper::several(address, 1).await?.first().map(Shopper::token).unwrap_or_default();
        let load = Load::start(&shoppers, &[address], CONNECTIONS, None);
        let hostile = Hostile::start(address, &token);
        tokio::time::sleep(self.time.max(Duration::from_secs(5))).await;
        let hostile = hostile.end().await;
        let tally = Arc::clone(&load.tally);
        load.end().await;
        self.findings.inspect(&gateways, &tally)?;
        let (_, how) = tally.failures();
        // One more try would hide that the API refused a request for what another client had sent.
        let failed = tally.tried_again.load(Ordering::Relaxed);
        let (sent, wrong) = (tally.sent.load(Ordering::Relaxed), tally.wrong.load(Ordering::Relaxed));
        let among = format!("of {sent}, beside {hostile} hostile requests");
        Ok(vec![
            Figure::new(
                "R25",
                "hostile clients: another shopper's answers",
                "0",
                format!("{wrong} {among}"),
                wrong == 0,
            ),
            Figure::new("R25", "hostile clients: innocent failed", "0", format!("{failed} {among} {how}"), failed == 0),
        ])
    }
}
