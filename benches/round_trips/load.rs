//! The load: requests over open connections, as many as will go or at a rate of their own.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::{sleep_until, timeout},
};

/// Timeout, longer than any successful request takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests, byte for byte, sent in turn.
pub struct Requests {
    heads: Vec<Vec<u8>>,
    next: Cell<usize>,
    /// Each is sent once, and there are enough of them.
    once: bool,
}

impl Requests {
    /// One after the other, and from the first again.
    pub fn in_rotation(heads: Vec<Vec<u8>>) -> Rc<Self> {
        Rc::new(Self { heads, next: Cell::new(0), once: false })
    }

    /// One after the other, until they are used up.
    pub fn once(heads: Vec<Vec<u8>>) -> Rc<Self> {
        Rc::new(Self { heads, next: Cell::new(0), once: true })
    }

    /// The first of them.
    pub fn first(&self) -> &[u8] {
        self.heads.first().map_or(&[], Vec::as_slice)
    }

    fn take(&self) -> Option<&[u8]> {
        let turn = self.next.replace(self.next.get() + 1);
        if self.once { self.heads.get(turn) } else { self.heads.get(turn % self.heads.len()) }.map(Vec::as_slice)
    }
}

/// Result of a run.
#[derive(Default)]
pub struct Outcome {
    pub answered: usize,
    /// Answers that were no success, and connections that broke.
    pub failed: usize,
    pub took: Duration,
    /// From when a request was due until its answer was there, microseconds, in order.
    latencies: Vec<u32>,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    /// Latency that this share of the requests stayed below, microseconds.
    pub fn quantile(&self, share: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
    }
}

/// When requests are due.
#[derive(Clone, Copy)]
pub enum Pace {
    /// Each as soon as its connection's last one is answered.
    Saturating,
    /// So many a second, whatever comes back.
    PerSecond(f64),
}

/// Sends requests for `lasting` over so many connections.
pub async fn send(
    to: SocketAddr,
    requests: &Rc<Requests>,
    connections: usize,
    pace: Pace,
    lasting: Duration,
) -> Outcome {
    let began = Instant::now();
    let tally = Rc::new(Tally { began, end: began + lasting, due: Cell::new(0), pace });
    let tasks = LocalSet::new();
    let running: Vec<_> =
        (0..connections).map(|_| tasks.spawn_local(connection(to, Rc::clone(requests), Rc::clone(&tally)))).collect();
    tasks.await;
    let mut outcome = Outcome::default();
    for connection in running {
        let (latencies, failed) = connection.await.unwrap_or((Vec::new(), 1));
        outcome.latencies.extend(latencies);
        outcome.failed += failed;
    }
    outcome.took = began.elapsed();
    outcome.answered = outcome.latencies.len();
    outcome.latencies.sort_unstable();
    outcome
}

struct Tally {
    began: Instant,
    end: Instant,
    due: Cell<u32>,
    pace: Pace,
}

impl Tally {
    /// When the next request is due; `None`: it is over.
    fn next(&self) -> Option<Instant> {
        let due = match self.pace {
            Pace::Saturating => Instant::now(),
            Pace::PerSecond(rate) => {
                let number = self.due.replace(self.due.get() + 1);
                // The resolution of the timer is not counted as latency.
                let millis = (f64::from(number) / rate * 1000.0).ceil();
                self.began + Duration::from_millis(millis as u64)
            }
        };
        (due < self.end).then_some(due)
    }
}

async fn connection(to: SocketAddr, requests: Rc<Requests>, tally: Rc<Tally>) -> (Vec<u32>, usize) {
    let (mut latencies, mut failed) = (Vec::with_capacity(16 * 1024), 0);
    let mut stream: Option<TcpStream> = None;
    let mut buffer = vec![0; 16 * 1024];
    while let Some(due) = tally.next() {
        if due > Instant::now() {
            sleep_until(due.into()).await;
        }
        let Some(request) = requests.take() else { break };
        match timeout(PATIENCE, exchange(&mut stream, to, request, &mut buffer)).await {
            Ok(Ok(Answer { status: 200, closes })) => {
                latencies.push(due.elapsed().as_micros() as u32);
                // A server that closes after each response gets a new connection, as from a browser.
                if closes {
                    stream = None;
                }
            }
            Ok(Ok(_)) => failed += 1,
            Ok(Err(_)) | Err(_) => {
                failed += 1;
                stream = None;
            }
        }
    }
    (latencies, failed)
}

/// A response.
struct Answer {
    status: u16,
    /// Whether its connection ends with it.
    closes: bool,
}

/// Sends one request, and reads its answer.
async fn exchange(
    stream: &mut Option<TcpStream>,
    to: SocketAddr,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<Answer> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let connected = TcpStream::connect(to).await?;
            connected.set_nodelay(true)?;
            stream.insert(connected)
        }
    };
    stream.write_all(request).await?;
    let mut filled = 0;
    let (head, length) = loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        if let Some(head) = find(&buffer[..filled], b"\r\n\r\n") {
            break (head + 4, body_length(&buffer[..head])?);
        }
    };
    let status: Option<u16> = std::str::from_utf8(&buffer[9..12]).ok().and_then(|text| text.parse().ok());
    let closes = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase().contains("connection: close");
    let mut missing = match length {
        Length::Known(length) => (head + length).saturating_sub(filled),
        Length::Chunked => {
            while !buffer[..filled].ends_with(b"0\r\n\r\n") {
                match stream.read(&mut buffer[filled..]).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => filled += count,
                }
            }
            0
        }
    };
    while missing > 0 {
        match stream.read(&mut buffer[head..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => missing = missing.saturating_sub(count),
        }
    }
    status.map(|status| Answer { status, closes }).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

enum Length {
    Known(usize),
    Chunked,
}

fn body_length(head: &[u8]) -> io::Result<Length> {
    let mut lines = head.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Some(Length::Chunked);
            }
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok().map(Length::Known))?
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without a length"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A connection that has had one good answer.
pub async fn once_and_rest(to: SocketAddr, request: &[u8]) -> io::Result<TcpStream> {
    let (mut stream, mut buffer) = (None, vec![0; 16 * 1024]);
    match exchange(&mut stream, to, request, &mut buffer).await?.status {
        200 => stream.ok_or_else(|| io::ErrorKind::NotConnected.into()),
        status => Err(io::Error::other(format!("{to} answers {status}"))),
    }
}

/// The status of one answer, and its head, over a connection of its own.
pub async fn once(to: SocketAddr, request: &[u8]) -> io::Result<(u16, String)> {
    let mut buffer = vec![0; 16 * 1024];
    let status = exchange(&mut None, to, request, &mut buffer).await?.status;
    let end = find(&buffer, b"\r\n\r\n").unwrap_or(0);
    Ok((status, String::from_utf8_lossy(&buffer[..end]).into_owned()))
}
