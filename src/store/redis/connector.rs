//! Connects to one server, to the master that Sentinels name, or to a cluster.
//!
//! Every step reports the cause of a failure and the server that caused it. Login and database are separate commands,
//! because the library hides the replies of those that it sends while connecting. TLS files are read for each
//! connection, so that a renewed certificate is used without a restart.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates, Value, aio::MultiplexedConnection,
    cluster::ClusterClient, cluster_async::ClusterConnection, cmd, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;
use tokio::net::{TcpStream, UnixStream};

use super::{cause, config_error::RedisConfigError};
use crate::{
    certificates::{self, Certificates, FileError, KeyPairError},
    config::{RedisAddress, RedisLogin, RedisStore, RedisTls, RedisTopology},
    host::without_root_dot,
    store::{Outage, StorePeer, UnavailableCause as Cause},
};

/// The time limit of connecting, in time limits of a command.
const CONNECT_FACTOR: u32 = 4;
/// Maximum number of bytes of a greeting that are read.
const MAX_GREETING_BYTES: usize = 256;

/// An open connection.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Connects as configured.
pub(super) struct Connector {
    topology: RedisTopology,
    login: RedisLogin,
    database: i64,
    tls: Option<RedisTls>,
    timeout: Duration,
}

impl Connector {
    /// # Errors
    /// [`RedisConfigError`] if a TLS file cannot be read or used, or the library rejects the address.
    pub(super) fn new(settings: &RedisStore) -> Result<Self, RedisConfigError> {
        let connector = Self {
            topology: settings.topology.clone(),
            login: settings.login.clone(),
            database: settings.database,
            tls: settings.tls.clone(),
            timeout: settings.timeout,
        };
        let (servers, tls) = match &connector.topology {
            RedisTopology::Standalone(address) => (std::slice::from_ref(address), connector.tls.as_ref()),
            RedisTopology::Cluster(nodes) => (nodes.as_slice(), connector.tls.as_ref()),
            RedisTopology::Sentinel { sentinels, tls, .. } => (sentinels.as_slice(), tls.as_ref()),
        };
        if let Some(tls) = &connector.tls {
            check_files(tls, "store.ca")?;
        }
        if let RedisTopology::Sentinel { tls: Some(tls), .. } = &connector.topology {
            check_files(tls, "store.sentinel_ca or store.ca")?;
        }
        for server in servers {
            client(server, tls).map_err(|error| RedisConfigError::Url(error.category().to_owned()))?;
        }
        Ok(connector)
    }

    /// A connection that is logged in and has selected its database.
    ///
    /// # Errors
    /// [`Outage`]: the server that failed, and the cause.
    pub(super) async fn connect(&self) -> Result<Connection, Outage> {
        let connecting = async {
            match &self.topology {
                RedisTopology::Standalone(address) => self.server(address).await.map(Connection::One),
                RedisTopology::Cluster(nodes) => self.cluster(nodes).await.map(Connection::Cluster),
                RedisTopology::Sentinel { sentinels, master, login, tls } => {
                    self.connect_by_sentinels(sentinels, master, login, tls.as_ref()).await.map(Connection::One)
                }
            }
        };
        // One more time limit, in which the cause is determined.
        let made = tokio::time::timeout(self.timeout * (CONNECT_FACTOR + 1), connecting).await;
        made.unwrap_or(Err(Outage::of_redis(Cause::TimedOut)))
    }

    /// Connects to one Redis server.
    async fn server(&self, address: &RedisAddress) -> Result<MultiplexedConnection, Outage> {
        let of_redis = Outage::of_redis;
        let mut connection = self.open(address, self.tls.as_ref()).await.map_err(of_redis)?;
        authenticate(&mut connection, &self.login).await.map_err(of_redis)?;
        if self.database != 0 {
            let selected = run::<Value>(&mut connection, cmd("SELECT").arg(self.database)).await;
            selected.map_err(|cause| of_redis(cause.unwrap_or(Cause::DatabaseUnknown)))?;
        }
        Ok(connection)
    }

