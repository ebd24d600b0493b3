//! The gateway's state, as `/status` shows it in HTML and JSON.
//!
//! Figures come from the metrics registry, so the page and the alerts cannot disagree. The state has names of the configuration
//! and numbers, and never a value that a caller chose.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{migration_report::MigrationReport, readiness::Readiness, snapshot::Snapshot};
use crate::{
    config::{PolicyMode, UnknownOperations},
    gateway::{callers::Caller, tenant::Tenant},
    observability::metrics::Sample,
    shutdown::RequestTracker,
    store::{KeyCheck, StoreState},
    time::unix_now,
};

const SECONDS_PER_DAY: u64 = 86_400;

/// Everything that `/status` shows.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    pub(super) commit: String,
    pub(super) uptime_seconds: u64,
    pub(super) readiness: Readiness,
    pub(super) components: Vec<Component>,
    pub(super) policy: PolicyStatus,
    pub(super) tenants: Vec<TenantStatus>,
    pub(super) store: StoreStatus,
    pub(super) sessions: u64,
    /// Cached tokens by kind.
    pub(super) tokens: BTreeMap<String, u64>,
    pub(super) requests_in_flight: usize,
    pub(super) breakers: Vec<CircuitBreakerStatus>,
    pub(super) callers: Vec<CallerStatus>,
    pub(super) migration: MigrationReport,
}

/// A component that can fail on its own.
#[derive(Debug, Serialize)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) state: Health,
    pub(super) detail: String,
}

