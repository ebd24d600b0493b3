//! The migration report: which SLAS client still uses which deprecated endpoint, how often, and when first and last.
//!
//! Owns one row for each configured client and endpoint, made at the start, so that the report cannot grow whatever
//! callers send: a client id that is not configured is counted as unknown and never kept. Refuses to outlive the process;
//! what a fleet did over months is in Prometheus, under `legacy_requests_total`.

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

/// Stands for every client id that is not configured.
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

/// The uses of deprecated endpoints since the start of this process.
#[derive(Debug)]
pub struct Migration {
    /// When counting began, seconds since 1970.
    pub since: u64,
    rows: BTreeMap<OrganizationId, Vec<OfClient>>,
}

/// A client, nothing for the unknown ones, and its use of each endpoint.
type OfClient = (Option<ClientId>, Arc<[Row; Endpoint::ALL.len()]>);

/// A row of the report: a client that has used an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use<'a> {
    /// The organization.
    pub organization: &'a OrganizationId,
    /// The configured client id, or [`UNKNOWN`].
    pub client_id: &'a str,
    /// What it used.
    pub endpoint: Endpoint,
    /// How often.
    pub uses: u64,
    /// When first since counting began, seconds since 1970.
    pub first_seen: u64,
    /// When last, seconds since 1970.
    pub last_seen: u64,
}

#[derive(Debug, Default)]
struct Row {
    uses: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Login, Self::Logout, Self::TrustedSystemLogin];

    /// Its name in metrics and in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Logout => "logout",
            Self::TrustedSystemLogin => "trusted_system_login",
        }
    }
}

impl Migration {
    /// The report for these clients, going on from the one before: what both know is counted in one place, so that requests
    /// under way during a reload are counted too.
    #[must_use]
    pub fn new(clients: impl IntoIterator<Item = (OrganizationId, Vec<ClientId>)>, before: Option<&Self>) -> Self {
        let counted = |organization: &OrganizationId, client: &Option<ClientId>| {
            let rows = before?.rows.get(organization)?;
            rows.iter().find(|(own, _)| own == client).map(|(_, endpoints)| Arc::clone(endpoints))
        };
        let rows = clients.into_iter().map(|(organization, clients)| {
            let with_unknown = clients.into_iter().map(Some).chain([None]);
            let of_organization = with_unknown.map(|client| {
                let endpoints = counted(&organization, &client).unwrap_or_default();
                (client, endpoints)
            });
            let of_organization = of_organization.collect();
            (organization, of_organization)
        });
        Self { since: before.map_or_else(unix_now, |before| before.since), rows: rows.collect() }
    }

    /// Notes a use, and says under which name it is counted: the client's own if it is configured for the
    /// organization, and otherwise [`UNKNOWN`].
    pub fn note(&self, organization: &OrganizationId, client: Option<&ClientId>, endpoint: Endpoint) -> &str {
        let Some(rows) = self.rows.get(organization) else { return UNKNOWN };
        let row = rows.iter().find(|(own, _)| own.as_ref() == client).or_else(|| rows.last());
        let Some((client, endpoints)) = row else { return UNKNOWN };
        endpoints[endpoint as usize].note(unix_now());
        client.as_ref().map_or(UNKNOWN, ClientId::as_str)
    }

    /// The names under which uses are counted: the configured clients' ids, and [`UNKNOWN`].
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        let clients = self.rows.values().flatten();
        clients.map(|(client, _)| client.as_ref().map_or(UNKNOWN, ClientId::as_str)).collect()
    }

    /// Who has used what, the most recent first.
    #[must_use]
    pub fn uses(&self) -> Vec<Use<'_>> {
        let mut uses = Vec::new();
        for (organization, rows) in &self.rows {
            for (client, endpoints) in rows {
                let client_id = client.as_ref().map_or(UNKNOWN, ClientId::as_str);
                for (endpoint, row) in Endpoint::ALL.into_iter().zip(endpoints.iter()) {
                    let counted = row.uses.load(Ordering::Acquire);
                    if counted > 0 {
                        let (first_seen, last_seen) =
                            (row.first.load(Ordering::Relaxed), row.last.load(Ordering::Relaxed));
                        uses.push(Use { organization, client_id, endpoint, uses: counted, first_seen, last_seen });
                    }
                }
            }
        }
        uses.sort_by_key(|one| std::cmp::Reverse((one.last_seen, one.uses)));
        uses
    }
}

impl Row {
    fn note(&self, now: u64) {
        // Whoever is not the first finds another's time there.
        let _ = self.first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
        self.uses.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_not_configured_is_unknown_and_adds_no_row() {
        let [organization, other]: [OrganizationId; 2] =
            ["f_ecom_zzrf_001", "f_ecom_zzrf_002"].map(|text| text.parse().unwrap());
        let known: ClientId = "known".parse().unwrap();
        let migration = Migration::new([(organization.clone(), vec![known.clone()])], None);
        assert!(migration.uses().is_empty());
        assert_eq!(migration.note(&organization, Some(&known), Endpoint::Login), "known");
        for number in 0..1000 {
            let stranger = format!("stranger-{number}").parse().unwrap();
            assert_eq!(migration.note(&organization, Some(&stranger), Endpoint::Login), UNKNOWN);
            assert_eq!(migration.note(&other, Some(&stranger), Endpoint::Login), UNKNOWN);
        }
        assert_eq!(migration.note(&organization, None, Endpoint::Logout), UNKNOWN);
        let mut uses: Vec<_> =
            migration.uses().into_iter().map(|one| (one.client_id, one.endpoint.as_str(), one.uses)).collect();
        uses.sort_unstable();
        assert_eq!(uses, [("known", "login", 1), (UNKNOWN, "login", 1000), (UNKNOWN, "logout", 1)]);
    }

    #[test]
    fn a_reload_loses_no_count() {
        let organization: OrganizationId = "f_ecom_zzrf_001".parse().unwrap();
        let clients =
            |names: &[&str]| [(organization.clone(), names.iter().map(|name| name.parse().unwrap()).collect())];
        let client = |name: &str| name.parse::<ClientId>().unwrap();
        let before = Migration::new(clients(&["stays", "goes"]), None);
        before.note(&organization, Some(&client("stays")), Endpoint::Login);
        before.note(&organization, Some(&client("goes")), Endpoint::Login);
        let after = Migration::new(clients(&["comes", "stays"]), Some(&before));
        // A request that began before the reload ends after it.
        before.note(&organization, Some(&client("stays")), Endpoint::Login);
        after.note(&organization, Some(&client("comes")), Endpoint::Login);
        let mut uses: Vec<_> = after.uses().into_iter().map(|one| (one.client_id, one.uses)).collect();
        uses.sort_unstable();
        assert_eq!((uses, after.since), (vec![("comes", 1), ("stays", 2)], before.since));
    }

    #[test]
    fn first_stays_and_last_moves() {
        let row = Row::default();
        for now in [10, 12, 11] {
            row.note(now);
        }
        assert_eq!((row.first.into_inner(), row.last.into_inner(), row.uses.into_inner()), (10, 12, 3));
    }
}
