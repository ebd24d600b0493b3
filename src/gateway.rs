//! The pipeline: one request in, one decision out.
//!
//! [`Gateway`] has these methods, in the order of a request's life: [`respond_without_route`](Gateway::respond_without_route),
//! [`route`](Gateway::route), [`note_form`](Gateway::note_form), [`handle`](Gateway::handle),
//! [`body_complete`](Gateway::body_complete), [`retry_after_401`](Gateway::retry_after_401),
//! [`response_received`](Gateway::response_received) and [`cors_edits`](Gateway::cors_edits). Each stage is a type with the state that it needs, and no stage imports
//! another one. No stage sees a socket: a request comes as a value and leaves as a [`Decision`].

mod audit_line;
pub mod authn;
pub mod authorization_header;
mod authz;
pub mod callers;
pub mod client_cert;
pub mod cookies;
pub mod cors;
pub mod credential;
pub mod decision;
pub mod error;
mod field_names;
pub mod form;
pub mod headers;
mod identity;
pub mod legacy;
pub mod limits;
pub mod on_behalf_header;
mod origin;
pub mod path;
pub mod policy;
pub mod problem;
pub mod query;
pub mod request;
pub mod response;
pub mod router;
pub mod slas;
pub mod storefront;
pub mod tenant;
pub mod upstream_auth;
pub mod validate;

use std::sync::Arc;

use http::{
    HeaderMap, Method, StatusCode,
    header::{ALLOW, SET_COOKIE},
    request::Parts,
};
use secrecy::SecretString;

use self::{
    audit_line::PendingAuditLine,
    authn::Authenticator,
    authorization_header::Authorization,
    cors::{Cors, ResponseSource},
    credential::{Source, UpstreamCredential},
    decision::{CookieSession, Decision, Forward},
    error::GatewayError,
    headers::HeaderEdits,
    identity::{Grant, Identity},
    legacy::{LegacyLogins, LoginCredentials},
    limits::{LoginCost, RateLimits},
    policy::{Methods, Operation, OperationKind},
    request::{PathPrefix, Request, RequiredBody, Route, RoutedRequest},
    response::LocalResponse,
    router::{PublishedPath, Router},
    slas::SlasRoutes,
    storefront::{AccessCredential, Purpose, RenewedSession, SessionRequest, Storefronts, Translated},
    tenant::Tenants,
    upstream_auth::UpstreamAuth,
};
use crate::{
    observability::audit::{AuditLog, AuditRecord, Event},
    tokens::sessions::TokenRecipient,
    types::Scopes,
    verify::shopper_token::VerifiedToken,
};

/// The stages of the pipeline.
#[derive(Debug)]
pub struct Stages {
    /// Finds the route.
    pub router: Router,
    /// Decides about requests of pages from other origins.
    pub cors: Cors,
    /// Limits rates, concurrency and load.
    pub limits: Arc<RateLimits>,
    /// Establishes the sender.
    pub authn: Authenticator,
    /// Obtains the credential to send upstream.
    pub upstream_auth: UpstreamAuth,
    /// Performs the deprecated logins.
    pub legacy: LegacyLogins,
    /// Serves the SLAS paths.
    pub slas: SlasRoutes,
    /// Translates between cookies and tokens.
    pub storefronts: Storefronts,
}

/// Decides about requests.
#[derive(Debug)]
pub struct Gateway {
    stages: Stages,
    tenants: Arc<Tenants>,
    audit: Arc<AuditLog>,
}

impl Gateway {
    /// A gateway of these stages for the organizations of a configuration.
    #[must_use]
    pub fn new(stages: Stages, tenants: Arc<Tenants>, audit: Arc<AuditLog>) -> Self {
        Self { stages, tenants, audit }
    }

    /// Validates the head of a request and finds its route.
    ///
    /// # Errors
    /// The errors of `Router::route`. Report mode does not lift them.
    pub fn route(&self, head: &Parts) -> Result<Route, GatewayError> {
        let mut route = self.stages.router.route(head)?;
        route.required_body = match route.kind() {
            OperationKind::DeprecatedLogin | OperationKind::DeprecatedTrustedSystemLogin => {
                RequiredBody::DeprecatedLogin
            }
            OperationKind::Slas if self.needs_slas_body(&route, head) => RequiredBody::Slas,
            _ => RequiredBody::None,
        };
        Ok(route)
    }

