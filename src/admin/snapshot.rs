//! The state of the running configuration that the admin endpoints show.

use std::sync::Arc;

use crate::{
    config::Policy,
    gateway::{callers::Callers, policy::Operations, tenant::Tenants},
    jwks::KeyRing,
    observability::{audit::AuditLog, deprecated_usage::DeprecatedUsage, metrics::Metrics},
    tokens::{sessions::Sessions, system::SystemTokens},
    verify::shopper_token::ShopperVerifier,
};

/// State of the running configuration. A reload replaces it as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// The organizations.
    pub tenants: Arc<Tenants>,
    /// The trusted systems.
    pub callers: Arc<Callers>,
    /// The policy table.
    pub operations: Arc<Operations>,
    /// How rejected and unknown requests are treated.
    pub policy: Policy,
    /// The key sets of all issuers.
    pub key_rings: Vec<Arc<KeyRing>>,
    /// The verifier of shopper tokens.
    pub shoppers: Arc<ShopperVerifier>,
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The system tokens.
    pub system_tokens: Arc<SystemTokens>,
    /// The usage of deprecated endpoints.
    pub deprecated_usage: Arc<DeprecatedUsage>,
    /// The audit log.
    pub audit: Arc<AuditLog>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}
