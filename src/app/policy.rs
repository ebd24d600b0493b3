//! The policy table and the callers of a configuration, checked against each other.

use super::AppError;
use crate::{
    gate::{
        caller::{CallerError, Callers},
        operations::{MerchantRoute, Operations, RouteRefusal, Security, SecurityKind},
    },
    settings::{self, RouteSecurity, Settings},
};

/// The policy table with the merchant's routes, and the callers, checked against each other.
///
/// # Errors
/// [`AppError::Policy`] with every finding, each beginning with its key path.
pub fn policy(settings: &Settings) -> Result<(Operations, Callers), AppError> {
    let mut findings = Vec::new();
    let published = Operations::published()?;
    let operations = match published.clone().with_routes(settings.routes.iter().map(merchant_route)) {
        Ok(operations) => operations,
        Err(refusals) => {
            findings.extend(refusals.iter().map(RouteRefusal::to_string));
            published
        }
    };
    let callers = match Callers::new(&settings.callers) {
        Ok(callers) => callers,
        Err(errors) => {
            findings.extend(errors.iter().map(CallerError::to_string));
            Callers::default()
        }
    };
    for (index, caller) in callers.iter().enumerate() {
        for (position, glob) in caller.operations().enumerate() {
            if operations.matching(glob).next().is_none() {
                findings.push(format!(
                    "callers[{index}].operations[{position}]: {glob} is no operation; `shopper-gateway routes` lists them"
                ));
            }
        }
    }
    if findings.is_empty() { Ok((operations, callers)) } else { Err(AppError::Policy(findings)) }
}

fn merchant_route(route: &settings::Route) -> MerchantRoute {
    let kind = match route.security {
        RouteSecurity::Shopper => SecurityKind::Shopper,
        RouteSecurity::System => SecurityKind::System,
    };
    MerchantRoute {
        name: route.name.clone(),
        method: route.method.clone(),
        template: route.path.clone(),
        security: vec![Security { kind, scopes: route.scopes.clone() }],
    }
}