    /// Returns the response to a request that needs no route: `OPTIONS`, and the end of a browser login. `None` for all others.
    ///
    /// # Errors
    /// The errors of `Router::route`; [`GatewayError::OriginsNotConfigured`] and [`GatewayError::OriginNotAllowed`] for a preflight;
    /// [`GatewayError::MethodNotAllowed`].
    pub fn respond_without_route(&self, head: &Parts) -> Result<Option<LocalResponse>, GatewayError> {
        if self.stages.cors.is_callback(head) {
            return self.callback(head).map(Some);
        }
        if head.method != Method::OPTIONS {
            return Ok(None);
        }
        let published = self.stages.router.published(head);
        let PublishedPath { organization, methods, is_in_table } =
            published.inspect_err(|_| self.stages.cors.count_failed_preflight(head))?;
        let preflight = self.stages.cors.preflight(head, Some(&organization), methods)?;
        Ok(preflight.or_else(|| is_in_table.then(|| options_response(methods))))
    }

    fn callback(&self, head: &Parts) -> Result<LocalResponse, GatewayError> {
        self.stages.router.check_head(head)?;
        let methods = Methods::read_only();
        match head.method {
            Method::GET | Method::HEAD => Ok(cors::callback_response()),
            Method::OPTIONS => {
                let preflight = self.stages.cors.preflight(head, None, methods)?;
                Ok(preflight.unwrap_or_else(|| options_response(methods)))
            }
            _ => Err(GatewayError::MethodNotAllowed(methods)),
        }
    }

    /// Notes the site that the form of a request names, where the allowed origins depend on the site.
    pub fn note_form(&self, route: &mut Route, head: &Parts, body: &[u8]) {
        if self.stages.cors.needs_form(route, head) {
            route.channel = cors::site_in_form(head, body);
        }
    }

    /// Returns the edits of a response's header fields that let pages of allowed origins read it. `None` if the request's tenant
    /// allows no origins.
    #[must_use]
    pub fn cors_edits(
        &self,
        head: &Parts,
        route: Option<&Route>,
        response: &HeaderMap,
        source: ResponseSource,
    ) -> Option<HeaderEdits> {
        self.stages.cors.response_edits(head, route, response, source)
    }

    fn needs_slas_body(&self, route: &Route, head: &Parts) -> bool {
        let tenant = self.tenants.get(&route.organization);
        RateLimits::needs_body(route, &head.method)
            || head.method == Method::POST && form::is_form(&head.headers) && self.stages.cors.needs_form(route, head)
            || tenant.is_some_and(|tenant| SlasRoutes::needs_form(tenant, route, head))
    }

    /// Decides what happens to a request, and writes its audit line.
    ///
    /// Rarely taken branches are boxed. An unboxed future is as large as its largest branch, and every request would pay for it.
    pub async fn handle(&self, route: &Route, request: &Request<'_>) -> Decision {
        let mut audit = AuditRecord { address: self.stages.limits.client_address(request), ..AuditRecord::default() };
        let result = self.run(route, request, &mut audit).await;
        let decision = result.unwrap_or_else(|error| Decision::Respond(problem::response(&error)));
        if audit.event.is_some() {
            let result = match &decision {
                Decision::Forward(Forward { reported: Some(error), .. }) => problem::code(error),
                Decision::Forward(_) => "ok",
                Decision::Respond(response) => audit_line::result(response.code, Some(response.status)),
            };
            audit_line::write(&self.audit, &audit, route, request.correlation_id, result);
        }
        decision
    }

    async fn run(
        &self,
        route: &Route,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let tenant = self.tenants.get(&route.organization).ok_or(GatewayError::OperationUnknown)?;
        let registers_session = tenant.settings.register_sessions;
        let routed = RoutedRequest { tenant, route, request, registers_session };
        self.stages.limits.shed_load(route)?;
        if route.prefix != PathPrefix::None {
            return Box::pin(self.of_storefront(routed, audit)).await;
        }
        self.decide(routed, audit).await
    }

