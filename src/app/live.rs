//! The configuration in force, and how another one takes its place.
//!
//! Owns the order: another configuration is checked, its parts are built, and only then put in place, all at once for
//! each new request; requests under way end by what they began with. Whatever fails leaves everything as it was.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use tokio::task::AbortHandle;

use super::{
    AppError,
    parts::{Lasting, Parts},
};
use crate::{
    config::Settings,
    gateway::Gate,
    jwks::KeyRing,
    observability::{
        audit::{Event, Place, Trail},
        metrics::CertificateEnd,
    },
    server::{Serving, tls::ListenerTls},
    time::unix_now,
    tokens::recovery,
};

/// How often one looks whether the keys are there.
const READY_POLL: Duration = Duration::from_millis(20);

/// What is in force.
#[derive(Debug)]
pub struct Live {
    pub(super) serving: Arc<ArcSwap<Serving>>,
    pub(super) gate: Arc<ArcSwap<Gate>>,
    pub(super) tls: Option<ListenerTls>,
    lasting: Lasting,
    parts: Mutex<Parts>,
    upkeep: Mutex<Upkeep>,
}

/// The tasks that keep rings and sessions fresh, and SLAS's budgets.
#[derive(Debug, Default)]
struct Upkeep {
    rings: Vec<(Arc<KeyRing>, AbortHandle)>,
    sessions: Option<AbortHandle>,
    /// What keeps each organization's budget and its way back after an outage.
    services: Vec<AbortHandle>,
}

impl Live {
    pub(super) fn build(settings: Settings) -> Result<Arc<Self>, AppError> {
        let tls = settings.server.tls.as_ref().map(ListenerTls::read).transpose()?;
        let lasting = Lasting::new()?;
        let parts = Parts::build(settings, &lasting, None)?;
        let live = Self {
            serving: Arc::new(ArcSwap::from(Arc::clone(&parts.serving))),
            gate: Arc::new(ArcSwap::from(Arc::clone(&parts.serving.gate))),
            tls,
            lasting,
            parts: Mutex::new(parts),
            upkeep: Mutex::default(),
        };
        live.note_success(live.tls.as_ref());
        Ok(Arc::new(live))
    }

    /// Shows a counter of the process among the metrics.
    ///
    /// # Errors
    /// If it is shown already.
    pub fn show(&self, counter: IntCounterVec) -> Result<(), AppError> {
        Ok(self.lasting.metrics.show(counter)?)
    }

    /// Whether the proxy library reads the system's authorities when it begins.
    pub(super) fn library_reads_system(&self) -> bool {
        self.lasting.library_reads_system
    }

    /// Returns when requests can be served: every organization's keys are there.
    pub async fn ready(&self) {
        while !self.gate.load().shoppers.has_all_keys() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Takes another configuration over. Returns the keys whose change has no effect before the next start.
    ///
    /// # Errors
    /// [`AppError`]; then nothing has changed.
    pub fn reload(&self, settings: Settings) -> Result<Vec<&'static str>, AppError> {
        let result = self.take_over(settings);
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.note_reload(outcome);
        result
    }

    /// Notes that a configuration could not even be read.
    pub fn reload_failed(&self) {
        self.note_reload("failed");
    }

    fn take_over(&self, settings: Settings) -> Result<Vec<&'static str>, AppError> {
        let mut parts = self.parts.lock();
        let tls = settings.server.tls.as_ref().map(ListenerTls::read).transpose()?;
        let new = Parts::build(settings, &self.lasting, Some(&parts))?;
        let waiting = waiting_for_a_start(&parts.settings, &new.settings);
        if let (Some(shown), Some(read)) = (&self.tls, &tls) {
            shown.take_over(read);
        }
        self.serving.store(Arc::clone(&new.serving));
        self.gate.store(Arc::clone(&new.serving.gate));
        *parts = new;
        drop(parts);
        self.keep_up();
        self.note_success(tls.as_ref());
        Ok(waiting)
    }

    /// Starts the tasks of what is in force, and ends those of what is not.
    pub(super) fn keep_up(&self) {
        let gate = self.gate.load_full();
        let mut upkeep = self.upkeep.lock();
        upkeep.rings.retain(|(ring, task)| {
            let stays = gate.rings.iter().any(|other| Arc::ptr_eq(ring, other));
            if !stays {
                task.abort();
            }
            stays
        });
        for ring in &gate.rings {
            if !upkeep.rings.iter().any(|(other, _)| Arc::ptr_eq(ring, other)) {
                let task = tokio::spawn(Arc::clone(ring).keep_fresh()).abort_handle();
                upkeep.rings.push((Arc::clone(ring), task));
            }
        }
        let sessions = tokio::spawn(Arc::clone(&gate.sessions).keep()).abort_handle();
        if let Some(before) = upkeep.sessions.replace(sessions) {
            before.abort();
        }
        let mut services: Vec<_> =
            self.parts.lock().budgets().map(|budget| tokio::spawn(budget.keep()).abort_handle()).collect();
        for tenant in gate.tenants.values() {
            let recovery = recovery::watch(tenant.slas.clone(), gate.timeouts.exchange);
            services.push(tokio::spawn(recovery).abort_handle());
        }
        services.push(tokio::spawn(Arc::clone(&gate.audit).keep()).abort_handle());
        std::mem::replace(&mut upkeep.services, services).iter().for_each(AbortHandle::abort);
    }

    /// Ends all tasks.
    pub(super) fn rest(&self) {
        let upkeep = std::mem::take(&mut *self.upkeep.lock());
        let rings = upkeep.rings.into_iter().map(|(_, task)| task);
        for task in rings.chain(upkeep.sessions).chain(upkeep.services) {
            task.abort();
        }
        self.gate.load().audit.write_left_out();
    }

    fn note_success(&self, tls: Option<&ListenerTls>) {
        let metrics = &self.lasting.metrics;
        metrics.config_last_reload_success.set(i64::try_from(unix_now()).unwrap_or(i64::MAX));
        let mut ends = self.parts.lock().ends.clone();
        if let Some(tls) = tls.map(ListenerTls::ends) {
            let files = [("listener", tls.certificate), ("client_ca", tls.client_ca), ("client_crl", tls.client_crl)];
            ends.extend(files.into_iter().filter_map(|(certificate, end)| {
                Some(CertificateEnd { certificate, tenant: CertificateEnd::NO_TENANT.to_owned(), end: end? })
            }));
        }
        metrics.set_certificate_ends(&ends);
    }

    fn note_reload(&self, outcome: &'static str) {
        self.lasting.metrics.config_reloads.with_label_values(&[outcome]).inc();
        let trail = Trail { event: Some(Event::Admin), who: Some("SIGHUP".to_owned()), ..Trail::default() };
        let place = Place { organization: "all", site: None, operation: "reload", correlation_id: "none" };
        self.gate.load().audit.record(&trail, place, outcome);
    }
}

/// The keys that only a start reads, and that have changed.
fn waiting_for_a_start(before: &Settings, now: &Settings) -> Vec<&'static str> {
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
        ("limits.head", before.limits.head != now.limits.head),
        ("limits.connections", before.limits.connections != now.limits.connections),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
