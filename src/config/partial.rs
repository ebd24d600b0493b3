//! A configuration as far as it could be read.
//!
//! Owns what those check who know more than this floor (the policy table, certificates), in the same round as the settings
//! and whatever is wrong with the rest. Refuses to guess: what could not be read is not there.

use std::path::PathBuf;

use url::Url;

use super::{Caller, CallerIdentity, RedisTls, RedisTopology, Route, Settings, Store, Tenant, Tls};
use crate::types::OrganizationId;

/// What of a configuration could be read. Each list has an entry for each of the file's.
#[derive(Debug, Clone, Default)]
pub struct PartialSettings {
    /// `server.tls`.
    pub tls: PartialTls,
    /// `[[tenants]]`.
    pub tenants: Vec<PartialTenant>,
    /// The files of `store.ca` and `store.sentinel_ca`, where they have an effect.
    pub store_authorities: Vec<(&'static str, PathBuf)>,
    /// `store.certificate` and `store.private_key`, where they have an effect.
    pub store_client: Option<(PathBuf, PathBuf)>,
    /// The other keys of servers whose certificates are verified by the system's authorities.
    pub verified_by_system: Vec<&'static str>,
    /// `[[callers]]`.
    pub callers: Vec<PartialCaller>,
    /// `[[routes]]`.
    pub routes: Vec<PartialRoute>,
    /// `load.low_priority`.
    pub low_priority: Vec<String>,
}

/// The listener's files, as far as they are there.
#[derive(Debug, Clone, Default)]
pub struct PartialTls {
    /// Certificate chain, PEM.
    pub certificate: Option<PathBuf>,
    /// Private key, PEM.
    pub private_key: Option<PathBuf>,
    /// Authorities that may sign client certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Their revocation lists, PEM.
    pub client_crl: Option<PathBuf>,
    /// All that are configured; `None` if there is no such table, or together with an error.
    pub(super) complete: Option<Tls>,
}

/// Where the services of one organization are, and whom the gateway trusts there.
#[derive(Debug, Clone, Default)]
pub struct PartialTenant {
    /// The organization.
    pub organization: Option<OrganizationId>,
    /// `api`.
    pub api: Option<Url>,
    /// `api_ca`.
    pub api_ca: Option<PathBuf>,
    /// Whether there is an `api_ca`, be it readable or not.
    pub has_api_ca: bool,
    /// `account_manager.url`.
    pub account_manager: Option<Url>,
}

/// One trusted system.
#[derive(Debug, Clone)]
pub struct PartialCaller {
    /// What it presents.
    pub identity: Option<CallerIdentity>,
    /// Globs over operation names, as they are written.
    pub operations: Vec<String>,
    /// The organizations of which it may act on behalf of shoppers.
    pub(super) on_behalf_organizations: Vec<OrganizationId>,
    /// The caller itself; `None` only together with an error.
    pub(super) complete: Option<Caller>,
}

/// One operation of the merchant's own.
#[derive(Debug, Clone)]
pub struct PartialRoute {
    /// Its name, whatever is wrong with the rest: callers may mean it.
    pub name: Option<String>,
    /// The route itself; `None` only together with an error.
    pub complete: Option<Route>,
}

impl PartialSettings {
    /// Settings without an error are all there.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
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

/// How TLS connections to the store's servers are made, by the key of their authorities and that of the address.
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

/// The files of authorities for the store's servers, by their keys.
pub(super) fn store_authorities(store: &Store) -> Vec<(&'static str, PathBuf)> {
    store_connections(store).filter_map(|(key, _, tls)| Some((key, tls.ca.clone()?))).collect()
}

/// The files of the gateway's own certificate and private key for the store's servers.
pub(super) fn store_client(store: &Store) -> Option<(PathBuf, PathBuf)> {
    store_connections(store).find_map(|(_, _, tls)| tls.client_certificate.clone())
}

/// The keys of servers beside Salesforce's whose certificates are verified by the system's authorities.
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