    /// Decides about a request with a token of its own.
    async fn decide(&self, routed: RoutedRequest<'_>, audit: &mut AuditRecord) -> Result<Decision, GatewayError> {
        let route = routed.route;
        if route.is_deprecated() {
            return Ok(Decision::Respond(Box::pin(self.deprecated(routed, audit)).await));
        }
        if let Some(operation) = route.operation.as_ref().filter(|operation| operation.is_checked_by_slas()) {
            return Box::pin(self.slas(routed, operation, audit)).await;
        }
        let identity = self.identify(routed, audit).await;
        self.note_customer_in_path(routed, audit);
        // Each request of a trusted system counts, whether it is allowed or not.
        let caller = identity.as_ref().ok().and_then(Identity::counted_caller);
        caller.map_or(Ok(()), |caller| self.stages.limits.acquire_caller(caller))?;
        let is_counted = caller.is_some();
        let authorized = match identity {
            Ok(identity) => self.authorize(routed, identity, audit).await,
            Err(error) => Err(error),
        };
        let (credential, reported) = match authorized {
            Ok(credential) => (credential, None),
            Err(error) => {
                note_rejection(&error, audit);
                let credential = self.reported(routed, &error).ok_or_else(|| error.clone())?;
                if !is_counted {
                    Box::pin(self.count_reported(routed)).await?;
                }
                (credential, Some(error))
            }
        };
        let permit = self.stages.limits.acquire(routed, &credential).await?;
        let logout = match &reported {
            None if route.kind() == OperationKind::Slas => Box::pin(self.stages.slas.pending_logout(routed)).await?,
            _ => None,
        };
        let audit = reported.is_none().then(|| PendingAuditLine::of_system_write(&self.audit, audit)).flatten();
        Ok(Decision::Forward(Forward { credential, reported, logout, permit, audit, cookies: None }))
    }

    /// Decides about a request below a storefront's prefix. Its session may be in cookies: then the other stages see the tokens, and
    /// the response sets the cookies.
    async fn of_storefront(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let client = SlasRoutes::client(routed)?;
        let Some(session) = self.stages.storefronts.session_request(routed, client.as_deref())? else {
            return self.decide(routed, audit).await;
        };
        match session.purpose() {
            Purpose::Token => self.issue_tokens(routed, &session, audit).await,
            Purpose::Call | Purpose::Logout => self.call_with_cookies(routed, &session, audit).await,
        }
    }

    /// Performs a token request of a storefront, and moves the tokens into cookies.
    async fn issue_tokens(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let RoutedRequest { route, request, .. } = routed;
        let organization = &route.organization;
        let storefronts = &self.stages.storefronts;
        let operation = route.operation.as_deref().ok_or(GatewayError::OperationUnknown)?;
        let body = request.body.as_ref().filter(|_| form::is_form(&request.head.headers));
        let body = body.ok_or_else(|| GatewayError::RequestInvalid("The body must be a form.".into()))?;
        let refresh = match session.refreshes_by_cookie() {
            true => {
                let token = storefronts.refresh_token(session, organization).await?;
                Some(token.ok_or(GatewayError::RefreshCookieInvalid)?)
            }
            false => None,
        };
        let body = storefronts.form(session, organization, body).await?;
        let Translated { head, .. } = session.translate(route, request.head, None, refresh.as_ref());
        let request = Request { head: &head, body: Some(body), ..*request };
        let translated = RoutedRequest { request: &request, registers_session: true, ..routed };
        match self.slas(translated, operation, audit).await? {
            Decision::Respond(response) => {
                Ok(Decision::Respond(storefronts.with_tokens_in_cookies(session, organization, response).await?))
            }
            Decision::Forward(_) => Err(GatewayError::OperationNotAllowed),
        }
    }

    /// Decides about a call or logout of a storefront, with the token of its cookies.
    async fn call_with_cookies(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let RoutedRequest { route, request, .. } = routed;
        let organization = &route.organization;
        let storefronts = &self.stages.storefronts;
        let is_logout = session.purpose() == Purpose::Logout;
        let mut set = Vec::new();
        let access = match storefronts.credential(session, organization).await? {
            AccessCredential::Received(None) => None,
            AccessCredential::Received(Some(token)) | AccessCredential::Token(token) => Some(token),
            AccessCredential::Refresh(refresh) => match Box::pin(self.renew(routed, session, &refresh)).await {
                Ok(renewed) => {
                    set = renewed.set;
                    Some(renewed.access_token)
                }
                // The session has ended at SLAS.
                Err(GatewayError::AccessCookieMissing) if is_logout => None,
                Err(error) => return Err(error),
            },
            AccessCredential::Missing if is_logout => None,
            AccessCredential::Missing => return Err(GatewayError::AccessCookieMissing),
        };
        let refresh = if is_logout { storefronts.refresh_token(session, organization).await? } else { None };
        let Translated { head, edits, target } =
            session.translate(route, request.head, access.as_ref(), refresh.as_ref());
        if is_logout {
            set = session.expired_cookies();
        }
        let route = Route { site: route.site.clone().or_else(|| Some(session.site().clone())), ..route.clone() };
        let request = Request { head: &head, body: request.body.clone(), ..*request };
        let translated = RoutedRequest { route: &route, request: &request, registers_session: true, ..routed };
        let decided = Box::pin(self.decide(translated, audit)).await;
        Ok(match decided.unwrap_or_else(|error| Decision::Respond(problem::response(&error))) {
            Decision::Forward(forward) => {
                let cookies = CookieSession { request: edits, target, set, domain: session.cookie_domain() };
                let credential = forward.credential.without_hand_over();
                Decision::Forward(Forward { credential, cookies: Some(Box::new(cookies)), ..forward })
            }
            Decision::Respond(mut response) => {
                for cookie in set {
                    response.headers.append(SET_COOKIE, cookie);
                }
                Decision::Respond(response)
            }
        })
    }

