//! `[[callers]]`: trusted systems.

use crate::types::{ClientId, OrganizationId, SiteId};

/// A trusted system.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name in logs and metrics.
    pub name: String,
    /// What it presents.
    pub identity: CallerIdentity,
    /// May call system operations.
    pub may_system: bool,
    /// May act on behalf of shoppers.
    pub may_on_behalf: bool,
    /// May act on behalf of shoppers of other identity providers, which creates them.
    pub may_create_shoppers: bool,
    /// Organizations it may name.
    pub organizations: Vec<OrganizationId>,
    /// Sites it may name; empty: all of the organization's.
    pub sites: Vec<SiteId>,
    /// Globs over operation names.
    pub operations: Vec<String>,
    /// How often a second it may ask; `None`: no limit.
    pub requests_per_second: Option<u32>,
}

/// How a trusted system proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerIdentity {
    /// By a token or the credentials of this Account Manager client.
    AccountManagerClient(ClientId),
    /// By a client certificate with this subject (RFC 4514).
    CertificateSubject(String),
    /// By a client certificate with this among its alternative names: `DNS:…`, `URI:…`, `email:…`.
    CertificateSan(String),
}
