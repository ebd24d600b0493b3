//! `[[tenants]]`: the organizations and their clients.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::{AllowedOrigin, Storefront};
use crate::types::{ClientId, OrganizationId, Scopes, SiteId, TenantId};

/// One organization, and the gateway's credentials for it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Organization id, as in paths.
    pub organization: OrganizationId,
    /// Tenant id, as in tokens: the organization id without `f_ecom_`.
    pub tenant: TenantId,
    /// Origin of SCAPI and SLAS: scheme, host and port.
    pub api: Url,
    /// CA certificates for `api`, PEM, instead of the system's.
    pub api_ca: Option<PathBuf>,
    /// Site ids.
    pub sites: Vec<SiteId>,
    /// The gateway's client of Account Manager.
    pub account_manager: Option<AccountManager>,
    /// SLAS clients that deprecated logins and SLAS paths may use.
    pub slas_clients: Vec<SlasClient>,
    /// Web pages that may call from other origins; empty: none.
    pub origins: Vec<AllowedOrigin>,
    /// Storefronts whose sessions are in cookies, at most one for each site.
    pub storefronts: Vec<Storefront>,
    /// The private client that obtains tokens on behalf of shoppers.
    pub on_behalf_client: Option<ClientId>,
    /// Whether logins on SLAS paths become sessions.
    pub register_sessions: bool,
    /// SLAS's rate limit in requests per minute, for all gateways together.
    pub slas_requests_per_minute: u32,
}

impl Tenant {
    /// The client that acts on behalf of shoppers.
    #[must_use]
    pub fn on_behalf_slas_client(&self) -> Option<&SlasClient> {
        self.slas_clients.iter().find(|client| Some(&client.id) == self.on_behalf_client.as_ref())
    }

    /// The storefront of a site.
    #[must_use]
    pub fn storefront(&self, site: &SiteId) -> Option<&Storefront> {
        self.storefronts.iter().find(|storefront| storefront.site == *site)
    }
}

/// The gateway's own client of Account Manager.
#[derive(Debug, Clone)]
pub struct AccountManager {
    /// Origin of Account Manager.
    pub url: Url,
    /// Client id.
    pub client_id: ClientId,
    /// Secret.
    pub client_secret: SecretString,
    /// The old secret during a rotation.
    pub previous_client_secret: Option<SecretString>,
    /// Scopes to request, without the tenant's own.
    pub scopes: Scopes,
}

/// A client of SLAS.
#[derive(Debug, Clone)]
pub struct SlasClient {
    /// Client id.
    pub id: ClientId,
    /// Secret; `None` for a public client.
    pub secret: Option<SecretString>,
    /// The old secret during a rotation.
    pub previous_secret: Option<SecretString>,
    /// The redirect URI registered with SLAS, sent exactly as written.
    pub redirect_uri: String,
    /// Whether SLAS requires `x-slas-client-auth` from this client at login too.
    pub strict_client_auth: bool,
    /// Whether the gateway adds the client's credential to SLAS requests that name the client and have no credential.
    pub vouch: bool,
    /// Rate limit of all its shoppers together, in requests per second; `None`: no limit.
    pub requests_per_second: Option<u32>,
}
