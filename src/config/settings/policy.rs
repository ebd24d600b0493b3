//! `[policy]` and `[[routes]]`: which operations are served, and to whom.

use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::types::Scopes;

/// What happens to requests that the policy refuses or does not know.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether refusals are carried out.
    pub mode: PolicyMode,
    /// What happens to operations that no table knows.
    pub unknown_operations: UnknownOperations,
    /// Whether the deprecated logins are still performed.
    pub deprecated_logins: DeprecatedLogins,
}

/// Whether refusals are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Refusals are carried out.
    Enforce,
    /// Decided, counted and logged, but forwarded. Refused all the same: what has two readings or two credentials, is too
    /// large, is a SLAS path outside the allow-list, or is of no organization served here.
    Report,
}

/// What happens to operations that no table knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownOperations {
    /// 404 `operation_unknown`.
    Deny,
    /// Forwarded with a verified shopper token of the path's organization, whatever its scopes. Not for SLAS's paths, which
    /// are always an allow-list.
    Forward,
}

/// Whether the deprecated logins are still performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeprecatedLogins {
    /// Performed against SLAS.
    Allow,
    /// Counted, and refused with 403 `operation_not_allowed`, in report mode too. Sessions go on, and logouts are
    /// performed.
    Refuse,
}

/// An operation of the merchant's own.
#[derive(Debug, Clone)]
pub struct Route {
    /// `{api}.{operationId}`.
    pub name: String,
    /// Method.
    pub method: Method,
    /// Template, e.g. `/custom/loyalty/v1/organizations/{organizationId}/points/{id}`.
    pub path: String,
    /// Who may call it.
    pub security: RouteSecurity,
    /// Any one of these scopes is enough.
    pub scopes: Scopes,
}

/// Who may call a merchant's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteSecurity {
    /// A shopper.
    Shopper,
    /// A trusted system.
    System,
}
