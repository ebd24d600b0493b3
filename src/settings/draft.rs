//! A configuration as far as it could be read.
//!
//! Owns what those check who know more than this floor (the policy table, certificates), in the same round as the settings
//! and whatever is wrong with the rest. Refuses to guess: what could not be read is not there.

use std::path::PathBuf;

use super::{Caller, CallerIdentity, Route, Settings, Tls};
use crate::names::OrganizationId;

/// What of a configuration could be read. Each list has an entry for each of the file's.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// `server.tls`.
    pub tls: TlsDraft,
    /// `[[callers]]`.
    pub callers: Vec<CallerDraft>,
    /// `[[routes]]`.
    pub routes: Vec<RouteDraft>,
    /// `load.low_priority`.
    pub low_priority: Vec<String>,
}

/// The listener's files, as far as they are there.
#[derive(Debug, Clone, Default)]
pub struct TlsDraft {
    /// Certificate chain, PEM.
    pub certificate: Option<PathBuf>,
    /// Private key, PEM.
    pub private_key: Option<PathBuf>,
    /// Authorities that may sign client certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Their revocation lists, PEM.
    pub client_crl: Option<PathBuf>,
    /// All that are configured; `None` if there is no such table, or together with an error.
    pub(super) whole: Option<Tls>,
}

/// One trusted system.
#[derive(Debug, Clone)]
pub struct CallerDraft {
    /// What it presents.
    pub identity: Option<CallerIdentity>,
    /// Globs over operation names, as they are written.
    pub operations: Vec<String>,
    /// The organizations of which it may act on behalf of shoppers.
    pub(super) acts_in: Vec<OrganizationId>,
    /// The caller itself; `None` only together with an error.
    pub(super) whole: Option<Caller>,
}

/// One operation of the merchant's own.
#[derive(Debug, Clone)]
pub struct RouteDraft {
    /// Its name, whatever is wrong with the rest: callers may mean it.
    pub name: Option<String>,
    /// The route itself; `None` only together with an error.
    pub whole: Option<Route>,
}

impl Draft {
    /// Settings without an error are all there.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let caller = |caller: &Caller| CallerDraft {
            identity: Some(caller.identity.clone()),
            operations: caller.operations.clone(),
            acts_in: if caller.may_on_behalf || caller.may_create_shoppers {
                caller.organizations.clone()
            } else {
                Vec::new()
            },
            whole: Some(caller.clone()),
        };
        let route = |route: &Route| RouteDraft { name: Some(route.name.clone()), whole: Some(route.clone()) };
        Self {
            tls: settings.server.tls.clone().map(TlsDraft::from).unwrap_or_default(),
            callers: settings.callers.iter().map(caller).collect(),
            routes: settings.routes.iter().map(route).collect(),
            low_priority: settings.load.low_priority.clone(),
        }
    }
}

impl From<Tls> for TlsDraft {
    fn from(tls: Tls) -> Self {
        Self {
            certificate: Some(tls.certificate.clone()),
            private_key: Some(tls.private_key.clone()),
            client_ca: tls.client_ca.clone(),
            client_crl: tls.client_crl.clone(),
            whole: Some(tls),
        }
    }
}
