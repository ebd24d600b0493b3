//! The state that serves a request, as one value. A reload replaces it as a whole; a request keeps the one that it started with.

use std::sync::Arc;

use super::{access_log::AccessLog, upstream::Upstream};
use crate::{
    config::{Limits, Timeouts},
    gateway::{Gateway, limits::client_address::TrustedProxies},
    types::ByOrganization,
};

/// Everything that a request needs of the configuration.
#[derive(Debug)]
pub struct Runtime {
    /// What decides.
    pub gateway: Arc<Gateway>,
    /// The limits of sizes and connections.
    pub limits: Limits,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
    /// Where requests go, one for each of the gate's organizations.
    pub upstreams: ByOrganization<Arc<Upstream>>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// The access log.
    pub log: AccessLog,
}
