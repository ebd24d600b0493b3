//! Routing: the operation, organization and site that a request asks for. No I/O.

use std::sync::Arc;

use http::request::Parts;

use super::{
    error::GatewayError,
    path::RequestPath,
    policy::{Operation, OperationKind, Operations, RouteError, slas_paths},
    query::Query,
    request::{RequiredBody, Route},
    tenant::Tenants,
    validate,
};
use crate::{
    config::{Limits, Policy, PolicyMode, UnknownOperations},
    types::{OrganizationId, SiteId},
};

/// The prefix of PWA Kit's storefronts for SLAS. The rest of the path is SLAS's own.
const PWA_KIT_PREFIX: &str = "/mobify/slas/private";

/// Finds the route of a request.
#[derive(Debug)]
pub struct Router {
    operations: Arc<Operations>,
    tenants: Arc<Tenants>,
    limits: Limits,
    policy: Policy,
}

impl Router {
    /// A router for the operations and organizations of a configuration.
    #[must_use]
    pub fn new(operations: Arc<Operations>, tenants: Arc<Tenants>, limits: Limits, policy: Policy) -> Self {
        Self { operations, tenants, limits, policy }
    }

    /// Validates the head of a request and finds its route.
    ///
    /// # Errors
    /// The errors of [`validate::check_head`]; [`GatewayError::Ambiguous`] if the target has more than one reading;
    /// [`GatewayError::OperationUnknown`], [`GatewayError::OperationNotAllowed`]; [`GatewayError::RequestInvalid`] if `siteId` is
    /// invalid. Report mode does not lift them.
    pub(super) fn route(&self, head: &Parts) -> Result<Route, GatewayError> {
        validate::check_head(head, &self.limits)?;
        let received = RequestPath::parse(head.uri.path())?;
        let query = Query::parse(head.uri.query())?;
        let slas_path = received.without_prefix(PWA_KIT_PREFIX);
        let for_storefront = slas_path.is_some();
        let path = slas_path.as_ref().unwrap_or(&received);

        let (operation, organization) = match self.operations.find(&head.method, path) {
            Ok(found) if slas_paths::is_misplaced(found.operation.kind, path, for_storefront) => {
                return Err(GatewayError::OperationNotAllowed);
            }
            Ok(found) => {
                let organization = match found.parameter("organizationId") {
                    Some(organization) => organization.parse().ok(),
                    None => found
                        .parameter("tenantId")
                        .and_then(|tenant| tenant.parse().ok())
                        .map(|tenant| OrganizationId::from_tenant(&tenant)),
                };
                (Some(Arc::clone(found.operation)), organization)
            }
            Err(RouteError::Ambiguous(error)) => return Err(error.into()),
            Err(RouteError::Unknown | RouteError::MethodNotPublished)
                if for_storefront || slas_paths::is_slas_path(path) =>
            {
                return Err(GatewayError::OperationNotAllowed);
            }
            Err(RouteError::Unknown | RouteError::MethodNotPublished) => {
                if self.rejects_unknown_operations() && self.policy.mode == PolicyMode::Enforce {
                    return Err(GatewayError::OperationUnknown);
                }
                (None, organization_in(path))
            }
        };
        let organization = organization
            .filter(|organization| self.tenants.contains_key(organization))
            .ok_or(GatewayError::OperationUnknown)?;
        let body_limit = operation.as_ref().and_then(|operation| operation.body_limit).unwrap_or(self.limits.body);
        let upstream_target = slas_path.as_ref().map(|path| match head.uri.query() {
            Some(query) => format!("{}?{query}", path.raw()),
            None => path.raw().to_owned(),
        });
        Ok(Route {
            operation,
            organization,
            site: site(&query)?,
            client_id: query.single("clientId")?.map(|id| id.into_owned()),
            for_storefront,
            upstream_target,
            body_limit: body_limit.max(self.limits.body),
            required_body: RequiredBody::None,
        })
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

    /// Returns the customer that the path of a request names.
    pub(super) fn customer_in_path(&self, head: &Parts) -> Option<String> {
        let path = RequestPath::parse(head.uri.path()).ok()?;
        let found = self.operations.find(&head.method, &path).ok()?;
        ["customerId", "customerNo"].into_iter().find_map(|name| found.parameter(name)).map(str::to_owned)
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
