//! Clients that frame one request byte by byte, in HTTP/1.1 and HTTP/2, and read the response.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::floods::raw_http2::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, integer};

/// The time after which a missing response fails the test.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const PADDED: u8 = 8;
/// `:status: 200` in the static table (RFC 7541, appendix A), as a field's first byte.
const STATUS_200: u8 = 0x88;

/// A request without its framing.
#[derive(Debug, Clone)]
pub struct Head {
    pub method: &'static str,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(&'static str, String)>,
}

/// The response that the client received.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether the status is 200.
    pub is_ok: bool,
    pub body: String,
    /// Whether the connection accepts another request.
    pub goes_on: bool,
}

/// A connection in HTTP/1.1.
pub struct Http1(TcpStream);

impl Http1 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// The request line and fields. `framing`: `Content-Length` or `Transfer-Encoding`, with its line end, or nothing.
    pub fn head(head: &Head, framing: &str) -> Vec<u8> {
        let fields: String = head.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nHost: a\r\n{fields}{framing}\r\n", head.method, head.target).into_bytes()
    }

    /// Ignores a failed write: the gateway has closed the connection early, which a later read shows.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }

    /// Reads one answer; 1xx answers are skipped.
    pub async fn read(&mut self, is_head: bool) -> Answer {
        tokio::time::timeout(WAIT_TIMEOUT, self.read_answer(is_head)).await.expect("no answer came in time")
    }

    async fn read_answer(&mut self, is_head: bool) -> Answer {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end + 4;
                }
                if !self.0.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    return Answer::default();
                }
            };
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            bytes.drain(..end);
            assert!(head.starts_with("http/1.1 "), "bytes before an answer: {head:?}");
            if head.starts_with("http/1.1 1") {
                continue;
            }
            let field = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name));
            let body = if is_head {
                Some(Vec::new())
            } else if field("transfer-encoding: ") == Some("chunked") {
                self.read_chunks(&mut bytes).await
            } else {
                let length = field("content-length: ").and_then(|length| length.parse().ok()).unwrap_or(0);
                self.take(&mut bytes, length).await
            };
            let Some(body) = body else { return Answer::default() };
            assert!(bytes.is_empty(), "bytes behind an answer: {:?}", String::from_utf8_lossy(&bytes));
            return Answer {
                is_ok: head.starts_with("http/1.1 200"),
                body: String::from_utf8(body).unwrap(),
                goes_on: field("connection: ") != Some("close"),
            };
        }
    }

    async fn read_chunks(&mut self, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match bytes.windows(2).position(|window| window == b"\r\n") {
                    Some(line) => break line,
                    None if self.0.read_buf(bytes).await.is_ok_and(|read| read > 0) => {}
                    None => return None,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
            bytes.drain(..line + 2);
            let chunk = self.take(bytes, size + 2).await?;
            assert!(chunk.ends_with(b"\r\n"), "a chunk without line end");
            if size == 0 {
                return Some(body);
            }
            body.extend(&chunk[..size]);
        }
    }

    /// Takes a number of bytes; `None` if the connection ends before.
    async fn take(&mut self, bytes: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
        while bytes.len() < length {
            if !self.0.read_buf(bytes).await.is_ok_and(|read| read > 0) {
                return None;
            }
        }
        Some(bytes.drain(..length).collect())
    }
}

/// A connection in HTTP/2, without TLS.
pub struct Http2 {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// A HEADERS frame, with `END_STREAM` if `ends`.
    pub fn head(head: &Head, length: Option<usize>, stream: u32, ends: bool) -> Vec<u8> {
        let mut block = Vec::new();
        let pseudo = [(":method", head.method), (":scheme", "http"), (":path", &head.target), (":authority", "a")];
        let length = length.map(|length| ("content-length", length.to_string()));
        let fields = head.fields.iter().chain(&length).map(|(name, value)| (*name, value.as_str()));
        for (name, value) in pseudo.into_iter().chain(fields) {
            literal(&mut block, name, value);
        }
        frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block)
    }

    /// A DATA frame, with optional padding.
    pub fn data(bytes: &[u8], padding: Option<u8>, stream: u32, ends: bool) -> Vec<u8> {
        let flags = if ends { END_STREAM } else { 0 };
        match padding {
            None => frame(DATA, flags, stream, bytes),
            Some(padding) => {
                let payload = [&[padding], bytes, &vec![0; usize::from(padding)]].concat();
                frame(DATA, flags | PADDED, stream, &payload)
            }
        }
    }

    /// Trailers, which end the stream.
    pub fn trailers(stream: u32) -> Vec<u8> {
        let mut block = Vec::new();
        literal(&mut block, "x-trailer", "a");
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    }

    /// The client resets a stream, with this error code (RFC 9113, 7).
    pub fn reset(stream: u32, reason: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, &reason.to_be_bytes())
    }

    /// The client opens no more streams.
    pub fn go_away() -> Vec<u8> {
        frame(GOAWAY, 0, 0, &[0; 8])
    }

    /// Ignores a failed write: the gateway has closed the connection early, which a later read shows.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads until the answer on this stream is complete.
    pub async fn read(&mut self, stream: u32) -> Answer {
        let until = Instant::now() + WAIT_TIMEOUT;
        let mut answer = Answer { goes_on: true, ..Answer::default() };
        let mut seen_head = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let next = tokio::time::timeout(left, self.next_frame()).await.expect("no answer came in time");
            let Some((kind, flags, of, payload)) = next else {
                answer.goes_on = false;
                return answer;
            };
            match (kind, of == stream) {
                (SETTINGS, _) if flags & ACK == 0 => self.write(&frame(SETTINGS, ACK, 0, &[])).await,
                (GOAWAY, _) => answer.goes_on = false,
                (HEADERS, true) if !seen_head => {
                    seen_head = true;
                    // A dynamic table size update may come first (RFC 7541, 6.3).
                    let first = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                    answer.is_ok = first == Some(&STATUS_200);
                }
                (DATA, true) => answer.body.push_str(&String::from_utf8_lossy(&payload)),
                (RST_STREAM, true) => return answer,
                _ => {}
            }
            if of == stream && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                return answer;
            }
        }
    }

    async fn next_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some((head, rest)) = self.unread.split_at_checked(9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if let Some(payload) = rest.get(..length) {
                    let payload = payload.to_vec();
                    self.unread.drain(..9 + length);
                    return Some((kind, flags, stream, payload));
                }
            }
            if !self.stream.read_buf(&mut self.unread).await.is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }
}

/// A literal field without indexing (RFC 7541, 6.2.2).
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.extend(integer(text.len()));
        block.extend(text.as_bytes());
    }
}
