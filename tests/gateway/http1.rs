//! Connections of HTTP/1.0 and HTTP/1.1 clients: response order, connection headers, and the end of a connection.

use std::time::Duration;

use reqwest::{Client, Method};
use salesforce_simulator::Seed;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    smuggling::upstream::RawUpstream,
    world::{Gateway, World, baskets, eventually, install_cryptography, products},
};

/// A gateway in front of an API that records its requests.
struct Fixture {
    world: World,
    api: RawUpstream,
    token: String,
}

/// A response as received.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.get(9..12).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn closes(&self) -> bool {
        match self.field("connection") {
            Some("close") => true,
            Some("keep-alive") => false,
            other => panic!("{other:?}: {self:?}"),
        }
    }
}

impl Fixture {
    async fn start() -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let api = RawUpstream::start(simulator.slas_jwks().to_string()).await;
        let gateway = Gateway::start(&api.url(), |_| {}).await;
        let world = World { simulator, gateway, client: Client::builder().no_proxy().build().unwrap() };
        world.ready().await;
        let scopes = ["sfcc.shopper-standard", "sfcc.shopper-baskets-orders.rw"].map(str::to_owned);
        let token = world.mint(|spec| spec.scopes = Some(scopes.to_vec()));
        Self { world, api, token }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.world.gateway.address).await.unwrap()
    }

    /// A request's head without the empty line that ends it.
    fn head(&self, method: &str, version: &str) -> String {
        let target = if method == "POST" { baskets("?siteId=RefArch") } else { products("/a1?siteId=RefArch") };
        format!("{method} {target} HTTP/{version}\r\nHost: a\r\nAuthorization: Bearer {}\r\n", self.token)
    }

    fn get(&self) -> String {
        format!("{}\r\n", self.head("GET", "1.1"))
    }

    fn post(&self) -> String {
        format!("{}Content-Length: 2\r\n\r\n{{}}", self.head("POST", "1.1"))
    }
}

/// Reads the next answer of a connection: `None` at its end.
///
/// # Panics
/// If the connection is reset, or ends in the middle of an answer that has a length.
async fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(Duration::from_secs(20), stream.read_u8()).await.expect("an answer");
        match byte {
            Ok(byte) => bytes.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && bytes.is_empty() => return None,
            Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    let mut answer = Answer { head: String::from_utf8(bytes).unwrap(), body: String::new() };
    let mut body = Vec::new();
    if answer.field("transfer-encoding") == Some("chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await.unwrap());
        }
    } else if let Some(length) = answer.field("content-length") {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.unwrap();
    } else if !answer.status().starts_with('1') && answer.status() != "204" {
        stream.read_to_end(&mut body).await.unwrap();
    }
    answer.body = String::from_utf8(body).unwrap();
    Some(answer)
}

