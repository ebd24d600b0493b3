//! One request that arrives causes at most one upstream request, in strict HTTP/1.1, and a response carries only fields
//! for the caller.

pub mod upstream;

use std::time::Duration;

use reqwest::Client;
use salesforce_simulator::Seed;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::upstream::{RawUpstream, Received};
use crate::world::{Gateway, World, baskets, eventually, install_cryptography, products};

const AMBIGUOUS: (&str, &str) = ("400", "request_ambiguous");
const INVALID: (&str, &str) = ("400", "request_invalid");
/// The error of the HTTP library itself, before any code of the gateway.
const NO_HTTP: (&str, &str) = ("400", "request_invalid");

/// A world whose APIs are a [`RawUpstream`]. The simulator only signs tokens.
struct Fixture {
    world: World,
    upstream: RawUpstream,
    token: String,
}

/// All bytes received on one connection.
#[derive(Debug)]
struct RawResponse {
    text: String,
    closed: bool,
}

impl RawResponse {
    /// Status and code of the first answer.
    fn refusal(&self) -> (&str, &str) {
        let first = self.text.split("\r\n\r\n").next().unwrap();
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("no answer");
        let code = first.split("x-shopper-gateway-error: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        (status, code.unwrap_or("none"))
    }

    fn answers(&self) -> usize {
        self.text.matches("HTTP/1.1 ").count()
    }
}

impl Fixture {
    async fn start() -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let upstream = RawUpstream::start(simulator.slas_jwks().to_string()).await;
        let gateway = Gateway::start(&upstream.url(), |_| {}).await;
        let world = World { simulator, gateway, client: Client::builder().no_proxy().build().unwrap() };
        world.ready().await;
        let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-standard".into()]));
        Self { world, upstream, token }
    }

    /// Sends bytes and reads until the gateway closes or sends nothing for a while.
    async fn send(&self, bytes: &[u8]) -> RawResponse {
        let mut stream = TcpStream::connect(self.world.gateway.address).await.unwrap();
        // The gateway may refuse before it has read all bytes.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        let closed = loop {
            match tokio::time::timeout(Duration::from_millis(700), stream.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => break true,
                Ok(Ok(read)) => answer.extend_from_slice(&chunk[..read]),
                Err(_) => break false,
            }
        };
        RawResponse { text: String::from_utf8_lossy(&answer).into_owned(), closed }
    }

    /// The request line of a read and the credential. The test adds further fields and the end.
    fn get(&self) -> String {
        format!("GET {} HTTP/1.1\r\nAuthorization: Bearer {}\r\n", products("/a1"), self.token)
    }

    fn post(&self) -> String {
        format!("POST {} HTTP/1.1\r\nAuthorization: Bearer {}\r\n", baskets(""), self.token)
    }

    /// A valid request to follow an invalid one.
    fn valid_request(&self) -> String {
        format!("{}Host: a\r\n\r\n", self.get().replace("/a1", "/smuggled"))
    }

    /// Sends bytes followed by a valid request. Asserts that the response is this error, that the connection ends, and
    /// that nothing is forwarded.
    async fn refused(&self, what: &str, bytes: impl AsRef<[u8]>, expected: (&str, &str)) {
        let bytes = [bytes.as_ref(), self.valid_request().as_bytes()].concat();
        let back = self.send(&bytes).await;
        let shown = String::from_utf8_lossy(&bytes).replace(&self.token, "…");
        assert_eq!(back.refusal(), expected, "{what}: {shown:?}: {back:?}");
        assert!(back.closed && back.answers() == 1, "{what}: {shown:?}: {back:?}");
        assert!(back.text.contains("\r\nConnection: close\r\n"), "{what}: {back:?}");
        assert!(back.text.contains("\r\ncorrelation-id: "), "{what}: {back:?}");
        assert!(!back.text.contains(&self.token), "{what}: the answer repeats the token");
        let received = self.upstream.received();
        assert!(received.is_empty(), "{what}: {received:?}");
    }

    /// Sends bytes, asserts that the upstream receives one strict request, and returns it.
    async fn assert_arrives(&self, what: &str, bytes: impl AsRef<[u8]>) -> Received {
        let back = self.send(bytes.as_ref()).await;
        assert_eq!(back.refusal(), ("200", "none"), "{what}: {back:?}");
        let mut received = self.upstream.received();
        assert_eq!(received.len(), 1, "{what}: {received:?}");
        let request = received.remove(0);
        assert_eq!(request.fault, None, "{what}: {request:?}");
        assert_eq!(request.field("authorization"), [format!("Bearer {}", self.token)], "{what}");
        assert_eq!(request.field("host"), [self.upstream.address().to_string()], "{what}");
        request
    }
}

