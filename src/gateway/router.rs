//! Routing: the operation, organization and site that a request asks for. No I/O.

mod prefix;

use std::sync::Arc;

use http::{Method, request::Parts};

use self::prefix::PrefixedPath;
use super::{
    error::GatewayError,
    path::RequestPath,
    policy::{Match, Methods, Operation, OperationKind, Operations, RouteError, slas_paths},
    query::Query,
    request::{PathPrefix, RequiredBody, Route},
    tenant::Tenants,
    validate,
};
use crate::{
    config::{Limits, Policy, PolicyMode, UnknownOperations},
    types::{OrganizationId, SiteId},
};

/// What is published at a path.
#[derive(Debug)]
pub(super) struct PublishedPath {
    /// The organization that the path names. The configuration has it.
    pub(super) organization: OrganizationId,
    /// The methods of its operations.
    pub(super) methods: Methods,
    /// Whether the policy table has these operations. Otherwise the configuration lets unknown operations pass.
    pub(super) is_in_table: bool,
}

/// Finds the route of a request.
#[derive(Debug)]
pub struct Router {
    operations: Arc<Operations>,
    tenants: Arc<Tenants>,
    limits: Limits,
    policy: Policy,
    /// The base paths of all storefronts.
    base_paths: Vec<String>,
}

impl Router {
    /// A router for the operations and organizations of a configuration.
    #[must_use]
    pub fn new(operations: Arc<Operations>, tenants: Arc<Tenants>, limits: Limits, policy: Policy) -> Self {
        let storefronts = tenants.values().flat_map(|tenant| &tenant.settings.storefronts);
        let mut base_paths: Vec<String> =
            storefronts.map(|storefront| storefront.base_path.clone()).filter(|base| !base.is_empty()).collect();
        base_paths.sort();
        base_paths.dedup();
        Self { operations, tenants, limits, policy, base_paths }
    }

    /// Validates the head of a request and finds its route.
    ///
    /// # Errors
    /// The errors of [`validate::check_head`]; [`GatewayError::Ambiguous`] if the target has more than one reading;
    /// [`GatewayError::OperationUnknown`], [`GatewayError::OperationNotAllowed`], [`GatewayError::MethodNotAllowed`];
    /// [`GatewayError::RequestInvalid`] if `siteId` is invalid. Report mode does not lift them.
    pub(super) fn route(&self, head: &Parts) -> Result<Route, GatewayError> {
        self.check_head(head)?;
        let received = RequestPath::parse(head.uri.path())?;
        let query = Query::parse(head.uri.query())?;
        let split = PrefixedPath::split(received, &self.base_paths);
        let PrefixedPath { path, prefix, .. } = &split;
        let (operation, organization) = match self.find(&head.method, path) {
            Ok(found) if slas_paths::is_misplaced(found.operation.kind, path, is_for_slas(*prefix)) => {
                return Err(GatewayError::OperationNotAllowed);
            }
            Ok(found) => (Some(Arc::clone(found.operation)), organization_of(&found)),
            Err(RouteError::Ambiguous(error)) => return Err(error.into()),
            Err(RouteError::Unknown | RouteError::MethodNotPublished) => {
                if !self.forwards_unknown(path, *prefix) {
                    let published = self.published_at(&split)?;
                    return Err(GatewayError::MethodNotAllowed(published.methods));
                }
                (None, organization_in(path))
            }
        };
        let organization = self.known(&split, organization)?;
        let body_limit = operation.as_ref().and_then(|operation| operation.body_limit).unwrap_or(self.limits.body);
        let upstream_target = (*prefix != PathPrefix::None).then(|| match head.uri.query() {
            Some(query) => format!("{}?{query}", path.raw()),
            None => path.raw().to_owned(),
        });
        Ok(Route {
            operation,
            organization,
            site: site(&query)?,
            channel: None,
            client_id: query.single("clientId")?.map(|id| id.into_owned()),
            prefix: *prefix,
            upstream_target,
            body_limit: body_limit.max(self.limits.body),
            required_body: RequiredBody::None,
        })
    }

    /// Validates the head of a request and returns what is published at its path, for any method.
    ///
    /// # Errors
    /// Those of [`Router::route`], apart from the method.
    pub(super) fn published(&self, head: &Parts) -> Result<PublishedPath, GatewayError> {
        self.check_head(head)?;
        let received = RequestPath::parse(head.uri.path())?;
        Query::parse(head.uri.query())?;
        self.published_at(&PrefixedPath::split(received, &self.base_paths))
    }

    /// Validates the head of a request.
    ///
    /// # Errors
    /// The errors of [`validate::check_head`].
    pub(super) fn check_head(&self, head: &Parts) -> Result<(), GatewayError> {
        validate::check_head(head, &self.limits)
    }

