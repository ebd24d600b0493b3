//! One client's connection, between the socket or TLS and the HTTP library.
//!
//! Owns what the library does not look after: it tells the [`HeadClock`] of bytes, follows the
//! [`Frames`] of HTTP/2, and says in our words what the library says by itself. Refuses to know what
//! the requests are.

mod client;
mod clock;
mod frames;
mod framing;
mod unread;

use std::{
    fmt,
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use async_trait::async_trait;
use http::StatusCode;
use pingora::{
    http::ResponseHeader,
    protocols::{
        ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
        TimingDigest, UniqueID, UniqueIDType,
        raw_connect::ProxyDigest,
        tls::{SslDigest, TlsRef},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};

pub(crate) use self::{
    client::Client,
    clock::{HeadClock, Overdue},
};
use self::{
    frames::{Flood, Frames, Owed, PREFACE},
    framing::RequestFraming,
};
use crate::{
    gate::refusal::{LargePart, Refusal},
    in_flight::Unsent,
    metrics::Metrics,
};

/// A head and a short body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 1460;
/// Most bytes that are read when a rest ends: as many as the library reads of a head at a time.
const EARLY_BYTES: usize = 4096;

/// How long a connection is read after its last answer, if the client does not close it earlier.
const LINGER: Duration = Duration::from_secs(2);

/// How much of it is read and dropped at a time.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// A client's connection.
pub(crate) struct Connection {
    io: BufWriter<Stream>,
    /// What arrived and belongs to the next request, until that is read: of one read of the library's at most.
    early: Vec<u8>,
    client: Arc<Client>,
    protocol: Protocol,
    /// Most bytes of a head in HTTP/1.1, and how many have arrived.
    head_limit: usize,
    head_bytes: usize,
    /// What goes out instead of the library's own answer, and how much of it has.
    instead: Option<(Vec<u8>, usize)>,
    carried: Arc<ProxyDigest>,
    unsent: Unsent,
    metrics: Arc<Metrics>,
}

enum Protocol {
    Unknown,
    Http1(RequestFraming),
    Http2(Frames),
}

impl Connection {
    /// Over `io`, which has shaken hands. The library itself would take in a head of 1 MiB; here it ends
    /// after `head_limit` bytes.
    pub(crate) fn new(
        io: Stream,
        client: Arc<Client>,
        head_limit: usize,
        unsent: Unsent,
        metrics: Arc<Metrics>,
    ) -> pingora::Result<Self> {
        // The library hands this to every request of the connection; it is the one place for data of our own.
        let carried = ProxyDigest::new(
            Box::new(ResponseHeader::build(StatusCode::OK, Some(0))?),
            Some(Box::new(Arc::clone(&client))),
        );
        Ok(Self {
            io: BufWriter::with_capacity(WRITE_BUFFER_BYTES, io),
            early: Vec::new(),
            client,
            protocol: Protocol::Unknown,
            head_limit,
            head_bytes: 0,
            instead: None,
            carried: Arc::new(carried),
            unsent,
            metrics,
        })
    }

    /// Whether the client speaks HTTP/2: agreed on in TLS, or seen by the preface without.
    ///
    /// # Errors
    /// If it has gone before that can be told.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        let io = self.io.get_mut();
        if io.get_ssl_digest().is_some() {
            return Ok(matches!(io.selected_alpn_proto(), Some(ALPN::H2)));
        }
        let mut first = [0; PREFACE.len()];
        Ok(io.try_peek(&mut first).await? && first == *PREFACE)
    }

    /// Rests after a request until the client sends something, and says whether it does. Takes no room meanwhile.
    /// The clock says when that has been for too long.
    pub(crate) async fn rest(&mut self, at_most: Duration) -> bool {
        self.client.clock.rest(at_most);
        if let Protocol::Http1(framing) = &mut self.protocol {
            *framing = RequestFraming::new();
            self.client.note_syntax(framing);
        }
        poll_fn(|context| {
            loop {
                // Some clients end a body with an empty line (RFC 9112, 2.2): no request begins with it.
                while self.early.starts_with(b"\r\n") {
                    self.early.drain(..2);
                }
                if !self.early.is_empty() {
                    return Poll::Ready(true);
                }
                let mut room = [const { MaybeUninit::uninit() }; EARLY_BYTES];
                let mut early = ReadBuf::uninit(&mut room);
                let read = ready!(Pin::new(&mut self.io).poll_read(context, &mut early));
                self.early = early.filled().to_vec();
                if read.is_err() || self.early.is_empty() {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// Follows bytes on their way to the library, and says how many of them it may have.
    fn arrived(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if matches!(self.protocol, Protocol::Unknown) {
            let is_http2 = Frames::begin_with(bytes);
            self.protocol =
                if is_http2 { Protocol::Http2(Frames::new()) } else { Protocol::Http1(RequestFraming::new()) };
        }
        match &mut self.protocol {
            Protocol::Unknown => {}
            Protocol::Http1(framing) => {
                if self.client.clock.bytes_arrived() {
                    self.head_bytes = 0;
                }
                let own = framing.follow(bytes);
                self.head_bytes += own;
                self.client.note_syntax(framing);
                return Ok(own);
            }
            Protocol::Http2(frames) => match frames.follow(bytes) {
                Ok(Owed::Nothing) => self.client.clock.head_arrived(),
                Ok(Owed::Same) if self.client.clock.is_head_owed() => {}
                Ok(Owed::Same | Owed::Anew) => self.client.clock.begin(),
                Err(Flood) => {
                    self.metrics.connections_cut.with_label_values(&["flood"]).inc();
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "a flood of HTTP/2 frames"));
                }
            },
        }
        Ok(bytes.len())
    }

    /// Whether the bytes of the request under way have all been handed on.
    fn is_request_complete(&self) -> bool {
        matches!(&self.protocol, Protocol::Http1(framing) if framing.is_complete())
    }

    /// Whether what is written now is the library's own: no request has got as far as us.
    fn is_unread(&self) -> bool {
        matches!(self.protocol, Protocol::Http1(_)) && self.client.clock.is_head_owed()
    }

    /// Notes a write or flush that has to wait. Only a flush tells that nothing does any more: TLS has a buffer of its own.
    fn held_up<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.unsent.begin();
        }
        written
    }

    /// Reads and drops what still arrives. A system that closes with bytes unread resets the connection, and the client
    /// loses the answer (RFC 9112, 9.6).
    async fn read_on(&mut self) {
        let mut room = vec![0; LINGER_READ_BYTES];
        while let Ok(1..) = self.io.get_mut().read(&mut room).await {}
    }

    fn poll_instead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((answer, written)) = self.instead.as_mut().filter(|(answer, written)| *written < answer.len()) {
            match ready!(Pin::new(&mut self.io).poll_write(context, &answer[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn not_chunked() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the body is not chunked as HTTP writes it")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_unread() && self.head_bytes > self.head_limit {
            let too_large = unread::answer(&Refusal::TooLarge(LargePart::Head), &self.metrics);
            self.instead = Some((too_large, 0));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the head is too large")));
        }
        if self.client.is_body_malformed() {
            return Poll::Ready(Err(not_chunked()));
        }
        let before = buffer.filled().len();
        if self.early.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        } else if self.is_request_complete() {
            // The next request waits for its turn: whoever reads now only asks whether the client is there.
            return Poll::Pending;
        } else {
            let early = mem::take(&mut self.early);
            let (now, later) = early.split_at(early.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.early = later.to_vec();
        }
        let own = before + self.arrived(buffer.filled().get(before..).unwrap_or_default())?;
        let next = buffer.filled().get(own..).unwrap_or_default();
        if next.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.early.splice(..0, next.iter().copied());
        buffer.set_filled(own);
        match own {
            own if own > before => Poll::Ready(Ok(())),
            _ if self.client.is_body_malformed() => Poll::Ready(Err(not_chunked())),
            _ => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.instead.is_some() || self.is_unread() {
            if self.instead.is_none() {
                self.instead = Some((unread::answer(&unread::meant(bytes), &self.metrics), 0));
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.held_up(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(context))?;
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        if flushed.is_ready() {
            self.unsent.flushed();
        }
        self.held_up(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.instead.is_some() || self.is_unread() {
            let first = bytes.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(context, first);
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.held_up(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Drop for Connection {
    /// The library leaves an answer after which it closes to this; a full socket has no more time.
    fn drop(&mut self) {
        let _ = Pin::new(self).poll_flush(&mut Context::from_waker(Waker::noop()));
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // Whoever has gone does not read it.
        let _ = self.flush().await;
        let _ = self.io.get_mut().shutdown().await;
        let _ = tokio::time::timeout(LINGER, self.read_on()).await;
    }
}

#[async_trait]
impl Peek for Connection {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.io.get_mut().try_peek(buffer).await
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().id()
    }
}

impl Ssl for Connection {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.io.get_ref().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.get_ref().selected_alpn_proto()
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_ref().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.io.get_ref().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.io.get_ref().get_write_pending_time()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.carried))
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_ref().get_socket_digest()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("client", &self.client).finish_non_exhaustive()
    }
}