#[tokio::test]
async fn ambiguous_body_length_is_rejected() {
    let fixture = Fixture::start().await;
    let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (fields, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", AMBIGUOUS),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", AMBIGUOUS),
        ("transfer-encoding: Chunked\r\nCONTENT-LENGTH: 45", AMBIGUOUS),
        ("Content-Length: 5\r\nTransfer-Encoding: identity", NO_HTTP),
        ("Content-Length: 5\r\nTransfer-Encoding:", NO_HTTP),
        ("Content-Length: +5\r\nTransfer-Encoding: chunked", AMBIGUOUS),
        ("Content-Length: 5\r\nContent-Length: 6", NO_HTTP),
        ("Content-Length: 5\r\nContent-Length: 5", AMBIGUOUS),
        ("Content-Length: 5\r\nContent-Length:", NO_HTTP),
        ("Content-Length: 5, 5", AMBIGUOUS),
        ("Content-Length: 5, 6", NO_HTTP),
        ("Content-Length: 5,", NO_HTTP),
        ("Content-Length: +5", NO_HTTP),
        ("Content-Length: -5", NO_HTTP),
        ("Content-Length: -0", NO_HTTP),
        ("Content-Length: 0x5", NO_HTTP),
        ("Content-Length: 5_0", NO_HTTP),
        ("Content-Length: 5 0", NO_HTTP),
        ("Content-Length: 5e0", NO_HTTP),
        ("Content-Length: 5.0", NO_HTTP),
        ("Content-Length:", NO_HTTP),
        ("Content-Length: five", NO_HTTP),
        ("Content-Length: 99999999999999999999", NO_HTTP),
        ("Content-Length: 5\r\nContent_Length: 6", AMBIGUOUS),
        ("Content-Length: 5\r\nTransfer_Encoding: chunked", AMBIGUOUS),
        ("Transfer-Encoding: identity", NO_HTTP),
        ("Transfer-Encoding: gzip", NO_HTTP),
        ("Transfer-Encoding: xchunked", NO_HTTP),
        ("Transfer-Encoding: chunked, chunked", AMBIGUOUS),
        ("Transfer-Encoding: gzip, chunked", AMBIGUOUS),
        ("Transfer-Encoding: chunked, identity", NO_HTTP),
        ("Transfer-Encoding: chunked,", NO_HTTP),
        ("Transfer-Encoding: , chunked", AMBIGUOUS),
        ("Transfer-Encoding: chunked;a=b", NO_HTTP),
        ("Transfer-Encoding: \"chunked\"", NO_HTTP),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", NO_HTTP),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", AMBIGUOUS),
        ("Transfer-Encoding:\u{b}chunked", NO_HTTP),
        ("Transfer-Encoding: chunked\u{0}", NO_HTTP),
        ("Transfer-Encoding : chunked", NO_HTTP),
        ("Content-Length : 5", NO_HTTP),
        (" Transfer-Encoding: chunked", NO_HTTP),
        ("Transfer-Encoding:\r\n chunked", NO_HTTP),
        ("Content-Length: 5\r\n\tTransfer-Encoding: chunked", NO_HTTP),
    ] {
        fixture.refused(fields, format!("{}Host: a\r\n{fields}\r\n\r\n{body}", fixture.post()), expected).await;
    }
    let of_http_10 = fixture.post().replace("HTTP/1.1", "HTTP/1.0");
    let chunked = format!("{of_http_10}Host: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    fixture.refused("a transfer coding in HTTP/1.0", chunked, NO_HTTP).await;
}

