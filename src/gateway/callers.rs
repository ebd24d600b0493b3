//! AuthenticatedCaller systems: who they are and what the configuration lets them do.
//!
//! Owns the table of callers. Knows how a caller is recognised, not how its credential is verified: that is
//! `authenticate`'s, and what a client certificate says is `certificate`'s.

use std::{collections::HashMap, sync::Arc};

use crate::gateway::client_cert::{CertificateName, InvalidCertificateName, PeerCertificate};
use crate::gateway::policy::{InvalidGlob, Operation, OperationGlob};
use crate::{
    config::{self, CallerIdentity},
    store::CallerEntry,
    types::{ClientId, OrganizationId, SiteId},
};

/// A trusted system of the configuration.
#[derive(Debug)]
pub struct Caller {
    /// Its settings.
    pub settings: config::Caller,
    operations: Vec<OperationGlob>,
}

/// The trusted systems of the configuration.
#[derive(Debug, Default)]
pub struct Callers {
    by_client: HashMap<ClientId, Arc<Caller>>,
    by_certificate: Vec<(CertificateName, Arc<Caller>)>,
    all: Vec<Arc<Caller>>,
}

/// What is wrong with a caller of the configuration, and at which of its keys.
#[derive(Debug, thiserror::Error)]
#[error("callers[{caller}].{key}: {flaw}")]
pub struct CallerError {
    /// Position of the caller.
    pub caller: usize,
    /// The key.
    pub key: String,
    /// What is wrong with its value.
    pub flaw: CallerFlaw,
}

/// What is wrong with a key of a caller.
#[derive(Debug, thiserror::Error)]
pub enum CallerFlaw {
    /// A glob that is none.
    #[error(transparent)]
    Operation(#[from] InvalidGlob),
    /// A certificate's name that is none.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificateName),
    /// A certificate's name that an earlier caller has, perhaps in another spelling: it would be nobody's.
    #[error("another caller has this one; join the two entries")]
    CertificateTaken,
}

impl Callers {
    /// Reads the callers' globs and certificate names.
    ///
    /// # Errors
    /// Every one that is none.
    pub fn new(settings: &[config::Caller]) -> Result<Self, Vec<CallerError>> {
        let mut callers = Self::default();
        let (names, mut errors) = certificate_names(settings.iter().map(|caller| Some(&caller.identity)));
        for (index, caller) in settings.iter().enumerate() {
            let mut operations = Vec::with_capacity(caller.operations.len());
            for (position, glob) in caller.operations.iter().enumerate() {
                match OperationGlob::parse(glob) {
                    Ok(glob) => operations.push(glob),
                    Err(invalid) => {
                        let key = format!("operations[{position}]");
                        errors.push(CallerError { caller: index, key, flaw: invalid.into() });
                    }
                }
            }
            let caller = Arc::new(Caller { settings: caller.clone(), operations });
            if let CallerIdentity::AccountManagerClient(client) = &caller.settings.identity {
                callers.by_client.insert(client.clone(), Arc::clone(&caller));
            }
            callers.all.push(caller);
        }
        let named = |(position, name): (usize, _)| Some((name, Arc::clone(callers.all.get(position)?)));
        callers.by_certificate = names.into_iter().filter_map(named).collect();
        if errors.is_empty() { Ok(callers) } else { Err(errors) }
    }

    /// The caller that presents a token, or the credentials, of this Account Manager client.
    #[must_use]
    pub fn by_client(&self, client: &str) -> Option<&Arc<Caller>> {
        self.by_client.get(client)
    }

    /// The caller that presents this certificate, which the listener has verified. A certificate that bears the names
    /// of two callers is nobody's.
    #[must_use]
    pub fn by_certificate(&self, certificate: &PeerCertificate) -> Option<&Arc<Caller>> {
        let mut named =
            self.by_certificate.iter().filter(|(name, _)| certificate.bears(name)).map(|(_, caller)| caller);
        named.next().filter(|_| named.next().is_none())
    }

    /// The caller that was described like this when it was given a token.
    #[must_use]
    pub fn by_entry(&self, entry: &CallerEntry) -> Option<&Arc<Caller>> {
        self.all.iter().find(|caller| caller.entry() == *entry)
    }

    /// All callers, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Caller>> {
        self.all.iter()
    }
}

/// The names in certificates by which callers are known, with the callers' positions, and what is wrong with the others.
/// A caller whose identity could not be read has none.
pub fn certificate_names<'c>(
    identities: impl Iterator<Item = Option<&'c CallerIdentity>>,
) -> (Vec<(usize, CertificateName)>, Vec<CallerError>) {
    let (mut names, mut errors) = (Vec::<(usize, CertificateName)>::new(), Vec::new());
    for (caller, identity) in identities.enumerate() {
        let (key, name) = match identity {
            None | Some(CallerIdentity::AccountManagerClient(_)) => continue,
            Some(CallerIdentity::CertificateSubject(subject)) => {
                ("certificate_subject", CertificateName::subject(subject))
            }
            Some(CallerIdentity::CertificateSan(name)) => ("certificate_san", CertificateName::alternative(name)),
        };
        let flaw = match name {
            Ok(name) if names.iter().all(|(_, other)| *other != name) => {
                names.push((caller, name));
                continue;
            }
            Ok(_) => CallerFlaw::CertificateTaken,
            Err(invalid) => invalid.into(),
        };
        errors.push(CallerError { caller, key: key.to_owned(), flaw });
    }
    (names, errors)
}

impl Caller {
    /// Whether it may call a system operation of this organization and site.
    #[must_use]
    pub fn may_system(&self, operation: &Operation, organization: &OrganizationId, site: Option<&SiteId>) -> bool {
        self.settings.may_system && self.covers(operation, organization, site)
    }

    /// Whether it may call an operation of this organization and site on behalf of a shopper.
    #[must_use]
    pub fn may_on_behalf(&self, operation: &Operation, organization: &OrganizationId, site: &SiteId) -> bool {
        self.settings.may_on_behalf && self.covers(operation, organization, Some(site))
    }

    /// What a session remembers of it.
    #[must_use]
    pub fn entry(&self) -> CallerEntry {
        let identity = match &self.settings.identity {
            CallerIdentity::AccountManagerClient(client) => format!("client {client}"),
            CallerIdentity::CertificateSubject(subject) => format!("subject {subject}"),
            CallerIdentity::CertificateSan(name) => format!("name {name}"),
        };
        CallerEntry { name: self.settings.name.clone(), identity }
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
