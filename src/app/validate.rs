//! Loads a configuration and checks its parts against each other.
//!
//! `config` checks each key by itself. This module adds the checks that need more: the policy table against routes, callers and
//! operation globs, and the contents of certificate and key files. The checks also run on a configuration that has errors, so
//! that one run reports all of them. Every reader of a configuration loads it here and reports the same diagnostics.

use std::path::Path;

use super::{AppError, certificate_files};
use crate::{
    config::{self, ConfigErrors, Diagnostic, Loaded, PartialPolicy, PartialSettings, RouteSecurity, Settings},
    gateway::{
        callers::{self, CallerError, Callers},
        policy::{
            CustomRoute, CustomRouteError, InvalidGlob, OperationGlob, Operations, Security, SecurityKind, TableError,
        },
    },
};

/// Loads a configuration from its file and the environment. Makes no network calls.
///
/// # Errors
/// Returns all errors of the configuration at once.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    Settings::load(path, |partial: &PartialSettings| {
        let mut checked = certificate_files::check(partial);
        checked.errors.extend(check_policy(&partial.policy));
        checked
    })
}

/// Builds the policy table, custom routes included, and the callers.
///
/// # Errors
/// Returns [`AppError::Policy`] with all contradictions, or [`AppError::Table`] if the built-in table is invalid.
pub fn build_policy(settings: &Settings) -> Result<(Operations, Callers), AppError> {
    let (operations, diagnostics) = resolve_policy(&PartialPolicy::from(settings))?;
    if !diagnostics.is_empty() {
        return Err(AppError::Policy(diagnostics));
    }
    let callers = Callers::new(&settings.callers);
    let callers = callers.map_err(|errors| AppError::Policy(errors.into_iter().map(caller_diagnostic).collect()))?;
    Ok((operations, callers))
}

/// All contradictions between the configuration and the policy table, as far as the configuration could be read.
fn check_policy(partial: &PartialPolicy) -> Vec<Diagnostic> {
    match resolve_policy(partial) {
        Ok((_, diagnostics)) => diagnostics,
        Err(broken) => vec![Diagnostic::new("the policy table", broken.to_string())],
    }
}

fn resolve_policy(partial: &PartialPolicy) -> Result<(Operations, Vec<Diagnostic>), TableError> {
    let published = Operations::published()?;
    let routes = partial.routes.iter().enumerate();
    let routes = routes.filter_map(|(position, route)| Some((position, custom_route(route.complete.as_ref()?))));
    let (positions, routes): (Vec<usize>, Vec<CustomRoute>) = routes.unzip();
    let (operations, mut diagnostics) = match published.clone().with_routes(routes) {
        Ok(operations) => (operations, Vec::new()),
        Err(errors) => {
            let diagnostic = |error: CustomRouteError| {
                let path = format!("routes[{}]", positions.get(error.position)?);
                Some(Diagnostic::new(path, error.reason.to_string()))
            };
            (published, errors.into_iter().filter_map(diagnostic).collect())
        }
    };
    let (_, errors) = callers::certificate_names(partial.callers.iter().map(|caller| caller.identity.as_ref()));
    diagnostics.extend(errors.into_iter().map(caller_diagnostic));
    for (path, text) in operation_globs(partial) {
        let problem = match text.parse::<OperationGlob>() {
            Ok(glob) if matches_any(&glob, &operations, partial) => continue,
            Ok(glob) => format!("{glob} is no operation; `shopper-gateway routes` lists them"),
            Err(invalid) => invalid.to_string(),
        };
        diagnostics.push(Diagnostic::new(path, problem));
    }
    Ok((operations, diagnostics))
}

/// All operation globs with their keys. Empty globs are reported by `config`.
fn operation_globs(partial: &PartialPolicy) -> impl Iterator<Item = (String, &String)> {
    let of_callers = partial.callers.iter().enumerate().flat_map(|(position, caller)| {
        let globs = caller.operations.iter().enumerate();
        globs.map(move |(glob_position, glob)| (format!("callers[{position}].operations[{glob_position}]"), glob))
    });
    let of_load = partial.low_priority.iter().enumerate();
    let of_load = of_load.map(|(position, glob)| (format!("load.low_priority[{position}]"), glob));
    of_callers.filter(|(_, glob)| !glob.trim().is_empty()).chain(of_load)
}

/// Whether a glob matches any operation. Routes with other errors count, and a route whose name could not be read matches any
/// glob.
fn matches_any(glob: &OperationGlob, operations: &Operations, partial: &PartialPolicy) -> bool {
    operations.matching(glob).next().is_some()
        || partial.routes.iter().any(|route| route.name.as_ref().is_none_or(|name| glob.matches_name(name)))
}

fn caller_diagnostic(error: CallerError) -> Diagnostic {
    Diagnostic::new(format!("callers[{}].{}", error.caller, error.key), error.problem.to_string())
}

/// Diagnostics for invalid globs of `load.low_priority`.
pub(super) fn low_priority_diagnostics(errors: &[(usize, InvalidGlob)]) -> Vec<Diagnostic> {
    let diagnostic = |(position, invalid): &(usize, InvalidGlob)| {
        Diagnostic::new(format!("load.low_priority[{position}]"), invalid.to_string())
    };
    errors.iter().map(diagnostic).collect()
}

fn custom_route(route: &config::Route) -> CustomRoute {
    let kind = match route.security {
        RouteSecurity::Shopper => SecurityKind::Shopper,
        RouteSecurity::System => SecurityKind::System,
    };
    CustomRoute {
        name: route.name.clone(),
        method: route.method.clone(),
        template: route.path.clone(),
        security: vec![Security { kind, scopes: route.scopes.clone(), roles: Vec::new() }],
    }
}