#[tokio::test]
async fn ambiguous_head_is_rejected() {
    let fixture = Fixture::start().await;
    let get = fixture.get();
    let line = get.split("\r\n").next().unwrap();
    let with_line = |line: &str| format!("{line}\r\n{}Host: a\r\n\r\n", get.split_once("\r\n").unwrap().1);
    for (what, bytes, expected) in [
        ("bare LF behind the request line", format!("{}Host: a\r\n\r\n", get.replacen("\r\n", "\n", 1)), AMBIGUOUS),
        ("bare LF behind a field", format!("{get}Host: a\nX: b\r\n\r\n"), AMBIGUOUS),
        ("bare LF hiding a field", format!("{get}Host: a\r\nX: b\nTransfer-Encoding: chunked\r\n\r\n"), AMBIGUOUS),
        ("bare LFs only", format!("{}Host: a\n\n", get.replace("\r\n", "\n")), AMBIGUOUS),
        ("bare CR in a value", format!("{get}Host: a\r\nX: b\rc\r\n\r\n"), NO_HTTP),
        ("bare CR behind a field", format!("{get}Host: a\rX: b\r\n\r\n"), NO_HTTP),
        ("NUL in a value", format!("{get}Host: a\r\nX: b\u{0}c\r\n\r\n"), NO_HTTP),
        ("a folded field", format!("{get}Host: a\r\nX: b\r\n c\r\n\r\n"), NO_HTTP),
        ("a folded first field", get.replacen("\r\n", "\r\n ", 1) + "Host: a\r\n\r\n", NO_HTTP),
        ("a space before the colon", format!("{get}Host: a\r\nX : b\r\n\r\n"), NO_HTTP),
        (
            "a space before the credential's colon",
            get.replace("Authorization:", "Authorization :") + "Host: a\r\n\r\n",
            NO_HTTP,
        ),
        ("no colon", format!("{get}Host: a\r\nX\r\n\r\n"), NO_HTTP),
        ("no name", format!("{get}Host: a\r\n: b\r\n\r\n"), NO_HTTP),
        ("a name that is none", format!("{get}Host: a\r\nX[y]: b\r\n\r\n"), NO_HTTP),
        ("a name beyond ASCII", format!("{get}Host: a\r\nXé: b\r\n\r\n"), NO_HTTP),
        ("two spaces", with_line(&line.replacen(' ', "  ", 1)), NO_HTTP),
        ("a space in the target", with_line(&line.replace("/a1", "/a1?q=b c")), AMBIGUOUS),
        ("a space and a version in the target", with_line(&line.replace("/a1", "/a1 HTTP/1.0?")), NO_HTTP),
        ("a space behind the target", with_line(&line.replace(" HTTP", "  HTTP")), AMBIGUOUS),
        ("a tab in the target", with_line(&line.replace("/a1", "/a1?q=b\tc")), AMBIGUOUS),
        ("DEL in the target", with_line(&line.replace("/a1", "/a1?q=b\u{7f}c")), AMBIGUOUS),
        ("NUL in the target", with_line(&line.replace("/a1", "/a1?q=b\0c")), AMBIGUOUS),
        ("CR in the target", with_line(&line.replace("/a1", "/a1?q=b\rc")), AMBIGUOUS),
        ("a tab", with_line(&line.replacen(' ', "\t", 1)), NO_HTTP),
        ("HTTP/1.2", with_line(&line.replace("/1.1", "/1.2")), NO_HTTP),
        ("HTTP/2.0", with_line(&line.replace("/1.1", "/2.0")), NO_HTTP),
        ("http/1.1", with_line(&line.replace("HTTP", "http")), NO_HTTP),
        ("HTTP/01.1", with_line(&line.replace("/1.1", "/01.1")), NO_HTTP),
        ("no version", with_line(line.trim_end_matches(" HTTP/1.1")), NO_HTTP),
        ("a fragment", with_line(&line.replace("/a1", "/a1#b")), AMBIGUOUS),
        ("a raw character in the query", with_line(&line.replace("/a1", "/a1?a=é")), AMBIGUOUS),
    ] {
        fixture.refused(what, bytes, expected).await;
    }
    for raw in [&b"\xff"[..], b"\xc3\x28", b"\x80"] {
        let target = [products("/a1").as_bytes(), raw].concat();
        let bytes = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        fixture.refused("bytes that are not UTF-8 in the target", bytes, NO_HTTP).await;
    }
}

