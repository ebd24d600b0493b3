//! `[server]` and `[admin]`: the listeners.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// The public listener.
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Worker threads.
    pub threads: usize,
    /// TLS on every public address, if configured.
    pub tls: Option<Tls>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Files of the TLS listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub private_key: PathBuf,
    /// Authorities that may sign client certificates, PEM; absent: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Their revocation lists, PEM; absent: revocation is not checked.
    pub client_crl: Option<PathBuf>,
}

/// The listener for operators.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address of `/metrics`, `/livez`, `/readyz`, `/status`.
    pub listen: SocketAddr,
}
