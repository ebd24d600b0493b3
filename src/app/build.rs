//! Builds the components of a configuration.
//!
//! State that a reload must not lose is carried over from the previous components, unless the change concerns it: key sets, the
//! store, sessions, rate limits, usage counters. Building makes no network calls.

use std::{collections::HashMap, sync::Arc};

use super::{
    AppError,
    build_commit::COMMIT,
    certificate_files,
    trust_anchors::{ApiTrustAnchors, TrustAnchors},
    validate::{build_policy, low_priority_diagnostics},
};
use parking_lot::Mutex;
use url::Url;

use crate::{
    admin::Snapshot,
    certificates::SystemAuthorities,
    config::{self, Settings},
    gateway::{
        Gateway,
        authn::Authenticator,
        cors::Cors,
        error::RejectionReason,
        legacy::LegacyLogins,
        limits::{RateLimits, client_address::ClientAddresses},
        pipeline::Stages,
        problem,
        router::Router,
        slas::SlasRoutes,
        storefront::Storefronts,
        tenant::Tenant,
        upstream_auth::UpstreamAuth,
    },
    host::url_without_root_dot,
    jwks::{CacheDirectory, Issuer, JwksPersistence, KeyRing},
    observability::{
        audit::AuditLog,
        deprecated_usage::{DeprecatedUsage, Endpoint},
        metrics::{CertificateExpiry, Metrics},
    },
    salesforce::{
        account_manager::AccountManager, customers::Customers, guard::CallGuard, slas::Slas, transport::Transport,
    },
    server::{AccessLog, Runtime, Upstream},
    store::{SessionStore, memory::MemoryStore, redis::RedisStore},
    time::unix_now_signed,
    tokens::{
        on_behalf::{OnBehalfTokens, TsobIssuer},
        references::References,
        sessions::{self, Sessions},
        slas_budget::SlasBudget,
        system::SystemTokens,
    },
    types::{ByOrganization, OrganizationId},
    verify::{shopper_token::ShopperVerifier, system_token::SystemVerifier},
};

/// State of the process that no reload replaces.
#[derive(Debug)]
pub(super) struct ProcessState {
    pub(super) metrics: Arc<Metrics>,
    /// System tokens, by the credentials that obtained them. A changed secret finds no token of the previous one.
    system_tokens: Arc<SystemTokens>,
    /// Pseudonyms use a random key of this process while no key is configured.
    audit: Arc<AuditLog>,
    /// Circuit breakers and limits per organization and service address. An outage outlasts a reload.
    guards: Mutex<HashMap<(OrganizationId, Url), Arc<CallGuard>>>,
    /// Whether Pingora read the system's authorities, which it does once, when the process starts.
    pub(super) library_reads_system: bool,
}

/// The components of one configuration.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) settings: Settings,
    /// State that serves requests.
    pub(super) runtime: Arc<Runtime>,
    /// State that the admin listener shows.
    pub(super) snapshot: Arc<Snapshot>,
    carried: Carried,
    /// Expiry of each certificate file, except those of the listener.
    pub(super) expiries: Vec<CertificateExpiry>,
}

/// State that the next configuration carries over, in addition to the snapshot's.
#[derive(Debug)]
struct Carried {
    persistence: JwksPersistence,
    rate_limits: Arc<RateLimits>,
}

impl ProcessState {
    pub(super) fn new() -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), COMMIT)?);
        problem::CODES.iter().for_each(|code| metrics.refusals.with_label_values(&[code]).inc_by(0));
        for reason in RejectionReason::ALL {
            metrics.caller_rejections.with_label_values(&[reason.as_str()]).inc_by(0);
        }
        let system_tokens = SystemTokens::new(Arc::clone(&metrics))?;
        let audit = Arc::new(AuditLog::new(metrics.audit_lines_left_out.clone())?);
        let library_reads_system = SystemAuthorities::read().is_readable_by_proxy_library();
        Ok(Self { metrics, system_tokens, audit, guards: Mutex::default(), library_reads_system })
    }

    fn guard(&self, organization: &OrganizationId, address: &Url) -> Arc<CallGuard> {
        let guard = || CallGuard::new(organization.as_str(), Arc::clone(&self.metrics));
        let mut guards = self.guards.lock();
        Arc::clone(guards.entry((organization.clone(), address.clone())).or_insert_with(guard))
    }
}