#[tokio::test]
async fn missing_invalid_or_duplicate_host_is_rejected() {
    let fixture = Fixture::start().await;
    let get = fixture.get();
    for (host, expected) in [
        ("", INVALID),
        ("Host:", INVALID),
        ("Host: a\r\nHost: a", NO_HTTP),
        ("Host: a\r\nhost: b", NO_HTTP),
        ("Host: a, b", INVALID),
        ("Host: a b", INVALID),
        ("Host: a/b", INVALID),
        ("Host: http://a", INVALID),
        ("Host: u@a", NO_HTTP),
        ("Host: a:", INVALID),
        ("Host: a:b", INVALID),
        ("Host: a:99999", INVALID),
        ("Host: a#b", INVALID),
        ("Host: a?b", INVALID),
        ("Host: [::1", INVALID),
        ("Host: a\\b", INVALID),
        ("Host: é", INVALID),
        ("Host: %61", INVALID),
    ] {
        let fields = if host.is_empty() { String::new() } else { format!("{host}\r\n") };
        fixture.refused(host, format!("{get}{fields}\r\n"), expected).await;
    }
    for host in ["a", "a.example:8080", "[::1]:80", "127.0.0.1", "A.Example"] {
        fixture.assert_arrives(host, format!("{get}Host: {host}\r\nConnection: close\r\n\r\n")).await;
    }
}

#[tokio::test]
async fn target_that_is_no_path_is_rejected() {
    let fixture = Fixture::start().await;
    let get = format!("{}Host: a\r\nConnection: close\r\n\r\n", fixture.get());
    let path = products("/a1");
    let with = |target: &str| get.replacen(&path, target, 1);
    for (target, expected) in [
        ("*".to_owned(), INVALID),
        (format!("http://b{path}"), NO_HTTP),
        (format!("http://u@a{path}"), NO_HTTP),
        (format!("http://a:81{path}"), NO_HTTP),
        (format!("http:{path}"), NO_HTTP),
        (format!("https://a{path}"), INVALID),
        (format!("ftp://a{path}"), INVALID),
        (format!("ws://a{path}"), INVALID),
        (format!("//a{path}"), AMBIGUOUS),
        ("a:80".to_owned(), INVALID),
        ("?a=b".to_owned(), INVALID),
        (path[1..].to_owned(), INVALID),
    ] {
        fixture.refused(&target, with(&target), expected).await;
    }
    for target in [format!("http://a{path}"), format!("HTTP://a{path}"), path.clone()] {
        let request = fixture.assert_arrives(&target, with(&target)).await;
        assert_eq!(request.line(), format!("GET {path} HTTP/1.1"));
    }
}