    /// Refreshes the session of a refresh cookie, as a token request of its page would.
    ///
    /// # Errors
    /// [`GatewayError::AccessCookieMissing`] if SLAS rejects the refresh token; the errors of SLAS, of the limits and of the store.
    async fn renew(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
        refresh: &SecretString,
    ) -> Result<RenewedSession, GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        let organization = &route.organization;
        let operation = self.stages.router.token_operation().ok_or(GatewayError::OperationUnknown)?;
        let do_not_track =
            self.stages.slas.do_not_track(organization, session.client(), session.site(), refresh).await?;
        let path = operation.template.replace("{organizationId}", organization.as_str());
        let (head, body) = session.refresh_request(request.head, &path, refresh, do_not_track)?;
        let route = Route {
            operation: Some(Arc::clone(operation)),
            prefix: PathPrefix::SlasPrivate,
            upstream_target: Some(path),
            ..route.clone()
        };
        let request = Request { head: &head, body: Some(body), body_follows: false, certificate: None, ..*request };
        let refreshing = RoutedRequest { tenant, route: &route, request: &request, registers_session: true };
        let Decision::Respond(response) = self.slas(refreshing, operation, &mut AuditRecord::default()).await? else {
            return Err(GatewayError::SlasUnavailable);
        };
        if response.status != StatusCode::OK {
            return Err(SlasRoutes::refresh_error(&response));
        }
        self.stages.storefronts.renewed(session, organization, response).await
    }

    /// Establishes the sender.
    async fn identify(&self, routed: RoutedRequest<'_>, audit: &mut AuditRecord) -> Result<Identity, GatewayError> {
        if routed.route.operation.is_none()
            && self.stages.router.rejects_unknown_operations()
            && !on_behalf_header::is_present(&routed.request.head.headers)
        {
            return Err(GatewayError::OperationUnknown);
        }
        self.stages.authn.identify(routed, audit).await
    }

    /// Checks what the sender may do, and obtains the credential to send upstream.
    async fn authorize(
        &self,
        routed: RoutedRequest<'_>,
        identity: Identity,
        audit: &mut AuditRecord,
    ) -> Result<UpstreamCredential, GatewayError> {
        let RoutedRequest { tenant, route, .. } = routed;
        let grant = authz::check(identity, tenant, route)?;
        let refreshes = match &grant {
            Grant::Shopper(token) if token.shopper.delegation.tsob => Box::pin(self.may_refresh(token, audit)).await?,
            Grant::Shopper(_) | Grant::OnBehalf(..) | Grant::System(_) => true,
        };
        let credential = self.stages.upstream_auth.obtain(tenant, grant, refreshes, audit).await?;
        authz::check_obtained(&credential, route)?;
        Ok(credential)
    }

    /// Whether the gateway refreshes the session of a token on behalf of a shopper. It refreshes a token that a client got from SLAS
    /// through the gateway, and one that it issued to a trusted system that may still act for shoppers. The latter counts as a
    /// request of that system.
    async fn may_refresh(&self, token: &VerifiedToken, audit: &mut AuditRecord) -> Result<bool, GatewayError> {
        let (entry, site) = match self.stages.upstream_auth.recipient(token, audit).await? {
            TokenRecipient::TrustedSystem(entry, site) => (entry, site),
            TokenRecipient::Client => return Ok(true),
            TokenRecipient::Unknown => return Ok(false),
        };
        audit.actor = Some(entry.name.clone());
        let logins = self.stages.router.trusted_system_logins();
        let caller = authz::recipient(self.stages.authn.caller_by_entry(&entry), logins, &token.shopper, &site)?;
        self.stages.limits.acquire_caller(caller)?;
        Ok(true)
    }

    /// Returns the credential with which report mode forwards a rejected request. Report mode lifts the errors of tokens and policy,
    /// and no limit. A request with two credentials is never forwarded.
    fn reported(&self, routed: RoutedRequest<'_>, error: &GatewayError) -> Option<UpstreamCredential> {
        let is_final = matches!(error, GatewayError::CredentialsConflicting | GatewayError::CallerRateLimited { .. });
        if is_final || !self.stages.router.is_report_mode() {
            return None;
        }
        let authorization = Authorization::parse(&routed.request.head.headers);
        let strips_authorization =
            matches!(authorization, Ok(Authorization::Basic(_))) && routed.route.kind() != OperationKind::Slas;
        Some(Source::Reported { strips_authorization }.into())
    }

    /// Counts a rejected request that report mode forwards for its sender, as far as the sender is authenticated.
    async fn count_reported(&self, routed: RoutedRequest<'_>) -> Result<(), GatewayError> {
        let Stages { authn, limits, .. } = &self.stages;
        if !limits.has_caller_rates() {
            return Ok(());
        }
        // The audit log has a line about the rejection already.
        let mut audit = AuditRecord { address: limits.client_address(routed.request), ..AuditRecord::default() };
        if let Ok(caller) = authn.caller(routed, &Scopes::default(), &mut audit).await {
            return caller.counted().map_or(Ok(()), |caller| limits.acquire_caller(caller));
        }
        match authn.shopper(routed).await {
            Ok(token) => limits.acquire_shopper(&token.shopper),
            Err(_) => Ok(()),
        }
    }

    /// Serves a deprecated endpoint.
    async fn deprecated(&self, routed: RoutedRequest<'_>, audit: &mut AuditRecord) -> LocalResponse {
        let result = match routed.route.kind() {
            // Deprecated endpoints act only for the shopper who logs in or whom the body names.
            _ if on_behalf_header::is_present(&routed.request.head.headers) => Err(GatewayError::CallerNotAllowed),
            OperationKind::DeprecatedLogin => self.deprecated_login(routed, audit).await,
            OperationKind::DeprecatedTrustedSystemLogin => self.deprecated_trusted_system_login(routed, audit).await,
            _ => self.deprecated_logout(routed).await,
        };
        legacy::mark_deprecated(result.unwrap_or_else(|error| {
            note_rejection(&error, audit);
            problem::response(&error)
        }))
    }

    async fn deprecated_login(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let (target, credentials) = self.stages.legacy.read(routed, audit)?;
        let cost = match &credentials {
            LoginCredentials::Guest { calls } => LoginCost::Guest { calls: *calls },
            LoginCredentials::Password(credentials) => LoginCost::Password(credentials),
            LoginCredentials::Token => LoginCost::Refresh,
        };
        let _waiting = self.stages.limits.begin_login(routed.route)?;
        let permit = self.stages.limits.count_login(routed, &cost)?;
        let headers = &routed.request.head.headers;
        let result = match credentials {
            LoginCredentials::Guest { .. } => self.stages.legacy.log_in_guest(target, headers, audit).await,
            LoginCredentials::Password(credentials) => {
                self.stages.legacy.log_in_shopper(target, credentials, audit).await
            }
            LoginCredentials::Token => self.deprecated_refresh(routed, target, audit).await,
        };
        permit.settle(result.as_ref().err());
        result
    }

    async fn deprecated_refresh(
        &self,
        routed: RoutedRequest<'_>,
        target: legacy::LoginTarget<'_>,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let token = self.stages.authn.shopper(routed).await?;
        authz::site(&token.shopper, Some(target.site))?;
        if token.shopper.client != target.client.id {
            let problem = "The token was issued to another client than the clientId.";
            return Err(GatewayError::RequestInvalid(problem.into()));
        }
        if token.shopper.delegation.tsob && !self.may_refresh(&token, audit).await? {
            let problem = "the gateway did not issue it; refresh it where it was issued";
            return Err(GatewayError::TokenInvalid(problem.into()));
        }
        self.stages.legacy.refresh(target, &token, &routed.request.head.headers).await
    }

    async fn deprecated_logout(&self, routed: RoutedRequest<'_>) -> Result<LocalResponse, GatewayError> {
        let token = self.stages.authn.shopper(routed).await?;
        authz::site(&token.shopper, routed.route.site.as_ref())?;
        self.stages.legacy.log_out(routed.tenant, &token).await
    }

    async fn deprecated_trusted_system_login(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        audit.event = Some(Event::Login);
        let RoutedRequest { tenant, route, request, .. } = routed;
        let operation = route.operation.as_deref().ok_or(GatewayError::OperationUnknown)?;
        let scopes = operation.system_scopes();
        let caller = self.stages.authn.caller(routed, &scopes, audit).await?;
        caller.counted().map_or(Ok(()), |caller| self.stages.limits.acquire_caller(caller))?;
        authz::trusted_system_login(&caller, &scopes)?;
        let caller = caller.caller;
        let subject = self.stages.legacy.read_trusted_system_login(routed)?;
        let subject = Arc::new(authz::on_behalf(&caller, operation, tenant, route, subject)?);
        let token = self.stages.upstream_auth.on_behalf_token(Arc::clone(&subject), audit).await?;
        self.stages.legacy.trusted_system_response(tenant, &subject, &token, &request.head.headers).await
    }

    /// Serves a SLAS path. Report mode lifts none of its errors.
    async fn slas(
        &self,
        routed: RoutedRequest<'_>,
        operation: &Operation,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let credential = SlasRoutes::credential(routed, operation);
        let credential = credential.inspect_err(|error| note_rejection(error, audit))?;
        let login = SlasRoutes::login_record(routed, operation, audit);
        let mut permit = self.stages.limits.acquire(routed, &credential).await?;
        if let Some(result) = self.stages.slas.perform(routed, operation, &credential).await {
            *audit = login.unwrap_or_default();
            match &result {
                Ok(response) => permit.settle_login(routed.route, Some(response.status)),
                // SLAS may have judged the login, so it stays counted as failed.
                Err(GatewayError::UpstreamTimeout | GatewayError::UpstreamUnavailable) => {}
                Err(_) => permit.give_back_login(),
            }
            return result.map(Decision::Respond);
        }
        let logout = self.stages.slas.pending_logout(routed).await?;
        let audit = login.map(|record| Box::new(PendingAuditLine::new(&self.audit, record)));
        Ok(Decision::Forward(Forward { credential, reported: None, logout, permit, audit, cookies: None }))
    }

    /// Notes the customer whom a trusted system's write concerns.
    fn note_customer_in_path(&self, routed: RoutedRequest<'_>, audit: &mut AuditRecord) {
        if audit.event == Some(Event::SystemWrite) {
            let customer = self.stages.router.customer_in_path(routed.request.head);
            let organization = routed.route.organization.as_str();
            audit.shopper = customer.map(|customer| self.audit.pseudonym(organization, &customer));
        }
    }

    /// Counts a request whose body is complete among the concurrent requests of its organization.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub async fn body_complete(&self, route: &Route, forward: &mut Forward) -> Result<(), GatewayError> {
        self.stages.limits.body_complete(route, &mut forward.permit).await
    }

    /// Returns another credential with which to retry a request after a 401 of an API. Returns `None` if the refused credential was the
    /// client's, or if there is no other.
    pub async fn retry_after_401(&self, route: &Route, refused: &UpstreamCredential) -> Option<UpstreamCredential> {
        self.stages.upstream_auth.replace(self.tenants.get(&route.organization)?, refused).await
    }

    /// Observes the response of Salesforce, or that there was none: its load and rate limits, the outcome of a login, and a
    /// confirmed logout.
    pub async fn response_received(
        &self,
        route: &Route,
        forward: &mut Forward,
        response: Option<(StatusCode, &HeaderMap)>,
    ) {
        let tenant = self.tenants.get(&route.organization);
        self.stages.limits.response_received(tenant, route, &mut forward.permit, response);
        let is_confirmed = response.is_some_and(|(status, _)| !status.is_client_error() && !status.is_server_error());
        if let Some(logout) = forward.logout.as_ref().filter(|_| is_confirmed) {
            Box::pin(self.stages.slas.complete_logout(logout)).await;
        }
    }
}

/// Returns the response to `OPTIONS` (RFC 9110, 9.3.7).
fn options_response(methods: Methods) -> LocalResponse {
    let mut response = LocalResponse::empty(StatusCode::NO_CONTENT);
    response.headers.insert(ALLOW, methods.allow());
    response
}

/// Notes the rejection of a sender that wanted to act as a trusted system.
fn note_rejection(error: &GatewayError, audit: &mut AuditRecord) {
    if error.is_caller_rejection() {
        audit.event = Some(Event::CallerRefused);
        audit.reason = error.reason();
    }
}