impl Components {
    /// Builds the components of a configuration. Does not change `before`, so the previous components stay usable on failure.
    pub(super) fn build(settings: Settings, process: &ProcessState, before: Option<&Self>) -> Result<Self, AppError> {
        let metrics = &process.metrics;
        let (operations, callers) = build_policy(&settings)?;
        let old_limits = before.map(|before| &*before.carried.rate_limits);
        let rate_limits = RateLimits::new(&settings, old_limits)
            .map_err(|errors| AppError::Policy(low_priority_diagnostics(&errors)))?;
        let persistence = build_jwks_persistence(&settings, metrics, before)?;
        let mut tenants = ByOrganization::default();
        let mut upstreams = ByOrganization::default();
        let mut shopper_rings = ByOrganization::default();
        let mut key_rings = Vec::new();
        let mut endpoints = ByOrganization::default();
        let mut issuers = ByOrganization::default();
        let trust = TrustAnchors::default();
        let of_store = certificate_files::store_expiry(&settings.store).into_iter().map(|(certificate, end)| {
            CertificateExpiry { certificate, tenant: CertificateExpiry::NO_TENANT.to_owned(), expires_at: end }
        });
        let mut expiries: Vec<CertificateExpiry> = of_store.collect();
        for tenant in &settings.tenants {
            let organization = tenant.organization.clone();
            let old_rings = before.map_or(&[][..], |before| &before.snapshot.key_rings);
            let of_api = trust.of_api(tenant)?;
            if let Some(end) = of_api.expiry(unix_now_signed()) {
                expiries.push(CertificateExpiry {
                    certificate: "api_ca",
                    tenant: organization.to_string(),
                    expires_at: end,
                });
            }
            let (parts, slas_ring, system_ring) =
                build_tenant(tenant, &settings, &persistence, process, old_rings, (&trust, &of_api))?;
            let authorities = of_api.of_proxy(process.library_reads_system);
            let upstream = Upstream::new(&tenant.api, authorities, &settings.timeouts)
                .map_err(|source| AppError::Upstream { organization: organization.clone(), source })?;
            let endpoint = sessions::SlasEndpoint { slas: parts.slas.clone(), clients: tenant.slas_clients.clone() };
            endpoints.insert(organization.clone(), endpoint);
            if let Some(client) = tenant.on_behalf_slas_client() {
                let (slas, client) = (parts.slas.clone(), client.clone());
                issuers.insert(
                    organization.clone(),
                    TsobIssuer { slas, client, login_permits: rate_limits.logins(&organization) },
                );
            }
            key_rings.push(Arc::clone(&slas_ring));
            key_rings.extend(system_ring);
            upstreams.insert(organization.clone(), Arc::new(upstream));
            shopper_rings.insert(organization.clone(), slas_ring);
            tenants.insert(organization, parts);
        }
        // A new verifier with an empty cache: the reload may have removed a key or an issuer.
        let shoppers = Arc::new(ShopperVerifier::new(shopper_rings, Arc::clone(metrics)));
        let exchange = settings.timeouts.exchange;
        let sessions = Sessions::new(
            Arc::clone(&persistence.store),
            endpoints,
            Arc::clone(&shoppers),
            settings.sessions.clone(),
            exchange,
            Arc::clone(metrics),
        );
        let sessions = match before {
            Some(before) => sessions.inherit_cache(&before.snapshot.sessions),
            None => sessions,
        };
        let on_behalf = OnBehalfTokens::new(
            issuers,
            Arc::clone(&sessions),
            settings.timeouts.upstream,
            exchange,
            Arc::clone(metrics),
        );
        let deprecated_usage = Arc::new(build_deprecated_usage(&settings, before));
        for (client, endpoint) in
            deprecated_usage.client_labels().iter().flat_map(|name| Endpoint::ALL.map(|endpoint| (*name, endpoint)))
        {
            metrics.legacy_requests.with_label_values(&[endpoint.as_str(), client]).inc_by(0);
        }
        let audit = match &settings.log.pseudonym_key {
            Some(key) => Arc::new(process.audit.with_key(key)),
            None => Arc::clone(&process.audit),
        };
        process.system_tokens.use_store(&persistence.store);
        let snapshot = Arc::new(Snapshot {
            tenants: Arc::new(tenants),
            callers: Arc::new(callers),
            operations: Arc::new(operations),
            policy: settings.policy.clone(),
            key_rings,
            shoppers,
            sessions,
            system_tokens: Arc::clone(&process.system_tokens),
            deprecated_usage,
            audit,
            metrics: Arc::clone(metrics),
        });
        let carried = Carried { persistence, rate_limits: Arc::new(rate_limits) };
        let runtime = Arc::new(Runtime {
            gateway: Arc::new(build_gateway(&settings, &snapshot, &carried, on_behalf)),
            limits: settings.limits.clone(),
            client_addresses: ClientAddresses::new(&settings.server.trusted_proxies, &settings.limits.networks),
            upstreams,
            timeouts: settings.timeouts.clone(),
            log: AccessLog::new(&settings.log),
        });
        Ok(Self { settings, runtime, snapshot, carried, expiries })
    }

