//! The gate: one request in, one decision out.
//!
//! This is the table of contents of the product. [`Gateway::route`] reads what a request asks for, without
//! I/O; [`Gateway::decide`] says what is done with it. Neither sees a socket: the head comes as
//! [`Parts`], the decision leaves as a value, and only the proxy writes to a connection.

pub mod authn;
pub mod authorization_header;
mod authorize;
pub mod error;
pub mod form;
pub mod headers;
pub mod legacy;
pub mod limits;
pub mod path;
pub mod policy;
pub mod problem;
pub mod slas;
mod upstream_auth;
pub mod validate;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, request::Parts};

use self::{
    authn::{callers::Callers, client_cert::PeerCertificate},
    authorization_header::Authorization,
    error::GatewayError,
    headers::{Proved, UpstreamCredential},
    limits::{Permit, RateLimits},
    path::{Query, RequestPath},
    policy::{Operation, OperationKind, Operations, RouteError},
    problem::LocalResponse,
};
use crate::{
    config::{self, Limits, Policy, PolicyMode, Timeouts, UnknownOperations},
    jwks::KeyRing,
    observability::{
        audit::{AuditContext, AuditLog, AuditRecord, Event},
        deprecated_usage::DeprecatedUsage,
        metrics::Metrics,
    },
    salesforce::{account_manager::AccountManager, customers::Customers, slas::Slas},
    tokens::{
        on_behalf::OnBehalfTokens,
        sessions::{CallerHeldSession, Sessions},
        system::SystemTokens,
    },
    types::{ByOrganization, OrganizationId, Scopes, SiteId},
    verify::{
        shopper_token::{ShopperVerifier, VerifiedToken},
        system_token::SystemVerifier,
    },
};

/// Where PWA Kit's storefronts send what is for SLAS; the rest of the path is SLAS's own.
const PWA_KIT_PREFIX: &str = "/mobify/slas/private";

/// Everything that a decision needs.
#[derive(Debug)]
pub struct Gateway {
    /// The policy table.
    pub operations: Operations,
    /// The organizations served.
    pub tenants: ByOrganization<Tenant>,
    /// AuthenticatedCaller systems.
    pub callers: Callers,
    /// The issuers' keys, all of them.
    pub rings: Vec<Arc<KeyRing>>,
    /// Verifies shopper tokens.
    pub shoppers: Arc<ShopperVerifier>,
    /// Sessions of the logins performed here.
    pub sessions: Arc<Sessions>,
    /// System tokens of trusted systems and of the gateway's own.
    pub system_tokens: Arc<SystemTokens>,
    /// Tokens on behalf of shoppers.
    pub on_behalf: Arc<OnBehalfTokens>,
    /// Who still uses the deprecated endpoints.
    pub deprecated_usage: DeprecatedUsage,
    /// Who did what, for whom.
    pub audit: Arc<AuditLog>,
    /// What is refused for being too much.
    pub bounds: RateLimits,
    /// What happens to refused and unknown requests.
    pub policy: Policy,
    /// Sizes.
    pub limits: Limits,
    /// Times.
    pub timeouts: Timeouts,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// One organization, with the services that speak for it.
#[derive(Debug)]
pub struct Tenant {
    /// Its settings.
    pub settings: config::Tenant,
    /// Its SLAS.
    pub slas: Slas,
    /// Its Shopper Customers API.
    pub customers: Customers,
    /// Its Account Manager, where one is configured.
    pub account_manager: Option<AccountManager>,
    /// Verifies system tokens, where an Account Manager is configured.
    pub systems: Option<SystemVerifier>,
}

/// A request as it came.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its head.
    pub head: &'a Parts,
    /// Its body, where [`Route::wants_body`] or [`Gateway::holds_form`] request for it.
    pub body: Option<Bytes>,
    /// Whether a body is still to come, which the client may take its time with.
    pub body_follows: bool,
    /// What ties it to log lines.
    pub correlation_id: &'a str,
    /// The client certificate that its connection showed and the listener verified.
    pub certificate: Option<&'a PeerCertificate>,
    /// The address that its connection comes from, if it is known.
    pub address: Option<IpAddr>,
}

