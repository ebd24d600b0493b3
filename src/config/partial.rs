//! The valid part of a configuration that may have errors.
//!
//! `app` checks certificates and the policy table against it, so that one run reports these errors too. Invalid values are
//! absent.

use std::path::PathBuf;

use url::Url;

use super::{Caller, CallerIdentity, Route, Settings, SlasClient, Store, Tenant, Tls};
use crate::types::{ClientId, OrganizationId, SiteId};

/// The valid part of a configuration. Each list has as many entries as in the file.
#[derive(Debug, Clone)]
pub struct PartialSettings {
    /// `server.tls`; `None` if the table is absent.
    pub tls: Option<PartialTls>,
    /// `[[tenants]]`.
    pub tenants: Vec<PartialTenant>,
    /// `[store]`; `None` if it has an error.
    pub store: Option<Store>,
    /// `traces.endpoint`.
    pub collector: Option<Url>,
    /// The keys that the policy table is checked against.
    pub policy: PartialPolicy,
}

/// The valid files of the TLS listener.
#[derive(Debug, Clone, Default)]
pub struct PartialTls {
    /// Certificate chain, PEM.
    pub certificate: Option<PathBuf>,
    /// Private key, PEM.
    pub private_key: Option<PathBuf>,
    /// CA certificates that may sign client certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of these authorities, PEM.
    pub client_crl: Option<PathBuf>,
}

/// The valid part of a tenant.
#[derive(Debug, Clone)]
pub struct PartialTenant {
    /// The organization.
    pub organization: Option<OrganizationId>,
    /// `api`.
    pub api: Option<Url>,
    /// `api_ca`.
    pub api_ca: Option<PathBuf>,
    /// Whether `api_ca` is set, also to an unreadable file.
    pub has_api_ca: bool,
    /// `account_manager.url`.
    pub account_manager: Option<Url>,
    /// Whether `account_manager` is set, also with errors.
    pub(super) has_account_manager: bool,
    /// `sites`; `None` if one of them is invalid.
    pub(super) sites: Option<Vec<SiteId>>,
    /// `slas_clients`.
    pub(super) slas_clients: Vec<PartialSlasClient>,
    /// Whether `on_behalf_client` is set.
    pub(super) sets_on_behalf_client: bool,
    /// The client that acts on behalf of shoppers: `on_behalf_client`, or the only private client.
    pub(super) on_behalf_client: Option<ClientId>,
    /// The complete tenant; `None` if it has an error.
    pub(super) complete: Option<Tenant>,
}

/// The valid part of a SLAS client.
#[derive(Debug, Clone)]
pub(super) struct PartialSlasClient {
    pub(super) id: Option<ClientId>,
    /// Whether the client has a secret, also an unreadable one.
    pub(super) is_private: bool,
    /// Whether the redirect URI is a web page of another machine.
    pub(super) redirects_to_page: bool,
    /// `vouch`, as in the file.
    pub(super) vouch: Option<bool>,
    /// The complete client; `None` if it has an error.
    pub(super) complete: Option<SlasClient>,
}

/// The keys that the policy table is checked against.
#[derive(Debug, Clone)]
pub struct PartialPolicy {
    /// `[[callers]]`.
    pub callers: Vec<PartialCaller>,
    /// `[[routes]]`.
    pub routes: Vec<PartialRoute>,
    /// `load.low_priority`.
    pub low_priority: Vec<String>,
}

/// One trusted system.
#[derive(Debug, Clone)]
pub struct PartialCaller {
    /// How it authenticates.
    pub identity: Option<CallerIdentity>,
    /// Globs over operation names, as in the file.
    pub operations: Vec<String>,
    /// Organizations that it may access.
    pub(super) organizations: Vec<OrganizationId>,
    /// Whether it may act on behalf of shoppers.
    pub(super) acts_on_behalf: bool,
    /// The complete caller; `None` if it has an error.
    pub(super) complete: Option<Caller>,
}

/// One operation that the merchant adds.
#[derive(Debug, Clone)]
pub struct PartialRoute {
    /// Name, also of a route with other errors, because callers may refer to it.
    pub name: Option<String>,
    /// The complete route; `None` if it has an error.
    pub complete: Option<Route>,
}

impl PartialTls {
    /// The complete table; `None` if a required file is invalid.
    pub(super) fn complete(&self) -> Option<Tls> {
        Some(Tls {
            certificate: self.certificate.clone()?,
            private_key: self.private_key.clone()?,
            client_ca: self.client_ca.clone(),
            client_crl: self.client_crl.clone(),
        })
    }
}

impl From<&Settings> for PartialPolicy {
    /// The same keys of valid settings.
    fn from(settings: &Settings) -> Self {
        let caller = |caller: &Caller| PartialCaller {
            identity: Some(caller.identity.clone()),
            operations: caller.operations.clone(),
            organizations: caller.organizations.clone(),
            acts_on_behalf: caller.may_on_behalf || caller.may_create_shoppers,
            complete: Some(caller.clone()),
        };
        let route = |route: &Route| PartialRoute { name: Some(route.name.clone()), complete: Some(route.clone()) };
        Self {
            callers: settings.callers.iter().map(caller).collect(),
            routes: settings.routes.iter().map(route).collect(),
            low_priority: settings.load.low_priority.clone(),
        }
    }
}
