//! The valid part of a configuration that may have errors.
//!
//! `app` checks certificates and the policy table against it, so that one run reports these errors too. Invalid values are
//! absent.

use std::path::PathBuf;

use url::Url;

use super::{Caller, CallerIdentity, RedisTls, RedisTopology, Route, Settings, Store, Tenant, Tls};
use crate::types::OrganizationId;

/// The valid part of a configuration. Each list has as many entries as in the file.
#[derive(Debug, Clone, Default)]
pub struct PartialSettings {
    /// `server.tls`.
    pub tls: PartialTls,
    /// `[[tenants]]`.
    pub tenants: Vec<PartialTenant>,
    /// The files of `store.ca` and `store.sentinel_ca`, if they are used.
    pub store_authorities: Vec<(&'static str, PathBuf)>,
    /// `store.certificate` and `store.private_key`, if they are used.
    pub store_client: Option<(PathBuf, PathBuf)>,
    /// Keys of servers other than `tenants` that are verified with the system's CA certificates.
    pub verified_by_system: Vec<&'static str>,
    /// `[[callers]]`.
    pub callers: Vec<PartialCaller>,
    /// `[[routes]]`.
    pub routes: Vec<PartialRoute>,
    /// `load.low_priority`.
    pub low_priority: Vec<String>,
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
    /// The complete table; `None` if it is absent or has an error.
    pub(super) complete: Option<Tls>,
}

/// The servers of one organization, and the CA certificates for them.
#[derive(Debug, Clone, Default)]
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
}

/// One trusted system.
#[derive(Debug, Clone)]
pub struct PartialCaller {
    /// How it authenticates.
    pub identity: Option<CallerIdentity>,
    /// Globs over operation names, as in the file.
    pub operations: Vec<String>,
    /// Organizations in which it may act on behalf of shoppers.
    pub(super) on_behalf_organizations: Vec<OrganizationId>,
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

impl From<&Settings> for PartialSettings {
    /// The same view of valid settings.
    fn from(settings: &Settings) -> Self {
        let caller = |caller: &Caller| PartialCaller {
            identity: Some(caller.identity.clone()),
            operations: caller.operations.clone(),
            on_behalf_organizations: if caller.may_on_behalf || caller.may_create_shoppers {
                caller.organizations.clone()
            } else {
                Vec::new()
            },
            complete: Some(caller.clone()),
        };
        let route = |route: &Route| PartialRoute { name: Some(route.name.clone()), complete: Some(route.clone()) };
        Self {
            tls: settings.server.tls.clone().map(PartialTls::from).unwrap_or_default(),
            tenants: settings.tenants.iter().map(PartialTenant::from).collect(),
            store_authorities: store_authorities(&settings.store),
            store_client: store_client(&settings.store),
            verified_by_system: verified_by_system(Some(&settings.store), settings.traces.endpoint.as_ref()),
            callers: settings.callers.iter().map(caller).collect(),
            routes: settings.routes.iter().map(route).collect(),
            low_priority: settings.load.low_priority.clone(),
        }
    }
}

impl From<&Tenant> for PartialTenant {
    fn from(tenant: &Tenant) -> Self {
        Self {
            organization: Some(tenant.organization.clone()),
            api: Some(tenant.api.clone()),
            api_ca: tenant.api_ca.clone(),
            has_api_ca: tenant.api_ca.is_some(),
            account_manager: tenant.account_manager.as_ref().map(|manager| manager.url.clone()),
        }
    }
}

/// TLS files of the store's servers, each with the keys of the CA certificates and of the address.
fn store_connections(store: &Store) -> impl Iterator<Item = (&'static str, &'static str, &RedisTls)> {
    let (redis, sentinels) = match store {
        Store::Memory => (None, None),
        Store::Redis(redis) => {
            let sentinels = match &redis.topology {
                RedisTopology::Sentinel { tls, .. } => tls.as_ref(),
                RedisTopology::Standalone(_) | RedisTopology::Cluster(_) => None,
            };
            (redis.tls.as_ref(), sentinels)
        }
    };
    let redis = redis.map(|tls| ("store.ca", "store.url", tls));
    redis.into_iter().chain(sentinels.map(|tls| ("store.sentinel_ca", "store.url", tls)))
}

/// Files of CA certificates for the store's servers, with their keys.
pub(super) fn store_authorities(store: &Store) -> Vec<(&'static str, PathBuf)> {
    store_connections(store).filter_map(|(key, _, tls)| Some((key, tls.ca.clone()?))).collect()
}

/// The gateway's client certificate and private key for the store's servers.
pub(super) fn store_client(store: &Store) -> Option<(PathBuf, PathBuf)> {
    store_connections(store).find_map(|(_, _, tls)| tls.client_certificate.clone())
}

/// Keys of the store and the collector, if they are verified with the system's CA certificates.
pub(super) fn verified_by_system(store: Option<&Store>, traces: Option<&Url>) -> Vec<&'static str> {
    let store = store.into_iter().flat_map(store_connections);
    let store = store.filter(|(_, _, tls)| tls.ca.is_none()).map(|(_, address, _)| address);
    store.chain(traces.filter(|url| url.scheme() == "https").map(|_| "traces.endpoint")).collect()
}

impl From<Tls> for PartialTls {
    fn from(tls: Tls) -> Self {
        Self {
            certificate: Some(tls.certificate.clone()),
            private_key: Some(tls.private_key.clone()),
            client_ca: tls.client_ca.clone(),
            client_crl: tls.client_crl.clone(),
            complete: Some(tls),
        }
    }
}