#[tokio::test]
async fn unsupported_method_is_rejected() {
    let fixture = Fixture::start().await;
    for method in ["TRACE", "TRACK", "DEBUG", "PROPFIND", "LINK", "PURGE", "FOO", "get", "Get", "GETX", "G", "PRI"] {
        fixture.refused(method, format!("{}Host: a\r\n\r\n", fixture.get().replacen("GET", method, 1)), INVALID).await;
    }
    for method in ["G(T", "GE\u{e9}T", "\u{0}"] {
        fixture.refused(method, format!("{}Host: a\r\n\r\n", fixture.get().replacen("GET", method, 1)), NO_HTTP).await;
    }
    let tunnel = format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nAuthorization: Bearer {}\r\n\r\n", fixture.token);
    fixture.refused("CONNECT", tunnel, ("400", "request_invalid")).await;
}

#[tokio::test]
async fn connection_header_cannot_remove_end_to_end_headers() {
    let fixture = Fixture::start().await;
    let get = fixture.get();
    for option in [
        "Authorization",
        "authorization",
        "close, Authorization",
        "keep-alive,AUTHORIZATION",
        "Host",
        "Content-Length",
        "Content-Type",
        "Cookie",
        "correlation-id",
        "X-On-Behalf-Of",
        "x_on_behalf_of",
        "X-Shopper-Gateway-A",
        "X-Forwarded-For",
        "x-slas-client-auth",
        "_sfdc_client_auth",
        "sfdc_dwsid",
        "If-Match",
        "Content_Encoding",
        "a, b, c, d, e, f, g, h, i, j",
        "\"x-a\"",
    ] {
        let bytes = format!("{get}Host: a\r\nConnection: {option}\r\n\r\n");
        fixture.refused(option, bytes, INVALID).await;
        let second = format!("{get}Host: a\r\nConnection: keep-alive\r\nConnection: {option}\r\n\r\n");
        fixture.refused(option, second, INVALID).await;
    }
    let request = fixture
        .assert_arrives(
            "fields of this hop",
            format!(
                "{get}Host: a\r\nConnection: close, Private, X-Private, x_other, Upgrade, HTTP2-Settings, TE\r\nPrivate: 1\r\n\
                 X-Private: 1\r\nX_Other: 1\r\nX-Public: 2\r\nKeep-Alive: timeout=5\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\nTE: trailers\r\nTrailer: X\r\n\
                 Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nPublic: 2\r\n\r\n"
            ),
        )
        .await;
    for gone in [
        "connection",
        "private",
        "x-private",
        "x_other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
    ] {
        assert!(request.field(gone).is_empty(), "{gone} arrived: {}", request.head);
    }
    assert_eq!(request.field("public"), ["2"]);
    assert_eq!(request.field("x-public"), ["2"]);
}