    /// The SLAS rate limit of each organization.
    pub(super) fn budgets(&self) -> impl Iterator<Item = SlasBudget> {
        self.snapshot.tenants.values().map(|tenant| {
            let (store, guard) = (Arc::clone(&self.carried.persistence.store), Arc::clone(tenant.slas.guard()));
            SlasBudget::new(store, guard, &tenant.settings.tenant, tenant.settings.slas_requests_per_minute)
        })
    }
}

/// Connects the stages of the pipeline.
fn build_gateway(settings: &Settings, shared: &Snapshot, carried: &Carried, on_behalf: Arc<OnBehalfTokens>) -> Gateway {
    let (tenants, audit) = (Arc::clone(&shared.tenants), Arc::clone(&shared.audit));
    let (sessions, system_tokens) = (Arc::clone(&shared.sessions), Arc::clone(&shared.system_tokens));
    let shoppers = Arc::clone(&shared.shoppers);
    let references = Arc::new(References::new(Arc::clone(&carried.persistence.store)));
    let stages = Stages {
        router: Router::new(
            Arc::clone(&shared.operations),
            Arc::clone(&tenants),
            settings.limits.clone(),
            settings.policy.clone(),
        ),
        cors: Cors::new(&settings.tenants, &shared.operations, &shared.metrics),
        limits: Arc::clone(&carried.rate_limits),
        authn: Authenticator::new(Arc::clone(&shared.callers), Arc::clone(&shoppers), Arc::clone(&system_tokens)),
        upstream_auth: UpstreamAuth::new(Arc::clone(&sessions), system_tokens, on_behalf, Arc::clone(&audit)),
        legacy: LegacyLogins::new(
            Arc::clone(&sessions),
            Arc::clone(&shoppers),
            Arc::clone(&shared.deprecated_usage),
            Arc::clone(&audit),
            Arc::clone(&shared.metrics),
            settings.policy.deprecated_logins,
            &settings.timeouts,
        ),
        slas: SlasRoutes::new(sessions, shoppers),
        storefronts: Storefronts::new(&settings.tenants, references),
    };
    Gateway::new(stages, tenants, audit)
}

/// An organization's services, and the key rings that verify its tokens.
pub type TenantWithKeyRings = (Tenant, Vec<Arc<KeyRing>>);

/// The services of every organization as `serve` would use them, each with the key rings of its SLAS and, if configured, its
/// Account Manager. Makes no network calls and uses no shared state.
///
/// # Errors
/// Returns [`AppError::Transport`], [`AppError::Randomness`], [`AppError::Authorities`] or [`AppError::NoSystemAuthorities`] if
/// the client of a service cannot be built.
pub fn build_tenants(settings: &Settings) -> Result<Vec<TenantWithKeyRings>, AppError> {
    let process = ProcessState::new()?;
    let persistence =
        JwksPersistence { store: Arc::new(MemoryStore::new(1)), directory: None, max_age: settings.keys.max_age };
    let trust = TrustAnchors::default();
    let of = |tenant| {
        let of_api = trust.of_api(tenant)?;
        let (parts, slas_ring, system_ring) =
            build_tenant(tenant, settings, &persistence, &process, &[], (&trust, &of_api))?;
        Ok((parts, std::iter::once(slas_ring).chain(system_ring).collect()))
    };
    settings.tenants.iter().map(of).collect()
}

/// The session store of a configuration.
///
/// # Errors
/// Returns [`AppError::Store`] if the store's configuration cannot be used.
pub fn build_session_store(settings: &Settings, metrics: &Metrics) -> Result<Arc<dyn SessionStore>, AppError> {
    build_store(settings, metrics, None)
}

