//! An operation of an API, and the credentials that are enough for it.
//!
//! The other files of the policy table read operations, find them and match their names.

use std::{fmt, str::FromStr};

use http::Method;

use super::path_template::Parameter;
use crate::{types::Scopes, verify::shopper::Delegation};

/// One operation of an API.
#[derive(Debug, Clone)]
pub struct Operation {
    /// `{api}.{id}`: its name in configuration, logs and metrics. The same name may stand for several
    /// paths of one operation.
    pub name: String,
    /// The API, with its version where several are published.
    pub api: String,
    /// The operation's id in its API.
    pub id: String,
    /// The method.
    pub method: Method,
    /// The whole path, with `{…}` for parameters.
    pub template: String,
    /// The path's parameters, in their order.
    pub parameters: Vec<Parameter>,
    /// The credentials that will do, any one of them. None for what brings its own proof: SLAS's
    /// operations and the deprecated login.
    pub security: Vec<Security>,
    /// The largest body in bytes, where it differs from the configured limit.
    pub body_limit: Option<usize>,
    /// Who serves it, and how.
    pub kind: OperationKind,
}

impl Operation {
    /// The alternatives that accept a shopper token with these delegation flags.
    pub fn for_shopper(&self, delegation: Delegation) -> impl Iterator<Item = &Security> {
        self.security.iter().filter(move |security| match security.kind {
            SecurityKind::Shopper => true,
            SecurityKind::ShopperTsob => delegation.tsob,
            SecurityKind::ShopperTaob => delegation.taob,
            SecurityKind::System | SecurityKind::SystemByRole => false,
        })
    }

    /// Whether a system token is enough for it.
    #[must_use]
    pub fn accepts_system(&self) -> bool {
        self.security.iter().any(|security| security.kind.is_of_system())
    }

    /// Whether Salesforce judges by the roles of a system token's client, so that the token needs no scopes.
    #[must_use]
    pub fn is_judged_by_role(&self) -> bool {
        self.security.iter().any(|security| security.kind == SecurityKind::SystemByRole)
    }

    /// The scopes, any one of which a trusted system needs for it.
    #[must_use]
    pub fn system_scopes(&self) -> Scopes {
        let of_systems = self.security.iter().find(|security| security.kind == SecurityKind::System);
        of_systems.map(|security| security.scopes.clone()).unwrap_or_default()
    }

    /// Whether a trusted system changes something by it, as far as its method says.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.method.is_safe()
    }

    /// Whether SLAS serves it and checks its credential. The gateway verifies no token for it.
    #[must_use]
    pub fn is_checked_by_slas(&self) -> bool {
        self.kind == OperationKind::Slas && self.security.is_empty()
    }

    /// Whether an API of Salesforce's asks for a shopper's token here, so that one on behalf of a shopper makes sense.
    #[must_use]
    pub fn wants_shopper(&self) -> bool {
        matches!(self.kind, OperationKind::Standard | OperationKind::Merchant)
            && self.security.iter().any(|security| !security.kind.is_of_system())
    }
}

/// One way of being authorised for an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// The kind of token.
    pub kind: SecurityKind,
    /// The scopes, any one of which is enough. Only a merchant's route may name none: it then takes
    /// any token of the kind.
    pub scopes: Scopes,
    /// Roles of Account Manager, any one of which Salesforce asks for. The gateway does not know which roles a client has.
    pub roles: Vec<String>,
}

impl Security {
    /// Whether these scopes are enough for it.
    #[must_use]
    pub fn is_met_by(&self, scopes: &Scopes) -> bool {
        self.scopes.is_empty() || self.scopes.intersects(scopes)
    }
}

/// The kinds of token that Salesforce's descriptions ask for.
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
    /// The same, with or without scopes: Salesforce judges by the roles of its client.
    SystemByRole,
}

impl SecurityKind {
    /// The kind as configuration spells it.
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

    /// Whether it is a token of Account Manager.
    #[must_use]
    pub fn is_of_system(self) -> bool {
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

/// A text that names no kind of security.
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

/// Who serves an operation, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Salesforce, once the caller is authorised.
    #[default]
    Standard,
    /// SLAS, by the rules for its own paths.
    Slas,
    /// The gateway: a shopper's or guest's login by the removed API.
    DeprecatedLogin,
    /// The gateway: a logout by the removed API.
    DeprecatedLogout,
    /// The gateway: a trusted system's login for a shopper by the removed API.
    DeprecatedTrustedSystemLogin,
    /// Salesforce, by a route of the merchant's own.
    #[serde(skip)]
    Merchant,
}
