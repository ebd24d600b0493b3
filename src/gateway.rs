//! The pipeline: one request in, one decision out. `pipeline` runs the stages. Here are the entries that the server calls, and the
//! translation of a storefront's cookies around the stages.
//!
//! [`Gateway`] has these methods, in the order of a request's life: [`respond_without_route`](Gateway::respond_without_route),
//! [`route`](Gateway::route), [`note_form`](Gateway::note_form), [`handle`](Gateway::handle),
//! [`body_complete`](Gateway::body_complete), [`retry_after_401`](Gateway::retry_after_401),
//! [`response_received`](Gateway::response_received) and [`cors_edits`](Gateway::cors_edits). Each stage is a type with the state
//! that it needs, and no stage imports another one. No stage sees a socket: a request comes as a value and leaves as a [`Decision`].

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
pub mod pipeline;
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
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ALLOW, SET_COOKIE},
    request::Parts,
};
use secrecy::SecretString;

use self::{
    cors::ResponseSource,
    credential::UpstreamCredential,
    decision::{Decision, Forward, StorefrontEdits},
    error::GatewayError,
    headers::HeaderEdits,
    limits::RateLimits,
    pipeline::{Pipeline, Stages},
    policy::{Methods, OperationKind},
    request::{PathPrefix, Request, RequiredBody, Route, RoutedRequest},
    response::LocalResponse,
    router::PublishedPath,
    slas::SlasRoutes,
    storefront::{AccessCredential, Purpose, SessionRequest, SessionToken, Translated},
    tenant::Tenants,
};
use crate::observability::audit::{AuditLog, AuditRecord};

/// Decides about requests.
#[derive(Debug)]
pub struct Gateway(Pipeline);

impl Gateway {
    /// A gateway of these stages for the organizations of a configuration.
    #[must_use]
    pub fn new(stages: Stages, tenants: Arc<Tenants>, audit: Arc<AuditLog>) -> Self {
        Self(Pipeline { stages, tenants, audit })
    }

    /// Validates the head of a request and finds its route.
    ///
    /// # Errors
    /// The errors of `Router::route`. Report mode does not lift them.
    pub fn route(&self, head: &Parts) -> Result<Route, GatewayError> {
        let mut route = self.0.stages.router.route(head)?;
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
        if self.0.stages.cors.is_callback(head) {
            return self.callback(head).map(Some);
        }
        if head.method != Method::OPTIONS {
            return Ok(None);
        }
        let published = self.0.stages.router.published(head);
        let PublishedPath { organization, methods, is_in_table } =
            published.inspect_err(|_| self.0.stages.cors.count_failed_preflight(head))?;
        let preflight = self.0.stages.cors.preflight(head, Some(&organization), methods)?;
        Ok(preflight.or_else(|| is_in_table.then(|| options_response(methods))))
    }

    fn callback(&self, head: &Parts) -> Result<LocalResponse, GatewayError> {
        self.0.stages.router.check_head(head)?;
        let methods = Methods::read_only();
        match head.method {
            Method::GET | Method::HEAD => Ok(cors::callback_response()),
            Method::OPTIONS => {
                let preflight = self.0.stages.cors.preflight(head, None, methods)?;
                Ok(preflight.unwrap_or_else(|| options_response(methods)))
            }
            _ => Err(GatewayError::MethodNotAllowed(methods)),
        }
    }

