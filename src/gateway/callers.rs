//! The trusted systems of `[[callers]]`: how each is identified, and which operations it may call.

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::{self, CallerIdentity},
    gateway::{
        client_cert::{CertificateName, InvalidCertificateName, PeerCertificate},
        policy::{InvalidGlob, Operation, OperationGlob},
    },
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

/// An error of an entry of `[[callers]]`.
#[derive(Debug, thiserror::Error)]
#[error("callers[{caller}].{key}: {problem}")]
pub struct CallerError {
    /// The entry's position.
    pub caller: usize,
    /// The key.
    pub key: String,
    /// What is wrong with the key's value.
    pub problem: CallerProblem,
}

/// What is wrong with the value of a key.
#[derive(Debug, thiserror::Error)]
pub enum CallerProblem {
    /// The glob is invalid.
    #[error(transparent)]
    Operation(#[from] InvalidGlob),
    /// The certificate name is invalid.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificateName),
    /// An earlier entry has the same certificate name, maybe in another spelling.
    #[error("another caller has the same certificate name; join the two entries")]
    CertificateTaken,
}

impl Callers {
    /// Parses the globs and certificate names of all callers.
    ///
    /// # Errors
    /// An error for each invalid glob, and for each certificate name that is invalid or occurs twice.
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
                        errors.push(CallerError { caller: index, key, problem: invalid.into() });
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

    /// The caller that is this Account Manager client.
    #[must_use]
    pub fn by_client(&self, client: &str) -> Option<&Arc<Caller>> {
        self.by_client.get(client)
    }

    /// The caller that has this certificate. `None` if the certificate has the names of two callers.
    #[must_use]
    pub fn by_certificate(&self, certificate: &PeerCertificate) -> Option<&Arc<Caller>> {
        let mut named =
            self.by_certificate.iter().filter(|(name, _)| certificate.has_name(name)).map(|(_, caller)| caller);
        named.next().filter(|_| named.next().is_none())
    }

    /// The caller that has received a token, if its entry still has the same name and identity.
    #[must_use]
    pub fn by_entry(&self, entry: &CallerEntry) -> Option<&Arc<Caller>> {
        self.all.iter().find(|caller| caller.entry() == *entry)
    }

    /// All callers, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Caller>> {
        self.all.iter()
    }
}

/// Returns the certificate names of callers with the callers' positions, and the errors of the others. A caller whose identity
/// could not be parsed is `None`.
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
        let problem = match name {
            Ok(name) if names.iter().all(|(_, other)| *other != name) => {
                names.push((caller, name));
                continue;
            }
            Ok(_) => CallerProblem::CertificateTaken,
            Err(invalid) => invalid.into(),
        };
        errors.push(CallerError { caller, key: key.to_owned(), problem });
    }
    (names, errors)
}

impl Caller {
    /// Whether the caller may call a system operation of this organization and site.
    #[must_use]
    pub fn may_call_system_operation(
        &self,
        operation: &Operation,
        organization: &OrganizationId,
        site: Option<&SiteId>,
    ) -> bool {
        self.settings.may_system && self.covers(operation, organization, site)
    }

    /// Whether the caller may call an operation of this organization and site on behalf of a shopper.
    #[must_use]
    pub fn may_act_on_behalf(&self, operation: &Operation, organization: &OrganizationId, site: &SiteId) -> bool {
        self.settings.may_on_behalf && self.covers(operation, organization, Some(site))
    }

    /// The caller's name and identity, as a session stores them.
    #[must_use]
    pub fn entry(&self) -> CallerEntry {
        let identity = match &self.settings.identity {
            CallerIdentity::AccountManagerClient(client) => format!("client {client}"),
            CallerIdentity::CertificateSubject(subject) => format!("subject {subject}"),
            CallerIdentity::CertificateSan(name) => format!("name {name}"),
        };
        CallerEntry { name: self.settings.name.clone(), identity }
    }

    /// The globs of the operations that the caller may call.
    pub fn operations(&self) -> impl Iterator<Item = &OperationGlob> {
        self.operations.iter()
    }

    fn covers(&self, operation: &Operation, organization: &OrganizationId, site: Option<&SiteId>) -> bool {
        let is_site_allowed = match site {
            Some(site) => self.settings.sites.is_empty() || self.settings.sites.contains(site),
            // A caller with a list of sites may call operations without a site.
            None => true,
        };
        self.settings.organizations.contains(organization)
            && is_site_allowed
            && self.operations.iter().any(|glob| glob.matches(operation))
    }
}
