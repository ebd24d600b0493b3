//! A client's connection: a stream between the socket (or TLS) and Pingora that adds what Pingora lacks.
//!
//! - The time for a request's head is limited as a whole ([`HeadDeadline`]).
//! - Pingora gets the bytes of one HTTP/1.1 request at a time ([`RequestFraming`]); pipelined requests wait in [`ReadAhead`].
//! - Floods of HTTP/2 frames end the connection ([`H2FrameTracker`]).
//! - Writes time out, and connections close without a reset.
//! - Pingora's own error responses are replaced by the gateway's ([`early_error`]).

mod early_error;
mod h1_framing;
mod h2_flood;
mod read_ahead;
mod read_deadline;
mod state;

use std::{
    fmt,
    future::poll_fn,
    io,
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
    early_error::EarlyResponse,
    h1_framing::RequestFraming,
    h2_flood::{FloodDetected, H2FrameTracker, HeadState, PREFACE},
    read_ahead::{ClientStream, ReadAhead, poll_discard},
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

/// Size of the write buffer: the payload of one packet, so that a head and a short body are sent together.
const WRITE_BUFFER_BYTES: usize = 1460;
/// How long a closing connection is kept open for the client to read the last response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A client's connection.
pub(crate) struct Connection {
    io: ClientStream,
    read_ahead: ReadAhead,
    state: Arc<ConnectionState>,
    protocol: Protocol,
    /// Maximum bytes of an HTTP/1.1 head, and the number that have arrived.
    head_limit: usize,
    head_bytes: usize,
    /// The response that replaces Pingora's own.
    early_response: Option<EarlyResponse>,
    proxy_digest: Arc<ProxyDigest>,
    unflushed: UnflushedGuard,
    /// Timeout for a pending write, and its deadline while a write is pending.
    write_timeout: Duration,
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// Deadline of a closing connection, and whether the gateway's half is closed.
    linger_deadline: Option<Pin<Box<Sleep>>>,
    is_half_closed: bool,
    metrics: Arc<Metrics>,
}

enum Protocol {
    Http1(RequestFraming),
    Http2(H2FrameTracker),
}

impl Connection {
    /// Wraps `io`, whose TLS handshake is complete. HTTP/1.1 heads longer than `head_limit` are rejected; Pingora itself accepts
    /// 1 MiB. Writes fail after `write_timeout` without progress.
    pub(crate) fn new(
        io: Stream,
        state: Arc<ConnectionState>,
        head_limit: usize,
        write_timeout: Duration,
        unflushed: UnflushedGuard,
        metrics: Arc<Metrics>,
    ) -> pingora::Result<Self> {
        // Pingora passes this digest to every request of the connection. It is the only place for our own data.
        let proxy_digest = ProxyDigest::new(
            Box::new(ResponseHeader::build(StatusCode::OK, Some(0))?),
            Some(Box::new(Arc::clone(&state))),
        );
        Ok(Self {
            io: BufWriter::with_capacity(WRITE_BUFFER_BYTES, io),
            read_ahead: ReadAhead::default(),
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

    /// Whether the client speaks HTTP/2, by ALPN or, without TLS, by the connection preface. Sets the connection's protocol.
    ///
    /// # Errors
    /// Returns the I/O error if the client disconnects before it sends anything.
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

    /// Reads until the bytes differ from the HTTP/2 preface or contain all of it. The bytes stay in `read_ahead`.
    async fn begins_with_preface(&mut self) -> io::Result<bool> {
        while self.read_ahead.bytes().len() < PREFACE.len() && PREFACE.starts_with(self.read_ahead.bytes()) {
            let has_more = poll_fn(|context| self.read_ahead.poll_fill(&mut self.io, context)).await?;
            if !has_more && self.read_ahead.bytes().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !has_more {
                break;
            }
        }
        Ok(self.read_ahead.bytes().starts_with(PREFACE))
    }

    /// Waits for the next request and returns whether one starts. An idle connection holds no buffers. The head deadline limits
    /// the wait.
    pub(crate) async fn wait_for_request(&mut self, idle_timeout: Duration) -> bool {
        self.state.deadline.start_idle(idle_timeout);
        if let Protocol::Http1(framing) = &mut self.protocol {
            *framing = RequestFraming::new();
            self.state.note_syntax(framing);
        }
        poll_fn(|context| {
            loop {
                self.read_ahead.skip_empty_lines();
                if self.state.must_close() {
                    return Poll::Ready(false);
                }
                if !self.read_ahead.bytes().is_empty() {
                    return Poll::Ready(true);
                }
                if !ready!(self.read_ahead.poll_fill(&mut self.io, context)).unwrap_or(false) {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// Tracks bytes that were read and returns how many of them Pingora may have.
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

    /// Stays pending while a pipelined request waits; Pingora reads here only to notice that the client disconnected. Fails if the
    /// connection fails. A client that has closed its half may still read the response.
    fn poll_until_closed<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        while !self.read_ahead.is_full() && !self.state.must_close() {
            if !ready!(self.read_ahead.poll_fill(&mut self.io, context))? {
                break;
            }
        }
        Poll::Pending
    }

    /// Whether Pingora has all bytes of the current request.
    fn is_request_complete(&self) -> bool {
        matches!(&self.protocol, Protocol::Http1(framing) if framing.is_complete())
    }

    /// Whether a write now is a response of Pingora's own, because no request has reached the gateway.
    fn is_before_request(&self) -> bool {
        matches!(self.protocol, Protocol::Http1(_)) && self.state.deadline.is_head_pending()
    }

    /// Records whether a write or flush is pending, and fails after `write_timeout`. Pingora limits the time of bodies only. Only a
    /// flush shows that all bytes are sent, because TLS has a buffer of its own.
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
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read the response")))
    }

    fn poll_write_early_response(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.early_response.as_mut().map_or(Poll::Ready(Ok(())), |response| response.poll_write(&mut self.io, context))
    }
}

fn invalid_chunking_error() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "invalid chunked body")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_before_request() && self.head_bytes > self.head_limit {
            let error = GatewayError::TooLarge(TooLargePart::Head);
            self.early_response = Some(EarlyResponse::new(&error, &self.metrics));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the head is too large")));
        }
        if self.state.is_body_malformed() {
            return Poll::Ready(Err(invalid_chunking_error()));
        }
        if self.is_request_complete() && !self.read_ahead.bytes().is_empty() {
            return self.poll_until_closed(context);
        }
        let before = buffer.filled().len();
        if self.read_ahead.bytes().is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        } else {
            self.read_ahead.move_into(buffer);
        }
        let own = before + self.track_read(buffer.filled().get(before..).unwrap_or_default())?;
        let next = buffer.filled().get(own..).unwrap_or_default();
        if next.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !self.read_ahead.put_back(next) {
            // The client repeats the dropped requests on another connection (RFC 9112, 9.3.2).
            self.state.close_after_this();
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
                self.early_response = Some(EarlyResponse::new(&early_error::error_for(bytes), &self.metrics));
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

    /// Sends the remaining bytes, closes the gateway's half of the connection, and discards input for up to [`LINGER_TIMEOUT`].
    /// Closing a socket with unread bytes resets the connection, and the client loses the response (RFC 9112, 9.6).
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
        poll_discard(&mut self.io, context).map(Ok)
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
    /// Writes the early response, because Pingora drops the connection without a flush. If the socket is full, the response is
    /// lost.
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
        // A client that has disconnected needs no close.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

#[async_trait]
impl Peek for Connection {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(bytes) = self.read_ahead.bytes().get(..buffer.len()) else { return Ok(false) };
        buffer.copy_from_slice(bytes);
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