/// What a request asks for.
#[derive(Debug)]
pub struct Route {
    /// The organization of the path; it is one of the configured.
    pub organization: OrganizationId,
    /// The operation; absent for one that no table knows, where those are let through.
    pub operation: Option<Arc<Operation>>,
    /// `siteId` of the query.
    pub site: Option<SiteId>,
    /// `clientId` of the query, as sent.
    pub client_id: Option<String>,
    /// Whether it came below PWA Kit's prefix, where storefronts leave their client's secret to the proxy.
    pub for_storefront: bool,
    /// Path and query to send upstream, where they differ from those received.
    pub upstream_target: Option<String>,
    /// Largest body, bytes.
    pub body_limit: usize,
}

/// What is done with a request.
#[derive(Debug)]
pub enum Decision {
    /// Send it upstream with this credential.
    Forward(Forward),
    /// Answer it here.
    Answer(LocalResponse),
}

/// A request on its way upstream.
#[derive(Debug)]
pub struct Forward {
    /// Why it may go.
    pub credential: UpstreamCredential,
    /// The refusal that was only reported.
    pub reported: Option<GatewayError>,
    /// The logout that it is, to be followed here once SLAS has confirmed it.
    pub logout: Option<Logout>,
    /// What it was let in with.
    pub admission: Permit,
    /// The login or a trusted system's write that it is, for the audit log once Salesforce has answered.
    pub login: Option<Box<AuditRecord>>,
}

/// A logout on its way to SLAS.
#[derive(Debug)]
pub struct Logout {
    whose: Whose,
    /// Path and query that name the refresh token that is valid now, where the caller's is not.
    pub target: Option<String>,
    /// `hint=all-sessions`.
    everywhere: bool,
}

/// Whose session a logout ends.
#[derive(Debug)]
enum Whose {
    /// That of the token that was shown.
    Token(VerifiedToken),
    /// That of a refresh token.
    Session(CallerHeldSession),
}

impl Logout {
    /// The revocation of a session's refresh token.
    fn of_session(session: CallerHeldSession) -> Self {
        Self { whose: Whose::Session(session), target: None, everywhere: false }
    }
}

impl Route {
    /// Whether the gateway answers this request itself from its body.
    #[must_use]
    pub fn wants_body(&self) -> bool {
        matches!(self.kind(), OperationKind::DeprecatedLogin | OperationKind::DeprecatedTrustedSystemLogin)
    }

    /// Whether it is for an endpoint that Salesforce removed, so that the gateway asks SLAS instead.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        matches!(
            self.kind(),
            OperationKind::DeprecatedLogin
                | OperationKind::DeprecatedLogout
                | OperationKind::DeprecatedTrustedSystemLogin
        )
    }

    /// Whether it asks for this operation of whichever API.
    fn is(&self, id: &str) -> bool {
        self.operation.as_ref().is_some_and(|operation| operation.id == id)
    }

    fn kind(&self) -> OperationKind {
        self.operation.as_ref().map_or(OperationKind::Standard, |operation| operation.kind)
    }
}

