//! The state that serves requests. A reload replaces it as a whole; a request keeps the state that it started with.

use std::sync::Arc;

use super::{access_log::AccessLog, upstream::Upstream};
use crate::{
    config::{Limits, Timeouts},
    gateway::{Gateway, limits::client_address::ClientAddresses},
    types::ByOrganization,
};

/// The part of the running configuration that requests use.
#[derive(Debug)]
pub struct Runtime {
    /// The pipeline.
    pub gateway: Arc<Gateway>,
    /// Limits of size, number and rate.
    pub limits: Limits,
    /// Finds the address that a request counts for.
    pub client_addresses: ClientAddresses,
    /// The API of each organization.
    pub upstreams: ByOrganization<Arc<Upstream>>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The access log.
    pub log: AccessLog,
}
