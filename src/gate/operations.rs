//! The policy table: which operations exist, where they are found, and what each asks of a caller.
//!
//! Owns the operations and the answer to "which one is this request". The published ones are data in
//! `config/operations/`; a merchant adds routes of its own. Knows nothing of tokens, callers or what
//! is done with an operation once it is found, and does no I/O: the data is compiled in.

mod glob;
mod table;
mod template;
mod trie;

use std::{collections::HashSet, fmt, str::FromStr, sync::Arc};

use http::Method;

pub use self::{
    glob::{InvalidGlob, OperationGlob},
    table::TableError,
    template::{InvalidTemplate, Parameter},
};
use self::{
    template::Template,
    trie::{Found, Trie},
};
use crate::{
    gate::path::{Ambiguity, RequestPath, Segment},
    names::Scopes,
    shopper::Marks,
};

/// The API of a merchant's route whose name has no API part.
const MERCHANT_API: &str = "custom";

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

/// A merchant's own operation, as configured.
#[derive(Debug, Clone)]
pub struct MerchantRoute {
    /// `{api}.{id}`, or just an id of the API `custom`.
    pub name: String,
    /// The method.
    pub method: Method,
    /// The path, with `{…}` for parameters. It has to name the organization.
    pub template: String,
    /// The credentials that will do, any one of them.
    pub security: Vec<Security>,
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
pub enum NoMatch {
    /// No operation has this path.
    #[error("no operation has this path")]
    Unknown,
    /// The path is an operation's, but not with this method.
    #[error("no operation has this method on this path")]
    MethodNotPublished,
    /// The path has more than one reading.
    #[error(transparent)]
    Ambiguous(#[from] Ambiguity),
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
        for operation in table::published()? {
            operations.add(operation)?;
        }
        operations.sort();
        Ok(operations)
    }

    /// Adds a merchant's routes, or tells everything that is wrong with them.
    pub fn with_routes(mut self, routes: impl IntoIterator<Item = MerchantRoute>) -> Result<Self, Vec<RouteRefusal>> {
        let mut names: HashSet<String> = self.iter().map(|operation| operation.name.clone()).collect();
        let mut refusals = Vec::new();
        for (position, route) in routes.into_iter().enumerate() {
            let added = Operation::of_merchant(route).and_then(|operation| {
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
    pub fn find<'m>(&'m self, method: &Method, path: &'m RequestPath<'_>) -> Result<Match<'m>, NoMatch> {
        let segments = path.segments();
        if segments.iter().any(Segment::is_escaped) && self.trie.escapes_literal(segments) {
            return Err(Ambiguity::EncodedLiteral.into());
        }
        let has_slash = segments.iter().any(Segment::has_encoded_slash);
        match self.trie.find(method, segments, Segment::decoded) {
            Found::Operation(operation) => {
                if has_slash {
                    self.refuse_slashes(operation, segments)?;
                }
                Ok(Match { operation, segments })
            }
            Found::OtherMethod | Found::Nothing if has_slash => Err(Ambiguity::EncodedSlash.into()),
            Found::OtherMethod => Err(NoMatch::MethodNotPublished),
            Found::Nothing => Err(NoMatch::Unknown),
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
    fn refuse_slashes(&self, operation: &Arc<Operation>, segments: &[Segment<'_>]) -> Result<(), Ambiguity> {
        let free = |position| operation.parameters.iter().any(|own| own.position == position && own.free_text);
        if segments.iter().enumerate().any(|(position, segment)| segment.has_encoded_slash() && !free(position)) {
            return Err(Ambiguity::EncodedSlash);
        }
        let settled: Vec<String> = segments.iter().map(Segment::settled).collect();
        let pieces: Vec<&str> =
            settled.iter().flat_map(|text| text.split('/')).filter(|piece| !piece.is_empty()).collect();
        match self.trie.find(&operation.method, &pieces, |piece| *piece) {
            Found::Operation(other) if !Arc::ptr_eq(other, operation) => Err(Ambiguity::SecondReading),
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

impl Security {
    /// Whether these scopes are enough for it.
    #[must_use]
    pub fn is_met_by(&self, scopes: &Scopes) -> bool {
        self.scopes.is_empty() || self.scopes.intersects(scopes)
    }
}

impl Operation {
    /// The alternatives that a shopper token with these marks is of the right kind for.
    pub fn for_shopper(&self, marks: Marks) -> impl Iterator<Item = &Security> {
        self.security.iter().filter(move |security| match security.kind {
            SecurityKind::Shopper => true,
            SecurityKind::ShopperTsob => marks.tsob,
            SecurityKind::ShopperTaob => marks.taob,
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

    /// Whether an API of Salesforce's asks for a shopper's token here, so that one on behalf of a shopper makes sense.
    #[must_use]
    pub fn wants_shopper(&self) -> bool {
        matches!(self.kind, OperationKind::Standard | OperationKind::Merchant)
            && self.security.iter().any(|security| !security.kind.is_of_system())
    }

    fn of_merchant(route: MerchantRoute) -> Result<Self, TableError> {
        let (api, id) = glob::parts(&route.name);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if [api, id].iter().any(|part| part.is_empty() || !part.bytes().all(is_word)) {
            return Err(TableError::Name);
        }
        if route.security.is_empty() {
            return Err(TableError::NoSecurity { name: format!("{api}.{id}") });
        }
        let parameters = Template::parse(&route.template, &[])?.parameters;
        if !parameters.iter().any(|parameter| parameter.name == "organizationId") {
            return Err(TableError::NoOrganization);
        }
        Ok(Self {
            name: format!("{api}.{id}"),
            api: api.to_owned(),
            id: id.to_owned(),
            method: route.method,
            template: route.template,
            parameters,
            security: route.security,
            body_limit: None,
            kind: OperationKind::Merchant,
        })
    }
}

#[cfg(test)]
mod tests;
