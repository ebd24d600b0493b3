//! Validates `[[callers]]`.
//!
//! Operation names are not checked here: `app` compares the globs with the policy table.

use super::table::Table;
use crate::{
    config::{Caller, CallerIdentity, PartialCaller, PartialTenant, diagnostics::closest_match, file},
    types::{OrganizationId, SiteId},
};

const PERMISSIONS: [&str; 3] = ["system", "on_behalf", "create_shoppers"];

pub(super) fn callers(
    raw: Vec<file::Caller>,
    tenants: &[PartialTenant],
    client_certificates: bool,
    root: &mut Table<'_>,
) -> Vec<PartialCaller> {
    let mut names: Vec<String> = Vec::new();
    let mut callers: Vec<PartialCaller> = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let table = &mut root.table(&format!("callers[{position}]"));
        if let Some(name) = &raw.name {
            if names.contains(name) {
                table.error("name", "another caller has this name");
            }
            names.push(name.clone());
        }
        let caller = caller(raw, tenants, client_certificates, table);
        if let Some(identity) = &caller.identity
            && callers.iter().any(|other| other.identity.as_ref() == Some(identity))
        {
            // A request with this identity is one caller, so one entry must contain all its permissions.
            let key = match identity {
                CallerIdentity::AccountManagerClient(_) => "account_manager_client_id",
                CallerIdentity::CertificateSubject(_) => "certificate_subject",
                CallerIdentity::CertificateSan(_) => "certificate_san",
            };
            table.error(key, "another caller has the same identity; merge the two entries");
        }
        callers.push(caller);
    }
    callers
}

fn caller(
    raw: file::Caller,
    tenants: &[PartialTenant],
    client_certificates: bool,
    table: &mut Table<'_>,
) -> PartialCaller {
    let name = raw.name.unwrap_or_default();
    check_name(&name, table);
    let client = raw.account_manager_client_id.as_deref();
    let identity = identity(client, raw.certificate_subject, raw.certificate_san, client_certificates, table);
    let [may_system, may_on_behalf, may_create_shoppers] = permissions(raw.may.unwrap_or_default(), table);
    let organizations = organizations(raw.organizations.unwrap_or_default(), tenants, table);
    let sites = sites(raw.sites, &organizations, tenants, table);
    let operations = operations(raw.operations.unwrap_or_default(), table);
    let complete = identity.clone().filter(|_| table.is_valid()).map(|identity| Caller {
        name,
        identity,
        may_system,
        may_on_behalf,
        may_create_shoppers,
        organizations: organizations.clone(),
        sites,
        operations: operations.clone(),
        requests_per_second: raw.requests_per_second,
    });
    if let Some(caller) = &complete {
        check_consistency(caller, tenants, table);
    }
    let acts_on_behalf = may_on_behalf || may_create_shoppers;
    PartialCaller { identity, operations, organizations, acts_on_behalf, complete }
}

/// Values of the metric label `caller` for requests that are not of a trusted system.
const RESERVED_NAMES: [&str; 5] = ["guest", "registered", "slas", "reported", "none"];

/// Checks the name of a caller, which is also a label value of metrics.
fn check_name(name: &str, table: &mut Table<'_>) {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=40).contains(&name.len()) || !name.bytes().all(is_allowed) {
        table.error("name", "expected 1 to 40 lowercase letters, digits or hyphens, e.g. experience-cloud");
    } else if RESERVED_NAMES.contains(&name) {
        table.error("name", "reserved for another kind of caller in metrics; choose another name");
    }
}

fn identity(
    client: Option<&str>,
    subject: Option<String>,
    san: Option<String>,
    client_certificates: bool,
    table: &mut Table<'_>,
) -> Option<CallerIdentity> {
    match (client, subject, san) {
        (Some(client), None, None) => {
            table.name("account_manager_client_id", client).map(CallerIdentity::AccountManagerClient)
        }
        (None, Some(subject), None) => {
            check_client_certificates("certificate_subject", client_certificates, table);
            Some(CallerIdentity::CertificateSubject(subject))
        }
        (None, None, Some(san)) => {
            check_client_certificates("certificate_san", client_certificates, table);
            Some(CallerIdentity::CertificateSan(san))
        }
        (Some(_), Some(_), _) => {
            table.error("certificate_subject", "conflicts with account_manager_client_id; keep one of them");
            None
        }
        (_, _, Some(_)) => {
            table.error(
                "certificate_san",
                "conflicts with account_manager_client_id or certificate_subject; keep one of them",
            );
            None
        }
        (None, None, None) => {
            table.error("account_manager_client_id", "missing; expected this, certificate_subject or certificate_san");
            None
        }
    }
}

