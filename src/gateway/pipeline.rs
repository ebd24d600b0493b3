//! The decision about one request with a token or credentials of its own: the stages, in order.
//!
//! The pipeline connects the stages and has no state of its own. Rarely taken branches are boxed: an unboxed future is as large as its
//! largest branch, and every request would pay for it.

use std::sync::Arc;

use super::{
    audit_line::PendingAuditLine,
    authn::Authenticator,
    authorization_header::Authorization,
    authz,
    cors::Cors,
    credential::{Source, UpstreamCredential},
    decision::{Decision, Forward},
    error::GatewayError,
    identity::{Grant, Identity},
    legacy::{self, LegacyLogins, LoginCredentials},
    limits::{LoginCost, RateLimits},
    on_behalf_header,
    policy::{Operation, OperationKind},
    problem,
    request::RoutedRequest,
    response::LocalResponse,
    router::Router,
    slas::SlasRoutes,
    storefront::Storefronts,
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

/// The stages, with the organizations that they decide for.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) stages: Stages,
    pub(super) tenants: Arc<Tenants>,
    pub(super) audit: Arc<AuditLog>,
}

impl Pipeline {
    /// Decides about a request with a token of its own.
    ///
    /// # Errors
    /// The errors of the stages, which report mode does not lift.
    pub(super) async fn decide(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Decision, GatewayError> {
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
        Ok(Decision::Forward(Forward { credential, reported, logout, permit, audit, storefront: None }))
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

    /// Serves a SLAS path.
    ///
    /// # Errors
    /// The errors of the stages. Report mode lifts none of them.
    pub(super) async fn slas(
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
        Ok(Decision::Forward(Forward { credential, reported: None, logout, permit, audit, storefront: None }))
    }

    /// Notes the customer whom a trusted system's write concerns.
    fn note_customer_in_path(&self, routed: RoutedRequest<'_>, audit: &mut AuditRecord) {
        if audit.event == Some(Event::SystemWrite) {
            let customer = self.stages.router.customer_in_path(routed.request.head);
            let organization = routed.route.organization.as_str();
            audit.shopper = customer.map(|customer| self.audit.pseudonym(organization, &customer));
        }
    }
}

/// Notes the rejection of a sender that wanted to act as a trusted system.
fn note_rejection(error: &GatewayError, audit: &mut AuditRecord) {
    if error.is_caller_rejection() {
        audit.event = Some(Event::CallerRefused);
        audit.reason = error.reason();
    }
}
