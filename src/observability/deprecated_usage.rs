//! Counters behind the migration report: the uses of each deprecated endpoint by each SLAS client.
//!
//! The rows are created at the start, one for each configured client and endpoint. So requests cannot make the report grow:
//! client ids that are not configured count as unknown and are never stored. Counters are atomic, and a reload keeps them. They
//! end with the process; Prometheus keeps the history of a fleet in `legacy_requests_total`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    time::unix_now,
    types::{ClientId, OrganizationId},
};

/// The label of every client id that is not configured.
pub const UNKNOWN: &str = "unknown";

/// A deprecated endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// `POST …/customers/actions/login`.
    Login,
    /// `DELETE …/customers/actions/logout`.
    Logout,
    /// `POST …/trusted-system/actions/login`.
    TrustedSystemLogin,
}

/// The uses of deprecated endpoints since the start of the process.
#[derive(Debug)]
pub struct DeprecatedUsage {
    /// Start of counting, seconds since 1970.
    pub since: u64,
    counters: BTreeMap<OrganizationId, Vec<ClientCounters>>,
}

/// A client, or `None` for unknown clients, and its counters by endpoint.
type ClientCounters = (Option<ClientId>, Arc<[UsageCounter; Endpoint::ALL.len()]>);

/// A row of the report: a client and an endpoint that it has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageRow<'a> {
    /// The organization.
    pub organization: &'a OrganizationId,
    /// The configured client id, or [`UNKNOWN`].
    pub client_id: &'a str,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Number of uses.
    pub uses: u64,
    /// First use since the start of counting, seconds since 1970.
    pub first_seen: u64,
    /// Last use, seconds since 1970.
    pub last_seen: u64,
}

#[derive(Debug, Default)]
struct UsageCounter {
    uses: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Endpoint {
    /// All deprecated endpoints.
    pub const ALL: [Self; 3] = [Self::Login, Self::Logout, Self::TrustedSystemLogin];

    /// Returns the endpoint's name in metrics and in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Logout => "logout",
            Self::TrustedSystemLogin => "trusted_system_login",
        }
    }
}

impl DeprecatedUsage {
    /// Creates the counters of these clients. Clients that `before` has too keep its counters, so requests in flight during a
    /// reload are counted.
    #[must_use]
    pub fn new(clients: impl IntoIterator<Item = (OrganizationId, Vec<ClientId>)>, before: Option<&Self>) -> Self {
        let counters_of = |organization: &OrganizationId, client: &Option<ClientId>| {
            let clients = before?.counters.get(organization)?;
            clients.iter().find(|(own, _)| own == client).map(|(_, endpoints)| Arc::clone(endpoints))
        };
        let counters = clients.into_iter().map(|(organization, clients)| {
            let with_unknown = clients.into_iter().map(Some).chain([None]);
            let of_organization = with_unknown.map(|client| {
                let endpoints = counters_of(&organization, &client).unwrap_or_default();
                (client, endpoints)
            });
            let of_organization = of_organization.collect();
            (organization, of_organization)
        });
        Self { since: before.map_or_else(unix_now, |before| before.since), counters: counters.collect() }
    }

    /// Counts a use, and returns the label of its client: the client id if it is configured for the organization, and
    /// [`UNKNOWN`] otherwise.
    pub fn record(&self, organization: &OrganizationId, client: Option<&ClientId>, endpoint: Endpoint) -> &str {
        let Some(clients) = self.counters.get(organization) else { return UNKNOWN };
        let counters = clients.iter().find(|(own, _)| own.as_ref() == client).or_else(|| clients.last());
        let Some((client, endpoints)) = counters else { return UNKNOWN };
        endpoints[endpoint as usize].record(unix_now());
        client.as_ref().map_or(UNKNOWN, ClientId::as_str)
    }

