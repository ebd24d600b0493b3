//! The policy table: which operations exist, where they are found, and what each asks of a caller.
//!
//! Owns the operations and the answer to "which one is this request". The published ones are data in
//! `config/operations/`; a merchant adds routes of its own. Knows nothing of tokens, callers or what
//! is done with an operation once it is found, and does no I/O: the data is compiled in.

mod glob;
mod loader;
mod operation;
mod path_template;
pub mod slas_paths;
mod trie;

use std::{collections::HashSet, sync::Arc};

use http::Method;

pub use self::{
    glob::{InvalidGlob, OperationGlob},
    loader::TableError,
    operation::{InvalidSecurityKind, Operation, OperationKind, Security, SecurityKind},
    path_template::{InvalidTemplate, Parameter},
};
use self::{
    path_template::Template,
    trie::{Found, Trie},
};
use crate::gateway::path::{PathError, RequestPath, Segment};

/// A merchant's own operation, as configured.
#[derive(Debug, Clone)]
pub struct CustomRoute {
    /// `{api}.{id}`, or just an id of the API `custom`.
    pub name: String,
    /// The method.
    pub method: Method,
    /// The path, with `{…}` for parameters. It has to name the organization.
    pub template: String,
    /// The credentials that will do, any one of them.
    pub security: Vec<Security>,
}

impl CustomRoute {
    /// The operation, if the route can be added to the table.
    fn into_operation(self) -> Result<Operation, TableError> {
        let (api, id) = glob::parts(&self.name);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if [api, id].iter().any(|part| part.is_empty() || !part.bytes().all(is_word)) {
            return Err(TableError::Name);
        }
        if self.security.is_empty() {
            return Err(TableError::NoSecurity { name: format!("{api}.{id}") });
        }
        let parameters = Template::parse(&self.template, &[])?.parameters;
        if !parameters.iter().any(|parameter| parameter.name == "organizationId") {
            return Err(TableError::NoOrganization);
        }
        Ok(Operation {
            name: format!("{api}.{id}"),
            api: api.to_owned(),
            id: id.to_owned(),
            method: self.method,
            template: self.template,
            parameters,
            security: self.security,
            body_limit: None,
            kind: OperationKind::Merchant,
        })
    }
}

/// A merchant's route that can't be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routes[{position}]: {reason}")]
pub struct RouteRefusal {
    /// Its position among the routes given.
    pub position: usize,
    /// What is wrong with it.
    pub reason: TableError,
}

/// An operation that a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Match<'m> {
    /// The operation.
    pub operation: &'m Arc<Operation>,
    segments: &'m [Segment<'m>],
}

impl<'m> Match<'m> {
    /// The decoded value of a parameter of the path, e.g. `organizationId`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'m str> {
        let parameter = self.operation.parameters.iter().find(|parameter| parameter.name == name)?;
        self.segments.get(parameter.position).map(Segment::decoded)
    }
}

/// Why a request asks for no operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No operation has this path.
    #[error("no operation has this path")]
    Unknown,
    /// The path is an operation's, but not with this method.
    #[error("no operation has this method on this path")]
    MethodNotPublished,
    /// The path has more than one reading.
    #[error(transparent)]
    Ambiguous(#[from] PathError),
}

/// The table of all operations.
#[derive(Debug, Clone)]
pub struct Operations {
    /// By path, then method.
    ordered: Vec<Arc<Operation>>,
    trie: Trie,
}

impl Operations {
    /// The operations that Salesforce publishes, and the deprecated logins.
    pub fn published() -> Result<Self, TableError> {
        let mut operations = Self { ordered: Vec::new(), trie: Trie::default() };
        for operation in loader::published()? {
            operations.add(operation)?;
        }
        operations.sort();
        Ok(operations)
    }

    /// Adds a merchant's routes, or tells everything that is wrong with them.
    pub fn with_routes(mut self, routes: impl IntoIterator<Item = CustomRoute>) -> Result<Self, Vec<RouteRefusal>> {
        let mut names: HashSet<String> = self.iter().map(|operation| operation.name.clone()).collect();
        let mut refusals = Vec::new();
        for (position, route) in routes.into_iter().enumerate() {
            let added = route.into_operation().and_then(|operation| {
                if !names.insert(operation.name.clone()) {
                    return Err(TableError::NameTaken { name: operation.name });
                }
                self.add(operation)
            });
            if let Err(reason) = added {
                refusals.push(RouteRefusal { position, reason });
            }
        }
        self.sort();
        if refusals.is_empty() { Ok(self) } else { Err(refusals) }
    }

    /// The operation that a request asks for. Its cost depends on the length of the path alone.
    pub fn find<'m>(&'m self, method: &Method, path: &'m RequestPath<'_>) -> Result<Match<'m>, RouteError> {
        let segments = path.segments();
        if segments.iter().any(Segment::is_escaped) && self.trie.escapes_literal(segments) {
            return Err(PathError::EncodedLiteral.into());
        }
        let has_slash = segments.iter().any(Segment::has_encoded_slash);
        match self.trie.find(method, segments, Segment::decoded) {
            Found::Operation(operation) => {
                if has_slash {
                    self.refuse_slashes(operation, segments)?;
                }
                Ok(Match { operation, segments })
            }
            Found::OtherMethod | Found::Nothing if has_slash => Err(PathError::EncodedSlash.into()),
            Found::OtherMethod => Err(RouteError::MethodNotPublished),
            Found::Nothing => Err(RouteError::Unknown),
        }
    }

    /// All operations, by path, then method.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Operation>> {
        self.ordered.iter()
    }

    /// The operations whose name a glob matches.
    pub fn matching<'m>(&'m self, glob: &'m OperationGlob) -> impl Iterator<Item = &'m Arc<Operation>> {
        self.iter().filter(|operation| glob.matches(operation))
    }

    /// An encoded slash may stand in free text only, and only where no other operation would be found
    /// by a reader that takes it for a slash.
    fn refuse_slashes(&self, operation: &Arc<Operation>, segments: &[Segment<'_>]) -> Result<(), PathError> {
        let free = |position| operation.parameters.iter().any(|own| own.position == position && own.free_text);
        if segments.iter().enumerate().any(|(position, segment)| segment.has_encoded_slash() && !free(position)) {
            return Err(PathError::EncodedSlash);
        }
        let settled: Vec<String> = segments.iter().map(Segment::fully_decoded).collect();
        let pieces: Vec<&str> =
            settled.iter().flat_map(|text| text.split('/')).filter(|piece| !piece.is_empty()).collect();
        match self.trie.find(&operation.method, &pieces, |piece| *piece) {
            Found::Operation(other) if !Arc::ptr_eq(other, operation) => Err(PathError::SecondReading),
            Found::Operation(_) | Found::OtherMethod | Found::Nothing => Ok(()),
        }
    }

    fn add(&mut self, operation: Operation) -> Result<(), TableError> {
        let operation = Arc::new(operation);
        let template = Template::parse(&operation.template, &[])?;
        if let Some(earlier) = self.trie.insert(&template, &operation) {
            return Err(TableError::Unreachable { name: operation.name.clone(), by: earlier.name.clone() });
        }
        self.ordered.push(operation);
        Ok(())
    }

    fn sort(&mut self) {
        self.ordered.sort_by(|a, b| (&a.template, a.method.as_str()).cmp(&(&b.template, b.method.as_str())));
    }
}

#[cfg(test)]
mod tests;
