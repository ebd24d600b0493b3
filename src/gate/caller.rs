//! Trusted systems: who they are and what the configuration lets them do.
//!
//! Owns the table of callers. Knows how a caller is recognised, not how its credential is verified.

use std::{collections::HashMap, sync::Arc};

use super::operations::{InvalidGlob, Operation, OperationGlob};
use crate::{
    names::{ClientId, OrganizationId, SiteId},
    settings::{self, CallerIdentity},
};

/// A trusted system of the configuration.
#[derive(Debug)]
pub struct Caller {
    /// Its settings.
    pub settings: settings::Caller,
    operations: Vec<OperationGlob>,
}

/// The trusted systems of the configuration.
#[derive(Debug, Default)]
pub struct Callers {
    by_client: HashMap<ClientId, Arc<Caller>>,
    all: Vec<Arc<Caller>>,
}

/// A glob of a caller that is none.
#[derive(Debug, thiserror::Error)]
#[error("callers[{caller}].operations[{position}]: {reason}")]
pub struct CallerError {
    /// Position of the caller.
    pub caller: usize,
    /// Position of the glob.
    pub position: usize,
    /// What is wrong with it.
    pub reason: InvalidGlob,
}

impl Callers {
    /// Reads the callers' globs.
    ///
    /// # Errors
    /// Every glob that is none.
    pub fn new(settings: &[settings::Caller]) -> Result<Self, Vec<CallerError>> {
        let mut callers = Self::default();
        let mut errors = Vec::new();
        for (index, caller) in settings.iter().enumerate() {
            let mut operations = Vec::with_capacity(caller.operations.len());
            for (position, glob) in caller.operations.iter().enumerate() {
                match OperationGlob::parse(glob) {
                    Ok(glob) => operations.push(glob),
                    Err(reason) => errors.push(CallerError { caller: index, position, reason }),
                }
            }
            let caller = Arc::new(Caller { settings: caller.clone(), operations });
            if let CallerIdentity::AccountManagerClient(client) = &caller.settings.identity {
                callers.by_client.insert(client.clone(), Arc::clone(&caller));
            }
            callers.all.push(caller);
        }
        if errors.is_empty() { Ok(callers) } else { Err(errors) }
    }

    /// The caller that presents a token of this Account Manager client.
    #[must_use]
    pub fn by_client(&self, client: &ClientId) -> Option<&Arc<Caller>> {
        self.by_client.get(client)
    }

    /// All callers, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Caller>> {
        self.all.iter()
    }
}

impl Caller {
    /// Whether it may call a system operation of this organization and site.
    #[must_use]
    pub fn may_system(&self, operation: &Operation, organization: &OrganizationId, site: Option<&SiteId>) -> bool {
        self.settings.may_system && self.covers(operation, organization, site)
    }

    /// The globs of its operations.
    pub fn operations(&self) -> impl Iterator<Item = &OperationGlob> {
        self.operations.iter()
    }

    fn covers(&self, operation: &Operation, organization: &OrganizationId, site: Option<&SiteId>) -> bool {
        let site_allowed = match site {
            Some(site) => self.settings.sites.is_empty() || self.settings.sites.contains(site),
            // A caller tied to sites may call what names no site.
            None => true,
        };
        self.settings.organizations.contains(organization)
            && site_allowed
            && self.operations.iter().any(|glob| glob.matches(operation))
    }
}
