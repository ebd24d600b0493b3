//! The errors of the policy table: of its data, of a custom route, and of a lookup.

use super::path_template::InvalidTemplate;
use crate::gateway::path::PathError;

/// An error of the table's data, or of a custom route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A file has a syntax error or an invalid value.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A path is invalid.
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// A name is invalid.
    #[error("the name must be {{api}}.{{operation}}, with letters, digits, '-' and '_' on both sides")]
    Name,
    /// Another operation has the same name.
    #[error("an operation named {name} exists already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An operation has the method and path of an earlier one.
    #[error("{name} can never be reached: {by} has the same method and path")]
    Unreachable {
        /// The operation that no request can reach.
        name: String,
        /// The earlier operation.
        by: String,
    },
    /// An operation would need no credential, or accept any token of a kind.
    #[error("{name} has no credential in security, or one without scopes or roles")]
    NoSecurity {
        /// The operation.
        name: String,
    },
    /// A custom route's path does not name the organization.
    #[error("the path must contain {{organizationId}}")]
    NoOrganization,
}

/// An error of a custom route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routes[{position}]: {reason}")]
pub struct CustomRouteError {
    /// The route's position in the configuration.
    pub position: usize,
    /// What is wrong with it.
    pub reason: TableError,
}

/// The reason why a lookup finds no operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No operation has this path.
    #[error("no operation has this path")]
    Unknown,
    /// An operation has this path, but not with this method.
    #[error("no operation has this method on this path")]
    MethodNotPublished,
    /// The path has more than one reading.
    #[error(transparent)]
    Ambiguous(#[from] PathError),
}