/// Adds an error if the caller's identity needs client certificates, and the gateway requests none.
fn check_client_certificates(key: &str, client_certificates: bool, table: &mut Table<'_>) {
    if !client_certificates {
        table.error(key, "the gateway requests no client certificates; set server.tls.client_ca");
    }
}

/// Which of [`PERMISSIONS`] are in the list.
fn permissions(list: file::List, table: &mut Table<'_>) -> [bool; 3] {
    let texts = list.into_texts();
    if texts.is_empty() {
        table.error("may", "empty; expected at least one of system, on_behalf and create_shoppers");
    }
    for (position, text) in texts.iter().enumerate() {
        if !PERMISSIONS.contains(&text.as_str()) {
            let hint = did_you_mean(closest_match(text, PERMISSIONS.into_iter()));
            table.error(&format!("may[{position}]"), format!("expected system, on_behalf or create_shoppers{hint}"));
        }
    }
    PERMISSIONS.map(|right| texts.iter().any(|text| text == right))
}

fn organizations(list: file::List, tenants: &[PartialTenant], table: &mut Table<'_>) -> Vec<OrganizationId> {
    if list.is_empty() {
        table.error("organizations", "empty; expected at least one organization of [[tenants]]");
    }
    let named: Vec<OrganizationId> = table.names("organizations", list);
    // If a tenant's organization is invalid, the name may mean this one.
    let known: Option<Vec<_>> = tenants.iter().map(|tenant| tenant.organization.as_ref()).collect();
    let Some(known) = known else { return named };
    for organization in &named {
        if !known.contains(&organization) {
            let hint = did_you_mean(closest_match(organization.as_str(), known.iter().map(|known| known.as_str())));
            table.error("organizations", format!("{organization} is not one of [[tenants]]{hint}"));
        }
    }
    named
}

fn sites(
    list: file::List,
    organizations: &[OrganizationId],
    tenants: &[PartialTenant],
    table: &mut Table<'_>,
) -> Vec<SiteId> {
    let named: Vec<SiteId> = table.names("sites", list);
    let own = |tenant: &&PartialTenant| tenant.organization.as_ref().is_some_and(|own| organizations.contains(own));
    let known: Option<Vec<&[SiteId]>> = tenants.iter().filter(own).map(|tenant| tenant.sites.as_deref()).collect();
    let known = known.unwrap_or_default().concat();
    for site in named.iter().filter(|site| !known.is_empty() && !known.contains(site)) {
        let hint = did_you_mean(closest_match(site.as_str(), known.iter().map(SiteId::as_str)));
        table.error("sites", format!("{site} is not a site of any of these organizations{hint}"));
    }
    named
}

fn operations(list: file::List, table: &mut Table<'_>) -> Vec<String> {
    let operations = list.into_texts();
    if operations.is_empty() {
        table.error("operations", "empty; expected at least one, e.g. [\"orders.*\"]");
    }
    for (position, operation) in operations.iter().enumerate() {
        if operation.trim().is_empty() {
            table.error(&format!("operations[{position}]"), "empty");
        }
    }
    operations
}

/// Adds errors and warnings for permissions that cannot work.
fn check_consistency(caller: &Caller, tenants: &[PartialTenant], table: &mut Table<'_>) {
    if caller.may_create_shoppers && !caller.may_on_behalf {
        table.warn("may", "create_shoppers has no effect without on_behalf; add on_behalf");
    }
    let by_client = matches!(caller.identity, CallerIdentity::AccountManagerClient(_));
    for (position, tenant) in tenants.iter().enumerate().filter(|(_, tenant)| !tenant.has_account_manager) {
        let Some(organization) =
            tenant.organization.as_ref().filter(|organization| caller.organizations.contains(organization))
        else {
            continue;
        };
        if by_client {
            let message = format!(
                "tokens of this client cannot be verified in {organization}: tenants[{position}] has no \
                 [tenants.account_manager]; add it, or remove the organization from this caller"
            );
            table.error("account_manager_client_id", message);
        } else if caller.may_system {
            let message = format!(
                "system operations of {organization} need a token of its account_manager, which is missing; add it"
            );
            table.warn("may", message);
        }
    }
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::config::{diagnostics::Diagnostics, secret_files::Resolver};

    #[test]
    fn caller_name_reserved_in_metrics_is_rejected() {
        let resolver = Resolver { base_dir: Path::new("."), environment: &BTreeMap::new() };
        for (name, fits) in
            [("experience-cloud", true), ("guest", false), ("none", false), ("Guest", false), ("", false)]
        {
            let mut diagnostics = Diagnostics::default();
            check_name(name, &mut Table::root(&resolver, &mut diagnostics).table("callers[0]"));
            assert_eq!(diagnostics.has_errors("callers[0].name"), !fits, "{name}");
        }
    }
}
