//! Loads the published operations from `config/operations`, one TOML file per API. The files are compiled in.
//!
//! ```toml
//! api = "shopper-customers"      # with its version if several are published: "shopper-baskets-v2"
//! version = "1.8.0"              # of the API description that is the source of the data
//! base_path = "/customer/shopper-customers/v1"
//! kind = "slas"                  # optional: an OperationKind for all operations of the file
//!
//! [[operations]]
//! id = "getCustomerAddress"
//! method = "GET"
//! path = "/organizations/{organizationId}/customers/{customerId}/addresses/{addressName}"
//! free_text = ["addressName"]    # optional: parameters that may contain an encoded slash
//! body_limit = 5_242_880         # optional: bytes, instead of the configured limit
//! kind = "deprecated_login"      # optional
//! security = [{ kind = "shopper", scopes = ["any", "one", "of", "these"] }]
//! ```
//!
//! If a description names roles of Account Manager and no scopes, the entry of `security` is
//! `{ kind = "system_by_role", roles = ["any", "one", "of", "these"] }`.

use http::Method;
use serde::Deserialize;

use super::{
    error::TableError,
    operation::{Operation, OperationKind, Security, SecurityKind},
    path_template::Template,
};
use crate::types::{InvalidIdentifier, Scope};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiFile {
    api: String,
    /// For updates of the data. The gateway does not use it.
    #[serde(rename = "version")]
    _version: String,
    base_path: String,
    #[serde(default)]
    kind: OperationKind,
    operations: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    method: String,
    path: String,
    #[serde(default)]
    free_text: Vec<String>,
    body_limit: Option<usize>,
    kind: Option<OperationKind>,
    security: Vec<Alternative>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alternative {
    kind: SecurityKind,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../config/operations/", $name)))),*]
    };
}

/// The files of `config/operations/`.
const FILES: [(&str, &str); 37] = files![
    "assignments.toml",
    "auth-admin.toml",
    "auth-unpublished.toml",
    "auth.toml",
    "campaigns.toml",
    "catalogs.toml",
    "cors.toml",
    "coupons.toml",
    "custom-apis.toml",
    "customers.toml",
    "gift-certificates.toml",
    "granular-replications.toml",
    "metrics.toml",
    "orders.toml",
    "preferences.toml",
    "products.toml",
    "promotions.toml",
    "scapi-schemas.toml",
    "shopper-availability.toml",
    "shopper-baskets-v1.toml",
    "shopper-baskets-v2.toml",
    "shopper-configurations.toml",
    "shopper-consents.toml",
    "shopper-context.toml",
    "shopper-customers-deprecated.toml",
    "shopper-customers.toml",
    "shopper-experience.toml",
    "shopper-gift-certificates.toml",
    "shopper-orders.toml",
    "shopper-payments.toml",
    "shopper-products.toml",
    "shopper-promotions.toml",
    "shopper-search.toml",
    "shopper-seo.toml",
    "shopper-stores.toml",
    "source-code-groups.toml",
    "zones.toml",
];

/// Parses all files.
pub(super) fn published() -> Result<Vec<Operation>, TableError> {
    let mut operations = Vec::new();
    for (file, text) in FILES {
        parse(file, text, &mut operations)?;
    }
    Ok(operations)
}

fn parse(file: &'static str, text: &str, operations: &mut Vec<Operation>) -> Result<(), TableError> {
    let unreadable = |reason: String| TableError::Unreadable { file, reason };
    let api: ApiFile = toml::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    for entry in api.operations {
        let name = format!("{}.{}", api.api, entry.id);
        let invalid = |reason: String| unreadable(format!("{name}: {reason}"));
        let kind = entry.kind.unwrap_or(api.kind);
        let method = entry.method.parse::<Method>().map_err(|error| invalid(error.to_string()))?;
        let template = format!("{}{}", api.base_path, entry.path);
        let parameters =
            Template::parse(&template, &entry.free_text).map_err(|error| invalid(error.to_string()))?.parameters;
        let security: Vec<Security> = entry
            .security
            .into_iter()
            .map(Alternative::into_security)
            .collect::<Result<_, _>>()
            .map_err(|error: InvalidIdentifier| invalid(error.to_string()))?;
        // SLAS or the login itself authenticates the client of these.
        let may_be_open = matches!(kind, OperationKind::Slas | OperationKind::DeprecatedLogin);
        if security.iter().any(|alternative| !alternative.is_restricted()) || (security.is_empty() && !may_be_open) {
            return Err(TableError::NoSecurity { name });
        }
        operations.push(Operation {
            name,
            api: api.api.clone(),
            id: entry.id,
            method,
            template,
            parameters,
            security,
            body_limit: entry.body_limit,
            kind,
        });
    }
    Ok(())
}

impl Alternative {
    fn into_security(self) -> Result<Security, InvalidIdentifier> {
        let scopes = self.scopes.iter().map(|scope| scope.parse::<Scope>()).collect::<Result<_, _>>()?;
        Ok(Security { kind: self.kind, scopes, roles: self.roles })
    }
}

impl Security {
    /// Whether the token needs a scope, which the gateway checks, or a role, which Salesforce checks. Not both.
    fn is_restricted(&self) -> bool {
        let by_role = self.kind == SecurityKind::SystemByRole;
        self.scopes.is_empty() == by_role && self.roles.is_empty() != by_role
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn file_of_operations_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/operations");
        let present: BTreeSet<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(present, listed);
    }

    #[test]
    fn operation_without_a_required_scope_or_role_is_rejected() {
        let file = |extra: &str| {
            format!(
                "api = 'a'\nversion = '1'\nbase_path = '/a/v1'\n[[operations]]\nid = 'b'\nmethod = 'GET'\npath = '/{{c}}'\n{extra}"
            )
        };
        let error = |extra: &str| parse("a.toml", &file(extra), &mut Vec::new()).err();
        assert_eq!(error("security = [{ kind = 'system', scopes = ['s'] }]"), None);
        assert_eq!(error("kind = 'slas'\nsecurity = []"), None);
        assert_eq!(error("security = [{ kind = 'system_by_role', roles = ['R'] }]"), None);
        let open = Some(TableError::NoSecurity { name: "a.b".to_owned() });
        assert_eq!(error("security = []"), open);
        assert_eq!(error("security = [{ kind = 'shopper', scopes = [] }]"), open);
        assert_eq!(error("kind = 'slas'\nsecurity = [{ kind = 'shopper', scopes = [] }]"), open);
        assert_eq!(error("security = [{ kind = 'system_by_role', roles = [] }]"), open);
        assert_eq!(error("security = [{ kind = 'system_by_role', scopes = ['s'] }]"), open);
        assert_eq!(error("security = [{ kind = 'system_by_role', roles = ['R'], scopes = ['s'] }]"), open);
        assert_eq!(error("security = [{ kind = 'system', roles = ['R'] }]"), open);
        assert_eq!(error("security = [{ kind = 'shopper', scopes = ['s'], roles = ['R'] }]"), open);
        for extra in [
            "",
            "security = [{ kind = 'agent', scopes = ['s'] }]",
            "security = [{ kind = 'system', scopes = ['a b'] }]",
            "kind = 'merchant'\nsecurity = [{ kind = 'system', scopes = ['s'] }]",
            "free_text = ['d']\nsecurity = [{ kind = 'system', scopes = ['s'] }]",
            "scopes = ['s']\nsecurity = []",
        ] {
            assert!(matches!(error(extra), Some(TableError::Unreadable { file: "a.toml", .. })), "{extra}");
        }
    }
}
