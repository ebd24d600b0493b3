//! The composition root: settings in, a running gateway out. The only place where the parts meet.
//!
//! Owns the order of start and stop. Listeners are bound before anything else, so that an address in
//! use fails the start, port 0 is known at once, and nothing half-configured ever answers. `validate` loads a configuration, `build` makes
//! its components, `reload` replaces them, `restart` passes the listening sockets to another process, `signals` starts both.

mod build;
mod certificate_files;
mod commit;
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
    commit::COMMIT,
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

/// Connections that wait until they are accepted, before the listener is served with a longer queue.
const BACKLOG: i32 = 128;
/// Connections to the APIs that rest until they are used again, in all.
const MAX_IDLE_UPSTREAM: usize = 512;
/// And with each worker, at least.
const MIN_IDLE_UPSTREAM_PER_WORKER: usize = 64;
/// How often the drain looks whether the last request is done.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long after readiness went off new requests may still come (load balancers take a moment).
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

/// A listener that is open.
#[derive(Debug)]
struct BoundListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl App {
    /// Binds the listeners and puts the parts together. Calls nobody: the gateway starts
    /// when SLAS is down, and becomes ready when it can.
    ///
    /// # Errors
    /// [`AppError`].
    pub fn build(settings: Settings) -> Result<Self, AppError> {
        Self::build_with_sockets(settings, InheritedSockets::default())
    }

    /// The same on sockets that are open already, as far as the configuration has their addresses; the others are closed.
    ///
    /// # Errors
    /// [`AppError`].
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

    /// The public addresses, with the ports that were bound.
    pub fn public_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.public.iter().map(|bound| bound.address)
    }

    /// The operators' address, with the port that was bound.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// What is in force, and can be changed while the gateway runs.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// The listening sockets, for another process.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn listening_sockets(&self) -> io::Result<Vec<TcpListener>> {
        self.public.iter().chain([&self.admin]).map(|bound| bound.listener.try_clone()).collect()
    }

    /// The way into the gateway for the connections of one thread, with connections to the APIs of its own: what passes from
    /// thread to thread is found in use now and then, and given up for another.
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

    /// Serves until `stop` completes; then readiness goes off, requests in flight are finished within
    /// the drain time, and the listeners close. After a predecessor nothing is accepted before all keys are there.
    ///
    /// # Errors
    /// [`AppError::Listen`] if a listener cannot be set up.
    pub async fn run(self, stop: impl Future<Output = StopReason>) -> Result<(), AppError> {
        let conf = Arc::new(server_conf(&self.settings, self.reloader.library_reads_system()));
        self.reloader.start_background_tasks();
        let mut stop = pin!(stop);
        if self.predecessor.is_some() {
            tokio::select! {
                () = self.reloader.wait_until_ready() => {}
                _ = &mut stop => {
                    self.reloader.stop_background_tasks();
                    tracing::info!("stopped; it was not ready yet, and has accepted nothing");
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
        tracing::info!(in_flight = self.in_flight.count(), ?why, "stopping: not ready from now on");
        self.in_flight.drain();
        let deadline = Instant::now() + self.settings.timeouts.drain;
        match why {
            StopReason::Shutdown => tokio::time::sleep(LAME_DUCK_PERIOD.min(self.settings.timeouts.drain)).await,
            // Operators' questions are for the other process from now on.
            StopReason::Restart => admin.abort(),
        }
        // Ends connections that rest between two requests, too. A receiver that is gone has stopped already.
        let _ = stop_public.send(true);
        while serving.join_next().await.is_some() {}
        for server in servers.iter() {
            server.close_incomplete().await;
        }
        // Whether all were answered in time is seen by what is left.
        let _ = tokio::time::timeout_at(deadline.into(), wait_for_drain(&self.in_flight)).await;
        let (left, unflushed) = (self.in_flight.count(), self.in_flight.unflushed_connections());
        let _ = stop_admin.send(true);
        admin.abort();
        self.reloader.stop_background_tasks();
        if left > 0 || unflushed > 0 {
            tracing::warn!(left, unflushed, "stopped; requests were still in flight at the end of timeouts.drain");
        } else {
            tracing::info!("stopped; no request was in flight");
        }
        Ok(())
    }
}

/// Returns when no request is in flight and no client has to make room for the end of an answer. Seen twice: on its way
/// from the one to the other an answer is neither.
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

/// Listens on `[::]`: for IPv4 too, whatever the system's default (`net.ipv6.bindv6only`), unless `0.0.0.0` has a listener of its
/// own on the same port.
fn listen_on_ipv6_wildcard(address: SocketAddrV6, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let has_ipv4 = all.iter().any(|other| {
        other.is_ipv4() && other.ip().is_unspecified() && other.port() == address.port() && address.port() != 0
    });
    if has_ipv4 {
        tracing::info!(%address, "listening for IPv6 only: 0.0.0.0 overlaps and has a listener of its own");
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
        // The library panics over authorities of the system that it cannot read. It reads none of an empty file; each peer
        // then has its own.
        ca_file: (!library_reads_system).then(|| "/dev/null".to_owned()),
        threads: settings.server.threads,
        upstream_keepalive_pool_size: (MAX_IDLE_UPSTREAM / settings.server.threads.max(1))
            .max(MIN_IDLE_UPSTREAM_PER_WORKER),
        // Attempts at one request: other addresses, or a connection that had just been closed.
        max_retries: 3,
        ..ServerConf::default()
    }
}
