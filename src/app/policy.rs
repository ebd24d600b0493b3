//! The policy table and the callers of a configuration, checked against each other.

use super::AppError;
use crate::{
    gate::{
        bounds,
        caller::{CallerError, Callers},
        operations::{InvalidGlob, MerchantRoute, Operations, RouteRefusal, Security, SecurityKind},
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
    match bounds::globs(&settings.load.low_priority) {
        Ok(globs) => findings.extend(globs.iter().enumerate().filter_map(|(position, glob)| {
            let is_none = operations.matching(glob).next().is_none();
            is_none.then(|| {
                format!("load.low_priority[{position}]: {glob} is no operation; `shopper-gateway routes` lists them")
            })
        })),
        Err(errors) => findings.extend(not_globs(&errors)),
    }
    if findings.is_empty() { Ok((operations, callers)) } else { Err(AppError::Policy(findings)) }
}

/// What is wrong with `load.low_priority`.
pub(super) fn not_globs(errors: &[(usize, InvalidGlob)]) -> Vec<String> {
    errors.iter().map(|(position, error)| format!("load.low_priority[{position}]: {error}")).collect()
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