    /// Connects to the master that the first Sentinel with an answer names. All Sentinels are asked at the same time,
    /// so that one without an answer does not use up the time limit.
    async fn connect_by_sentinels(
        &self,
        sentinels: &[RedisAddress],
        master: &str,
        login: &RedisLogin,
        tls: Option<&RedisTls>,
    ) -> Result<MultiplexedConnection, Outage> {
        let ask = async |sentinel: &RedisAddress| {
            let answer = self.query_sentinel(sentinel, master, login, tls);
            tokio::time::timeout(self.timeout * CONNECT_FACTOR, answer).await.unwrap_or(Err(Cause::TimedOut))
        };
        let mut asked: FuturesUnordered<_> = sentinels.iter().map(ask).collect();
        let mut reason: Option<Outage> = None;
        while let Some(answer) = asked.next().await {
            let outage = match answer {
                Ok(address) => match self.master(&address).await {
                    Ok(connection) => return Ok(connection),
                    Err(outage) => outage,
                },
                Err(cause) => Outage::of_sentinel(cause),
            };
            // A failure of the named master says more than a Sentinel that knows no master, and that more than an
            // unavailable Sentinel.
            let weight = |outage: &Outage| match (outage.peer, outage.cause) {
                (StorePeer::Redis, _) => 2,
                (StorePeer::Sentinel, Cause::ConnectionRefused | Cause::TimedOut | Cause::Unreachable) => 0,
                (StorePeer::Sentinel, _) => 1,
            };
            if reason.as_ref().is_none_or(|reason| weight(&outage) > weight(reason)) {
                reason = Some(outage);
            }
        }
        Err(reason.unwrap_or(Outage::of_sentinel(Cause::MasterUnknown)))
    }

    /// The master's address, as a Sentinel knows it.
    async fn query_sentinel(
        &self,
        sentinel: &RedisAddress,
        master: &str,
        login: &RedisLogin,
        tls: Option<&RedisTls>,
    ) -> Result<RedisAddress, Cause> {
        let mut connection = self.open(sentinel, tls).await?;
        authenticate(&mut connection, login).await?;
        let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned();
        let mut answer = run::<Option<(String, u16)>>(&mut connection, &question).await;
        if answer == Err(Some(Cause::PasswordMissing)) && login.password.is_none() && self.login.password.is_some() {
            // The Sentinel requires a password and none is configured for it. Redis and its Sentinels often have the
            // same one.
            authenticate(&mut connection, &self.login).await?;
            answer = run(&mut connection, &question).await;
        }
        match answer {
            Ok(Some((host, port))) => Ok(RedisAddress::Tcp(host, port)),
            Ok(None) => Err(Cause::MasterUnknown),
            Err(None | Some(Cause::CommandUnknown)) => Err(Cause::NotSentinel),
            Err(Some(cause)) => Err(cause),
        }
    }

    /// Connects to the server that a Sentinel has named, and checks that it is a master.
    async fn master(&self, address: &RedisAddress) -> Result<MultiplexedConnection, Outage> {
        let mut connection = self.server(address).await?;
        match run::<Vec<Value>>(&mut connection, &cmd("ROLE")).await {
            Ok(role) => match role.first() {
                Some(Value::BulkString(role)) if role != b"master" => Err(Outage::of_redis(Cause::ReadOnly)),
                _ => Ok(connection),
            },
            // The user may not run ROLE. A write will show the role.
            Err(None | Some(Cause::PermissionDenied | Cause::CommandUnknown)) => Ok(connection),
            Err(Some(cause)) => Err(Outage::of_redis(cause)),
        }
    }

    async fn cluster(&self, nodes: &[RedisAddress]) -> Result<ClusterConnection, Outage> {
        let certificates = self.tls.as_ref().map(tls_certificates).transpose();
        let certificates = certificates.map_err(|_| Outage::of_redis(Cause::TlsFiles))?;
        let mut redis = RedisConnectionInfo::default();
        if let Some(username) = &self.login.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &self.login.password {
            redis = redis.set_password(password.expose_secret());
        }
        let info =
            |node: &RedisAddress| Ok(connection_info(node, self.tls.is_some())?.set_redis_settings(redis.clone()));
        let infos = nodes.iter().map(info).collect::<Result<Vec<_>, RedisError>>();
        let connecting = async {
            let mut builder = ClusterClient::builder(infos?).retries(2);
            builder = builder.connection_timeout(self.timeout * CONNECT_FACTOR);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            builder.build()?.get_async_connection().await
        };
        match connecting.await {
            Ok(connection) => Ok(connection),
            // The library reports only that no node is usable. Each node has its own cause.
            Err(error) => Err(match self.cause_of_nodes(nodes).await {
                Some(cause) => Outage::of_redis(cause),
                None => Outage::of_redis(cause::of(&error).unwrap_or(Cause::ConnectionLost)),
            }),
        }
    }

    /// The cause of the first cluster node that fails.
    async fn cause_of_nodes(&self, nodes: &[RedisAddress]) -> Option<Cause> {
        for node in nodes {
            let tried = async {
                let mut connection = self.open(node, self.tls.as_ref()).await?;
                authenticate(&mut connection, &self.login).await?;
                let slots = run::<Value>(&mut connection, cmd("CLUSTER").arg("SLOTS")).await;
                slots.map_err(|cause| cause.unwrap_or(Cause::TopologyWrong))
            };
            if let Err(cause) = tried.await {
                return Some(cause);
            }
        }
        None
    }

