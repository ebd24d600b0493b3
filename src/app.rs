//! The composition root: builds a running gateway from settings, and stops it gracefully.
//!
//! Listeners are bound before anything else. An address in use therefore fails the start, port 0 is known at once, and no
//! half-configured gateway responds. `validate` loads a configuration, `build` makes its components, `reload` replaces them,
//! `restart` passes the listening sockets to another process, and `signals` triggers both.

mod build;
mod build_commit;
mod certificate_files;
mod error;
pub mod process;
mod reload;
pub mod restart;
pub mod signals;
mod trust_anchors;
mod validate;

use std::{
    future::Future,
    io,
    net::{SocketAddr, SocketAddrV6, TcpListener},
    os::fd::IntoRawFd,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pingora::{
    apps::HttpServerOptions,
    listeners::ListenerConfig,
    proxy::http_proxy,
    server::{Fds, configuration::ServerConf},
    services::{Service as _, listening::Service},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::{sync::watch, task::JoinSet};

use self::restart::{InheritedSockets, Predecessor};
pub use self::{
    build::{TenantWithKeyRings, build_session_store, build_tenants},
    build_commit::COMMIT,
    error::AppError,
    reload::Reloader,
    signals::StopReason,
    validate::{build_policy, load},
};
use crate::{
    admin::Admin,
    config::Settings,
    server::{Acceptor, ConnectionServer, Proxy, Workers, http2_options},
    shutdown::RequestTracker,
};

/// Listen backlog until the acceptor starts, which sets a longer one.
const BACKLOG: i32 = 128;
/// Idle connections to the APIs, for all workers together.
const MAX_IDLE_UPSTREAM: usize = 512;
/// Minimum of idle connections to the APIs per worker.
const MIN_IDLE_UPSTREAM_PER_WORKER: usize = 64;
/// How often the drain checks whether the last request is done.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long new requests are accepted after readiness is off, because load balancers take a moment to notice.
const LAME_DUCK_PERIOD: Duration = Duration::from_secs(1);

/// A gateway, bound and ready to run.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    reloader: Arc<Reloader>,
    public: Vec<BoundListener>,
    admin: BoundListener,
    in_flight: Arc<RequestTracker>,
    predecessor: Option<Predecessor>,
}

/// An open listener and its address.
#[derive(Debug)]
struct BoundListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl App {
    /// Binds the listeners and builds the components. Makes no network calls: the gateway also starts while SLAS is down, and
    /// becomes ready later.
    ///
    /// # Errors
    /// Returns [`AppError`] if a listener or a component cannot be set up.
    pub fn build(settings: Settings) -> Result<Self, AppError> {
        Self::build_with_sockets(settings, InheritedSockets::default())
    }

    /// Like [`App::build`], but uses inherited sockets whose addresses are configured. Other inherited sockets are closed.
    ///
    /// # Errors
    /// Returns [`AppError`] if a listener or a component cannot be set up.
    pub fn build_with_sockets(settings: Settings, mut inherited: InheritedSockets) -> Result<Self, AppError> {
        let (listen, operators) = (&settings.server.listen, settings.admin.listen);
        let all: Vec<SocketAddr> = listen.iter().copied().chain([operators]).collect();
        let mut public = Vec::new();
        for address in listen {
            public.push(bind("server.listen", *address, &all, &mut inherited)?);
        }
        let admin = bind("admin.listen", operators, &all, &mut inherited)?;
        let reloader = Reloader::build(settings.clone())?;
        let predecessor = inherited.predecessor.take();
        Ok(Self { settings, reloader, public, admin, in_flight: Arc::default(), predecessor })
    }

    /// The public addresses, with the bound ports.
    pub fn public_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.public.iter().map(|bound| bound.address)
    }

    /// The admin address, with the bound port.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Replaces the configuration while the gateway runs.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Duplicates of the listening sockets, for another process.
    ///
    /// # Errors
    /// Returns the I/O error if no file descriptor is left.
    pub fn listening_sockets(&self) -> io::Result<Vec<TcpListener>> {
        self.public.iter().chain([&self.admin]).map(|bound| bound.listener.try_clone()).collect()
    }

    /// The connection server of one worker. Each worker has its own connections to the APIs, because an upstream connection that
    /// another worker is using cannot be reused.
    fn connection_server(&self, conf: &Arc<ServerConf>) -> ConnectionServer {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(self.settings.timeouts.idle);
        let mut proxy = http_proxy(
            conf,
            Proxy::new(
                Arc::clone(&self.reloader.runtime),
                Arc::clone(&self.reloader.snapshot.load().metrics),
                Arc::clone(&self.in_flight),
            ),
        );
        proxy.server_options = Some(options);
        proxy.h2_options = Some(http2_options(&self.settings.limits));
        ConnectionServer::new(proxy, Arc::clone(&self.reloader.runtime))
    }

    /// Serves until `stop` completes. Then readiness is off, the listeners close, and requests in flight finish within
    /// `timeouts.drain`. After a restart, connections are accepted only when all key sets are available.
    ///
    /// # Errors
    /// Returns [`AppError::Threads`] or [`AppError::Listen`] if the workers or a listener cannot start.
    pub async fn run(self, stop: impl Future<Output = StopReason>) -> Result<(), AppError> {
        let conf = Arc::new(server_conf(&self.settings, self.reloader.library_reads_system()));
        self.reloader.start_background_tasks();
        let mut stop = pin!(stop);
        if self.predecessor.is_some() {
            tokio::select! {
                () = self.reloader.wait_until_ready() => {}
                _ = &mut stop => {
                    self.reloader.stop_background_tasks();
                    tracing::info!("stopped before ready, no connection was accepted");
                    return Ok(());
                }
            }
        }
        let workers = Workers::start(self.settings.server.threads).map_err(AppError::Threads)?;
        let servers: Arc<[ConnectionServer]> = (0..workers.count()).map(|_| self.connection_server(&conf)).collect();
        let acceptor = Acceptor::new(&self.settings, &workers, &self.in_flight, &self.reloader.snapshot.load().metrics);
        let (stop_public, public_stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        for bound in self.public {
            let (tls, servers, stopped) = (self.reloader.tls.clone(), Arc::clone(&servers), public_stopped.clone());
            let failed = |source| AppError::Listen { key: "server.listen", address: bound.address, source };
            serving.spawn(Arc::clone(&acceptor).serve(bound.listener, tls, servers, stopped).map_err(failed)?);
        }
        let mut admin = Service::new(
            "admin".to_owned(),
            Admin::new(Arc::clone(&self.reloader.snapshot), Arc::clone(&self.in_flight)),
        );
        let mut admin_fds = Fds::new();
        admin.add_listener(ListenerConfig::tcp(self.admin.address.to_string()));
        admin_fds.add(self.admin.address.to_string(), self.admin.listener.into_raw_fd());
        let (stop_admin, admin_stopped) = watch::channel(false);
        let admin = tokio::spawn(async move {
            admin.start_service(Some(Arc::new(Mutex::new(admin_fds))), admin_stopped, 1).await;
        });
        if let Some(predecessor) = self.predecessor {
            predecessor.notify_ready();
        }

        let why = stop.await;
        tracing::info!(in_flight = self.in_flight.count(), ?why, "stopping, readiness is off");
        self.in_flight.drain();
        let deadline = Instant::now() + self.settings.timeouts.drain;
        match why {
            StopReason::Shutdown => tokio::time::sleep(LAME_DUCK_PERIOD.min(self.settings.timeouts.drain)).await,
            // The new process serves the admin address from now on.
            StopReason::Restart => admin.abort(),
        }
        // Also ends idle connections. Sending fails only if all listeners have stopped already.
        let _ = stop_public.send(true);
        while serving.join_next().await.is_some() {}
        for server in servers.iter() {
            server.close_incomplete().await;
        }
        // The counts below show whether all requests were done in time.
        let _ = tokio::time::timeout_at(deadline.into(), wait_for_drain(&self.in_flight)).await;
        let (left, unflushed) = (self.in_flight.count(), self.in_flight.unflushed_connections());
        let _ = stop_admin.send(true);
        admin.abort();
        self.reloader.stop_background_tasks();
        if left > 0 || unflushed > 0 {
            tracing::warn!(left, unflushed, "timeouts.drain exceeded, stopped with requests in flight");
        } else {
            tracing::info!("stopped, no request was in flight");
        }
        Ok(())
    }
}

/// Returns when no request is in flight and no connection has unflushed bytes. Both have to hold twice in a row: a response
/// that moves from the one to the other is briefly counted in neither.
async fn wait_for_drain(in_flight: &RequestTracker) {
    let mut seen = 0;
    while seen < 2 {
        tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
        seen = if in_flight.count() == 0 && in_flight.unflushed_connections() == 0 { seen + 1 } else { 0 };
    }
}

fn bind(
    key: &'static str,
    address: SocketAddr,
    all: &[SocketAddr],
    inherited: &mut InheritedSockets,
) -> Result<BoundListener, AppError> {
    let failed = |source| AppError::Listen { key, address, source };
    let listener = match (inherited.take(address), address) {
        (Some(listener), _) => listener,
        (None, SocketAddr::V6(every)) if every.ip().is_unspecified() => {
            listen_on_ipv6_wildcard(every, all).map_err(failed)?
        }
        (None, _) => TcpListener::bind(address).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(BoundListener { listener, address })
}

/// Listens on `[::]`, for IPv4 too, unless `0.0.0.0` has its own listener on the same port. The system's default
/// (`net.ipv6.bindv6only`) has no effect.
fn listen_on_ipv6_wildcard(address: SocketAddrV6, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let has_ipv4 = all.iter().any(|other| {
        other.is_ipv4() && other.ip().is_unspecified() && other.port() == address.port() && address.port() != 0
    });
    if has_ipv4 {
        tracing::info!(%address, "listening for IPv6 only: 0.0.0.0 has its own listener on this port");
    }
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ipv6_v6only(&socket, has_ipv4)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn server_conf(settings: &Settings, library_reads_system: bool) -> ServerConf {
    ServerConf {
        // Pingora panics over system authorities that it cannot read. With an empty file it reads none, and each peer gets its
        // own.
        ca_file: (!library_reads_system).then(|| "/dev/null".to_owned()),
        threads: settings.server.threads,
        upstream_keepalive_pool_size: (MAX_IDLE_UPSTREAM / settings.server.threads.max(1))
            .max(MIN_IDLE_UPSTREAM_PER_WORKER),
        // Attempts per request: with other addresses, or after a reused connection was closed.
        max_retries: 3,
        ..ServerConf::default()
    }
}