    /// Notes the site that the form of a request names, where the allowed origins depend on the site.
    pub fn note_form(&self, route: &mut Route, head: &Parts, body: &[u8]) {
        if self.0.stages.cors.needs_form(route, head) {
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
        self.0.stages.cors.response_edits(head, route, response, source)
    }

    fn needs_slas_body(&self, route: &Route, head: &Parts) -> bool {
        let tenant = self.0.tenants.get(&route.organization);
        RateLimits::needs_body(route, &head.method)
            || head.method == Method::POST && form::is_form(&head.headers) && self.0.stages.cors.needs_form(route, head)
            || tenant.is_some_and(|tenant| SlasRoutes::needs_form(tenant, route, head))
    }

    /// Decides what happens to a request, and writes its audit line.
    ///
    /// Rarely taken branches are boxed. An unboxed future is as large as its largest branch, and every request would pay for it.
    pub async fn handle(&self, route: &Route, request: &Request<'_>) -> Decision {
        let mut audit = AuditRecord { address: self.0.stages.limits.client_address(request), ..AuditRecord::default() };
        let result = self.run(route, request, &mut audit).await;
        let decision = result.unwrap_or_else(|error| Decision::Respond(problem::response(&error)));
        if audit.event.is_some() {
            let result = match &decision {
                Decision::Forward(Forward { reported: Some(error), .. }) => problem::code(error),
                Decision::Forward(_) => "ok",
                Decision::Respond(response) => audit_line::result(response.code, Some(response.status)),
            };
            audit_line::write(&self.0.audit, &audit, route, request.correlation_id, result);
        }
        decision
    }

    async fn run(
        &self,
        route: &Route,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let tenant = self.0.tenants.get(&route.organization).ok_or(GatewayError::OperationUnknown)?;
        let registers_session = tenant.settings.register_sessions;
        let routed = RoutedRequest { tenant, route, request, registers_session };
        self.0.stages.limits.shed_load(route)?;
        if route.prefix != PathPrefix::None {
            return Box::pin(self.of_storefront(routed, audit)).await;
        }
        self.0.decide(routed, audit).await
    }

    /// Decides about a request below a storefront's prefix. Its session may be in cookies: then the other stages see the tokens, and
    /// the response sets the cookies.
    async fn of_storefront(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        // Only SLAS's operations name clients, and reading them costs.
        let is_for_slas = routed.route.kind() == OperationKind::Slas;
        let clients = if is_for_slas { SlasRoutes::clients(routed)? } else { Vec::new() };
        let Some(session) = self.0.stages.storefronts.session_request(routed, &clients)? else {
            let edits = self.0.stages.storefronts.edits_without_session(routed);
            let mut decision = self.0.decide(routed, audit).await?;
            if let Decision::Forward(forward) = &mut decision {
                forward.storefront = edits.map(Box::new);
            }
            return Ok(decision);
        };
        match session.purpose() {
            Purpose::Token => self.issue_tokens(routed, &session, audit).await,
            Purpose::Call => self.call_with_cookies(routed, &session, audit).await,
            Purpose::Logout => self.log_out(routed, &session, audit).await,
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
        let storefronts = &self.0.stages.storefronts;
        let operation = route.operation.as_deref().ok_or(GatewayError::OperationUnknown)?;
        let body = request.body.as_ref().filter(|_| form::is_form(&request.head.headers));
        let body = body.ok_or_else(|| GatewayError::RequestInvalid("The body must be a form.".into()))?;
        let named = form::Form::parse(body)?.single("channel_id")?.map(|site| site.into_owned());
        if named.is_some_and(|site| site != session.site().as_str()) {
            return Err(GatewayError::Ambiguous("x-site-id and channel_id name different sites".into()));
        }
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
        match self.0.slas(translated, operation, audit).await? {
            Decision::Respond(response) => {
                Ok(Decision::Respond(storefronts.with_tokens_in_cookies(session, organization, response).await?))
            }
            Decision::Forward(_) => Err(GatewayError::OperationNotAllowed),
        }
    }

    /// Decides about a call of a storefront, with the token of its cookies.
    async fn call_with_cookies(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let SessionToken { token, set } = self.session_token(routed, session).await?;
        let translated = session.translate(routed.route, routed.request.head, token.as_ref(), None);
        let decision = self.decide_translated(routed, session, translated, audit).await;
        Ok(with_cookies(decision.unwrap_or_else(|error| Decision::Respond(problem::response(&error))), set))
    }

    /// Decides about a logout of a storefront, with the tokens of its cookies. Whatever fails, the response deletes the cookies, except
    /// for a page that may not use them.
    async fn log_out(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let RoutedRequest { route, request, .. } = routed;
        let decide = async {
            let token = match self.session_token(routed, session).await {
                Ok(session) => session.token,
                // The session has ended. SLAS decides about the request.
                Err(GatewayError::AccessCookieMissing) => None,
                Err(error) => return Err(error),
            };
            let refresh = self.0.stages.storefronts.refresh_token(session, &route.organization).await?;
            let translated = session.translate(route, request.head, token.as_ref(), refresh.as_ref());
            let head = translated.head.clone();
            let decision = self.decide_translated(routed, session, translated, audit).await;
            if !matches!(decision, Ok(Decision::Forward(_))) {
                self.end_session(routed, &head).await;
            }
            decision
        };
        let decision = match decide.await {
            Err(GatewayError::OriginNotAllowed) => return Err(GatewayError::OriginNotAllowed),
            decided => decided.unwrap_or_else(|error| Decision::Respond(problem::response(&error))),
        };
        self.0.stages.storefronts.end_session(session, &route.organization).await;
        Ok(with_cookies(decision, session.expired_cookies()))
    }

    /// Ends the session of a logout that is not sent to SLAS. `head` has the session's tokens.
    async fn end_session(&self, routed: RoutedRequest<'_>, head: &Parts) {
        let request = Request { head, body: None, ..*routed.request };
        let logout = RoutedRequest { request: &request, registers_session: true, ..routed };
        if let Ok(Some(logout)) = self.0.stages.slas.pending_logout(logout).await {
            self.0.stages.slas.complete_logout(&logout).await;
        }
    }

    /// Returns the access token of a session, refreshed if it has ended. No token stands for the request's own credential.
    async fn session_token(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
    ) -> Result<SessionToken, GatewayError> {
        let found = self.0.stages.storefronts.credential(session, &routed.route.organization).await?;
        match found {
            AccessCredential::Received(token) => Ok(SessionToken { token, set: Vec::new() }),
            AccessCredential::Token(token) => Ok(SessionToken { token: Some(token), set: Vec::new() }),
            AccessCredential::Refresh(refresh) => Box::pin(self.renew(routed, session, &refresh)).await,
            AccessCredential::Missing => Err(GatewayError::AccessCookieMissing),
        }
    }

    /// Decides about a request whose cookies have been translated into tokens.
    async fn decide_translated(
        &self,
        routed: RoutedRequest<'_>,
        session: &SessionRequest<'_>,
        translated: Translated,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
        let RoutedRequest { route, request, .. } = routed;
        let Translated { head, edits, target } = translated;
        let route = Route { site: route.site.clone().or_else(|| Some(session.site().clone())), ..route.clone() };
        let request = Request { head: &head, body: request.body.clone(), ..*request };
        let translated = RoutedRequest { route: &route, request: &request, registers_session: true, ..routed };
        Ok(match Box::pin(self.0.decide(translated, audit)).await? {
            Decision::Forward(forward) => {
                let domain = session.cookie_domain();
                let storefront = StorefrontEdits { request: edits, target, set: Vec::new(), has_session: true, domain };
                let credential = forward.credential.without_hand_over();
                Decision::Forward(Forward { credential, storefront: Some(Box::new(storefront)), ..forward })
            }
            respond @ Decision::Respond(_) => respond,
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
    ) -> Result<SessionToken, GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        let organization = &route.organization;
        let operation = self.0.stages.router.token_operation().ok_or(GatewayError::OperationUnknown)?;
        let do_not_track =
            self.0.stages.slas.do_not_track(organization, session.client(), session.site(), refresh).await?;
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
        let Decision::Respond(response) = self.0.slas(refreshing, operation, &mut AuditRecord::default()).await? else {
            return Err(GatewayError::SlasUnavailable);
        };
        if response.status != StatusCode::OK {
            return Err(SlasRoutes::refresh_error(&response));
        }
        self.0.stages.storefronts.renewed(session, organization, response).await
    }

    /// Counts a request whose body is complete among the concurrent requests of its organization.
    ///
    /// # Errors
    /// [`GatewayError::Overloaded`].
    pub async fn body_complete(&self, route: &Route, forward: &mut Forward) -> Result<(), GatewayError> {
        self.0.stages.limits.body_complete(route, &mut forward.permit).await
    }

    /// Returns another credential with which to retry a request after a 401 of an API. Returns `None` if the refused credential was the
    /// client's, or if there is no other.
    pub async fn retry_after_401(&self, route: &Route, refused: &UpstreamCredential) -> Option<UpstreamCredential> {
        self.0.stages.upstream_auth.replace(self.0.tenants.get(&route.organization)?, refused).await
    }

    /// Observes the response of Salesforce, or that there was none: its load and rate limits, the outcome of a login, and a
    /// confirmed logout.
    pub async fn response_received(
        &self,
        route: &Route,
        forward: &mut Forward,
        response: Option<(StatusCode, &HeaderMap)>,
    ) {
        let tenant = self.0.tenants.get(&route.organization);
        self.0.stages.limits.response_received(tenant, route, &mut forward.permit, response);
        let is_confirmed = response.is_some_and(|(status, _)| !status.is_client_error() && !status.is_server_error());
        // The browser has lost its cookies, so the session ends whatever SLAS answers.
        let has_lost_cookies = forward.storefront.as_ref().is_some_and(|edits| edits.has_session);
        if let Some(logout) = forward.logout.as_ref().filter(|_| is_confirmed || has_lost_cookies) {
            Box::pin(self.0.stages.slas.complete_logout(logout)).await;
        }
    }
}

/// Returns a decision whose response sets these cookies.
fn with_cookies(mut decision: Decision, set: Vec<HeaderValue>) -> Decision {
    match &mut decision {
        Decision::Forward(Forward { storefront: Some(edits), .. }) => edits.set = set,
        Decision::Forward(_) => {}
        Decision::Respond(response) => {
            for cookie in set {
                response.headers.append(SET_COOKIE, cookie);
            }
        }
    }
    decision
}

/// Returns the response to `OPTIONS` (RFC 9110, 9.3.7).
fn options_response(methods: Methods) -> LocalResponse {
    let mut response = LocalResponse::empty(StatusCode::NO_CONTENT);
    response.headers.insert(ALLOW, methods.allow());
    response
}