    async fn open(&self, address: &RedisAddress, tls: Option<&RedisTls>) -> Result<MultiplexedConnection, Cause> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout * CONNECT_FACTOR))
            .set_response_timeout(Some(self.timeout));
        let client = client(address, tls).map_err(|_| Cause::TlsFiles)?;
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => Ok(connection),
            Err(error) => match cause::of(&error).unwrap_or(Cause::NotRedis) {
                Cause::ConnectionLost if tls.is_none() => {
                    let greeting = greeting(address, b"", self.timeout).await;
                    Err(greeting.and_then(|text| of_text(&text)).unwrap_or(Cause::ConnectionLost))
                }
                // Redis reads the beginning of a TLS handshake as that of a command, and waits for the rest.
                Cause::TimedOut if tls.is_some() => {
                    let is_plain = greeting(address, b"\r\nPING\r\n", self.timeout).await.is_some();
                    Err(if is_plain { Cause::TlsNotSpoken } else { Cause::TimedOut })
                }
                cause => Err(cause),
            },
        }
    }
}

/// Runs a command. An error has its cause, if it means an outage.
async fn run<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<T, Option<Cause>> {
    command.query_async(connection).await.map_err(|error| cause::of(&error))
}

async fn authenticate(connection: &mut MultiplexedConnection, login: &RedisLogin) -> Result<(), Cause> {
    let Some(password) = &login.password else { return Ok(()) };
    let mut command = cmd("AUTH");
    if let Some(username) = &login.username {
        command.arg(username);
    }
    command.arg(password.expose_secret());
    run::<Value>(connection, &command).await.map(|_| ()).map_err(|cause| cause.unwrap_or(Cause::PasswordRefused))
}

/// What a server without TLS sends on a new connection, in reply to these bytes or to none. A server with too many
/// connections, or with protected mode, sends an error and closes the connection. Sent bytes would discard that error.
async fn greeting(address: &RedisAddress, sent: &[u8], longest: Duration) -> Option<String> {
    let read = async {
        let mut bytes = [0; MAX_GREETING_BYTES];
        let length = match address {
            RedisAddress::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
                stream.writable().await.ok()?;
                stream.try_write(sent).ok()?;
                stream.readable().await.ok()?;
                stream.try_read(&mut bytes).ok()?
            }
            RedisAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.ok()?;
                stream.readable().await.ok()?;
                stream.try_read(&mut bytes).ok()?
            }
        };
        let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
        text.starts_with(['+', '-']).then(|| text.to_owned())
    };
    tokio::time::timeout(longest, read).await.ok().flatten()
}

fn of_text(greeting: &str) -> Option<Cause> {
    let (code, detail) = greeting.strip_prefix('-')?.split_once(' ')?;
    cause::of_reply(code, detail)
}

fn client(address: &RedisAddress, tls: Option<&RedisTls>) -> Result<Client, RedisError> {
    let info = connection_info(address, tls.is_some())?;
    match tls {
        Some(tls) => Client::build_with_tls(info, tls_certificates(tls).map_err(io::Error::other)?),
        None => Client::open(info),
    }
}

fn connection_info(address: &RedisAddress, tls: bool) -> Result<ConnectionInfo, RedisError> {
    let address = match address {
        RedisAddress::Tcp(host, port) if tls => ConnectionAddr::TcpTls {
            host: without_root_dot(host).to_owned(),
            port: *port,
            insecure: false,
            tls_params: None,
        },
        RedisAddress::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
        RedisAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
    };
    Ok(address.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

/// Checks the TLS files. `ca` is the configuration key of the authorities.
fn check_files(tls: &RedisTls, ca: &'static str) -> Result<(), RedisConfigError> {
    if let Some(file) = &tls.ca {
        Certificates::read_authorities(file).map_err(|error| RedisConfigError::File(ca, error.to_string()))?;
    }
    if let Some((certificate, key)) = &tls.client_certificate {
        certificates::read_client_pair(certificate, key).map_err(|error| match error {
            KeyPairError::Certificate(error) => RedisConfigError::File("store.certificate", error.to_string()),
            KeyPairError::PrivateKey(error) => RedisConfigError::File("store.private_key", error.to_string()),
        })?;
    }
    Ok(())
}

/// The TLS files as plain PEM, as the library needs them.
fn tls_certificates(tls: &RedisTls) -> Result<TlsCertificates, FileError> {
    let root_cert = tls.ca.as_deref().map(|file| Ok(Certificates::read(file)?.to_pem().into_bytes())).transpose()?;
    let client_tls = match &tls.client_certificate {
        Some((certificate, key)) => Some(ClientTlsConfig {
            client_cert: Certificates::read(certificate)?.to_pem().into_bytes(),
            client_key: certificates::private_key_to_pem(&certificates::read_private_key(key)?).into_bytes(),
        }),
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}
