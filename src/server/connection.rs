//! One client's connection, between the socket or TLS and the HTTP library.
//!
//! It does what the library leaves out: it tells the [`HeadDeadline`] of bytes, hands on one request of HTTP/1.1 at a time
//! ([`RequestFraming`]), follows the [`H2FrameTracker`] of HTTP/2, bounds the time of writes, closes without a reset, and says in our words
//! what the library says by itself.

mod early_error;
mod h1_framing;
mod h2_flood;
mod read_deadline;
mod state;

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
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf},
    time::{Sleep, sleep},
};

use self::{
    h1_framing::RequestFraming,
    h2_flood::{FloodDetected, H2FrameTracker, HeadState, PREFACE},
};
pub(crate) use self::{
    read_deadline::{Expired, HeadDeadline},
    state::ConnectionState,
};
use crate::{
    gateway::error::{GatewayError, TooLargePart},
    observability::metrics::Metrics,
    shutdown::UnflushedGuard,
};

/// A head and a short body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 1460;
/// Most bytes that are read when a rest ends: as many as the library reads of a head at a time.
const READ_AHEAD_BYTES: usize = 4096;

/// How long a connection is kept after its last answer, if the client does not close it earlier.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of later requests that are kept: some heads.
const MAX_PIPELINED_BYTES: usize = 16 * 1024;

/// A client's connection.
pub(crate) struct Connection {
    io: BufWriter<Stream>,
    /// What arrived before the library may have it, [`MAX_PIPELINED_BYTES`] and one small read at most.
    read_ahead: Vec<u8>,
    state: Arc<ConnectionState>,
    protocol: Protocol,
    /// Most bytes of a head in HTTP/1.1, and how many have arrived.
    head_limit: usize,
    head_bytes: usize,
    /// What goes out instead of the library's own answer, and how much of it has.
    early_response: Option<(Vec<u8>, usize)>,
    proxy_digest: Arc<ProxyDigest>,
    unflushed: UnflushedGuard,
    /// How long the client may take nothing of what is written, and until when while it does.
    write_timeout: Duration,
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// Until when the closing connection is kept, and whether the gateway's half is closed.
    linger_deadline: Option<Pin<Box<Sleep>>>,
    is_half_closed: bool,
    metrics: Arc<Metrics>,
}

enum Protocol {
    Http1(RequestFraming),
    Http2(H2FrameTracker),
}

impl Connection {
    /// Over `io`, which has shaken hands. The library itself would take in a head of 1 MiB; here it ends
    /// after `head_limit` bytes. Fails if the client takes nothing of an answer for `write_timeout`.
    pub(crate) fn new(
        io: Stream,
        state: Arc<ConnectionState>,
        head_limit: usize,
        write_timeout: Duration,
        unflushed: UnflushedGuard,
        metrics: Arc<Metrics>,
    ) -> pingora::Result<Self> {
        // The library hands this to every request of the connection; it is the one place for data of our own.
        let proxy_digest = ProxyDigest::new(
            Box::new(ResponseHeader::build(StatusCode::OK, Some(0))?),
            Some(Box::new(Arc::clone(&state))),
        );
        Ok(Self {
            io: BufWriter::with_capacity(WRITE_BUFFER_BYTES, io),
            read_ahead: Vec::new(),
            state,
            protocol: Protocol::Http1(RequestFraming::new()),
            head_limit,
            head_bytes: 0,
            early_response: None,
            proxy_digest: Arc::new(proxy_digest),
            unflushed,
            write_timeout,
            write_deadline: None,
            linger_deadline: None,
            is_half_closed: false,
            metrics,
        })
    }

