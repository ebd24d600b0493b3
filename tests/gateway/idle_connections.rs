//! Idle connections between two requests: their memory, their timeouts, and the next request on them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use salesforce_simulator::{Effect, Fault, Seed, ShopperTokenSpec};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{
    replica::Replica,
    tls::authority::Authority,
    world::{PUBLIC_CLIENT, World, baskets, eventually, install_cryptography, products},
};

/// Enough connections for their memory to be measurable.
const CONNECTIONS: usize = 1500;
/// Longer than any of these tests takes, and shorter than the default idle timeout.
const WAIT_TIMEOUT: Duration = Duration::from_secs(40);

fn read(token: &str) -> String {
    let target = products("/793775362380M?siteId=RefArch");
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// The head and the whole body of the next response; empty if the connection closes instead.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let whole = async {
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let is_whole = match length {
                    Some(length) => body.len() >= length.parse().unwrap(),
                    None => body.ends_with("0\r\n\r\n"),
                };
                if is_whole {
                    return Some(text.into_owned());
                }
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return None;
            }
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, whole).await.expect("neither an answer nor the end")
}

/// Sends a request in two pieces, and returns the response.
async fn send_in_pieces(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    let (begin, rest) = request.split_at(7);
    stream.write_all(begin.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    // Usually the gateway reads both pieces separately; no assertion depends on it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    answer(stream).await.expect("each is answered")
}

async fn idle_connection(address: SocketAddr, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(read(token).as_bytes()).await.unwrap();
    let answer = answer(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stream
}

async fn world(idle: &str) -> World {
    World::with(|config| {
        let timeouts = format!("idle = \"{idle}\"\nclient_head = \"1s\"");
        config.insert("timeouts".into(), timeouts.parse::<toml::Table>().unwrap().into());
    })
    .await
}

#[tokio::test]
async fn idle_connection_uses_less_than_12_kb() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    let replica = Replica::start(&simulator.url(), |config| {
        config.insert("limits".into(), "connections_per_address = 0".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let token = simulator.mint_shopper_token(ShopperTokenSpec::default());
    // The first requests allocate memory that stays.
    for _ in 0..200 {
        idle_connection(replica.address, &token).await;
    }
    // Without clean pages: those of the binary are shared while another test runs it too, and private afterwards.
    let private = || {
        let rollup = replica.proc("smaps_rollup");
        let dirty = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
        dirty.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    };
    let before = private();
    let mut resting = Vec::new();
    for _ in 0..CONNECTIONS {
        resting.push(idle_connection(replica.address, &token).await);
    }
    let each = private().saturating_sub(before) / CONNECTIONS;
    assert!(each < 12_000, "{each} bytes for each");
    for stream in &mut resting[CONNECTIONS - 10..] {
        stream.write_all(read(&token).as_bytes()).await.unwrap();
        assert!(answer(stream).await.is_some(), "it still serves");
    }
}

#[tokio::test]
async fn idle_connection_is_closed_after_its_timeout() {
    let world = world("2s").await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let mut stream = idle_connection(world.gateway.address, &token).await;
    // Together longer than the timeout, each shorter.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        stream.write_all(read(&token).as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.is_some(), "each request begins it anew");
    }
    let began = Instant::now();
    assert_eq!(answer(&mut stream).await, None);
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn stop_closes_idle_connections_and_finishes_requests() {
    let world = world("60s").await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let (address, mut resting) = (world.gateway.address, idle_connection(world.gateway.address, &token).await);
    let mut busy = idle_connection(address, &token).await;
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 6000 }).flow("getProduct"));
    busy.write_all(read(&token).as_bytes()).await.unwrap();
    eventually("it is under way", async || world.forwarded("shopper-products.getProduct").len() == 3).await;
    let stopping = tokio::spawn(world.gateway.stop());
    assert_eq!(answer(&mut resting).await, None);
    assert!(!stopping.is_finished(), "the request is still under way");
    let answered = answer(&mut busy).await.expect("a request that had begun");
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    stopping.await.unwrap();
}

#[tokio::test]
async fn early_request_is_answered_or_connection_closed() {
    let world = world("60s").await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let get = read(&token);
    let post = |rest: &str| {
        let target = baskets("?siteId=RefArch");
        format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n{rest}"
        )
    };
    let first = [
        get.clone(),
        post("Content-Length: 2\r\n\r\n{}"),
        post("Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ];
    for first in &first {
        // The request is in one packet with the next one, or with its beginning. At the latest the end of the
        // connection shows the outcome of the next one.
        for next in [&get[..], &get[..20], "G"] {
            let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
            stream.write_all(format!("{first}{next}").as_bytes()).await.unwrap();
            assert!(answer(&mut stream).await.is_some(), "the first is answered");
            let _ = stream.write_all(&get.as_bytes()[next.len()..]).await;
            let _ = answer(&mut stream).await;
        }
        // The next request follows in two pieces.
        let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
        for request in [first, &get, first, &get] {
            let answered = send_in_pieces(&mut stream, request).await;
            assert!(answered.starts_with("HTTP/1.1 200 ") || *request != get, "{answered}");
        }
    }
}

#[tokio::test]
async fn idle_tls_connection_serves_next_request_and_times_out() {
    install_cryptography();
    let authority = Authority::new();
    let listener = authority.server().listener();
    let world = World::with(|config| {
        config["server"].as_table_mut().unwrap().insert("tls".into(), listener.into());
        config.insert("timeouts".into(), "idle = \"2s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.certificate).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(world.gateway.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let get = read(&world.simulator.mint_shopper_token(ShopperTokenSpec::default()));
    for _ in 0..3 {
        let answered = send_in_pieces(&mut stream, &get).await;
        assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    }
    assert_eq!(answer(&mut stream).await, None, "for no longer than it may");
}

/// If ALPN has chosen HTTP/1.1 or nothing, no byte of the connection changes that.
#[tokio::test]
async fn tls_request_starting_like_http_2_preface_is_http_1() {
    install_cryptography();
    let authority = Authority::new();
    let listener = authority.server().listener();
    let world = World::with(|config| {
        config["server"].as_table_mut().unwrap().insert("tls".into(), listener.into());
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.certificate).unwrap()).unwrap();
    let body = "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n";
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = protocols;
        let stream = TcpStream::connect(world.gateway.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let request = format!("POST {} HTTP/1.1\r\nHost: a\r\n{body}", crate::world::login_target(PUBLIC_CLIENT));
        let (first, rest) = request.split_at(1);
        stream.write_all(first.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Usually the gateway reads the first byte separately; no assertion depends on it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        let answered = answer(&mut stream).await.unwrap();
        assert!(answered.starts_with("HTTP/1.1 400 ") && answered.contains("request_invalid"), "{answered}");
    }
}