/// Health of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Health {
    Ok,
    /// The component fails, and so do requests that need it. Other requests are served.
    Degraded,
    Failed,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyStatus {
    pub(super) mode: PolicyMode,
    pub(super) unknown_operations: UnknownOperations,
    pub(super) operations: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct TenantStatus {
    pub(super) organization: String,
    pub(super) sites: Vec<String>,
    pub(super) slas_clients: usize,
    pub(super) keys: Vec<KeySetStatus>,
    /// Requests that SLAS still accepts in the current minute; `None` until SLAS has reported it.
    pub(super) slas_budget_left: Option<u64>,
}

/// The key set of one issuer.
#[derive(Debug, Serialize)]
pub(super) struct KeySetStatus {
    pub(super) issuer: &'static str,
    /// `None` without a key set.
    pub(super) age_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct StoreStatus {
    pub(super) kind: &'static str,
    pub(super) up: bool,
    /// Label of the outage's cause.
    pub(super) cause: Option<&'static str>,
    /// Whether gateways with another encryption key use the store.
    pub(super) key_mismatch: bool,
    /// The state as text.
    pub(super) detail: String,
}

#[derive(Debug, Serialize)]
pub(super) struct CircuitBreakerStatus {
    pub(super) service: String,
    pub(super) open: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct CallerStatus {
    pub(super) name: String,
    pub(super) may: Vec<&'static str>,
    pub(super) organizations: Vec<String>,
    pub(super) operations: Vec<String>,
}

impl Status {
    /// The current state.
    pub(super) fn new(
        snapshot: &Snapshot,
        readiness: Readiness,
        in_flight: &RequestTracker,
        migration: MigrationReport,
    ) -> Self {
        let read = |name: &str| snapshot.metrics.samples(name);
        let (ages, budgets) = (read("jwks_age_seconds"), read("slas_rate_limit_remaining"));
        let mut tenants: Vec<_> =
            snapshot.tenants.values().map(|tenant| TenantStatus::of(tenant, &ages, &budgets)).collect();
        tenants.sort_by(|one, other| one.organization.cmp(&other.organization));
        let store = StoreStatus::of(
            if snapshot.sessions.are_shared() { "redis" } else { "memory" },
            read("store_up").first().is_none_or(|sample| sample.value > 0.0),
            &snapshot.sessions.store_state(),
        );
        let kinds =
            read("token_cache_entries").into_iter().map(|sample| (sample.label("kind").to_owned(), sample.count()));
        let breakers = read("circuit_breakers_open").into_iter();
        let breakers = breakers.map(|sample| CircuitBreakerStatus {
            service: sample.label("service").to_owned(),
            open: sample.value > 0.0,
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: read("build_info").first().map_or_else(String::new, |sample| sample.label("commit").to_owned()),
            uptime_seconds: unix_now().saturating_sub(snapshot.deprecated_usage.since),
            readiness,
            components: component_statuses(&tenants, &store, in_flight.is_draining()),
            policy: PolicyStatus {
                mode: snapshot.policy.mode,
                unknown_operations: snapshot.policy.unknown_operations,
                operations: snapshot.operations.iter().len(),
            },
            sessions: read("sessions").first().map_or(0, Sample::count),
            tokens: kinds.collect(),
            requests_in_flight: in_flight.count(),
            breakers: breakers.collect(),
            callers: snapshot.callers.iter().map(CallerStatus::of).collect(),
            tenants,
            store,
            migration,
        }
    }
}

impl TenantStatus {
    fn of(tenant: &Tenant, ages: &[Sample], budgets: &[Sample]) -> Self {
        let settings = &tenant.settings;
        let organization = settings.organization.as_str();
        let is_own = |sample: &&Sample| sample.label("tenant") == organization;
        let issuers = std::iter::once("slas").chain(settings.account_manager.as_ref().map(|_| "account_manager"));
        let keys = issuers.map(|issuer| {
            let age = ages.iter().filter(is_own).find(|sample| sample.label("issuer") == issuer);
            KeySetStatus { issuer, age_seconds: age.map(Sample::count) }
        });
        Self {
            organization: organization.to_owned(),
            sites: settings.sites.iter().map(ToString::to_string).collect(),
            slas_clients: settings.slas_clients.len(),
            keys: keys.collect(),
            slas_budget_left: budgets.iter().find(is_own).map(Sample::count),
        }
    }
}

impl StoreStatus {
    fn of(kind: &'static str, up: bool, state: &StoreState) -> Self {
        let key_mismatch = matches!(state.key, KeyCheck::Mismatch { .. });
        let detail = match state.outage {
            Some(outage) => outage.to_string(),
            None if !up => "not responding".to_owned(),
            None if key_mismatch => state.key.to_string(),
            None => "reachable".to_owned(),
        };
        Self { kind, up, cause: state.outage.map(|outage| outage.cause.label()), key_mismatch, detail }
    }
}

impl PolicyStatus {
    /// The mode as text.
    pub(super) fn mode_name(&self) -> &'static str {
        match self.mode {
            PolicyMode::Enforce => "enforced",
            PolicyMode::Report => "report only",
        }
    }
}

impl KeySetStatus {
    /// The issuer's name.
    pub(super) fn issuer_name(&self) -> &'static str {
        service_name(self.issuer)
    }

    /// The age as text.
    pub(super) fn age_text(&self) -> String {
        self.age_seconds.map_or_else(|| "no key set yet".to_owned(), format_duration)
    }
}

impl CircuitBreakerStatus {
    /// The name of the breaker's service.
    pub(super) fn service_name(&self) -> &'static str {
        service_name(&self.service)
    }
}

impl CallerStatus {
    fn of(caller: &Arc<Caller>) -> Self {
        let settings = &caller.settings;
        let may = [
            (settings.may_system, "system"),
            (settings.may_on_behalf, "on_behalf"),
            (settings.may_create_shoppers, "create_shoppers"),
        ];
        Self {
            name: settings.name.clone(),
            may: may.into_iter().filter(|(may, _)| *may).map(|(_, word)| word).collect(),
            organizations: settings.organizations.iter().map(ToString::to_string).collect(),
            operations: settings.operations.clone(),
        }
    }
}

impl Health {
    /// CSS class of the health on the page.
    pub(super) fn css_class(self) -> &'static str {
        match self {
            Self::Ok => "good",
            Self::Degraded => "warning",
            Self::Failed => "bad",
        }
    }

    /// Text of the health on the page.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

fn component_statuses(tenants: &[TenantStatus], store: &StoreStatus, draining: bool) -> Vec<Component> {
    let keys = tenants.iter().flat_map(|tenant| tenant.keys.iter().map(move |keys| (tenant, keys)));
    let mut components: Vec<_> = keys
        .map(|(tenant, keys)| {
            // Shoppers can be served without Account Manager's key set.
            let without = if keys.issuer == "slas" { Health::Failed } else { Health::Degraded };
            let state = if keys.age_seconds.is_some() { Health::Ok } else { without };
            let detail = match keys.age_seconds {
                Some(age) => format!("fetched {} ago", format_duration(age)),
                None => "never fetched".to_owned(),
            };
            Component { name: format!("Key set of {} for {}", keys.issuer_name(), tenant.organization), state, detail }
        })
        .collect();
    components.push(Component {
        name: format!("Session store ({})", store.kind),
        state: if store.up && !store.key_mismatch { Health::Ok } else { Health::Degraded },
        detail: store.detail.clone(),
    });
    components.push(Component {
        name: "Listener".to_owned(),
        state: if draining { Health::Failed } else { Health::Ok },
        detail: if draining { "draining, no new requests" } else { "accepting requests" }.to_owned(),
    });
    components
}

/// Name of a Salesforce service, by its label in metrics.
fn service_name(name: &str) -> &'static str {
    match name {
        "slas" => "SLAS",
        "account_manager" => "Account Manager",
        _ => "Salesforce's APIs",
    }
}