impl Gateway {
    /// Reads what a request asks for: its one path, its operation, its organization and site.
    ///
    /// # Errors
    /// [`GatewayError`]; those of this step are carried out in report mode too.
    pub fn route(&self, head: &Parts) -> Result<Route, GatewayError> {
        validate::admit(head, &self.limits)?;
        let ambiguous = |ambiguity: path::PathError| GatewayError::Ambiguous(ambiguity.to_string());
        let received = RequestPath::parse(head.uri.path()).map_err(ambiguous)?;
        let query = Query::parse(head.uri.query()).map_err(ambiguous)?;
        let for_slas = received.below(PWA_KIT_PREFIX);
        let path = for_slas.as_ref().unwrap_or(&received);

        let (operation, organization) = match self.operations.find(&head.method, path) {
            Ok(found) if slas::is_out_of_place(found.operation.kind, path, for_slas.is_some()) => {
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
            Err(RouteError::Ambiguous(ambiguity)) => return Err(ambiguous(ambiguity)),
            Err(RouteError::Unknown | RouteError::MethodNotPublished)
                if for_slas.is_some() || slas::is_slas_path(path) =>
            {
                return Err(GatewayError::OperationNotAllowed);
            }
            Err(RouteError::Unknown | RouteError::MethodNotPublished) => match self.policy.unknown_operations {
                UnknownOperations::Deny if self.policy.mode == PolicyMode::Enforce => {
                    return Err(GatewayError::OperationUnknown);
                }
                _ => (None, organization_in(path)),
            },
        };
        let organization = organization
            .filter(|organization| self.tenants.contains_key(organization))
            .ok_or(GatewayError::OperationUnknown)?;
        let body_limit = operation.as_ref().and_then(|operation| operation.body_limit).unwrap_or(self.limits.body);
        let upstream_target = for_slas.as_ref().map(|path| match head.uri.query() {
            Some(query) => format!("{}?{query}", path.raw()),
            None => path.raw().to_owned(),
        });
        Ok(Route {
            operation,
            organization,
            site: site(&query)?,
            client_id: query.single("clientId").map_err(ambiguous)?.map(|id| id.into_owned()),
            for_storefront: for_slas.is_some(),
            upstream_target,
            body_limit: body_limit.max(self.limits.body),
        })
    }

    /// Says what is done with a request: forward it, or answer it here. Whatever is worth a line of the audit log gets it.
    ///
    /// What few requests need stands in boxes below here: every request has the room of the largest of all that is not.
    pub async fn decide(&self, route: &Route, request: &Request<'_>) -> Decision {
        let mut audit = AuditRecord { address: self.bounds.client_address(request), ..AuditRecord::default() };
        let decision = self.decide_and_tell(route, request, &mut audit).await;
        let result = match &decision {
            Decision::Forward(Forward { reported: Some(refusal), .. }) => problem::code(refusal),
            Decision::Forward(_) => "ok",
            Decision::Answer(reply) => result_of(reply.code, Some(reply.status)),
        };
        self.tell(route, request.correlation_id, &audit, result);
        decision
    }

    /// Writes the line of a login that SLAS has answered, or that came to nothing.
    pub fn tell_login(
        &self,
        route: &Route,
        correlation_id: &str,
        login: &AuditRecord,
        code: Option<&str>,
        status: Option<StatusCode>,
    ) {
        self.tell(route, correlation_id, login, result_of(code, status));
    }

    fn tell(&self, route: &Route, correlation_id: &str, audit: &AuditRecord, result: &str) {
        let context = AuditContext {
            organization: route.organization.as_str(),
            site: route.site.as_ref().map(SiteId::as_str),
            operation: route.operation.as_ref().map_or("none", |operation| &operation.name),
            correlation_id,
        };
        self.audit.write(audit, context, result);
    }

    async fn decide_and_tell(&self, route: &Route, request: &Request<'_>, audit: &mut AuditRecord) -> Decision {
        let tenant = match self.tenants.get(&route.organization) {
            Some(tenant) => tenant,
            None => return Decision::Answer(LocalResponse::refusal(&GatewayError::OperationUnknown)),
        };
        if let Err(refusal) = self.bounds.shed(route) {
            return Decision::Answer(LocalResponse::refusal(&refusal));
        }
        let answered_here = match route.kind() {
            // They act for nobody but whoever logs in, or names him in the body.
            _ if route.is_deprecated() && authn::on_behalf_header::is_asked(&request.head.headers) => {
                Some(Err(GatewayError::CallerNotAllowed))
            }
            OperationKind::DeprecatedLogin => {
                Some(Box::pin(self.deprecated_login(tenant, route, request, audit)).await)
            }
            OperationKind::DeprecatedLogout => {
                Some(Box::pin(self.deprecated_logout(tenant, route, request.head)).await)
            }
            OperationKind::DeprecatedTrustedSystemLogin => {
                Some(Box::pin(self.deprecated_trusted_system_login(tenant, route, request, audit)).await)
            }
            OperationKind::Standard | OperationKind::Slas | OperationKind::Merchant => None,
        };
        if let Some(result) = answered_here {
            let reply = result.unwrap_or_else(|refusal| {
                authn::refused(&refusal, audit);
                LocalResponse::refusal(&refusal)
            });
            return Decision::Answer(legacy::as_deprecated(reply));
        }
        if let Some(operation) = route.operation.as_ref().filter(|operation| slas::is_slas_own(operation)) {
            return Box::pin(self.decide_slas(tenant, route, operation, request, audit)).await;
        }
        match self.authorize(tenant, route, request, audit).await {
            Ok(credential) => match self.bounds.admit(tenant, route, request, &credential).await {
                Ok(admission) => {
                    let logout = self.logout_of(route, request.head).await;
                    // What a trusted system writes gets its line when the API has answered.
                    let told_later = (audit.event == Some(Event::SystemWrite)).then(|| Box::new(std::mem::take(audit)));
                    Decision::Forward(Forward { credential, reported: None, logout, login: told_later, admission })
                }
                Err(refusal) => Decision::Answer(LocalResponse::refusal(&refusal)),
            },
            Err(refusal) => {
                authn::refused(&refusal, audit);
                Box::pin(self.refuse_or_report(tenant, route, request, refusal)).await
            }
        }
    }

    /// In report mode a refused request goes on, unless it has two credentials. Report mode lifts what tokens and policy
    /// refuse, and no bound.
    async fn refuse_or_report(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        refusal: GatewayError,
    ) -> Decision {
        if self.policy.mode == PolicyMode::Enforce || refusal == GatewayError::CredentialsConflicting {
            return Decision::Answer(LocalResponse::refusal(&refusal));
        }
        let is_basic = matches!(Authorization::read(&request.head.headers), Ok(Authorization::Basic(_)));
        let proved = if self.bounds.has_rates() { self.proved(tenant, route, request).await } else { Proved::Nothing };
        let credential = UpstreamCredential::reported(is_basic && route.kind() != OperationKind::Slas, proved);
        match self.bounds.admit(tenant, route, request, &credential).await {
            Ok(admission) => {
                Decision::Forward(Forward { credential, reported: Some(refusal), logout: None, login: None, admission })
            }
            Err(bound) => Decision::Answer(LocalResponse::refusal(&bound)),
        }
    }

    /// Whose request a refused one has proved to be: its rate holds in report mode too.
    async fn proved(&self, tenant: &Tenant, route: &Route, request: &Request<'_>) -> Proved {
        // The refusal has its line of the audit log already.
        if let Ok(trusted) = self.trusted(tenant, route, request, &Scopes::default(), &mut AuditRecord::default()).await
        {
            let proof = self.prove(tenant, &trusted, &Scopes::default()).await;
            return if proof.is_ok() { Proved::Caller(trusted.caller) } else { Proved::Nothing };
        }
        match self.shopper_of(route, request.head).await {
            Ok(verified) => Proved::Shopper(verified.shopper),
            Err(_) => Proved::Nothing,
        }
    }

    /// The logout that a request to SLAS is, if its token is one of ours to end.
    async fn logout_of(&self, route: &Route, head: &Parts) -> Option<Logout> {
        let operation = route.operation.as_ref()?;
        if operation.kind != OperationKind::Slas || operation.id != "logoutCustomer" {
            return None;
        }
        let token = Box::pin(self.shopper_of(route, head)).await.ok()?;
        let query = Query::parse(head.uri.query()).ok()?;
        let everywhere = query.single("hint").ok()?.is_some_and(|hint| hint == "all-sessions");
        Some(Logout { whose: Whose::Token(token), target: None, everywhere })
    }

    /// Ends here what SLAS has ended.
    pub async fn follow_logout(&self, logout: &Logout) {
        let ended = match &logout.whose {
            Whose::Token(token) if logout.everywhere => self.sessions.log_out_customer(token).await,
            Whose::Token(token) => self.sessions.log_out(token).await.map(|_| ()),
            Whose::Session(session) => self.sessions.end_caller_held(session).await,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "a logout could not be told to other replicas");
        }
    }
}

/// How a request ended, for the audit log: well, by a refusal, or by Salesforce's own status.
fn result_of(code: Option<&str>, status: Option<StatusCode>) -> &str {
    match (code, &status) {
        (Some(code), _) => code,
        (None, Some(status)) if status.is_success() || status.is_redirection() => "ok",
        (None, Some(status)) if status.is_client_error() => "rejected",
        (None, _) => "failed",
    }
}

/// The site of the query. A text that is no site id is refused: it could not be any token's.
fn site(query: &Query<'_>) -> Result<Option<SiteId>, GatewayError> {
    let site = query.single("siteId").map_err(|ambiguity| GatewayError::Ambiguous(ambiguity.to_string()))?;
    let Some(site) = site.filter(|site| !site.is_empty()) else { return Ok(None) };
    site.parse().map(Some).map_err(|error| GatewayError::RequestInvalid(format!("siteId is {error}.")))
}

/// The organization of a path that no table knows.
fn organization_in(path: &RequestPath<'_>) -> Option<OrganizationId> {
    let mut segments = path.segments().iter();
    segments.by_ref().find(|segment| segment.raw() == "organizations")?;
    segments.next()?.decoded().parse().ok()
}
