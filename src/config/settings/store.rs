//! `[store]`: where sessions are stored, and how Redis is reached.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

/// Where sessions are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Store {
    /// In the process.
    Memory,
    /// In Redis or Valkey, shared by all replicas.
    Redis(Box<RedisStore>),
}

impl PartialEq for RedisStore {
    fn eq(&self, other: &Self) -> bool {
        let keys = |store: &Self| {
            let previous = store.previous_encryption_key.as_ref().map(|key| key.expose_secret().to_vec());
            (store.encryption_key.expose_secret().to_vec(), previous)
        };
        (&self.topology, &self.login, self.database, &self.tls)
            == (&other.topology, &other.login, other.database, &other.tls)
            && keys(self) == keys(other)
            && (&self.key_prefix, self.timeout) == (&other.key_prefix, other.timeout)
    }
}

/// Sessions in Redis or Valkey.
#[derive(Debug, Clone)]
pub struct RedisStore {
    /// The servers.
    pub topology: RedisTopology,
    /// User and password of Redis.
    pub login: RedisLogin,
    /// Database index; 0 in a cluster.
    pub database: i64,
    /// TLS files for connections to Redis; `None`: no TLS.
    pub tls: Option<RedisTls>,
    /// Key that encrypts stored values: 32 bytes.
    pub encryption_key: SecretSlice<u8>,
    /// The old key during a rotation: 32 bytes.
    pub previous_encryption_key: Option<SecretSlice<u8>>,
    /// Prefix of every key.
    pub key_prefix: String,
    /// Time limit of one command.
    pub timeout: Duration,
}

/// The servers of Redis.
#[derive(Debug, Clone, PartialEq)]
pub enum RedisTopology {
    /// One server: `redis://`, `rediss://` or `redis+unix://`.
    Standalone(RedisAddress),
    /// Some nodes of a cluster.
    Cluster(Vec<RedisAddress>),
    /// The master that Sentinels name.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<RedisAddress>,
        /// Name of the master.
        master: String,
        /// User and password of the Sentinels. If both are absent, Sentinels that require a password receive those of
        /// Redis.
        login: RedisLogin,
        /// TLS files for connections to the Sentinels; `None`: no TLS.
        tls: Option<RedisTls>,
    },
}

/// Address of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// A host (a name, or an address without brackets) and a port.
    Tcp(String, u16),
    /// Path of a socket.
    Unix(PathBuf),
}

/// A user of Redis or of its Sentinels.
#[derive(Debug, Clone, Default)]
pub struct RedisLogin {
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Password; `None`: no login.
    pub password: Option<SecretString>,
}

impl PartialEq for RedisLogin {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |login: &Self| login.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.username == other.username && exposed(self) == exposed(other)
    }
}

/// Files for TLS connections to Redis or its Sentinels. They are read for each new connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// CA certificates for the server, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's certificate chain and private key, PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}
