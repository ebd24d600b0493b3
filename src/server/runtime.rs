//! The parts that serve a request, as one value: a reload replaces it as a whole, and a request keeps the one that it began with.

use std::sync::Arc;

use super::{access_log::AccessLog, upstream::Upstream};
use crate::{config::Timeouts, gateway::Gateway, types::ByOrganization};

/// What serves a request from its beginning to its end, whatever is put in its place meanwhile.
#[derive(Debug)]
pub struct Runtime {
    /// What decides.
    pub gate: Arc<Gateway>,
    /// Where requests go, one for each of the gate's organizations.
    pub upstreams: ByOrganization<Arc<Upstream>>,
    /// Times.
    pub timeouts: Timeouts,
    /// Which requests get a line.
    pub log: AccessLog,
}
