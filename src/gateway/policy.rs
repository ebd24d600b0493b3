//! The policy table: all operations, and the lookup of a request's operation. No I/O.
//!
//! - `operation`: one operation, and the credentials that it accepts
//! - `loader`: the published operations, compiled in from `config/operations`
//! - `custom_route`: a merchant's own operations
//! - `trie`, `path_template`: the lookup by path
//! - `methods`: the methods of one path
//! - `encoded_slash`: where a path may have an encoded slash
//! - `slas_paths`: the paths that only operations of SLAS may match
//! - `glob`: patterns of operation names

mod custom_route;
mod encoded_slash;
mod error;
mod glob;
mod loader;
mod methods;
mod operation;
mod path_template;
pub mod slas_paths;
mod trie;

use std::{collections::HashSet, sync::Arc};

use http::Method;

pub use self::{
    custom_route::CustomRoute,
    error::{CustomRouteError, RouteError, TableError},
    glob::{InvalidGlob, OperationGlob},
    methods::Methods,
    operation::{InvalidSecurityKind, Operation, OperationKind, Security, SecurityKind},
    path_template::{InvalidTemplate, Parameter},
};
use self::{
    path_template::Template,
    trie::{Lookup, Trie},
};
use crate::gateway::path::{PathError, RequestPath, Segment};

/// The operation of a request.
#[derive(Debug, Clone, Copy)]
pub struct Match<'m> {
    /// The operation.
    pub operation: &'m Arc<Operation>,
    segments: &'m [Segment<'m>],
}

impl<'m> Match<'m> {
    /// The decoded value of a path parameter, for example `organizationId`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'m str> {
        let parameter = self.operation.parameters.iter().find(|parameter| parameter.name == name)?;
        self.segments.get(parameter.position).map(Segment::decoded)
    }
}

/// The table of all operations.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Sorted by path, then method.
    ordered: Vec<Arc<Operation>>,
    trie: Trie,
}

impl Operations {
    /// The table of the operations that Salesforce publishes, and of the deprecated logins.
    ///
    /// # Errors
    /// [`TableError`] if the compiled-in data is invalid.
    pub fn published() -> Result<Self, TableError> {
        let mut operations = Self { ordered: Vec::new(), trie: Trie::default() };
        for operation in loader::published()? {
            operations.add(operation)?;
        }
        operations.sort();
        Ok(operations)
    }

    /// Adds custom routes.
    ///
    /// # Errors
    /// An error for each invalid route.
    pub fn with_routes(mut self, routes: impl IntoIterator<Item = CustomRoute>) -> Result<Self, Vec<CustomRouteError>> {
        let mut names: HashSet<String> = self.iter().map(|operation| operation.name.clone()).collect();
        let mut errors = Vec::new();
        for (position, route) in routes.into_iter().enumerate() {
            let added = route.into_operation().and_then(|operation| {
                if !names.insert(operation.name.clone()) {
                    return Err(TableError::NameTaken { name: operation.name });
                }
                self.add(operation)
            });
            if let Err(reason) = added {
                errors.push(CustomRouteError { position, reason });
            }
        }
        self.sort();
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    /// Finds the operation of a request. The cost depends only on the length of the path.
    ///
    /// # Errors
    /// [`RouteError`] if there is none, or if the path has more than one reading.
    pub fn find<'m>(&'m self, method: &Method, path: &'m RequestPath<'_>) -> Result<Match<'m>, RouteError> {
        let segments = path.segments();
        if segments.iter().any(Segment::is_escaped) && self.trie.has_escaped_literal(segments) {
            return Err(PathError::EncodedLiteral.into());
        }
        let has_slash = segments.iter().any(Segment::has_encoded_slash);
        match self.trie.find(method, segments, Segment::decoded) {
            Lookup::Operation(operation) => {
                if has_slash {
                    encoded_slash::check(&self.trie, operation, segments)?;
                }
                Ok(Match { operation, segments })
            }
            Lookup::OtherMethod | Lookup::Nothing if has_slash => Err(PathError::EncodedSlash.into()),
            Lookup::OtherMethod => Err(RouteError::MethodNotPublished),
            Lookup::Nothing => Err(RouteError::Unknown),
        }
    }

    /// The methods that are published at a path, and an operation there. `is_published` can hide operations.
    ///
    /// # Errors
    /// [`RouteError::Unknown`] if there is none, [`RouteError::Ambiguous`] if the path has more than one reading.
    pub fn methods<'m>(
        &'m self,
        path: &'m RequestPath<'_>,
        is_published: impl Fn(&Operation) -> bool,
    ) -> Result<(Methods, Match<'m>), RouteError> {
        let mut published = Vec::new();
        let mut error = RouteError::Unknown;
        for method in Methods::EACH {
            match self.find(&method, path) {
                Ok(found) if is_published(found.operation) => published.push((method, found)),
                Err(RouteError::Ambiguous(ambiguous)) => error = ambiguous.into(),
                Ok(_) | Err(RouteError::Unknown | RouteError::MethodNotPublished) => {}
            }
        }
        let (_, first) = published.first().ok_or(error)?;
        Ok((published.iter().map(|(method, _)| method.clone()).collect(), *first))
    }

    /// All operations, sorted by path, then method.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Operation>> {
        self.ordered.iter()
    }

    /// The operations whose name a glob matches.
    pub fn matching<'m>(&'m self, glob: &'m OperationGlob) -> impl Iterator<Item = &'m Arc<Operation>> {
        self.iter().filter(|operation| glob.matches(operation))
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
