//! Validates `[[callers]]`.
//!
//! Operation names are not checked here: `app` compares the globs with the policy table.

use super::{table::TableValidator, tenants::ParsedTenant};
use crate::{
    config::{
        Caller, CallerIdentity, PartialCaller,
        diagnostics::{Diagnostics, closest_match},
        file,
    },
    types::{ClientId, OrganizationId, SiteId},
};

const PERMISSIONS: [&str; 3] = ["system", "on_behalf", "create_shoppers"];

/// The callers. An invalid caller is partial.
pub(super) fn callers(
    raw: Vec<file::Caller>,
    tenants: &[ParsedTenant],
    client_certificates: bool,
    diagnostics: &mut Diagnostics,
) -> Vec<PartialCaller> {
    let mut names: Vec<String> = Vec::new();
    let mut callers: Vec<PartialCaller> = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let mut table = TableValidator::new(format!("callers[{position}]"), diagnostics);
        if let Some(name) = &raw.name {
            if names.contains(name) {
                table.error("name", "another caller has this name");
            }
            names.push(name.clone());
        }
        let caller = caller(raw, tenants, client_certificates, &mut table);
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
    tenants: &[ParsedTenant],
    client_certificates: bool,
    table: &mut TableValidator<'_>,
) -> PartialCaller {
    let name = table.required("name", raw.name).and_then(|name| caller_name(name, table));
    let identity = identity(
        raw.account_manager_client_id.as_deref(),
        raw.certificate_subject,
        raw.certificate_san,
        client_certificates,
        table,
    );
    let may = table.required("may", raw.may).map(|list| permissions(list, table));
    let organizations =
        table.required("organizations", raw.organizations).map(|list| organizations(list, tenants, table));
    let sites = match &organizations {
        Some(organizations) => sites(raw.sites, organizations, tenants, table),
        None => table.names("sites", raw.sites),
    };
    let operations = table.required("operations", raw.operations).map(|list| operations(list, table));

    let acts = may.is_some_and(|[_, on_behalf, create_shoppers]| on_behalf || create_shoppers);
    let on_behalf_organizations = organizations.clone().filter(|_| acts).unwrap_or_default();
    let complete = || {
        let [may_system, may_on_behalf, may_create_shoppers] = may?;
        Some(Caller {
            name: name?,
            identity: identity.clone()?,
            may_system,
            may_on_behalf,
            may_create_shoppers,
            organizations: organizations?,
            sites,
            operations: operations.clone()?,
            requests_per_second: raw.requests_per_second,
        })
    };
    let complete = complete();
    if let Some(caller) = &complete {
        check_consistency(caller, tenants, table);
    }
    PartialCaller { identity, operations: operations.unwrap_or_default(), on_behalf_organizations, complete }
}

/// Values of the metric label `caller` for requests that are not of a trusted system.
const RESERVED_NAMES: [&str; 5] = ["guest", "registered", "slas", "reported", "none"];

/// The name of a caller, which is also a label value of metrics.
fn caller_name(name: String, table: &mut TableValidator<'_>) -> Option<String> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=40).contains(&name.len()) || !name.bytes().all(is_allowed) {
        table.error("name", "expected 1 to 40 lowercase letters, digits or hyphens, e.g. experience-cloud");
        return None;
    }
    if RESERVED_NAMES.contains(&name.as_str()) {
        table.error("name", "reserved for another kind of caller in metrics; choose another name");
        return None;
    }
    Some(name)
}

fn identity(
    client: Option<&str>,
    subject: Option<String>,
    san: Option<String>,
    client_certificates: bool,
    table: &mut TableValidator<'_>,
) -> Option<CallerIdentity> {
    match (client, subject, san) {
        (Some(client), None, None) => {
            table.name::<ClientId>("account_manager_client_id", client).map(CallerIdentity::AccountManagerClient)
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
fn check_client_certificates(key: &str, client_certificates: bool, table: &mut TableValidator<'_>) {
    if !client_certificates {
        table.error(key, "the gateway requests no client certificates; set server.tls.client_ca");
    }
}

/// Which of [`PERMISSIONS`] are in the list.
fn permissions(list: file::List, table: &mut TableValidator<'_>) -> [bool; 3] {
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

fn organizations(list: file::List, tenants: &[ParsedTenant], table: &mut TableValidator<'_>) -> Vec<OrganizationId> {
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
    tenants: &[ParsedTenant],
    table: &mut TableValidator<'_>,
) -> Vec<SiteId> {
    let named: Vec<SiteId> = table.names("sites", list);
    let own = |tenant: &&ParsedTenant| tenant.organization.as_ref().is_some_and(|own| organizations.contains(own));
    let known: Option<Vec<&[SiteId]>> = tenants.iter().filter(own).map(|tenant| tenant.sites.as_deref()).collect();
    let known = known.unwrap_or_default().concat();
    for site in named.iter().filter(|site| !known.is_empty() && !known.contains(site)) {
        let hint = did_you_mean(closest_match(site.as_str(), known.iter().map(SiteId::as_str)));
        table.error("sites", format!("{site} is not a site of any of these organizations{hint}"));
    }
    named
}

fn operations(list: file::List, table: &mut TableValidator<'_>) -> Vec<String> {
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
fn check_consistency(caller: &Caller, tenants: &[ParsedTenant], table: &mut TableValidator<'_>) {
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
    use super::*;

    #[test]
    fn caller_name_reserved_in_metrics_is_rejected() {
        for (name, fits) in
            [("experience-cloud", true), ("guest", false), ("none", false), ("Guest", false), ("", false)]
        {
            let mut diagnostics = Diagnostics::default();
            let label = caller_name(name.to_owned(), &mut TableValidator::new("callers[0]", &mut diagnostics));
            assert_eq!((label.is_some(), diagnostics.has_errors("callers[0].name")), (fits, !fits), "{name}");
        }
    }
}
