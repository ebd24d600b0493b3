//! Reloads the configuration and runs the background tasks of the current one.
//!
//! A reload validates the new configuration, builds its components, and then swaps them in at once. New requests use the new
//! components; requests in flight keep theirs. A failed reload changes nothing.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use tokio::task::AbortHandle;

use super::{
    AppError,
    build::{Components, ProcessState},
};
use crate::{
    admin::Snapshot,
    config::Settings,
    jwks::KeyRing,
    observability::{
        audit::{AuditContext, AuditRecord, Event},
        metrics::CertificateExpiry,
    },
    server::{Runtime, tls::ListenerTls},
    time::unix_now_signed,
    tokens::health_probe,
};

/// How often the availability of key sets is checked.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The current configuration's components, and how to replace them.
#[derive(Debug)]
pub struct Reloader {
    pub(super) runtime: Arc<ArcSwap<Runtime>>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) tls: Option<ListenerTls>,
    process: ProcessState,
    components: Mutex<Components>,
    background: Mutex<BackgroundTasks>,
}

/// Background tasks of the current components.
#[derive(Debug, Default)]
struct BackgroundTasks {
    rings: Vec<(Arc<KeyRing>, AbortHandle)>,
    sessions: Option<AbortHandle>,
    /// Rate-limit leases and health probes of each organization, and the audit log's summary.
    services: Vec<AbortHandle>,
}

impl Reloader {
    pub(super) fn build(settings: Settings) -> Result<Arc<Self>, AppError> {
        let tls = settings.server.tls.as_ref().map(ListenerTls::read).transpose()?;
        let process = ProcessState::new()?;
        let components = Components::build(settings, &process, None)?;
        let reloader = Self {
            runtime: Arc::new(ArcSwap::from(Arc::clone(&components.runtime))),
            snapshot: Arc::new(ArcSwap::from(Arc::clone(&components.snapshot))),
            tls,
            process,
            components: Mutex::new(components),
            background: Mutex::default(),
        };
        reloader.record_success(reloader.tls.as_ref());
        Ok(Arc::new(reloader))
    }

    /// Adds a counter of the process to the metrics.
    ///
    /// # Errors
    /// Returns [`AppError::Metrics`] if the counter is already registered.
    pub fn register_metric(&self, counter: IntCounterVec) -> Result<(), AppError> {
        Ok(self.process.metrics.register(counter)?)
    }

    /// Whether Pingora reads the system's authorities at its start.
    pub(super) fn library_reads_system(&self) -> bool {
        self.process.library_reads_system
    }

    /// Returns when every organization has a key set, so that requests can be served.
    pub async fn wait_until_ready(&self) {
        while !self.snapshot.load().shoppers.has_usable_keys() {
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }

    /// Replaces the configuration. Returns the changed keys that take effect only after a restart.
    ///
    /// # Errors
    /// Returns [`AppError`] if a component cannot be built; the current configuration stays.
    pub fn reload(&self, settings: Settings) -> Result<Vec<&'static str>, AppError> {
        let result = self.apply(settings);
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.record_outcome(outcome);
        result
    }

    /// Records a reload whose configuration could not be loaded.
    pub fn record_failure(&self) {
        self.record_outcome("failed");
    }

