//! The connection to Redis: standalone, behind Sentinels, or a cluster.
//!
//! Owns connecting, time limits and reconnecting. A command waits no longer than `store.timeout`; what
//! broke is thrown away and made anew, and while Redis is down nobody waits for a connection that
//! failed a moment ago.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::IntGauge;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisError,
    ScriptInvocation, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use secrecy::ExposeSecret;
use tokio::sync::{Mutex, RwLock};

use crate::{
    metrics::Metrics,
    settings::{RedisStore, RedisTopology},
    store::StoreError,
};

/// After a failed attempt, how long commands fail at once.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Making a connection may take this many times as long as a command.
const CONNECT_FACTOR: u32 = 4;

/// Why no link can be made at all.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is none.
    #[error("store.url: not an address of Redis: {0}")]
    Url(String),
    /// The file of authorities cannot be read.
    #[error("store.ca: {0}")]
    Authorities(std::io::Error),
    /// An encryption key cannot be used.
    #[error("store.encryption_key: cannot be used")]
    Keys,
}

/// A connection that is made when it is needed and again when it broke.
#[derive(Clone)]
pub(super) struct Link(Arc<State>);

struct State {
    target: Target,
    timeout: Duration,
    live: RwLock<Option<Live>>,
    /// When the last attempt failed; only one attempt runs at a time.
    failed_at: Mutex<Option<Instant>>,
    is_up: AtomicBool,
    gauge: IntGauge,
}

enum Target {
    Standalone(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<Mutex<SentinelClient>>),
}

#[derive(Clone)]
enum Live {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What is sent.
#[derive(Clone, Copy)]
enum Work<'w> {
    Command(&'w Cmd),
    Script(&'w ScriptInvocation<'w>),
}

impl Work<'_> {
    async fn run<T: FromRedisValue>(self, live: Live) -> Result<T, RedisError> {
        match (self, live) {
            (Self::Command(command), Live::One(mut connection)) => command.query_async(&mut connection).await,
            (Self::Command(command), Live::Cluster(mut connection)) => command.query_async(&mut connection).await,
            (Self::Script(script), Live::One(mut connection)) => script.invoke_async(&mut connection).await,
            (Self::Script(script), Live::Cluster(mut connection)) => script.invoke_async(&mut connection).await,
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("is_up", &self.0.is_up).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(settings: &RedisStore, metrics: &Metrics) -> Result<Self, LinkError> {
        Ok(Self(Arc::new(State {
            target: Target::new(settings)?,
            timeout: settings.timeout,
            live: RwLock::new(None),
            failed_at: Mutex::new(None),
            is_up: AtomicBool::new(true),
            gauge: metrics.store_up.clone(),
        })))
    }

    /// How long a command may take before it fails: two attempts, each with a new connection.
    pub(super) fn write_timeout(&self) -> Duration {
        self.0.timeout * 4
    }

    /// Runs one command. It is sent a second time if the connection turned out to be broken.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.run(Work::Command(command)).await
    }

    /// Runs one script, loading it where it is not known yet.
    pub(super) async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.run(Work::Script(script)).await
    }

    async fn run<T: FromRedisValue>(&self, work: Work<'_>) -> Result<T, StoreError> {
        let mut is_second = false;
        loop {
            let (live, is_fresh) = self.live().await?;
            match tokio::time::timeout(self.0.timeout, work.run(live)).await {
                Ok(Ok(value)) => {
                    self.note(true);
                    return Ok(value);
                }
                Ok(Err(error)) if is_connection_lost(&error) => {
                    self.forget().await;
                    // A connection just made that breaks at once is no accident of an old one.
                    if is_fresh || is_second {
                        self.note(false);
                        return Err(StoreError::Unavailable);
                    }
                    is_second = true;
                }
                Ok(Err(error)) => {
                    // The library's text may quote arguments; the kind does not.
                    tracing::error!(kind = ?error.kind(), code = error.code(), "the session store refused a command");
                    return Err(StoreError::Broken("it refused a command"));
                }
                Err(_) => {
                    self.forget().await;
                    *self.0.failed_at.lock().await = Some(Instant::now());
                    self.note(false);
                    return Err(StoreError::Unavailable);
                }
            }
        }
    }

