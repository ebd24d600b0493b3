//! `[store]`: where sessions are stored, and how Redis is reached.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;
use secrecy::SecretSlice;
use secrecy::SecretString;

/// Where sessions live.
#[derive(Debug, Clone, PartialEq)]
pub enum Store {
    /// In this process.
    Memory,
    /// In Redis or Valkey, shared by replicas.
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
    /// Where it is.
    pub topology: RedisTopology,
    /// The user and password of Redis.
    pub login: RedisLogin,
    /// Database index; 0 in a cluster.
    pub database: i64,
    /// How TLS connections to Redis are made; `None`: without TLS.
    pub tls: Option<RedisTls>,
    /// Seals what is stored: 32 bytes.
    pub encryption_key: SecretSlice<u8>,
    /// The key before, while a rotation is under way: 32 bytes.
    pub previous_encryption_key: Option<SecretSlice<u8>>,
    /// Stands before every name.
    pub key_prefix: String,
    /// Longest wait for one command.
    pub timeout: Duration,
}

/// How Redis is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum RedisTopology {
    /// One server: `redis://`, `rediss://` or `redis+unix://`.
    Standalone(RedisAddress),
    /// A cluster, by some of its nodes.
    Cluster(Vec<RedisAddress>),
    /// The master that Sentinels name.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<RedisAddress>,
        /// The master's name.
        master: String,
        /// The user and password of the Sentinels; without them those of Redis are tried on Sentinels that want some.
        login: RedisLogin,
        /// How TLS connections to the Sentinels are made; `None`: without TLS.
        tls: Option<RedisTls>,
    },
}

/// Where one server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// A host (a name, or an address without brackets) and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// A user of Redis or of its Sentinels.
#[derive(Debug, Clone, Default)]
pub struct RedisLogin {
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Its password; `None`: no login.
    pub password: Option<SecretString>,
}

impl PartialEq for RedisLogin {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |login: &Self| login.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.username == other.username && exposed(self) == exposed(other)
    }
}

/// The files of TLS connections to Redis or its Sentinels. They are read for each new connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Authorities that may sign the server's certificate, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate chain and private key, PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}
