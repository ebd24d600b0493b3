//! `routes`: prints the policy table, one line per operation.

use std::{borrow::Cow, collections::BTreeSet};

use super::{arguments::ConfigFile, error::CommandError, terminal::Terminal};
use crate::{
    app,
    config::{DeprecatedLogins, Policy, Tenant},
    gateway::{
        callers::Callers,
        policy::{Operation, OperationKind, Operations, SecurityKind},
        slas::{added_credential, clients_with_added_credential},
    },
};

pub(super) fn routes(file: &ConfigFile, terminal: &Terminal) -> Result<(), CommandError> {
    let loaded = app::load(&file.config)?;
    let (operations, callers) = app::build_policy(&loaded.settings).map_err(CommandError::from_display)?;
    terminal.print(&route_table(&operations, &callers, &loaded.settings.policy, &loaded.settings.tenants))
}

/// The table with tab-separated columns and a header line.
fn route_table(operations: &Operations, callers: &Callers, policy: &Policy, tenants: &[Tenant]) -> String {
    let mut table = "METHOD\tPATH\tOPERATION\tALLOWED CALLERS\tUPSTREAM CREDENTIAL\n".to_owned();
    for operation in operations.iter() {
        let line = [
            operation.method.as_str(),
            &operation.template,
            &operation.name,
            &allowed_callers(operation, callers, policy),
            &upstream_credential(operation, tenants),
        ];
        table.push_str(&line.join("\t"));
        table.push('\n');
    }
    table
}

fn allowed_callers(operation: &Operation, callers: &Callers, policy: &Policy) -> String {
    let is_login =
        matches!(operation.kind, OperationKind::DeprecatedLogin | OperationKind::DeprecatedTrustedSystemLogin);
    if is_login && policy.deprecated_logins == DeprecatedLogins::Refuse {
        return "none; rejected by policy.deprecated_logins".to_owned();
    }
    if operation.security.is_empty() {
        return "any client; SLAS checks the request's own credential".to_owned();
    }
    let alternatives = operation.security.iter().map(|security| match security.kind {
        SecurityKind::System | SecurityKind::SystemByRole => {
            let allowed: Vec<_> = callers
                .iter()
                .filter(|caller| caller.settings.may_system && caller.operations().any(|glob| glob.matches(operation)))
                .map(|caller| caller.settings.name.as_str())
                .collect();
            let allowed = if allowed.is_empty() { "no configured caller".to_owned() } else { allowed.join(", ") };
            match security.kind {
                SecurityKind::SystemByRole => {
                    format!("system ({allowed}), by role; Salesforce requires any of: {}", security.roles.join(" "))
                }
                _ => format!("system ({allowed}) with any of: {}", security.scopes),
            }
        }
        kind => format!("{kind} with any of: {}", security.scopes),
    });
    alternatives.collect::<Vec<_>>().join(" | ")
}

fn upstream_credential(operation: &Operation, tenants: &[Tenant]) -> Cow<'static, str> {
    let as_received = "the caller's own, as received";
    match operation.kind {
        OperationKind::DeprecatedLogin
        | OperationKind::DeprecatedLogout
        | OperationKind::DeprecatedTrustedSystemLogin => "none; performed against SLAS".into(),
        OperationKind::Slas | OperationKind::Standard | OperationKind::Merchant => {
            let clients: BTreeSet<&str> =
                clients_with_added_credential(operation, tenants).map(|client| client.id.as_str()).collect();
            match added_credential(operation) {
                Some(added) if !clients.is_empty() => {
                    let clients = clients.into_iter().collect::<Vec<_>>().join(", ");
                    format!("{as_received}; if it has none, {added} ({clients})").into()
                }
                _ => as_received.into(),
            }
        }
    }
}