#[tokio::test]
async fn unusual_valid_requests_are_forwarded_in_strict_form() {
    let fixture = Fixture::start().await;
    let chunked = format!("{}Host: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n", fixture.post());
    for (what, body) in [
        ("chunks", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        ("upper-case sizes", "B\r\nhello world\r\n0\r\n\r\n"),
        ("zeros before a size", "000b\r\nhello world\r\n000\r\n\r\n"),
        ("chunk extensions", "b;a=b;c\r\nhello world\r\n0;d\r\n\r\n"),
        ("trailers", "b\r\nhello world\r\n0\r\nAuthorization: Bearer x\r\nContent-Length: 3\r\nHost: b\r\n\r\n"),
    ] {
        let request = fixture.assert_arrives(what, format!("{chunked}{body}")).await;
        assert_eq!(request.body, "hello world", "{what}");
        assert_eq!(request.field("transfer-encoding"), ["chunked"], "{what}");
    }
    for coding in ["\tchunked", "  chunked \t", "Chunked", "CHUNKED"] {
        let bytes = chunked.replace(" chunked", &format!(" {coding}")) + "5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(fixture.assert_arrives(coding, bytes).await.body, "hello");
    }
    for (what, bytes) in [
        ("an empty line before", format!("\r\n{}Host: a\r\nConnection: close\r\n\r\n", fixture.get())),
        ("HTTP/1.0", format!("{}Host: a\r\n\r\n", fixture.get().replace("HTTP/1.1", "HTTP/1.0"))),
        ("HTTP/1.0 without Host", format!("{}\r\n", fixture.get().replace("HTTP/1.1", "HTTP/1.0"))),
        (
            "names in any case",
            format!("{}hOST: a\r\ncONNECTION: close\r\n\r\n", fixture.get().replace("Authorization", "aUTHORIZATION")),
        ),
    ] {
        assert_eq!(fixture.assert_arrives(what, bytes).await.body, "", "{what}");
    }
    for length in ["5", "05", "  5\t"] {
        let bytes = format!("{}Host: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\nhello", fixture.post());
        assert_eq!(fixture.assert_arrives(length, bytes).await.body, "hello");
    }
    // A read may have a body, which belongs to this request.
    let inner = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", products("/smuggled"));
    let bytes =
        format!("{}Host: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{inner}", fixture.get(), inner.len());
    assert_eq!(fixture.assert_arrives("a read with a body", bytes).await.body, inner);
}

#[tokio::test]
async fn malformed_body_never_arrives_complete() {
    let fixture = Fixture::start().await;
    let chunked = format!("{}Host: a\r\nTransfer-Encoding: chunked\r\n\r\n", fixture.post());
    for body in [
        "5\r\nhello\r\n",
        "5\r\nhello",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello!!\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "5;a=\u{1}\r\nhello\r\n0\r\n\r\n",
        "5;a\u{0}b\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0;\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        &format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(5000)),
        &format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "e".repeat(900)).repeat(20)),
    ] {
        let another = fixture.valid_request();
        let mut stream = TcpStream::connect(fixture.world.gateway.address).await.unwrap();
        stream.write_all(format!("{chunked}{body}").as_bytes()).await.unwrap();
        // Usually the gateway reads the malformed body first; no assertion depends on it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        // The following bytes must not be read as a request.
        let _ = stream.write_all(another.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        eventually("no request is in flight", async || fixture.world.in_flight().await == 0).await;
        let received = fixture.upstream.received();
        assert!(received.len() <= 1, "{body:?}: {received:?}");
        assert!(received.iter().all(|request| request.fault.is_some()), "{body:?}: {received:?}");
    }
    for short in [
        format!("{}Host: a\r\nContent-Length: 10\r\n\r\nhello", fixture.post()),
        format!("{chunked}5\r\nhello\r\n0\r\n"),
    ] {
        let mut stream = TcpStream::connect(fixture.world.gateway.address).await.unwrap();
        stream.write_all(short.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        eventually("no request is in flight", async || fixture.world.in_flight().await == 0).await;
        let received = fixture.upstream.received();
        assert!(received.iter().all(|request| request.fault.is_some()), "{received:?}");
    }
}

/// The library reads lines after the last chunk as trailers, with any content, and drops them.
#[tokio::test]
async fn bytes_after_last_chunk_are_never_taken_for_a_request() {
    let fixture = Fixture::start().await;
    let last = format!("{}Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", fixture.post());
    // The pauses let the bytes arrive in each state of the connection.
    for pause in (0..40).map(|step| Duration::from_micros(step * 100)) {
        let mut stream = TcpStream::connect(fixture.world.gateway.address).await.unwrap();
        stream.write_all(last.as_bytes()).await.unwrap();
        tokio::time::sleep(pause).await;
        let _ = stream.write_all(fixture.valid_request().as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{pause:?}: {}", String::from_utf8_lossy(&answer));
        // The upstream may notice a broken request a little later.
        for request in fixture.upstream.received() {
            assert!(request.fault.is_some() || request.body == "hello", "{pause:?}: {request:?}");
            assert!(!request.head.contains("smuggled"), "{pause:?}: {request:?}");
        }
    }
}

#[tokio::test]
async fn target_field_count_and_head_size_are_limited() {
    let fixture = Fixture::start().await;
    let path = products("/a1");
    let get = format!("{}Host: a\r\nConnection: close\r\n", fixture.get());
    let fields = |count: usize| get.clone() + &"X: y\r\n".repeat(count) + "\r\n";
    let target = |length: usize| {
        let long = format!("{path}?q={}", "a".repeat(length - path.len() - 3));
        format!("{}\r\n", get.replacen(&path, &long, 1))
    };
    let head = |length: usize| format!("{get}X: {}\r\n\r\n", "a".repeat(length));
    let large = "request_too_large";
    for (what, bytes, expected) in [
        ("8,193 bytes of target", target(8193), ("414", large)),
        ("60,000 bytes of target", target(60_000), ("414", large)),
        ("101 fields", fields(98), ("431", large)),
        ("200 fields", fields(197), ("431", large)),
        ("64 KiB of head", head(65_536), ("431", large)),
        ("300 fields", fields(297), NO_HTTP),
    ] {
        let back = fixture.send(bytes.as_bytes()).await;
        assert_eq!((back.refusal(), back.answers()), (expected, 1), "{what}: {back:?}");
        assert!(fixture.upstream.received().is_empty(), "{what}");
    }
    let endless = fixture.send(head(2_000_000).as_bytes()).await;
    assert!(endless.closed && fixture.upstream.received().is_empty(), "{endless:?}");
    for (what, bytes) in
        [("8,192 bytes of target", target(8192)), ("100 fields", fields(97)), ("60,000 bytes of head", head(60_000))]
    {
        fixture.assert_arrives(what, bytes).await;
    }
}

#[tokio::test]
async fn requests_on_one_connection_stay_separate() {
    let fixture = Fixture::start().await;
    let first = format!("{}Host: a\r\nContent-Length: 5\r\n\r\nhello", fixture.post());
    let back = fixture.send(format!("{first}{}", fixture.valid_request()).as_bytes()).await;
    let received = fixture.upstream.received();
    assert_eq!(back.answers(), received.len(), "{back:?} {received:?}");
    assert!(received.iter().all(|request| request.fault.is_none()), "{received:?}");
    assert_eq!(received[0].body, "hello");
    // The body of a refused request is not read as the next request.
    let inner = fixture.valid_request();
    let refused = format!("POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let back = fixture.send(refused.as_bytes()).await;
    assert_eq!((back.refusal(), back.answers()), (("404", "operation_unknown"), 1), "{back:?}");
    assert!(fixture.upstream.received().is_empty());
}

#[tokio::test]
async fn write_is_never_sent_twice() {
    let fixture = Fixture::start().await;
    let read = format!("{}Host: a\r\nConnection: close\r\n\r\n", fixture.get());
    for length in ["", "Content-Length: 2\r\n"] {
        let body = if length.is_empty() { "" } else { "{}" };
        let write = format!("{}Host: a\r\nConnection: close\r\n{length}\r\n{body}", fixture.post());
        // The API closes a pooled connection after it has read the next request.
        fixture.assert_arrives("a read", &read).await;
        fixture.upstream.answer("");
        let back = fixture.send(write.as_bytes()).await;
        assert_eq!(back.refusal(), ("502", "upstream_unavailable"), "{back:?}");
        let received = fixture.upstream.received();
        assert_eq!(received.len(), 1, "{received:?}");
        fixture.upstream.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    }
}

#[tokio::test]
async fn hop_by_hop_and_spoofed_response_headers_are_removed() {
    let fixture = Fixture::start().await;
    let get = format!("{}Host: a\r\nConnection: close\r\n\r\n", fixture.get());
    fixture.upstream.answer(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Internal, x-debug\r\nX-Internal: secret\r\n\
         X-Debug: secret\r\nKeep-Alive: timeout=5\r\nX-Shopper-Gateway-Error: forged\r\nTrailer: X\r\nUpgrade: h2c\r\n\
         Correlation-Id: forged\r\nX-Public: yes\r\n\r\n{}",
    );
    let back = fixture.send(get.as_bytes()).await;
    assert_eq!(back.refusal(), ("200", "none"), "{back:?}");
    for gone in ["secret", "X-Internal", "X-Debug", "forged", "Trailer", "Upgrade", "Keep-Alive"] {
        assert!(!back.text.contains(gone), "{gone}: {back:?}");
    }
    assert!(back.text.contains("X-Public: yes\r\n"), "{back:?}");
    fixture.upstream.received();
}

#[tokio::test]
async fn ambiguous_response_is_rejected() {
    let fixture = Fixture::start().await;
    let get = format!("{}Host: a\r\nConnection: close\r\n\r\n", fixture.get());
    let unavailable = ("502", "upstream_unavailable");
    for (what, answer) in [
        (
            "an upgrade that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "an upgrade and an answer",
            "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        ("one length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
        ("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}"),
        ("a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}"),
        ("another transfer coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}"),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("a status of two digits", "HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("another protocol", "ICY 200 OK\r\n\r\n{}"),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("noise", "garbage\r\n\r\n"),
        ("nothing", ""),
    ] {
        fixture.upstream.answer(answer);
        let back = fixture.send(get.as_bytes()).await;
        assert_eq!((back.refusal(), back.answers()), (unavailable, 1), "{what}: {back:?}");
    }
    for (what, answer) in [
        ("CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        (
            "a second answer behind",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        ),
        (
            "trailers",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Shopper-Gateway-Error: forged\r\n\r\n",
        ),
        (
            "an early hint",
            "HTTP/1.1 103 Early Hints\r\nX-Shopper-Gateway-Error: forged\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ),
    ] {
        fixture.upstream.answer(answer);
        let back = fixture.send(get.as_bytes()).await;
        assert!(back.text.contains("HTTP/1.1 200 OK\r\n") && back.text.contains("{}"), "{what}: {back:?}");
        assert!(!back.text.contains("forged") && !back.text.contains("Content-Length: 9"), "{what}: {back:?}");
        fixture.upstream.answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
        let next = fixture.send(get.as_bytes()).await;
        assert!(next.text.starts_with("HTTP/1.1 200 OK") && next.text.ends_with("\r\n\r\nnext"), "{what}: {next:?}");
    }
}

/// A response to HEAD ends with its head (RFC 9110, 9.3.2). An API that sends a body behind it must not make it the next response.
#[tokio::test]
async fn body_behind_response_to_head_is_no_response_to_the_next_request() {
    let fixture = Fixture::start().await;
    let head = format!("{}Host: a\r\n\r\n", fixture.get().replace("GET ", "HEAD "));
    let get = format!("{}Host: a\r\nConnection: close\r\n\r\n", fixture.get());
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    for (what, answer) in [
        ("no body", "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n".to_owned()),
        ("chunked without body", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        ("no length", "HTTP/1.1 200 OK\r\n\r\n".to_owned()),
        ("a body", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{forged}", forged.len())),
        ("a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nforged\r\n0\r\n\r\n".to_owned()),
        ("a body without length", format!("HTTP/1.1 200 OK\r\n\r\n{forged}")),
    ] {
        fixture.upstream.answer(answer);
        let back = fixture.send(head.as_bytes()).await;
        assert_eq!((back.refusal(), back.answers()), (("200", "none"), 1), "{what}: {back:?}");
        assert!(back.text.ends_with("\r\n\r\n") && !back.text.contains("forged"), "{what}: {back:?}");
        fixture.upstream.answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
        let next = fixture.send(get.as_bytes()).await;
        assert!(next.text.starts_with("HTTP/1.1 200 OK") && next.text.ends_with("\r\n\r\nnext"), "{what}: {next:?}");
    }
    // Both requests on one connection.
    fixture.upstream.respond_with(Box::new(|_, _| (200, "own".to_owned())));
    let back = fixture.send(format!("{head}{get}").as_bytes()).await;
    assert!(back.answers() == 2 && back.text.ends_with("\r\n\r\nown"), "{back:?}");
    fixture.upstream.received();
}
