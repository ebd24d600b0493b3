//! An API that parses requests strictly, records them byte by byte, and responds with bytes that a test supplies.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Makes status and body of an answer from a request's target and body.
pub type Respond = Box<dyn Fn(&str, &str) -> (u16, String) + Send + Sync>;

const DEFAULT_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// Listens until the test ends.
pub struct RawUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    jwks: String,
    answer: Mutex<Vec<u8>>,
    respond: Mutex<Option<Respond>>,
    received: Mutex<Vec<Received>>,
    held: watch::Sender<bool>,
    closes: AtomicBool,
}

/// One request as received.
#[derive(Debug, Clone)]
pub struct Received {
    /// Request line and fields, with their line ends.
    pub head: String,
    /// The body without its framing.
    pub body: String,
    /// The violation of HTTP/1.1, or the note that the request broke off.
    pub fault: Option<String>,
}

impl Received {
    /// Path and query.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap()
    }

    /// The values of a field, in any case of its name.
    pub fn field(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

impl RawUpstream {
    /// Publishes this key set, which a gateway in front of it needs.
    pub async fn start(jwks: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Mutex::new(DEFAULT_ANSWER.into());
        let shared = Arc::new(Shared {
            jwks,
            answer,
            respond: Mutex::default(),
            received: Mutex::default(),
            held: watch::Sender::new(false),
            closes: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&serving)));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the response to every request from now on. Without bytes the connection closes.
    pub fn answer(&self, bytes: impl Into<Vec<u8>>) {
        *self.shared.answer.lock().unwrap() = bytes.into();
    }

    /// Sets the response to every request from now on, after which the connection closes.
    pub fn answer_once_and_close(&self, bytes: impl Into<Vec<u8>>) {
        self.answer(bytes);
        self.shared.closes.store(true, Ordering::Relaxed);
    }

    /// From now on the response to each complete request depends on its content.
    pub fn respond_with(&self, respond: Respond) {
        *self.shared.respond.lock().unwrap() = Some(respond);
    }

    /// Holds responses back until it is called with `false`.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// The number of received requests that were not taken.
    pub fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// Takes the received requests, without the gateway's own requests for keys.
    pub fn received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.shared.received.lock().unwrap())
    }
}

async fn converse(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some((request, used)) = read(&mut stream, &mut buffer).await {
        buffer.drain(..used);
        let broken = request.fault.is_some();
        let is_for_keys = request.line().contains("/jwk");
        let answer = if is_for_keys {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", shared.jwks.len(), shared.jwks).into_bytes()
        } else {
            let answer = match &*shared.respond.lock().unwrap() {
                Some(respond) if !broken => written(&request, respond(request.target(), &request.body)),
                _ => shared.answer.lock().unwrap().clone(),
            };
            shared.received.lock().unwrap().push(request);
            let _ = shared.held.subscribe().wait_for(|held| !held).await;
            answer
        };
        // An empty response closes the connection.
        let closes = broken || (shared.closes.load(Ordering::Relaxed) && !is_for_keys);
        if answer.is_empty() || stream.write_all(&answer).await.is_err() || closes {
            return;
        }
    }
}

fn written(request: &Received, (status, body): (u16, String)) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    if request.line().starts_with("HEAD ") { head.into_bytes() } else { [head, body].concat().into_bytes() }
}

/// Reads one request, and returns it with its length in bytes.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(Received, usize)> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if !fill(stream, buffer).await {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut request = Received { fault: fault(&buffer[..end]), head, body: String::new() };
    let mut used = end;
    if request.field("transfer-encoding") == ["chunked"] {
        loop {
            let line = loop {
                match find(&buffer[used..], b"\r\n") {
                    Some(line) => break line,
                    None if !fill(stream, buffer).await => return Some((broken(request, "a chunk without end"), used)),
                    None => {}
                }
            };
            let text = String::from_utf8_lossy(&buffer[used..used + line]).into_owned();
            let Some(size) = chunk_size(&text) else {
                return Some((broken(request, &format!("chunk size {text:?}")), buffer.len()));
            };
            let start = used + line + 2;
            while buffer.len() < start + size + 2 {
                if !fill(stream, buffer).await {
                    return Some((broken(request, "a chunk too short"), used));
                }
            }
            if &buffer[start + size..start + size + 2] != b"\r\n" {
                return Some((broken(request, "a chunk, or a trailer, without line end"), buffer.len()));
            }
            request.body.push_str(&String::from_utf8_lossy(&buffer[start..start + size]));
            used = start + size + 2;
            if size == 0 {
                return Some((request, used));
            }
        }
    }
    let length = request.field("content-length").first().and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        if !fill(stream, buffer).await {
            return Some((broken(request, "a body too short"), buffer.len()));
        }
    }
    request.body = String::from_utf8_lossy(&buffer[end..end + length]).into_owned();
    Some((request, end + length))
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    stream.read_buf(buffer).await.is_ok_and(|read| read > 0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn broken(mut request: Received, why: &str) -> Received {
    request.fault.get_or_insert_with(|| why.to_owned());
    request
}

fn chunk_size(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (digits && !text.is_empty()).then(|| usize::from_str_radix(text, 16).ok()).flatten()
}

/// The violation of HTTP/1.1 (RFC 9112) in a head. The parser is strict.
fn fault(head: &[u8]) -> Option<String> {
    let Ok(text) = std::str::from_utf8(head) else { return Some("bytes that are not UTF-8".into()) };
    let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let line: Vec<&str> = lines[0].split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Some(format!("request line {:?}", lines[0])) };
    if !["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method) {
        return Some(format!("method {method:?}"));
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#') {
        return Some(format!("target {target:?}"));
    }
    let mut seen: Vec<(String, &str)> = Vec::new();
    for line in &lines[1..] {
        let Some((name, value)) = line.split_once(':') else { return Some(format!("field {line:?}")) };
        if !is_token(name) || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Some(format!("field {line:?}"));
        }
        seen.push((name.to_ascii_lowercase(), value.trim()));
    }
    let values =
        |name: &str| -> Vec<&str> { seen.iter().filter(|(own, _)| own == name).map(|(_, value)| *value).collect() };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    if values("host").len() != 1 {
        return Some("not one Host".into());
    }
    if values("authorization").len() > 1 {
        return Some("two credentials".into());
    }
    if lengths.len() > 1
        || lengths.iter().any(|length| length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Some(format!("Content-Length {lengths:?}"));
    }
    if !codings.is_empty() && (codings != ["chunked"] || !lengths.is_empty()) {
        return Some(format!("Transfer-Encoding {codings:?} beside Content-Length {lengths:?}"));
    }
    None
}
