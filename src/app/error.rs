//! Why a gateway cannot start, or a configuration cannot be taken over.

use std::{io, net::SocketAddr};

use crate::{
    certificates::FileError,
    config::Diagnostic,
    gateway::policy::TableError,
    jwks::FileStoreError,
    salesforce::transport::TransportSetupError,
    server::{UpstreamError, tls::TlsFileError},
    store::redis::RedisConfigError,
    types::OrganizationId,
};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// Key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The threads that serve connections cannot be started.
    #[error("server.threads: {0}")]
    Threads(#[source] io::Error),
    /// Routes, callers or globs do not fit the policy table. No configuration that was loaded by [`load`](super::load) has
    /// such a flaw.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Policy(Vec<Diagnostic>),
    /// The policy table itself is broken, which the tests exclude.
    #[error("the policy table: {0}")]
    Table(#[from] TableError),
    /// The client for Salesforce's services cannot be made.
    #[error(transparent)]
    Transport(#[from] TransportSetupError),
    /// An API cannot be sent to.
    #[error("{organization}: {source}")]
    Upstream {
        /// The organization.
        organization: OrganizationId,
        /// What is wrong.
        source: UpstreamError,
    },
    /// The authorities of an API cannot be used.
    #[error("{organization}: api_ca: {source}")]
    Authorities {
        /// The organization.
        organization: OrganizationId,
        /// What is wrong.
        source: Box<FileError>,
    },
    /// A server is to be verified by the system's authorities, and there is none.
    #[error("{what}: {problem}")]
    NoSystemAuthorities {
        /// Whose server.
        what: String,
        /// What to do.
        problem: String,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFileError),
    /// The session store cannot be used at all.
    #[error(transparent)]
    Store(#[from] RedisConfigError),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness")]
    Randomness(#[from] aws_lc_rs::error::Unspecified),
    /// The folder of key sets cannot be used.
    #[error("keys.jwks_cache_dir: {0}")]
    Keys(#[from] FileStoreError),
    /// A metric is registered twice, which the tests exclude.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}
