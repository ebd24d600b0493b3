//! Authorization: what a sender may do.
//!
//! Pure functions without I/O. The rules follow the security requirements of Salesforce's API descriptions (`policy`) and the
//! permissions of `[[callers]]`.

use std::sync::Arc;

use super::{
    callers::Caller,
    credential::{Source, UpstreamCredential},
    error::{GatewayError, RequiredToken},
    identity::{AuthenticatedCaller, Grant, Identity, Proof, ScopeRejected},
    on_behalf_header::OnBehalfHeader,
    policy::{Operation, SecurityKind},
    request::Route,
    tenant::Tenant,
};
use crate::{
    tokens::on_behalf::OnBehalfSubject,
    types::{Scopes, SiteId},
    verify::shopper::Shopper,
};

/// Checks whether a sender may send a request.
///
/// # Errors
/// [`GatewayError::TokenKindWrong`], [`GatewayError::TokenWrongSite`], [`GatewayError::ScopeMissing`] and
/// [`GatewayError::CallerNotAllowed`] if the sender may not; the errors of [`on_behalf`].
pub(super) fn check(identity: Identity, tenant: &Tenant, route: &Route) -> Result<Grant, GatewayError> {
    let operation = route.operation.as_deref();
    match identity {
        Identity::Shopper(token) => {
            match operation {
                Some(operation) => shopper(&token.shopper, operation, route.site.as_ref())?,
                None => site(&token.shopper, route.site.as_ref())?,
            }
            Ok(Grant::Shopper(token))
        }
        Identity::System(caller) => {
            let operation = operation.ok_or(GatewayError::OperationUnknown)?;
            system(&caller, operation, route)?;
            Ok(Grant::System(caller))
        }
        Identity::OnBehalf(caller, subject) => {
            let operation = operation.filter(|operation| operation.accepts_shopper());
            let operation = operation.ok_or(GatewayError::CallerNotAllowed)?;
            let subject = on_behalf(&caller.caller, operation, tenant, route, (*subject)?)?;
            Ok(Grant::OnBehalf(caller.caller, Arc::new(subject)))
        }
    }
}

/// Checks a credential that the gateway has just obtained. Its scopes were not known before.
///
/// # Errors
/// The errors of [`shopper`] for a token on behalf of a shopper. [`GatewayError::ScopeMissing`] for the gateway's system token.
pub(super) fn check_obtained(credential: &UpstreamCredential, route: &Route) -> Result<(), GatewayError> {
    let Some(operation) = route.operation.as_deref() else { return Ok(()) };
    match credential.source() {
        Source::OnBehalf(_, token) => shopper(&token.ready.verified.shopper, operation, route.site.as_ref()),
        Source::System(_, token) if token.is_gateways => has_system_scope(&token.token.scopes, operation),
        _ => Ok(()),
    }
}

/// Checks a shopper's token against an operation and the site of a request.
///
/// # Errors
/// [`GatewayError::TokenKindWrong`] if the operation needs another kind of token, [`GatewayError::TokenWrongSite`],
/// [`GatewayError::ScopeMissing`].
pub(super) fn shopper(
    shopper: &Shopper,
    operation: &Operation,
    requested_site: Option<&SiteId>,
) -> Result<(), GatewayError> {
    let alternatives = || operation.shopper_alternatives(shopper.delegation);
    if alternatives().next().is_none() {
        return Err(GatewayError::TokenKindWrong(required_token(operation)));
    }
    site(shopper, requested_site)?;
    if alternatives().any(|security| security.is_met_by(&shopper.scopes)) {
        return Ok(());
    }
    Err(GatewayError::ScopeMissing(alternatives().flat_map(|security| security.scopes.iter().cloned()).collect()))
}

/// Checks the site of a shopper's token. A token or a request without a site fits every site.
///
/// # Errors
/// [`GatewayError::TokenWrongSite`].
pub(super) fn site(shopper: &Shopper, requested: Option<&SiteId>) -> Result<(), GatewayError> {
    match (&shopper.site, requested) {
        (Some(own), Some(requested)) if own != requested => Err(GatewayError::TokenWrongSite),
        _ => Ok(()),
    }
}

