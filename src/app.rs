//! The composition root: settings in, a running gateway out. The only place where the parts meet.
//!
//! Owns the order of start and stop. Listeners are bound before anything else, so that an address in
//! use fails the start, port 0 is known at once, and nothing half-configured ever answers.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pingora::{
    apps::{HttpServerApp as _, HttpServerOptions},
    listeners::{ListenerConfig, tls::TlsSettings},
    proxy::http_proxy,
    server::{Fds, configuration::ServerConf},
    services::{Service as _, listening::Service},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    admin::Admin,
    audit::Audit,
    clock::unix_now,
    gate::{
        Gate, Tenant,
        bounds::{self, Bounds},
        caller::{CallerError, Callers},
        operations::{InvalidGlob, MerchantRoute, Operations, RouteRefusal, Security, SecurityKind, TableError},
        replay,
    },
    in_flight::InFlight,
    keys::{Folder, FolderError, Issuer, Keeping, KeyRing},
    metrics::Metrics,
    names::OrganizationId,
    proxy::{
        Entrance, Proxy, Reception, Upstream, UpstreamError, http2_options,
        tls::{ListenerTls, TlsFileError},
    },
    salesforce::{
        account_manager::AccountManager,
        customers::Customers,
        guard::Guard,
        slas::Slas,
        transport::{Transport, TransportSetupError},
    },
    settings::{self, RouteSecurity, Settings},
    shopper::verify::ShopperVerifier,
    store::{
        SessionStore,
        memory::MemoryStore,
        redis::{LinkError, RedisStore},
    },
    system::SystemVerifier,
    tokens::{
        budget::SlasBudget,
        machine::MachineTokens,
        on_behalf::{Agent, OnBehalfTokens},
        recovery,
        sessions::{self, Sessions},
    },
};

/// How often the drain looks whether the last request is done.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How long after readiness went off new requests may still come (load balancers take a moment).
const LAME_DUCK: Duration = Duration::from_secs(1);

/// A gateway, bound and ready to run.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    gate: Arc<Gate>,
    upstreams: HashMap<OrganizationId, Arc<Upstream>>,
    rings: Vec<Arc<KeyRing>>,
    budgets: Vec<SlasBudget>,
    public: Vec<Bound>,
    tls: Option<ListenerTls>,
    admin: Bound,
    in_flight: Arc<InFlight>,
}

