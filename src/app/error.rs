//! Errors of starting a gateway and of reloading its configuration.

use std::{io, net::SocketAddr};

use crate::{
    certificates::FileError,
    config::Diagnostic,
    gateway::policy::TableError,
    jwks::CacheDirectoryError,
    salesforce::transport::TransportSetupError,
    server::{UpstreamError, tls::TlsFileError},
    store::redis::RedisConfigError,
    types::OrganizationId,
};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener cannot be set up.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// Key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The worker threads cannot start.
    #[error("server.threads: {0}")]
    Threads(#[source] io::Error),
    /// Routes, callers or globs contradict the policy table. Configurations loaded by [`load`](super::load) have been checked
    /// for this.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Policy(Vec<Diagnostic>),
    /// The built-in policy table is invalid. Tests check that it is valid.
    #[error("the policy table: {0}")]
    Table(#[from] TableError),
    /// The HTTP client for Salesforce's services cannot be built.
    #[error(transparent)]
    Transport(#[from] TransportSetupError),
    /// The URL of an API cannot be used.
    #[error("{organization}: {source}")]
    Upstream {
        /// The organization.
        organization: OrganizationId,
        /// The problem.
        source: UpstreamError,
    },
    /// The authorities of an API cannot be used.
    #[error("{organization}: api_ca: {source}")]
    Authorities {
        /// The organization.
        organization: OrganizationId,
        /// The problem.
        source: Box<FileError>,
    },
    /// A server needs the system's authorities, and the system has none.
    #[error("{what}: {problem}")]
    NoSystemAuthorities {
        /// The server, by organization and key.
        what: String,
        /// The problem, and what to do.
        problem: String,
    },
    /// A file of the listener's TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFileError),
    /// The session store's configuration cannot be used.
    #[error(transparent)]
    Store(#[from] RedisConfigError),
    /// The operating system provides no random numbers.
    #[error("the operating system provides no random numbers")]
    Randomness(#[from] aws_lc_rs::error::Unspecified),
    /// The directory of the key set cache cannot be used.
    #[error("keys.jwks_cache_dir: {0}")]
    Keys(#[from] CacheDirectoryError),
    /// A metric is registered twice. Tests check that this cannot happen.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}