/// The content of a chunked body.
fn unchunked(body: &str) -> String {
    let (mut content, mut rest) = (String::new(), body);
    loop {
        let (size, chunk) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        content.push_str(&chunk[..size]);
        rest = chunk[size..].strip_prefix("\r\n").unwrap();
        if size == 0 {
            return content;
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let fixture = Fixture::start().await;
    let (get, post) = (fixture.get(), fixture.post());
    let (begin, end) = get.split_at(40);
    // The bytes before the first response, the bytes after it, and the number of responses.
    for (what, early, late, answers) in [
        ("an empty line", "\r\n", "", 1),
        ("empty lines and a request later", "\r\n\r\n", get.as_str(), 2),
        ("a request", get.as_str(), "", 2),
        ("an empty line and a request", &format!("\r\n{get}"), "", 2),
        ("a request with a body", post.as_str(), "", 2),
        ("three requests", &format!("{get}{post}{get}"), "", 4),
        ("a part of a request", begin, end, 2),
        ("one byte of a request", "G", &get[1..], 2),
        ("a request and a part of another", &format!("{post}{begin}"), end, 3),
    ] {
        for first in [
            &post,
            &get,
            &post.replace("Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ] {
            for together in [true, false] {
                fixture.api.hold(true);
                let mut stream = fixture.connect().await;
                if together {
                    stream.write_all(format!("{first}{early}").as_bytes()).await.unwrap();
                } else {
                    stream.write_all(first.as_bytes()).await.unwrap();
                    eventually("the API has the request", async || fixture.api.count() == 1).await;
                    stream.write_all(early.as_bytes()).await.unwrap();
                    // Usually the gateway reads these bytes while it waits for the API; no assertion depends on it.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                eventually("the API has the request", async || fixture.api.count() == 1).await;
                fixture.api.hold(false);
                for number in 1..=answers {
                    if number == answers {
                        stream.write_all(late.as_bytes()).await.unwrap();
                    }
                    let answer = read(&mut stream).await.unwrap_or_else(|| panic!("{what}: no answer {number}"));
                    assert_eq!((answer.status(), answer.closes()), ("200", false), "{what}: {answer:?}");
                }
                let received = fixture.api.received();
                assert_eq!(received.len(), answers, "{what}: {received:?}");
                assert!(received.iter().all(|request| request.fault.is_none()), "{what}: {received:?}");
            }
        }
    }
}

#[tokio::test]
async fn half_closed_connection_still_gets_responses() {
    let fixture = Fixture::start().await;
    for requests in [fixture.get(), fixture.post(), format!("{}{}", fixture.post(), fixture.get())] {
        fixture.api.hold(true);
        let mut stream = fixture.connect().await;
        stream.write_all(requests.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        eventually("the API has the request", async || fixture.api.count() == 1).await;
        // Usually the gateway reads the end of the client's half meanwhile; no assertion depends on it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        fixture.api.hold(false);
        let mut answers = 0;
        while let Some(answer) = read(&mut stream).await {
            assert_eq!(answer.status(), "200", "{answer:?}");
            answers += 1;
        }
        assert_eq!(answers, requests.matches("HTTP/1.1").count());
        fixture.api.received();
    }
}

/// The connection does what its response announces: it accepts another request, or it ends without a reset.
#[tokio::test]
async fn connection_header_of_response_says_whether_gateway_closes() {
    let fixture = Fixture::start().await;
    let post = fixture.head("POST", "1.1");
    let without = post.replace(&fixture.token, "x.y.z");
    let large = "b".repeat(200_000);
    let chunked = format!("{}\r\n", "1\r\nx\r\n".repeat(10));
    let mut kept = 0;
    for (what, request, rest) in [
        (
            "a refused body that waits for 100",
            format!("{without}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
            "",
        ),
        (
            "a body too large that waits for 100",
            format!("{post}Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"),
            "",
        ),
        ("a body too large", format!("{post}Content-Length: 99999999\r\n\r\n"), large.as_str()),
        ("a refused large body", format!("{without}Content-Length: 200000\r\n\r\n"), large.as_str()),
        ("a refused large body that does not come", format!("{without}Content-Length: 200000\r\n\r\n"), "b"),
        ("a refused short body", format!("{without}Content-Length: 5\r\n\r\nhello"), ""),
        ("a refused short body in two parts", format!("{without}Content-Length: 5\r\n\r\nhe"), "llo"),
        ("a refused short body that does not come", format!("{without}Content-Length: 5\r\n\r\nhe"), ""),
        ("refused chunks", format!("{without}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), ""),
        ("refused chunks without an end", format!("{without}Transfer-Encoding: chunked\r\n\r\n"), chunked.as_str()),
        ("an unknown path with a body", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned(), ""),
        (
            "a request that wants it to be the last",
            format!("{}Connection: close\r\n\r\n", fixture.head("GET", "1.1")),
            "GET / HT",
        ),
        ("a refused request before another", format!("{without}\r\n"), ""),
        (
            "a request that is too large and has two lengths",
            format!("{post}Content-Length: 5\r\nContent-Length: 5\r\n{}\r\nhello", "X: y\r\n".repeat(120)),
            "",
        ),
        ("a request of HTTP/1.0", format!("{}\r\n", fixture.head("GET", "1.0")), "GET / HT"),
        (
            "a request of HTTP/1.0 that keeps",
            format!("{}Connection: keep-alive\r\n\r\n", fixture.head("GET", "1.0")),
            "",
        ),
    ] {
        let mut stream = fixture.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        // Usually the gateway reads both parts separately; no assertion depends on it.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let _ = stream.write_all(rest.as_bytes()).await;
        let answer = read(&mut stream).await.unwrap_or_else(|| panic!("{what}: no answer"));
        if answer.closes() {
            assert_eq!(read(&mut stream).await, None, "{what}");
        } else {
            kept += 1;
            stream.write_all(fixture.get().as_bytes()).await.unwrap();
            let next = read(&mut stream).await.unwrap_or_else(|| panic!("{what}: {answer:?}, and then no other"));
            assert_eq!(next.status(), "200", "{what}");
        }
    }
    assert_eq!(kept, 6, "what was read to its end keeps its connection");
}

#[tokio::test]
async fn response_framing_follows_client_version() {
    let fixture = Fixture::start().await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Own\r\nX-Own: 1\r\n\
                   Content-Length: 5\r\nKeep-Alive: timeout=5\r\n\r\n";
    let chunks = "transfer-encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nyes\r\n0\r\n\r\n";
    for (what, of_api, status) in [
        ("a length", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nokyes".to_owned(), "200"),
        ("chunks", format!("HTTP/1.1 200 OK\r\n{chunks}"), "200"),
        ("the end of the connection", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nokyes".to_owned(), "200"),
        ("HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nokyes".to_owned(), "200"),
        ("HTTP/1.0 to its end", "HTTP/1.0 200 OK\r\n\r\nokyes".to_owned(), "200"),
        ("hints before a length", format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nokyes"), "200"),
        ("hints before chunks", format!("{interim}HTTP/1.1 200 OK\r\n{chunks}"), "200"),
        ("204", "HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "204"),
        ("204 with a length", "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n".to_owned(), "204"),
        ("204 with a coding", "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), "204"),
    ] {
        // A response without a length ends when the API closes the connection.
        fixture.api.answer_once_and_close(of_api.clone());
        for version in ["1.0", "1.1"] {
            let what = format!("{what}, HTTP/{version}");
            let mut stream = fixture.connect().await;
            let request = format!("{}Connection: close\r\n\r\n", fixture.head("GET", version));
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answers = Vec::new();
            while let Some(answer) = read(&mut stream).await {
                answers.push(answer);
            }
            let last = answers.pop().unwrap_or_else(|| panic!("{what}: no answer"));
            assert!(last.head.starts_with("HTTP/1.1 "), "{what}: {last:?}");
            assert_eq!(last.status(), status, "{what}");
            let body =
                if last.field("transfer-encoding").is_some() { unchunked(&last.body) } else { last.body.clone() };
            assert_eq!(body, if status == "204" { "" } else { "okyes" }, "{what}");
            if status == "204" {
                assert_eq!((last.field("content-length"), last.field("transfer-encoding")), (None, None), "{what}");
            }
            if version == "1.0" {
                assert_eq!(last.field("transfer-encoding"), None, "{what}: {last:?}");
                assert!(answers.is_empty(), "{what}: {answers:?}");
            } else {
                assert_eq!(answers.len(), of_api.matches("HTTP/1.1 10").count(), "{what}: {answers:?}");
            }
            for answer in &answers {
                for name in ["connection", "content-length", "transfer-encoding", "keep-alive", "x-own"] {
                    assert_eq!(answer.field(name), None, "{what}: {answer:?}");
                }
                assert!(answer.status() != "103" || answer.field("link") == Some("</a>"), "{what}: {answer:?}");
            }
            fixture.api.received();
        }
    }
}

#[tokio::test]
async fn slow_first_bytes_do_not_change_protocol() {
    let fixture = Fixture::start().await;
    let bad = format!("{}Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", fixture.head("POST", "1.1"));
    let spaced = fixture.get().replace("siteId=RefArch", "siteId=RefArch&q=a b");
    let priced = fixture.get().replace("GET ", "PRICE ");
    for (what, request, status) in [
        ("a request that begins like the preface of HTTP/2", bad.as_str(), "400"),
        ("a body", &fixture.post(), "200"),
        ("a space in the target", &spaced, "400"),
        ("a method that begins like the preface of HTTP/2", &priced, "400"),
        ("a head that is shorter than the preface", "GET / HTTP/1.0\r\n\r\n", "404"),
    ] {
        for first in 1..4 {
            let mut stream = fixture.connect().await;
            stream.set_nodelay(true).unwrap();
            let (begin, rest) = request.as_bytes().split_at(first);
            for byte in begin {
                stream.write_all(&[*byte]).await.unwrap();
                // Usually the gateway reads each byte separately; no assertion depends on it.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stream.write_all(rest).await.unwrap();
            let answer = read(&mut stream).await.unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!(answer.status(), status, "{what}: {answer:?}");
            assert!(answer.field("x-shopper-gateway-error").is_some() || status == "200", "{what}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn client_that_reads_no_response_is_disconnected() {
    let mut fixture = Fixture::start().await;
    let one_second = |config: &mut toml::Table| {
        config.insert("timeouts".into(), "client_write = '1s'".parse::<toml::Table>().unwrap().into());
    };
    fixture.world.gateway.reload(one_second).unwrap();
    for request in ["HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = fixture.connect().await;
        let requests = request.repeat(1000);
        // The client reads nothing: the responses fill the buffers on the way, and the gateway reads no more.
        let cut = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(60), cut).await.expect("the connection is cut");
    }
    eventually("all of its requests are over", async || fixture.world.in_flight().await == 0).await;
}

#[tokio::test]
async fn client_sending_after_last_response_gets_no_reset() {
    let fixture = Fixture::start().await;
    let refused = fixture.head("POST", "1.1").replace(&fixture.token, "x.y.z");
    let request = format!("{}Connection: close\r\n\r\n", fixture.head("GET", "1.1"));
    for request in [request, format!("{refused}Content-Length: 200000\r\n\r\nb")] {
        let mut stream = fixture.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read(&mut stream).await.unwrap().closes());
        for _ in 0..5 {
            stream.write_all(&[b'b'; 1000]).await.unwrap();
            // The client goes on sending after it has the response.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.shutdown().await.unwrap();
        assert_eq!(read(&mut stream).await, None);
    }
}

#[tokio::test]
async fn connection_reset_by_client_ends_request() {
    let fixture = Fixture::start().await;
    for early in ["", "\r\n", "GET /next HTTP/1.1\r\n"] {
        fixture.api.hold(true);
        let stream = fixture.connect().await;
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        std::io::Write::write_all(&mut &stream, format!("{}{early}", fixture.post()).as_bytes()).unwrap();
        eventually("the API has the request", async || fixture.api.count() == 1).await;
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        eventually("the request is over", async || fixture.world.in_flight().await == 0).await;
        fixture.api.hold(false);
        fixture.api.received();
    }
}

#[tokio::test]
async fn expect_header_of_http_1_0_client_is_ignored() {
    let fixture = Fixture::start().await;
    let mut stream = fixture.connect().await;
    let head = fixture.head("POST", "1.0");
    stream.write_all(format!("{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
    let answer = read(&mut stream).await.unwrap();
    assert_eq!(answer.status(), "200", "{answer:?}");
    let received = fixture.api.received();
    assert_eq!((received[0].field("expect"), received[0].body.as_str()), (vec![], "{}"));
}

#[tokio::test]
async fn request_without_body_has_content_length_0_for_http_1_api() {
    let fixture = Fixture::start().await;
    let clients = [
        Client::builder().no_proxy().http2_prior_knowledge().build().unwrap(),
        Client::builder().no_proxy().build().unwrap(),
    ];
    for client in clients {
        for (method, target, length) in [
            (Method::POST, baskets("?siteId=RefArch"), Some("0")),
            (Method::PUT, baskets("/b1/customer?siteId=RefArch"), Some("0")),
            (Method::PATCH, baskets("/b1?siteId=RefArch"), Some("0")),
            (Method::DELETE, baskets("/b1?siteId=RefArch"), None),
            (Method::GET, products("/a1?siteId=RefArch"), None),
        ] {
            let target = format!("http://{}{target}", fixture.world.gateway.address);
            let answer = client.request(method.clone(), target).bearer_auth(&fixture.token).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{method}");
            let received = fixture.api.received();
            let lengths = received[0].field("content-length");
            assert_eq!(lengths.first().copied(), length, "{method}: {}", received[0].head);
            assert!(lengths.len() < 2 && received[0].field("transfer-encoding").is_empty(), "{}", received[0].head);
        }
    }
}