/// Counters of deprecated endpoints, with the counts of the previous configuration.
fn build_deprecated_usage(settings: &Settings, before: Option<&Components>) -> DeprecatedUsage {
    let clients = |tenant: &config::Tenant| tenant.slas_clients.iter().map(|client| client.id.clone()).collect();
    let tenants = settings.tenants.iter().map(|tenant| (tenant.organization.clone(), clients(tenant)));
    DeprecatedUsage::new(tenants, before.map(|before| &*before.snapshot.deprecated_usage))
}

/// Where key sets are stored beyond the life of the process.
fn build_jwks_persistence(
    settings: &Settings,
    metrics: &Metrics,
    before: Option<&Components>,
) -> Result<JwksPersistence, AppError> {
    let store = build_store(settings, metrics, before)?;
    let directory = match before.filter(|before| before.settings.keys.jwks_cache_dir == settings.keys.jwks_cache_dir) {
        Some(before) => before.carried.persistence.directory.clone(),
        None => settings.keys.jwks_cache_dir.as_deref().map(CacheDirectory::open).transpose()?.map(Arc::new),
    };
    Ok(JwksPersistence { store, directory, max_age: settings.keys.max_age })
}

/// The store of the configuration. An unchanged store is carried over, and so are sessions in memory.
fn build_store(
    settings: &Settings,
    metrics: &Metrics,
    before: Option<&Components>,
) -> Result<Arc<dyn SessionStore>, AppError> {
    if let Some(before) = before.filter(|before| before.settings.store == settings.store) {
        return Ok(Arc::clone(&before.carried.persistence.store));
    }
    Ok(match &settings.store {
        config::Store::Memory => {
            // Reset the gauges of a previous Redis store.
            metrics.store_up.set(1);
            metrics.store_key_mismatch.set(0);
            Arc::new(MemoryStore::new(usize::try_from(settings.sessions.capacity).unwrap_or(usize::MAX)))
        }
        config::Store::Redis(redis) => Arc::new(RedisStore::new(redis, metrics)?),
    })
}

type TenantComponents = (Tenant, Arc<KeyRing>, Option<Arc<KeyRing>>);

fn build_tenant(
    tenant: &config::Tenant,
    settings: &Settings,
    persistence: &JwksPersistence,
    process: &ProcessState,
    old_rings: &[Arc<KeyRing>],
    (trust, of_api): (&TrustAnchors, &ApiTrustAnchors<'_>),
) -> Result<TenantComponents, AppError> {
    let metrics = &process.metrics;
    let ring = |issuer: Issuer| {
        let ring = KeyRing::new(issuer, tenant.organization.as_str(), persistence, Arc::clone(metrics));
        // Known keys stay in use. An unrelated change must not lose them.
        match old_rings.iter().find(|old| old.has_same_source(&ring)) {
            Some(old) if old.uses_persistence(persistence) => Arc::clone(old),
            Some(old) => {
                ring.inherit_key_set(old);
                ring
            }
            None => ring,
        }
    };
    let guard = process.guard(&tenant.organization, &tenant.api);
    let transport = Transport::new(&settings.timeouts, &tenant.api, of_api.as_slice(), guard, Arc::clone(metrics))?;
    let api = url_without_root_dot(&tenant.api);
    let slas = Slas::new(transport.clone(), &api, &tenant.organization);
    for client in &tenant.slas_clients {
        // The series of a client without refusals is 0, not absent.
        let labels = [tenant.organization.as_str(), client.id.as_str()];
        metrics.slas_client_refusals.with_label_values(&labels).inc_by(0);
    }
    let slas_ring = ring(Issuer::Slas(slas.clone()));
    let mut system_ring = None;
    let mut systems = None;
    let mut manager = None;
    if let Some(own) = &tenant.account_manager {
        let guard = process.guard(&tenant.organization, &own.url);
        let what = format!("{}: account_manager.url", tenant.organization);
        let authorities = trust.of_server(&own.url, what)?;
        let transport = Transport::new(&settings.timeouts, &own.url, authorities, guard, Arc::clone(metrics))?;
        let account_manager = AccountManager::new(transport, url_without_root_dot(&own.url));
        let issuer = account_manager.issuer();
        manager = Some(account_manager.clone());
        let ring = ring(Issuer::AccountManager(account_manager));
        systems = Some(SystemVerifier::new(Arc::clone(&ring), issuer, config::is_loopback(&own.url)));
        system_ring = Some(ring);
    }
    let customers = Customers::new(transport, &api, &tenant.organization);
    let parts = Tenant { settings: tenant.clone(), slas, customers, account_manager: manager, systems };
    Ok((parts, slas_ring, system_ring))
}