    fn apply(&self, settings: Settings) -> Result<Vec<&'static str>, AppError> {
        let mut components = self.components.lock();
        let tls = settings.server.tls.as_ref().map(ListenerTls::read).transpose()?;
        let new = Components::build(settings, &self.process, Some(&components))?;
        let waiting = changes_that_need_a_restart(&components.settings, &new.settings);
        if let (Some(current), Some(new)) = (&self.tls, &tls) {
            current.replace_with(new);
        }
        self.runtime.store(Arc::clone(&new.runtime));
        self.snapshot.store(Arc::clone(&new.snapshot));
        *components = new;
        drop(components);
        self.start_background_tasks();
        self.record_success(tls.as_ref());
        Ok(waiting)
    }

    /// Starts the tasks of the current components, and stops those of replaced ones.
    pub(super) fn start_background_tasks(&self) {
        let snapshot = self.snapshot.load_full();
        let mut background = self.background.lock();
        background.rings.retain(|(ring, task)| {
            let stays = snapshot.key_rings.iter().any(|other| Arc::ptr_eq(ring, other));
            if !stays {
                task.abort();
            }
            stays
        });
        for ring in &snapshot.key_rings {
            if !background.rings.iter().any(|(other, _)| Arc::ptr_eq(ring, other)) {
                let task = tokio::spawn(Arc::clone(ring).run_refresher()).abort_handle();
                background.rings.push((Arc::clone(ring), task));
            }
        }
        let sessions = tokio::spawn(Arc::clone(&snapshot.sessions).run_background()).abort_handle();
        if let Some(before) = background.sessions.replace(sessions) {
            before.abort();
        }
        let (probe_timeout, mut services) = {
            let components = self.components.lock();
            let budgets = components.budgets().map(|budget| tokio::spawn(budget.run()).abort_handle());
            (components.settings.timeouts.exchange, budgets.collect::<Vec<_>>())
        };
        for tenant in snapshot.tenants.values() {
            let recovery = health_probe::run(tenant.slas.clone(), probe_timeout);
            services.push(tokio::spawn(recovery).abort_handle());
        }
        services.push(tokio::spawn(Arc::clone(&snapshot.audit).run_background()).abort_handle());
        std::mem::replace(&mut background.services, services).iter().for_each(AbortHandle::abort);
    }

    /// Stops all tasks.
    pub(super) fn stop_background_tasks(&self) {
        let background = std::mem::take(&mut *self.background.lock());
        let rings = background.rings.into_iter().map(|(_, task)| task);
        for task in rings.chain(background.sessions).chain(background.services) {
            task.abort();
        }
        self.snapshot.load().audit.write_left_out();
    }

    fn record_success(&self, tls: Option<&ListenerTls>) {
        let metrics = &self.process.metrics;
        metrics.config_last_reload_success.set(unix_now_signed());
        let mut expiries = self.components.lock().expiries.clone();
        if let Some(tls) = tls.map(ListenerTls::expiry) {
            let files = [("listener", tls.certificate), ("client_ca", tls.client_ca), ("client_crl", tls.client_crl)];
            expiries.extend(files.into_iter().filter_map(|(certificate, end)| {
                Some(CertificateExpiry {
                    certificate,
                    tenant: CertificateExpiry::NO_TENANT.to_owned(),
                    expires_at: end?,
                })
            }));
        }
        metrics.set_certificate_expiries(&expiries);
    }

    fn record_outcome(&self, outcome: &'static str) {
        self.process.metrics.config_reloads.with_label_values(&[outcome]).inc();
        let record =
            AuditRecord { event: Some(Event::Admin), actor: Some("SIGHUP".to_owned()), ..AuditRecord::default() };
        let context = AuditContext { organization: "all", site: None, operation: "reload", correlation_id: "none" };
        self.snapshot.load().audit.write(&record, context, outcome);
    }
}

/// The changed keys that only a start reads.
fn changes_that_need_a_restart(before: &Settings, now: &Settings) -> Vec<&'static str> {
    let capacity = |settings: &Settings| settings.sessions.capacity;
    let log = |settings: &Settings| (settings.log.level.clone(), settings.log.format, settings.log.audit_file.clone());
    [
        ("server.listen", before.server.listen != now.server.listen),
        ("server.threads", before.server.threads != now.server.threads),
        ("server.tls", before.server.tls.is_some() != now.server.tls.is_some()),
        ("admin.listen", before.admin.listen != now.admin.listen),
        ("sessions.capacity", capacity(before) != capacity(now)),
        ("log", log(before) != log(now)),
        ("traces", before.traces != now.traces),
        ("timeouts.client_head", before.timeouts.client_head != now.timeouts.client_head),
        ("timeouts.drain", before.timeouts.drain != now.timeouts.drain),
        ("limits.max_header_bytes", before.limits.max_header_bytes != now.limits.max_header_bytes),
        ("limits.connections", before.limits.connections != now.limits.connections),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
