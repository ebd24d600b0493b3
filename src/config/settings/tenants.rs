//! `[[tenants]]`: the organizations and their clients.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use crate::types::{ClientId, OrganizationId, Scopes, SiteId, TenantId};

/// One organization and how the gateway speaks for it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The organization, as in paths.
    pub organization: OrganizationId,
    /// The tenant, as in tokens: the organization without `f_ecom_`.
    pub tenant: TenantId,
    /// Origin of SCAPI and SLAS: scheme, host, port, no path.
    pub api: Url,
    /// Certificate authorities for `api`, PEM, instead of the system's.
    pub api_ca: Option<PathBuf>,
    /// Its sites.
    pub sites: Vec<SiteId>,
    /// The gateway's own Account Manager client, if any.
    pub account_manager: Option<AccountManager>,
    /// SLAS clients that deprecated logins and SLAS paths may use.
    pub slas_clients: Vec<SlasClient>,
    /// The private client that obtains tokens on behalf of shoppers.
    pub on_behalf_client: Option<ClientId>,
    /// Whether logins through SLAS paths become sessions.
    pub register_sessions: bool,
    /// Calls a minute that SLAS takes of it, of all gateways together.
    pub slas_requests_per_minute: u32,
}

impl Tenant {
    /// The client that acts on behalf of shoppers, if there is one.
    #[must_use]
    pub fn acting_client(&self) -> Option<&SlasClient> {
        self.slas_clients.iter().find(|client| Some(&client.id) == self.on_behalf_client.as_ref())
    }
}

/// The gateway's own system client.
#[derive(Debug, Clone)]
pub struct AccountManager {
    /// Origin of Account Manager.
    pub url: Url,
    /// Its client id.
    pub client_id: ClientId,
    /// Its secret.
    pub client_secret: SecretString,
    /// The secret before, while it is being replaced.
    pub previous_client_secret: Option<SecretString>,
    /// Scopes to ask for, without the tenant's own.
    pub scopes: Scopes,
}

/// A client of SLAS.
#[derive(Debug, Clone)]
pub struct SlasClient {
    /// Its id.
    pub id: ClientId,
    /// Its secret; absent for a public client.
    pub secret: Option<SecretString>,
    /// The secret before, while it is being replaced.
    pub previous_secret: Option<SecretString>,
    /// The redirect URI registered with SLAS, sent exactly as written.
    pub redirect_uri: String,
    /// Whether SLAS demands `x-slas-client-auth` from it.
    pub strict_client_auth: bool,
    /// Whether the gateway adds its credential to requests for SLAS that name the client and bring none.
    pub vouch: bool,
    /// How often a second its shoppers may ask together; `None`: no limit.
    pub requests_per_second: Option<u32>,
}