/// A listener that is open.
#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// Key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Routes or callers do not fit the policy table.
    #[error("{}", .0.join("\n"))]
    Policy(Vec<String>),
    /// The policy table itself is broken, which the tests exclude.
    #[error("the policy table: {0}")]
    Table(#[from] TableError),
    /// The client for Salesforce's services cannot be made.
    #[error(transparent)]
    Transport(#[from] TransportSetupError),
    /// An API cannot be sent to.
    #[error("{organization}: {source}")]
    Upstream {
        /// The organization.
        organization: OrganizationId,
        /// What is wrong.
        source: UpstreamError,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFileError),
    /// The session store cannot be used at all.
    #[error(transparent)]
    Store(#[from] LinkError),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness")]
    Randomness(#[from] aws_lc_rs::error::Unspecified),
    /// The folder of key sets cannot be used.
    #[error("keys.folder: {0}")]
    Keys(#[from] FolderError),
    /// A metric is registered twice, which the tests exclude.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl App {
    /// Binds the listeners and puts the parts together. Calls nobody: the gateway starts
    /// when SLAS is down, and becomes ready when it can.
    ///
    /// # Errors
    /// [`AppError`].
    pub fn build(settings: Settings) -> Result<Self, AppError> {
        let public = settings.server.listen.iter().map(|address| bind("server.listen", *address));
        let public = public.collect::<Result<Vec<_>, _>>()?;
        let admin = bind("admin.listen", settings.admin.listen)?;
        let tls = settings.server.tls.as_ref().map(ListenerTls::read).transpose()?;

        let metrics = Arc::new(Metrics::new(
            env!("CARGO_PKG_VERSION"),
            option_env!("SHOPPER_GATEWAY_COMMIT").unwrap_or("unknown"),
        )?);
        metrics.config_last_reload_success.set(i64::try_from(unix_now()).unwrap_or(i64::MAX));
        if let Some(tls) = &tls {
            metrics.tls_certificate_not_after.with_label_values::<&str>(&[]).set(tls.not_after());
        }
        let (operations, callers) = policy(&settings)?;
        let bounds = Bounds::new(&settings).map_err(|errors| AppError::Policy(not_globs(&errors)))?;
        let store = store(&settings, &metrics)?;
        let folder = settings.keys.folder.as_deref().map(Folder::open).transpose()?.map(Arc::new);
        let keeping = Keeping { store: Arc::clone(&store), folder, max_age: settings.keys.max_age };
        let mut tenants = HashMap::new();
        let mut upstreams = HashMap::new();
        let mut shopper_rings = HashMap::new();
        let mut rings = Vec::new();
        let mut issuers = HashMap::new();
        let mut agents = HashMap::new();
        let mut budgets = Vec::new();
        for tenant in &settings.tenants {
            let organization = tenant.organization.clone();
            let (parts, slas_ring, system_ring) = tenant_parts(tenant, &settings, &keeping, &metrics)?;
            let upstream = Upstream::new(&tenant.api, tenant.api_ca.as_deref(), &settings.timeouts)
                .map_err(|source| AppError::Upstream { organization: organization.clone(), source })?;
            let issuer = sessions::Issuer { slas: parts.slas.clone(), clients: tenant.slas_clients.clone() };
            issuers.insert(organization.clone(), issuer);
            if let Some(client) = tenant.acting_client() {
                let (slas, client) = (parts.slas.clone(), client.clone());
                agents.insert(organization.clone(), Agent { slas, client, waiting: bounds.logins(&organization) });
            }
            budgets.push(SlasBudget::new(
                Arc::clone(&store),
                Arc::clone(parts.slas.guard()),
                &tenant.tenant,
                tenant.slas_requests_per_minute,
            ));
            rings.push(Arc::clone(&slas_ring));
            rings.extend(system_ring);
            upstreams.insert(organization.clone(), Arc::new(upstream));
            shopper_rings.insert(organization.clone(), slas_ring);
            tenants.insert(organization, parts);
        }
        let shoppers = Arc::new(ShopperVerifier::new(shopper_rings, Arc::clone(&metrics)));
        let sessions = Sessions::new(
            store,
            issuers,
            Arc::clone(&shoppers),
            settings.sessions.clone(),
            settings.timeouts.exchange,
            Arc::clone(&metrics),
        );
        let on_behalf = OnBehalfTokens::new(
            agents,
            Arc::clone(&sessions),
            Arc::clone(&shoppers),
            settings.timeouts.upstream,
            settings.timeouts.exchange,
            Arc::clone(&metrics),
        );
        let gate = Arc::new(Gate {
            operations,
            tenants,
            callers,
            shoppers,
            sessions,
            machine: MachineTokens::new(Arc::clone(&metrics))?,
            on_behalf,
            replacements: replay::pace(),
            bounds,
            audit: Arc::new(Audit::new(settings.log.pseudonym_key.as_ref())?),
            policy: settings.policy.clone(),
            limits: settings.limits.clone(),
            timeouts: settings.timeouts.clone(),
            metrics,
        });
        Ok(Self { settings, gate, upstreams, rings, budgets, public, tls, admin, in_flight: Arc::default() })
    }

    /// The public addresses, with the ports that were bound.
    pub fn public_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.public.iter().map(|bound| bound.address)
    }

    /// The operators' address, with the port that was bound.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Serves until `stop` completes; then readiness goes off, requests in flight are finished within
    /// the drain time, and the listeners close.
    ///
    /// # Errors
    /// [`AppError::Tls`], [`AppError::Listen`] if a listener cannot be set up.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), AppError> {
        let conf = Arc::new(server_conf(&self.settings));
        let mut background: Vec<_> =
            self.rings.iter().map(|ring| tokio::spawn(Arc::clone(ring).keep_fresh())).collect();
        background.push(tokio::spawn(Arc::clone(&self.gate.sessions).keep()));
        background.extend(self.budgets.into_iter().map(|budget| tokio::spawn(budget.keep())));
        let exchange = self.settings.timeouts.exchange;
        let services = self.gate.tenants.values().map(|tenant| tenant.slas.clone());
        background.extend(services.map(|slas| tokio::spawn(recovery::watch(slas, exchange))));

        let proxy = Proxy::new(
            Arc::clone(&self.gate),
            self.upstreams,
            self.settings.timeouts.clone(),
            Arc::clone(&self.in_flight),
        );
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(self.settings.timeouts.idle);
        let mut public = http_proxy(&conf, proxy);
        public.server_options = Some(options);
        public.h2_options = Some(http2_options(&self.settings.limits));
        let public = Arc::new(Entrance(Arc::new(public)));
        let reception = Reception::new(&self.settings, &self.gate.metrics);
        let (stop_public, public_stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        for bound in self.public {
            let tls = self.tls.as_ref().map(ListenerTls::settings).transpose()?.map(TlsSettings::build);
            let (app, stopped) = (Arc::clone(&public), public_stopped.clone());
            let failed = |source| AppError::Listen { key: "server.listen", address: bound.address, source };
            serving.spawn(Arc::clone(&reception).serve(bound.listener, tls, app, stopped).map_err(failed)?);
        }
        let mut admin = Service::new(
            "admin".to_owned(),
            Admin::new(Arc::clone(&self.gate), self.rings, Arc::clone(&self.in_flight)),
        );
        let mut admin_fds = Fds::new();
        admin.add_listener(ListenerConfig::tcp(self.admin.address.to_string()));
        admin_fds.add(self.admin.address.to_string(), self.admin.listener.into_raw_fd());

        let (stop_admin, admin_stopped) = watch::channel(false);
        background.push(tokio::spawn(async move {
            admin.start_service(Some(Arc::new(Mutex::new(admin_fds))), admin_stopped, 1).await;
        }));

        stop.await;
        tracing::info!(in_flight = self.in_flight.count(), "stopping: not ready from now on");
        self.in_flight.drain();
        let deadline = Instant::now() + self.settings.timeouts.drain;
        tokio::time::sleep(LAME_DUCK.min(self.settings.timeouts.drain)).await;
        // A receiver that is gone has stopped already.
        let _ = stop_public.send(true);
        while serving.join_next().await.is_some() {}
        // Connections that rest between two requests are closed.
        public.http_cleanup().await;
        while self.in_flight.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        let left = self.in_flight.count();
        let _ = stop_admin.send(true);
        for task in background {
            task.abort();
        }
        if left > 0 {
            tracing::warn!(left, "stopped; requests were still in flight at the end of timeouts.drain");
        } else {
            tracing::info!("stopped; no request was in flight");
        }
        Ok(())
    }
}

/// The policy table with the merchant's routes, and the callers, checked against each other.
///
/// # Errors
/// [`AppError::Policy`] with every finding, each beginning with its key path.
pub fn policy(settings: &Settings) -> Result<(Operations, Callers), AppError> {
    let mut findings = Vec::new();
    let published = Operations::published()?;
    let operations = match published.clone().with_routes(settings.routes.iter().map(merchant_route)) {
        Ok(operations) => operations,
        Err(refusals) => {
            findings.extend(refusals.iter().map(RouteRefusal::to_string));
            published
        }
    };
    let callers = match Callers::new(&settings.callers) {
        Ok(callers) => callers,
        Err(errors) => {
            findings.extend(errors.iter().map(CallerError::to_string));
            Callers::default()
        }
    };
    for (index, caller) in callers.iter().enumerate() {
        for (position, glob) in caller.operations().enumerate() {
            if operations.matching(glob).next().is_none() {
                findings.push(format!(
                    "callers[{index}].operations[{position}]: {glob} is no operation; `shopper-gateway routes` lists them"
                ));
            }
        }
    }
    match bounds::globs(&settings.load.low_priority) {
        Ok(globs) => findings.extend(globs.iter().enumerate().filter_map(|(position, glob)| {
            let is_none = operations.matching(glob).next().is_none();
            is_none.then(|| {
                format!("load.low_priority[{position}]: {glob} is no operation; `shopper-gateway routes` lists them")
            })
        })),
        Err(errors) => findings.extend(not_globs(&errors)),
    }
    if findings.is_empty() { Ok((operations, callers)) } else { Err(AppError::Policy(findings)) }
}

fn not_globs(errors: &[(usize, InvalidGlob)]) -> Vec<String> {
    errors.iter().map(|(position, error)| format!("load.low_priority[{position}]: {error}")).collect()
}

fn merchant_route(route: &settings::Route) -> MerchantRoute {
    let kind = match route.security {
        RouteSecurity::Shopper => SecurityKind::Shopper,
        RouteSecurity::System => SecurityKind::System,
    };
    MerchantRoute {
        name: route.name.clone(),
        method: route.method.clone(),
        template: route.path.clone(),
        security: vec![Security { kind, scopes: route.scopes.clone() }],
    }
}

type TenantParts = (Tenant, Arc<KeyRing>, Option<Arc<KeyRing>>);

fn tenant_parts(
    tenant: &settings::Tenant,
    settings: &Settings,
    keeping: &Keeping,
    metrics: &Arc<Metrics>,
) -> Result<TenantParts, AppError> {
    let guard = || Guard::new(tenant.organization.as_str(), Arc::clone(metrics));
    let transport = Transport::new(&settings.timeouts, tenant.api_ca.as_deref(), guard(), Arc::clone(metrics))?;
    let slas = Slas::new(transport.clone(), &tenant.api, &tenant.organization);
    let slas_ring = KeyRing::new(Issuer::Slas(slas.clone()), tenant.tenant.as_str(), keeping, Arc::clone(metrics));
    let mut system_ring = None;
    let mut systems = None;
    let mut manager = None;
    if let Some(own) = &tenant.account_manager {
        let transport = Transport::new(&settings.timeouts, None, guard(), Arc::clone(metrics))?;
        let account_manager = AccountManager::new(transport, own.url.clone());
        let issuer = account_manager.issuer();
        manager = Some(account_manager.clone());
        let ring =
            KeyRing::new(Issuer::AccountManager(account_manager), tenant.tenant.as_str(), keeping, Arc::clone(metrics));
        systems = Some(SystemVerifier::new(Arc::clone(&ring), issuer, settings::is_loopback(&own.url)));
        system_ring = Some(ring);
    }
    let customers = Customers::new(transport, &tenant.api, &tenant.organization);
    let parts = Tenant { settings: tenant.clone(), slas, customers, account_manager: manager, systems };
    Ok((parts, slas_ring, system_ring))
}

fn store(settings: &Settings, metrics: &Metrics) -> Result<Arc<dyn SessionStore>, AppError> {
    Ok(match &settings.store {
        settings::Store::Memory => {
            Arc::new(MemoryStore::new(usize::try_from(settings.sessions.capacity).unwrap_or(usize::MAX)))
        }
        settings::Store::Redis(redis) => Arc::new(RedisStore::new(redis, metrics)?),
    })
}

fn bind(key: &'static str, address: SocketAddr) -> Result<Bound, AppError> {
    let failed = |source| AppError::Listen { key, address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, address })
}

fn server_conf(settings: &Settings) -> ServerConf {
    ServerConf {
        threads: settings.server.threads,
        upstream_keepalive_pool_size: 512,
        // Attempts at one request: other addresses, or a connection that had just been closed.
        max_retries: 3,
        ..ServerConf::default()
    }
}
