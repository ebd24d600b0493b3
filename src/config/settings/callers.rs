//! `[[callers]]`: trusted systems.

use crate::types::{ClientId, OrganizationId, SiteId};

/// A trusted system.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name in logs and metrics.
    pub name: String,
    /// How the caller authenticates.
    pub identity: CallerIdentity,
    /// May call system operations.
    pub may_system: bool,
    /// May act on behalf of shoppers.
    pub may_on_behalf: bool,
    /// May act on behalf of shoppers of other identity providers, which creates their accounts.
    pub may_create_shoppers: bool,
    /// Organizations that the caller may access.
    pub organizations: Vec<OrganizationId>,
    /// Sites that the caller may access. Empty: all sites of these organizations.
    pub sites: Vec<SiteId>,
    /// Globs over operation names.
    pub operations: Vec<String>,
    /// Rate limit in requests per second; `None`: no limit.
    pub requests_per_second: Option<u32>,
}

/// How a trusted system authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerIdentity {
    /// With a token or Basic credentials of this Account Manager client.
    AccountManagerClient(ClientId),
    /// With a client certificate that has this subject (RFC 4514).
    CertificateSubject(String),
    /// With a client certificate that has this subject alternative name: `DNS:…`, `URI:…` or `email:…`.
    CertificateSan(String),
}
