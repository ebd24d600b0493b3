//! Reading the published operations from `config/operations/`, one TOML file per API.
//!
//! Owns the format of these files and the list of them: they are compiled in, so that the table is
//! part of the program that was tested. Knows nothing of how an operation is found.
//!
//! ```toml
//! api = "shopper-customers"      # with the version where several are published: "shopper-baskets-v2"
//! version = "1.8.0"              # of the API description that the data was taken from
//! base_path = "/customer/shopper-customers/v1"
//! kind = "slas"                  # optional: an OperationKind, for all operations of the file
//!
//! [[operations]]
//! id = "getCustomerAddress"
//! method = "GET"
//! path = "/organizations/{organizationId}/customers/{customerId}/addresses/{addressName}"
//! free_text = ["addressName"]    # optional: parameters that may hold an encoded slash
//! body_limit = 5_242_880         # optional: in bytes, instead of the configured limit
//! kind = "deprecated_login"      # optional
//! security = [{ kind = "shopper", scopes = ["any", "one", "of", "these"] }]
//! ```
//!
//! Where a description names roles of Account Manager and no scopes, the alternative is
//! `{ kind = "system_by_role", roles = ["any", "one", "of", "these"] }`.

use http::Method;
use serde::Deserialize;

use super::{
    operation::{Operation, OperationKind, Security, SecurityKind},
    path_template::{InvalidTemplate, Template},
};
use crate::types::Scope;

/// A table of operations that can't be used, or a route that can't be added to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A file is not of the format.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A path can't be read.
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// A name can't be read.
    #[error("the name has to be {{api}}.{{operation}}, letters, digits, '-' and '_' on both sides")]
    Name,
    /// An operation of this name exists.
    #[error("an operation named {name} exists already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An operation has the method and path of an earlier one.
    #[error("{name} can never be reached: {by} has the same method and path")]
    Unreachable {
        /// The operation that would never be found.
        name: String,
        /// The earlier one.
        by: String,
    },
    /// An operation is open to everyone that should not be.
    #[error("{name} names no credential, or one without a scope or role")]
    NoSecurity {
        /// The operation.
        name: String,
    },
    /// A route can't be tied to a tenant.
    #[error("the path has to contain {{organizationId}}")]
    NoOrganization,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiFile {
    api: String,
    /// For whoever updates the data; the gateway decides nothing by it.
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

/// All operations of the files.
pub(super) fn published() -> Result<Vec<Operation>, TableError> {
    let mut operations = Vec::new();
    for (file, text) in FILES {
        read(file, text, &mut operations)?;
    }
    Ok(operations)
}

fn read(file: &'static str, text: &str, operations: &mut Vec<Operation>) -> Result<(), TableError> {
    let unreadable = |reason: String| TableError::Unreadable { file, reason };
    let api: ApiFile = toml::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    for entry in api.operations {
        let name = format!("{}.{}", api.api, entry.id);
        let of_entry = |reason: String| unreadable(format!("{name}: {reason}"));
        let kind = entry.kind.unwrap_or(api.kind);
        let method = entry.method.parse::<Method>().map_err(|error| of_entry(error.to_string()))?;
        let template = format!("{}{}", api.base_path, entry.path);
        let parameters =
            Template::parse(&template, &entry.free_text).map_err(|error| of_entry(error.to_string()))?.parameters;
        let security: Vec<Security> = entry
            .security
            .into_iter()
            .map(Alternative::read)
            .collect::<Result<_, _>>()
            .map_err(|error: crate::types::InvalidIdentifier| of_entry(error.to_string()))?;
        let brings_proof = matches!(kind, OperationKind::Slas | OperationKind::DeprecatedLogin);
        if security.iter().any(|alternative| !alternative.is_closed()) || (security.is_empty() && !brings_proof) {
            return Err(TableError::NoSecurity { name });
        }
        let body_limit = entry.body_limit;
        let api = api.api.clone();
        operations.push(Operation {
            name,
            api,
            id: entry.id,
            method,
            template,
            parameters,
            security,
            body_limit,
            kind,
        });
    }
    Ok(())
}

impl Alternative {
    fn read(self) -> Result<Security, crate::types::InvalidIdentifier> {
        let scopes = self.scopes.iter().map(|scope| scope.parse::<Scope>()).collect::<Result<_, _>>()?;
        Ok(Security { kind: self.kind, scopes, roles: self.roles })
    }
}

impl Security {
    /// Whether something of the caller is judged: its scopes here, or its roles by Salesforce, and never both.
    fn is_closed(&self) -> bool {
        let by_role = self.kind == SecurityKind::SystemByRole;
        self.scopes.is_empty() == by_role && self.roles.is_empty() != by_role
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/operations");
        let present: BTreeSet<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(present, listed);
    }

    #[test]
    fn data_that_would_open_an_operation_is_refused() {
        let file = |extra: &str| {
            format!(
                "api = 'a'\nversion = '1'\nbase_path = '/a/v1'\n[[operations]]\nid = 'b'\nmethod = 'GET'\npath = '/{{c}}'\n{extra}"
            )
        };
        let refusal = |extra: &str| read("a.toml", &file(extra), &mut Vec::new()).err();
        assert_eq!(refusal("security = [{ kind = 'system', scopes = ['s'] }]"), None);
        assert_eq!(refusal("kind = 'slas'\nsecurity = []"), None);
        assert_eq!(refusal("security = [{ kind = 'system_by_role', roles = ['R'] }]"), None);
        let open = Some(TableError::NoSecurity { name: "a.b".to_owned() });
        assert_eq!(refusal("security = []"), open);
        assert_eq!(refusal("security = [{ kind = 'shopper', scopes = [] }]"), open);
        assert_eq!(refusal("kind = 'slas'\nsecurity = [{ kind = 'shopper', scopes = [] }]"), open);
        assert_eq!(refusal("security = [{ kind = 'system_by_role', roles = [] }]"), open);
        assert_eq!(refusal("security = [{ kind = 'system_by_role', scopes = ['s'] }]"), open);
        assert_eq!(refusal("security = [{ kind = 'system_by_role', roles = ['R'], scopes = ['s'] }]"), open);
        assert_eq!(refusal("security = [{ kind = 'system', roles = ['R'] }]"), open);
        assert_eq!(refusal("security = [{ kind = 'shopper', scopes = ['s'], roles = ['R'] }]"), open);
        for extra in [
            "",
            "security = [{ kind = 'agent', scopes = ['s'] }]",
            "security = [{ kind = 'system', scopes = ['a b'] }]",
            "kind = 'merchant'\nsecurity = [{ kind = 'system', scopes = ['s'] }]",
            "free_text = ['d']\nsecurity = [{ kind = 'system', scopes = ['s'] }]",
            "scopes = ['s']\nsecurity = []",
        ] {
            assert!(matches!(refusal(extra), Some(TableError::Unreadable { file: "a.toml", .. })), "{extra}");
        }
    }
}
