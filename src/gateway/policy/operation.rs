//! An operation of an API, and the credentials that it accepts.

use std::{fmt, str::FromStr};

use http::Method;

use super::path_template::Parameter;
use crate::{types::Scopes, verify::shopper::Delegation};

/// One operation of an API.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The name in configuration, logs and metrics: `{api}.{id}`. An operation with several paths has several entries of one
    /// name.
    pub name: String,
    /// The API, with its version if several are published.
    pub api: String,
    /// The id within the API.
    pub id: String,
    /// The HTTP method.
    pub method: Method,
    /// The whole path, with `{…}` for parameters.
    pub template: String,
    /// The parameters of the path, in order.
    pub parameters: Vec<Parameter>,
    /// The alternatives, one of which is sufficient. Empty for the deprecated login and for operations whose credential SLAS
    /// checks.
    pub security: Vec<Security>,
    /// Maximum bytes of a body, instead of the configured limit.
    pub body_limit: Option<usize>,
    /// How the gateway serves it.
    pub kind: OperationKind,
}

impl Operation {
    /// The alternatives that accept a shopper token with these delegation flags.
    pub fn shopper_alternatives(&self, delegation: Delegation) -> impl Iterator<Item = &Security> {
        self.security.iter().filter(move |security| match security.kind {
            SecurityKind::Shopper => true,
            SecurityKind::ShopperTsob => delegation.tsob,
            SecurityKind::ShopperTaob => delegation.taob,
            SecurityKind::System | SecurityKind::SystemByRole => false,
        })
    }

    /// Whether a system token is sufficient.
    #[must_use]
    pub fn accepts_system(&self) -> bool {
        self.security.iter().any(|security| security.kind.is_system())
    }

    /// Whether Salesforce checks the roles of the system token's client, so that the token needs no scopes.
    #[must_use]
    pub fn is_authorized_by_role(&self) -> bool {
        self.security.iter().any(|security| security.kind == SecurityKind::SystemByRole)
    }

    /// The scopes, one of which a system token needs.
    #[must_use]
    pub fn system_scopes(&self) -> Scopes {
        let system = self.security.iter().find(|security| security.kind == SecurityKind::System);
        system.map(|security| security.scopes.clone()).unwrap_or_default()
    }

    /// Whether the method is one that changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.method.is_safe()
    }

    /// Whether SLAS checks the credential. The gateway then verifies no token.
    #[must_use]
    pub fn is_checked_by_slas(&self) -> bool {
        self.kind == OperationKind::Slas && self.security.is_empty()
    }

    /// Whether a shopper token is forwarded to an API of Salesforce, so that a request on behalf of a shopper is possible.
    #[must_use]
    pub fn accepts_shopper(&self) -> bool {
        matches!(self.kind, OperationKind::Standard | OperationKind::Merchant)
            && self.security.iter().any(|security| !security.kind.is_system())
    }
}

/// One alternative of the credentials that an operation accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// The kind of token.
    pub kind: SecurityKind,
    /// The scopes, one of which is sufficient. Only a custom route may have none. It then accepts any token of the kind.
    pub scopes: Scopes,
    /// The roles of Account Manager, one of which Salesforce requires. The gateway does not know a client's roles.
    pub roles: Vec<String>,
}

impl Security {
    /// Whether a token's scopes are sufficient.
    #[must_use]
    pub fn is_met_by(&self, scopes: &Scopes) -> bool {
        self.scopes.is_empty() || self.scopes.intersects(scopes)
    }
}

/// A kind of token in Salesforce's API descriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityKind {
    /// A shopper token (`ShopperToken`).
    Shopper,
    /// A shopper token obtained by a trusted system (`ShopperTokenTsob`).
    ShopperTsob,
    /// A shopper token obtained by a trusted agent (`ShopperTokenTaob`).
    ShopperTaob,
    /// A token of Account Manager (`AmOAuth2`, `BearerToken`).
    System,
    /// A token of Account Manager, with or without scopes. Salesforce checks the roles of its client.
    SystemByRole,
}

impl SecurityKind {
    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shopper => "shopper",
            Self::ShopperTsob => "shopper_tsob",
            Self::ShopperTaob => "shopper_taob",
            Self::System => "system",
            Self::SystemByRole => "system_by_role",
        }
    }

    /// Whether the token is of Account Manager.
    #[must_use]
    pub fn is_system(self) -> bool {
        match self {
            Self::System | Self::SystemByRole => true,
            Self::Shopper | Self::ShopperTsob | Self::ShopperTaob => false,
        }
    }
}

impl fmt::Display for SecurityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of a kind in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected shopper, shopper_tsob, shopper_taob or system")]
pub struct InvalidSecurityKind;

impl FromStr for SecurityKind {
    type Err = InvalidSecurityKind;

    fn from_str(text: &str) -> Result<Self, InvalidSecurityKind> {
        [Self::Shopper, Self::ShopperTsob, Self::ShopperTaob, Self::System]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(InvalidSecurityKind)
    }
}

/// How an operation is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Forwarded to Salesforce after authorization.
    #[default]
    Standard,
    /// Forwarded to SLAS by the rules for SLAS paths.
    Slas,
    /// Served by the gateway: the login of a shopper or guest of the removed API.
    DeprecatedLogin,
    /// Served by the gateway: the logout of the removed API.
    DeprecatedLogout,
    /// Served by the gateway: a trusted system's login for a shopper of the removed API.
    DeprecatedTrustedSystemLogin,
    /// Forwarded to Salesforce after authorization: a merchant's custom route.
    #[serde(skip)]
    Merchant,
}
