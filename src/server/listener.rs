//! Accepts connections on the public listeners: connection limits, TLS handshakes, head deadlines.
//!
//! Pingora's own accept loop has no connection limit, waits a minute for a handshake and for each byte of a head, and logs an
//! error for each client that disconnects.

use std::{io, net::SocketAddr, os::fd::AsRawFd, sync::Arc, time::Duration};

use pingora::{
    listeners::tls::Acceptor as TlsAcceptor,
    protocols::{GetSocketDigest, SocketDigest, Stream, http::v2::server::H2Options, l4},
    server::ShutdownWatch,
};
use tokio::net::{TcpListener, TcpStream};

use super::{
    connection::{Connection, ConnectionState, Expired, HeadDeadline},
    connection_limit::{ConnectionLimiter, ConnectionPermit},
    keep_alive::ConnectionServer,
    tls::ListenerTls,
    workers::{WorkerHandles, Workers},
};
use crate::{
    config::{Limits, Settings},
    observability::metrics::Metrics,
    shutdown::{RequestTracker, UnflushedGuard},
};

/// Listen backlog. The operating system caps it (`net.core.somaxconn`).
const ACCEPT_BACKLOG: i32 = 65_535;
/// Delay after a failed accept, which usually means that no file descriptor is left.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum concurrent requests of one HTTP/2 connection.
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// Bytes of a head that are read beyond the configured maximum, so that the gateway rejects it with an error response.
const HEAD_MARGIN_BYTES: usize = 16 * 1024;
/// Flow-control windows (RFC 9113, 6.9): unread bytes of one HTTP/2 stream, and of all streams of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024 - 1;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 - 1;
/// Maximum unsent bytes of one HTTP/2 stream; with [`MAX_CONCURRENT_STREAMS`], 6.4 MB per connection.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Accepts the connections of all public listeners.
#[derive(Debug)]
pub struct Acceptor {
    head_timeout: Duration,
    /// The idle timeout at the start. A reload can change it for later idle times.
    idle_timeout: Duration,
    head_limit: usize,
    connections: Arc<ConnectionLimiter>,
    workers: Arc<WorkerHandles>,
    in_flight: Arc<RequestTracker>,
    metrics: Arc<Metrics>,
}

impl Acceptor {
    /// Creates an acceptor that distributes connections to `workers`.
    #[must_use]
    pub fn new(
        settings: &Settings,
        workers: &Workers,
        in_flight: &Arc<RequestTracker>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            head_timeout: settings.timeouts.client_head,
            idle_timeout: settings.timeouts.idle,
            head_limit: settings.limits.max_header_bytes + HEAD_MARGIN_BYTES,
            connections: ConnectionLimiter::new(settings.limits.connections, metrics.connections.clone()),
            workers: workers.handles(),
            in_flight: Arc::clone(in_flight),
            metrics: Arc::clone(metrics),
        })
    }

    /// Serves a listener until `stop` is true, with one connection server per worker. Then idle connections close; requests in
    /// flight continue.
    ///
    /// # Errors
    /// Returns the I/O error if the socket cannot listen.
    pub fn serve(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        tls: Option<ListenerTls>,
        servers: Arc<[ConnectionServer]>,
        stop: ShutdownWatch,
    ) -> io::Result<impl Future<Output = ()> + Send> {
        rustix::net::listen(&listener, ACCEPT_BACKLOG)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(self.accept(listener, tls, servers, stop))
    }

    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<ListenerTls>,
        servers: Arc<[ConnectionServer]>,
        mut stop: ShutdownWatch,
    ) {
        let mut is_failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                changed = stop.changed() => {
                    if changed.is_err() || *stop.borrow() {
                        return;
                    }
                    continue;
                }
            };
            let (socket, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_failing {
                        tracing::error!(%error, "failed to accept a connection, retrying");
                    }
                    is_failing = true;
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                    continue;
                }
            };
            is_failing = false;
            let policy = servers.first().map(|server| server.address_policy(client.ip())).unwrap_or_default();
            match self.connections.acquire(client.ip(), policy) {
                Ok(permit) => {
                    let (acceptor, servers, stop) = (Arc::clone(&self), Arc::clone(&servers), stop.clone());
                    let tls = tls.as_ref().map(ListenerTls::acceptor);
                    let (Some((number, worker)), Ok(socket)) = (self.workers.next(), socket.into_std()) else {
                        continue;
                    };
                    worker.spawn(async move {
                        // Fails only if the kernel has no memory left.
                        if let (Ok(socket), Some(server)) = (TcpStream::from_std(socket), servers.get(number)) {
                            acceptor.serve_connection(socket, client, &permit, tls, server, stop).await;
                        }
                        drop(permit);
                    });
                }
                Err(error) => self.count_closed(error.label()),
            }
        }
    }

    async fn serve_connection(
        &self,
        socket: TcpStream,
        client: SocketAddr,
        permit: &ConnectionPermit,
        tls: Option<Arc<TlsAcceptor>>,
        server: &ConnectionServer,
        mut stop: ShutdownWatch,
    ) {
        let deadline = Arc::new(HeadDeadline::new(self.head_timeout, self.idle_timeout));
        // A closed connection fails at the next read.
        let _ = socket.set_nodelay(true);
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        let _ = digest.peer_addr.set(Some(client.into()));
        let mut stream = l4::stream::Stream::from(socket);
        stream.set_socket_digest(digest);
        let stream: Stream = match tls {
            None => Box::new(stream),
            Some(tls) => tokio::select! {
                // Boxed, because connections without TLS would also have its size for their whole life.
                handshake = Box::pin(tls.tls_handshake(stream)) => match handshake {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return self.count_closed("handshake_failed"),
                },
                _ = deadline.expired() => return self.count_closed("handshake_timeout"),
            },
        };
        let (unflushed, metrics) = (UnflushedGuard::new(&self.in_flight), Arc::clone(&self.metrics));
        let client = ConnectionState::new(Arc::clone(&deadline), Arc::clone(&permit.address), permit.is_proxy);
        let connection = Connection::new(stream, client, self.head_limit, server.write_timeout(), unflushed, metrics);
        let Ok(connection) = connection else { return };
        tokio::select! {
            biased;
            () = server.serve(Box::new(connection), &mut stop) => {}
            // Idle or with an incomplete head, the connection has no request that would be lost. HTTP/2 clients see which of
            // their requests were not processed.
            expired = deadline.expired() => if expired == Expired::Head {
                self.count_closed("header_timeout");
            },
        }
    }

    fn count_closed(&self, reason: &'static str) {
        self.metrics.connections_closed.with_label_values(&[reason]).inc();
    }
}

/// The HTTP/2 settings of the public listeners.
#[must_use]
pub fn http2_options(limits: &Limits) -> H2Options {
    let mut options = H2Options::new();
    options
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(limits.max_header_bytes + HEAD_MARGIN_BYTES).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_SEND_BUFFER_BYTES);
    options
}