/// Checks whether a trusted system may send a request to a system operation. A caller learns what it may do only after it has
/// proved its identity.
///
/// # Errors
/// [`GatewayError::TokenKindWrong`] if the operation takes no system token; [`GatewayError::CallerNotAllowed`];
/// [`GatewayError::ScopeMissing`].
fn system(caller: &AuthenticatedCaller, operation: &Operation, route: &Route) -> Result<(), GatewayError> {
    let Some(security) = operation.security.iter().find(|security| security.kind.is_system()) else {
        return Err(GatewayError::TokenKindWrong(required_token(operation)));
    };
    if !caller.caller.may_call_system_operation(operation, &route.organization, route.site.as_ref()) {
        return Err(GatewayError::CallerNotAllowed);
    }
    match &caller.proof {
        Proof::Bearer(client) => has_system_scope(&client.scopes, operation),
        Proof::Basic(Err(ScopeRejected)) => Err(GatewayError::ScopeMissing(security.scopes.clone())),
        Proof::Basic(Ok(_)) | Proof::Certificate => Ok(()),
    }
}

fn has_system_scope(scopes: &Scopes, operation: &Operation) -> Result<(), GatewayError> {
    let security = operation.security.iter().find(|security| security.kind.is_system());
    match security.filter(|security| !security.is_met_by(scopes)) {
        Some(security) => Err(GatewayError::ScopeMissing(security.scopes.clone())),
        None => Ok(()),
    }
}

/// Checks the scopes of a trusted system for the deprecated trusted-system login.
///
/// # Errors
/// [`GatewayError::ScopeMissing`]. [`GatewayError::CallerNotAllowed`] if Account Manager rejects the client's tenant.
pub(super) fn trusted_system_login(caller: &AuthenticatedCaller, scopes: &Scopes) -> Result<(), GatewayError> {
    match &caller.proof {
        Proof::Bearer(client) if !scopes.intersects(&client.scopes) => Err(GatewayError::ScopeMissing(scopes.clone())),
        Proof::Basic(Err(ScopeRejected)) if scopes.is_empty() => Err(GatewayError::CallerNotAllowed),
        Proof::Basic(Err(ScopeRejected)) => Err(GatewayError::ScopeMissing(scopes.clone())),
        Proof::Bearer(_) | Proof::Basic(Ok(_)) | Proof::Certificate => Ok(()),
    }
}

/// Checks whether a trusted system may act on behalf of a shopper. The site is that of the request, or the organization's only
/// one.
///
/// # Errors
/// [`GatewayError::RequestInvalid`] if the site is missing or unknown; [`GatewayError::CallerNotAllowed`];
/// [`GatewayError::CallerMayNotCreateShoppers`] for a shopper of another identity provider.
pub(super) fn on_behalf(
    caller: &Caller,
    operation: &Operation,
    tenant: &Tenant,
    route: &Route,
    subject: OnBehalfHeader,
) -> Result<OnBehalfSubject, GatewayError> {
    let sites = &tenant.settings.sites;
    let site = match (&route.site, sites.as_slice()) {
        (Some(requested), _) => sites.iter().find(|site| *site == requested),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let site = site.ok_or_else(GatewayError::site_invalid)?;
    if !caller.may_act_on_behalf(operation, &route.organization, site) {
        return Err(GatewayError::CallerNotAllowed);
    }
    if subject.is_of_other_provider() && !caller.settings.may_create_shoppers {
        return Err(GatewayError::CallerMayNotCreateShoppers);
    }
    Ok(subject.into_subject(&route.organization, site, caller))
}

/// Checks whether the trusted system that received a token on behalf of a shopper may still log shoppers in.
/// `login_operations` are the operations of the deprecated trusted-system login.
///
/// # Errors
/// [`GatewayError::TokenInvalid`].
pub(super) fn recipient<'c>(
    caller: Option<&'c Arc<Caller>>,
    mut login_operations: impl Iterator<Item = &'c Arc<Operation>>,
    shopper: &Shopper,
    site: &SiteId,
) -> Result<&'c Arc<Caller>, GatewayError> {
    let may = |caller: &&Arc<Caller>| {
        login_operations.any(|operation| caller.may_act_on_behalf(operation, &shopper.organization, site))
    };
    caller.filter(may).ok_or_else(|| {
        GatewayError::TokenInvalid("the trusted system that received it may not act for shoppers any more".into())
    })
}

/// Returns the kind of token that an operation needs.
fn required_token(operation: &Operation) -> RequiredToken {
    match operation.security.first().map(|security| security.kind) {
        Some(SecurityKind::ShopperTsob) => RequiredToken::OnBehalf,
        Some(SecurityKind::ShopperTaob) => RequiredToken::AgentOnBehalf,
        Some(SecurityKind::System | SecurityKind::SystemByRole) => RequiredToken::System,
        Some(SecurityKind::Shopper) | None => RequiredToken::Shopper,
    }
}

#[cfg(test)]
mod tests;