    fn published_at(&self, split: &PrefixedPath<'_>) -> Result<PublishedPath, GatewayError> {
        let PrefixedPath { path, prefix, .. } = split;
        let is_for_slas = is_for_slas(*prefix);
        let is_published = |operation: &Operation| !slas_paths::is_misplaced(operation.kind, path, is_for_slas);
        match self.operations.methods(path, is_published) {
            Ok((methods, found)) => {
                let organization = self.known(split, organization_of(&found))?;
                Ok(PublishedPath { organization, methods, is_in_table: true })
            }
            Err(RouteError::Ambiguous(error)) => Err(error.into()),
            Err(_) if self.forwards_unknown(path, *prefix) => Ok(PublishedPath {
                organization: self.known(split, organization_in(path))?,
                methods: Methods::all(),
                is_in_table: false,
            }),
            Err(_) if is_for_slas || slas_paths::is_slas_path(path) => Err(GatewayError::OperationNotAllowed),
            Err(_) => Err(GatewayError::OperationUnknown),
        }
    }

    /// Finds the operation of a request. HEAD is GET without the body of its response (RFC 9110, 9.3.2).
    fn find<'m>(&'m self, method: &Method, path: &'m RequestPath<'_>) -> Result<Match<'m>, RouteError> {
        match self.operations.find(method, path) {
            Err(_) if *method == Method::HEAD => self.operations.find(&Method::GET, path),
            found => found,
        }
    }

    /// Whether a request for an operation that the table does not have is forwarded. Paths of SLAS are never open this way.
    fn forwards_unknown(&self, path: &RequestPath<'_>, prefix: PathPrefix) -> bool {
        let is_forwarded = !self.rejects_unknown_operations() || self.is_report_mode();
        is_forwarded && !is_for_slas(prefix) && !slas_paths::is_slas_path(path)
    }

    /// The organization of a path, if the configuration has it, and a storefront of it that may have such a path.
    fn known(
        &self,
        split: &PrefixedPath<'_>,
        organization: Option<OrganizationId>,
    ) -> Result<OrganizationId, GatewayError> {
        let is_known = |organization: &OrganizationId| {
            self.tenants.get(organization).is_some_and(|tenant| {
                let mut storefronts = tenant.settings.storefronts.iter();
                !split.needs_storefront() || storefronts.any(|storefront| storefront.base_path == split.base)
            })
        };
        organization.filter(is_known).ok_or(GatewayError::OperationUnknown)
    }

    /// Whether the policy rejects operations that its table does not have.
    pub(super) fn rejects_unknown_operations(&self) -> bool {
        self.policy.unknown_operations == UnknownOperations::Deny
    }

    /// Whether report mode forwards what the policy rejects.
    pub(super) fn is_report_mode(&self) -> bool {
        self.policy.mode != PolicyMode::Enforce
    }

    /// The operations of the deprecated trusted-system login.
    pub(super) fn trusted_system_logins(&self) -> impl Iterator<Item = &Arc<Operation>> {
        self.operations.iter().filter(|operation| operation.kind == OperationKind::DeprecatedTrustedSystemLogin)
    }

    /// The operation by which SLAS issues tokens.
    pub(super) fn token_operation(&self) -> Option<&Arc<Operation>> {
        self.operations
            .iter()
            .find(|operation| operation.kind == OperationKind::Slas && operation.id == "getAccessToken")
    }

    /// Returns the customer that the path of a request names.
    pub(super) fn customer_in_path(&self, head: &Parts) -> Option<String> {
        let split = PrefixedPath::split(RequestPath::parse(head.uri.path()).ok()?, &self.base_paths);
        let found = self.find(&head.method, &split.path).ok()?;
        ["customerId", "customerNo"].into_iter().find_map(|name| found.parameter(name)).map(str::to_owned)
    }
}

/// Whether only operations of SLAS are served below a prefix.
fn is_for_slas(prefix: PathPrefix) -> bool {
    matches!(prefix, PathPrefix::SlasPrivate | PathPrefix::SlasPublic)
}

/// Returns the organization in the path of a published operation.
fn organization_of(found: &Match<'_>) -> Option<OrganizationId> {
    match found.parameter("organizationId") {
        Some(organization) => organization.parse().ok(),
        None => found.parameter("tenantId")?.parse().ok().map(|tenant| OrganizationId::from_tenant(&tenant)),
    }
}

/// Reads the site of the query. A text that is not a site id is an error: no token can have that site.
fn site(query: &Query<'_>) -> Result<Option<SiteId>, GatewayError> {
    let Some(site) = query.single("siteId")?.filter(|site| !site.is_empty()) else { return Ok(None) };
    site.parse().map(Some).map_err(|error| GatewayError::RequestInvalid(format!("siteId is {error}.")))
}

/// Returns the organization in the path of an unknown operation.
fn organization_in(path: &RequestPath<'_>) -> Option<OrganizationId> {
    let mut segments = path.segments().iter();
    segments.by_ref().find(|segment| segment.raw() == "organizations")?;
    segments.next()?.decoded().parse().ok()
}
