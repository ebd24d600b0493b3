//! `[server]` and `[admin]`: the listeners.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// The public listener.
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on; port 0 selects a free port.
    pub listen: Vec<SocketAddr>,
    /// Number of worker threads.
    pub threads: usize,
    /// TLS on every public address.
    pub tls: Option<Tls>,
    /// Networks of proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
}

/// Files of the TLS listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub private_key: PathBuf,
    /// CA certificates that may sign client certificates, PEM; `None`: the gateway requests no client certificate.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of these authorities, PEM; `None`: revocation is not checked.
    pub client_crl: Option<PathBuf>,
}

/// The listener for operators.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address of `/metrics`, `/livez`, `/readyz`, `/status`.
    pub listen: SocketAddr,
}