    /// Returns the labels of all clients: the configured client ids, and [`UNKNOWN`].
    #[must_use]
    pub fn client_labels(&self) -> BTreeSet<&str> {
        let clients = self.counters.values().flatten();
        clients.map(|(client, _)| client.as_ref().map_or(UNKNOWN, ClientId::as_str)).collect()
    }

    /// Returns the rows with at least one use, the most recent first.
    #[must_use]
    pub fn rows(&self) -> Vec<UsageRow<'_>> {
        let mut rows = Vec::new();
        for (organization, clients) in &self.counters {
            for (client, endpoints) in clients {
                let client_id = client.as_ref().map_or(UNKNOWN, ClientId::as_str);
                for (endpoint, counter) in Endpoint::ALL.into_iter().zip(endpoints.iter()) {
                    let uses = counter.uses.load(Ordering::Acquire);
                    if uses > 0 {
                        let (first_seen, last_seen) =
                            (counter.first.load(Ordering::Relaxed), counter.last.load(Ordering::Relaxed));
                        rows.push(UsageRow { organization, client_id, endpoint, uses, first_seen, last_seen });
                    }
                }
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse((row.last_seen, row.uses)));
        rows
    }
}

impl UsageCounter {
    fn record(&self, now: u64) {
        // Fails if another request has set the first use.
        let _ = self.first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
        self.uses.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unconfigured_clients_count_as_unknown_without_new_rows() {
        let [organization, other]: [OrganizationId; 2] =
            ["f_ecom_zzrf_001", "f_ecom_zzrf_002"].map(|text| text.parse().unwrap());
        let known: ClientId = "known".parse().unwrap();
        let usage = DeprecatedUsage::new([(organization.clone(), vec![known.clone()])], None);
        assert!(usage.rows().is_empty());
        assert_eq!(usage.record(&organization, Some(&known), Endpoint::Login), "known");
        for number in 0..1000 {
            let stranger = format!("stranger-{number}").parse().unwrap();
            assert_eq!(usage.record(&organization, Some(&stranger), Endpoint::Login), UNKNOWN);
            assert_eq!(usage.record(&other, Some(&stranger), Endpoint::Login), UNKNOWN);
        }
        assert_eq!(usage.record(&organization, None, Endpoint::Logout), UNKNOWN);
        let mut uses: Vec<_> =
            usage.rows().into_iter().map(|one| (one.client_id, one.endpoint.as_str(), one.uses)).collect();
        uses.sort_unstable();
        assert_eq!(uses, [("known", "login", 1), (UNKNOWN, "login", 1000), (UNKNOWN, "logout", 1)]);
    }

    #[test]
    fn counters_survive_reload() {
        let organization: OrganizationId = "f_ecom_zzrf_001".parse().unwrap();
        let clients =
            |names: &[&str]| [(organization.clone(), names.iter().map(|name| name.parse().unwrap()).collect())];
        let client = |name: &str| name.parse::<ClientId>().unwrap();
        let before = DeprecatedUsage::new(clients(&["stays", "goes"]), None);
        before.record(&organization, Some(&client("stays")), Endpoint::Login);
        before.record(&organization, Some(&client("goes")), Endpoint::Login);
        let after = DeprecatedUsage::new(clients(&["comes", "stays"]), Some(&before));
        // A request in flight during the reload.
        before.record(&organization, Some(&client("stays")), Endpoint::Login);
        after.record(&organization, Some(&client("comes")), Endpoint::Login);
        let mut uses: Vec<_> = after.rows().into_iter().map(|one| (one.client_id, one.uses)).collect();
        uses.sort_unstable();
        assert_eq!((uses, after.since), (vec![("comes", 1), ("stays", 2)], before.since));
    }

    #[test]
    fn counter_keeps_first_use_and_updates_last() {
        let counter = UsageCounter::default();
        for now in [10, 12, 11] {
            counter.record(now);
        }
        assert_eq!((counter.first.into_inner(), counter.last.into_inner(), counter.uses.into_inner()), (10, 12, 3));
    }
}
