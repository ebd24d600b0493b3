//! The state that serves a request, as one value. A reload replaces it as a whole; a request keeps the one that it started with.

use std::sync::Arc;

use super::{access_log::AccessLog, upstream::Upstream};
use crate::{config::Timeouts, gateway::Gateway, types::ByOrganization};

/// Everything that a request needs of the configuration.
#[derive(Debug)]
pub struct Runtime {
    /// The request pipeline.
    pub gate: Arc<Gateway>,
    /// The API of each organization.
    pub upstreams: ByOrganization<Arc<Upstream>>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// The access log.
    pub log: AccessLog,
}