    /// The connection, and whether it was made just now. Making it may take longer than a command: it goes on
    /// for those who come later, while nobody waits longer than for a command.
    async fn live(&self) -> Result<(Live, bool), StoreError> {
        if let Some(live) = &*self.0.live.read().await {
            return Ok((live.clone(), false));
        }
        let link = self.clone();
        let connecting = tokio::spawn(async move { link.connect().await });
        match tokio::time::timeout(self.0.timeout, connecting).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable),
        }
    }

    /// Makes the connection, unless another has or just failed to.
    async fn connect(&self) -> Result<(Live, bool), StoreError> {
        let mut failed_at = self.0.failed_at.lock().await;
        if let Some(live) = &*self.0.live.read().await {
            return Ok((live.clone(), false));
        }
        if failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return Err(StoreError::Unavailable);
        }
        let timeout = self.0.timeout;
        let made = tokio::time::timeout(timeout * CONNECT_FACTOR, self.0.target.connect(timeout)).await;
        let Ok(Ok(live)) = made else {
            *failed_at = Some(Instant::now());
            self.note(false);
            return Err(StoreError::Unavailable);
        };
        *failed_at = None;
        *self.0.live.write().await = Some(live.clone());
        Ok((live, true))
    }

    async fn forget(&self) {
        *self.0.live.write().await = None;
    }

    fn note(&self, is_up: bool) {
        if self.0.is_up.swap(is_up, Ordering::Relaxed) != is_up {
            if is_up {
                tracing::info!("the session store answers again");
            } else {
                tracing::error!(
                    "the session store cannot be reached; tokens that are still valid pass, refreshes wait"
                );
            }
        }
        self.0.gauge.set(i64::from(is_up));
    }
}

impl Target {
    fn new(settings: &RedisStore) -> Result<Self, LinkError> {
        let url_error = |error: RedisError| LinkError::Url(error.category().to_owned());
        let certificates = certificates(settings.ca.as_deref())?;
        match &settings.topology {
            RedisTopology::Standalone(url) => {
                let info = url.expose_secret().into_connection_info().map_err(url_error)?;
                let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
                let info = info.set_tcp_settings(tcp);
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates),
                    None => Client::open(info),
                };
                client.map(|client| Self::Standalone(Box::new(client))).map_err(url_error)
            }
            RedisTopology::Cluster(urls) => {
                let nodes = urls.iter().map(|url| url.expose_secret().to_owned());
                let mut builder =
                    ClusterClient::builder(nodes).retries(2).connection_timeout(settings.timeout * CONNECT_FACTOR);
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                builder.build().map(|client| Self::Cluster(Box::new(client))).map_err(url_error)
            }
            RedisTopology::Sentinel { sentinels, master, database, username, password, tls } => {
                let address = |(host, port): &(String, u16)| {
                    if *tls {
                        ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
                    } else {
                        ConnectionAddr::Tcp(host.clone(), *port)
                    }
                };
                let addresses = sentinels.iter().map(address);
                let mut builder = SentinelClientBuilder::new(addresses, master.clone(), SentinelServerType::Master)
                    .map_err(url_error)?
                    .set_client_to_redis_db(*database);
                if let Some(username) = username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password.expose_secret());
                }
                if *tls {
                    builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                }
                if let Some(certificates) = certificates {
                    builder = builder
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                let client = builder.build().map_err(url_error)?;
                Ok(Self::Sentinel(Box::new(Mutex::new(client))))
            }
        }
    }

    async fn connect(&self, timeout: Duration) -> Result<Live, RedisError> {
        let config = || {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(timeout * CONNECT_FACTOR))
                .set_response_timeout(Some(timeout))
        };
        match self {
            Self::Standalone(client) => {
                client.get_multiplexed_async_connection_with_config(&config()).await.map(Live::One)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Live::Cluster),
            Self::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(&config()).await.map(Live::One)
            }
        }
    }
}

fn certificates(authorities: Option<&Path>) -> Result<Option<TlsCertificates>, LinkError> {
    let root_cert = authorities.map(std::fs::read).transpose().map_err(LinkError::Authorities)?;
    Ok(root_cert.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) }))
}

/// Whether another connection could do better: it broke, or its server is no master any more.
fn is_connection_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_cluster_error()
        || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "UNBLOCKED"))
}