/// A duration as text in its two largest units. The largest unit is a day, because months differ in length.
pub(super) fn format_duration(seconds: u64) -> String {
    let (days, hours) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY / 3600);
    let spoken = |seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let unit = if days == 1 { "day" } else { "days" };
    match (days, hours) {
        (0, 0) => spoken(seconds),
        (0, _) => spoken(seconds / 60 * 60),
        (_, 0) => format!("{days} {unit}"),
        _ => format!("{days} {unit} {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Outage, UnavailableCause};

    #[test]
    fn duration_text_has_at_most_two_units() {
        for (seconds, words) in [
            (0, "0s"),
            (59, "59s"),
            (3599, "59m 59s"),
            (7325, "2h 2m"),
            (86_399, "23h 59m"),
            (90_061, "1 day 1h"),
            (200_000, "2 days 7h"),
            (40 * SECONDS_PER_DAY, "40 days"),
            (400 * SECONDS_PER_DAY + 3600, "400 days 1h"),
        ] {
            assert_eq!(format_duration(seconds), words);
        }
    }

    #[test]
    fn missing_slas_keys_fail_and_other_outages_degrade() {
        let keys = |issuer, age_seconds| KeySetStatus { issuer, age_seconds };
        let tenant = |keys| TenantStatus {
            organization: "f_ecom_zzrf_001".to_owned(),
            sites: Vec::new(),
            slas_clients: 0,
            keys,
            slas_budget_left: None,
        };
        let states = |slas, manager, state: &StoreState, draining| {
            let tenants = [tenant(vec![keys("slas", slas), keys("account_manager", manager)])];
            let store = StoreStatus::of("redis", state.outage.is_none(), state);
            let components = component_statuses(&tenants, &store, draining);
            components.iter().map(|component| component.state).collect::<Vec<_>>()
        };
        let down =
            StoreState { outage: Some(Outage::of_redis(UnavailableCause::OutOfMemory)), ..StoreState::default() };
        let key = KeyCheck::Mismatch { own: "a".to_owned(), stored: "b".to_owned() };
        let mismatch = StoreState { key, ..StoreState::default() };
        assert_eq!(states(Some(1), Some(1), &StoreState::default(), false), [Health::Ok; 4]);
        assert_eq!(states(Some(1), Some(1), &mismatch, false), [Health::Ok, Health::Ok, Health::Degraded, Health::Ok]);
        assert_eq!(
            states(None, None, &down, true),
            [Health::Failed, Health::Degraded, Health::Degraded, Health::Failed]
        );
    }
}
