//! `[policy]` and `[[routes]]`: which operations are served, and to whom.

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::Scopes;

/// How the gateway treats requests that the policy rejects or does not know.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Whether rejections are enforced. Report mode lifts the rejections of tokens and policy, but no limit: rates,
    /// concurrency, failed logins and the SLAS budget still apply. Ambiguous requests are rejected in both modes.
    /// `check` and the start warn about report mode.
    #[schemars(example = &"enforce")]
    pub mode: PolicyMode,
    /// How the gateway treats requests for unknown operations. `check` and the start warn about `forward`.
    #[schemars(example = &"deny")]
    pub unknown_operations: UnknownOperations,
    /// Whether the gateway still performs deprecated logins.
    #[schemars(example = &"allow")]
    pub deprecated_logins: DeprecatedLogins,
}

/// Whether rejections are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Rejected requests are not forwarded.
    Enforce,
    /// Rejections are counted and logged, but the requests are forwarded. Some rejections are always enforced:
    /// ambiguous requests, two credentials, requests that are too large, SLAS paths outside the allow-list, and unknown
    /// organizations.
    Report,
}

/// How the gateway treats requests for unknown operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownOperations {
    /// They get 404 `operation_unknown`.
    Deny,
    /// They are forwarded with a verified shopper token of the path's organization, whatever its scopes. SLAS paths are
    /// always limited to an allow-list.
    Forward,
}

/// Whether the gateway still performs deprecated logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeprecatedLogins {
    /// The gateway performs them with SLAS.
    Allow,
    /// They are counted and get 403 `operation_not_allowed`, in report mode too. Sessions continue, and logouts are
    /// performed.
    Refuse,
}

/// An operation that the merchant adds.
#[derive(Debug, Clone)]
pub struct Route {
    /// `{api}.{operation}`.
    pub name: String,
    /// HTTP method.
    pub method: Method,
    /// Path template, e.g. `/custom/loyalty/v1/organizations/{organizationId}/points/{id}`.
    pub path: String,
    /// Which callers may use the operation.
    pub security: RouteSecurity,
    /// A token with any one of these scopes is accepted.
    pub scopes: Scopes,
}

/// Which callers may use a merchant's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteSecurity {
    /// Shoppers.
    Shopper,
    /// Trusted systems.
    System,
}