    /// Whether the client speaks HTTP/2: agreed on in TLS, or seen by the preface without. The connection is one of that
    /// protocol from then on.
    ///
    /// # Errors
    /// If it has gone before it said anything.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        let is_http2 = if self.io.get_ref().get_ssl_digest().is_some() {
            matches!(self.io.get_ref().selected_alpn_proto(), Some(ALPN::H2))
        } else {
            self.begins_with_preface().await?
        };
        self.protocol =
            if is_http2 { Protocol::Http2(H2FrameTracker::new()) } else { Protocol::Http1(RequestFraming::new()) };
        Ok(is_http2)
    }

    /// Reads as much as tells the preface of HTTP/2 from anything else. The library gets it again.
    async fn begins_with_preface(&mut self) -> io::Result<bool> {
        while self.read_ahead.len() < PREFACE.len() && PREFACE.starts_with(&self.read_ahead) {
            let has_more = poll_fn(|context| self.poll_read_ahead(context)).await?;
            if !has_more && self.read_ahead.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !has_more {
                break;
            }
        }
        Ok(self.read_ahead.starts_with(PREFACE))
    }

    /// Reads a little ahead of the library, and says whether anything came. The room for it is on the stack, and not in a
    /// future that lives as long as the connection.
    fn poll_read_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut room = [const { MaybeUninit::uninit() }; READ_AHEAD_BYTES];
        let mut more = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut more))?;
        self.read_ahead.extend_from_slice(more.filled());
        Poll::Ready(Ok(!more.filled().is_empty()))
    }

    /// Rests after a request until the client sends something, and says whether it does. Takes no room meanwhile.
    /// The clock says when that has been for too long.
    pub(crate) async fn wait_for_request(&mut self, idle_timeout: Duration) -> bool {
        self.state.deadline.start_idle(idle_timeout);
        if let Protocol::Http1(framing) = &mut self.protocol {
            *framing = RequestFraming::new();
            self.state.note_syntax(framing);
        }
        poll_fn(|context| {
            loop {
                // Some clients end a body with an empty line (RFC 9112, 2.2): no request begins with it.
                let empty_lines = self.read_ahead.chunks(2).take_while(|pair| *pair == b"\r\n").count();
                self.read_ahead.drain(..2 * empty_lines);
                if self.state.must_close() {
                    return Poll::Ready(false);
                }
                if !self.read_ahead.is_empty() {
                    return Poll::Ready(true);
                }
                if !ready!(self.poll_read_ahead(context)).unwrap_or(false) {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// Follows bytes on their way to the library, and says how many of them it may have.
    fn track_read(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match &mut self.protocol {
            Protocol::Http1(framing) => {
                if self.state.deadline.on_bytes() {
                    self.head_bytes = 0;
                }
                let own = framing.track(bytes);
                self.head_bytes += own;
                self.state.note_syntax(framing);
                return Ok(own);
            }
            Protocol::Http2(frames) => match frames.track(bytes) {
                Ok(HeadState::Complete) => self.state.deadline.complete_head(),
                Ok(HeadState::Pending) if self.state.deadline.is_head_pending() => {}
                Ok(HeadState::Pending | HeadState::Started) => self.state.deadline.start_head(),
                Err(FloodDetected) => {
                    self.metrics.connections_closed.with_label_values(&["flood"]).inc();
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "a flood of HTTP/2 frames"));
                }
            },
        }
        Ok(bytes.len())
    }

    /// Waits while the next request waits for its turn: the library reads then only to see that the client has gone. Fails if
    /// the connection does. A client that has closed its half of it may still read.
    fn poll_until_closed<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        while self.read_ahead.len() < READ_AHEAD_BYTES && !self.state.must_close() {
            if !ready!(self.poll_read_ahead(context))? {
                break;
            }
        }
        Poll::Pending
    }

    /// Whether the bytes of the request under way have all been handed on.
    fn is_request_complete(&self) -> bool {
        matches!(&self.protocol, Protocol::Http1(framing) if framing.is_complete())
    }

    /// Whether what is written now is the library's own: no request has got as far as us.
    fn is_before_request(&self) -> bool {
        matches!(self.protocol, Protocol::Http1(_)) && self.state.deadline.is_head_pending()
    }

    /// Notes a write or flush that has to wait, and fails if the client has taken nothing for too long: the library limits
    /// the time of bodies alone. Only a flush tells that nothing waits any more: TLS has a buffer of its own.
    fn note_pending_write<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        self.unflushed.mark_pending();
        let write_timeout = self.write_timeout;
        let write_deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(write_deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of the answer")))
    }

    fn poll_write_early_response(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((answer, written)) =
            self.early_response.as_mut().filter(|(answer, written)| *written < answer.len())
        {
            match ready!(Pin::new(&mut self.io).poll_write(context, &answer[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn invalid_chunking_error() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the body is not chunked as HTTP writes it")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_before_request() && self.head_bytes > self.head_limit {
            let too_large = early_error::response(&GatewayError::TooLarge(TooLargePart::Head), &self.metrics);
            self.early_response = Some((too_large, 0));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the head is too large")));
        }
        if self.state.is_body_malformed() {
            return Poll::Ready(Err(invalid_chunking_error()));
        }
        if self.is_request_complete() && !self.read_ahead.is_empty() {
            return self.poll_until_closed(context);
        }
        let before = buffer.filled().len();
        if self.read_ahead.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        } else {
            let early = mem::take(&mut self.read_ahead);
            let (now, later) = early.split_at(early.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.read_ahead = later.to_vec();
        }
        let own = before + self.track_read(buffer.filled().get(before..).unwrap_or_default())?;
        let next = buffer.filled().get(own..).unwrap_or_default();
        if next.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if next.len() > MAX_PIPELINED_BYTES {
            // More than waits here for its turn: the client sends it again on another connection (RFC 9112, 9.3.2).
            self.state.close_after_this();
        } else {
            self.read_ahead.splice(..0, next.iter().copied());
        }
        buffer.set_filled(own);
        match own {
            own if own > before => Poll::Ready(Ok(())),
            _ if self.state.is_body_malformed() => Poll::Ready(Err(invalid_chunking_error())),
            _ => self.poll_until_closed(context),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.early_response.is_some() || self.is_before_request() {
            if self.early_response.is_none() {
                self.early_response = Some((early_error::response(&early_error::error_for(bytes), &self.metrics), 0));
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note_pending_write(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_early_response(context))?;
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        if flushed.is_ready() {
            self.unflushed.mark_flushed();
        }
        self.note_pending_write(context, flushed)
    }

    /// Sends what is left, closes the gateway's half of the connection, and reads on for a while. A system that closes with
    /// bytes unread resets the connection, and the client loses the answer (RFC 9112, 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger_deadline = self.linger_deadline.get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
        if linger_deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !self.is_half_closed {
            ready!(self.poll_write_early_response(context))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(context))?;
            self.is_half_closed = true;
        }
        if matches!(self.protocol, Protocol::Http2(_)) {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut room = [const { MaybeUninit::uninit() }; READ_AHEAD_BYTES];
            let mut dropped = ReadBuf::uninit(&mut room);
            let read = ready!(Pin::new(&mut self.io).poll_read(context, &mut dropped));
            if read.is_err() || dropped.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.early_response.is_some() || self.is_before_request() {
            let first = bytes.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(context, first);
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.note_pending_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Drop for Connection {
    /// The library leaves an answer after which it closes to this; a full socket has no more time.
    fn drop(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        if self.poll_write_early_response(&mut context).is_ready() {
            let _ = Pin::new(&mut self.io).poll_flush(&mut context);
        }
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // Whoever has gone does not read it.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

#[async_trait]
impl Peek for Connection {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(early) = self.read_ahead.get(..buffer.len()) else { return Ok(false) };
        buffer.copy_from_slice(early);
        Ok(true)
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
        Some(Arc::clone(&self.proxy_digest))
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_ref().get_socket_digest()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("state", &self.state).finish_non_exhaustive()
    }
}
