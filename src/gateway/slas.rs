//! The SLAS paths: requests that SLAS itself checks.
//!
//! The gateway adds the credential of a private client (`client_auth`), performs token requests of registered sessions itself
//! (`token_endpoint`), follows logouts (`logout`) and edits responses (`response`). Report mode does not lift these rules: the
//! requests act for the client and the shopper that they prove themselves.

mod client_auth;
mod logout;
mod on_behalf_hints;
mod response;
mod token_endpoint;

use std::sync::Arc;

use http::{Method, request::Parts};
use secrecy::SecretString;

pub use self::{
    client_auth::{added_credential, clients_with_added_credential},
    response::{ResponseEdits, response_edits},
};
use self::{
    logout::Logouts,
    token_endpoint::{TokenEndpoint, TokenRequest},
};
use super::{
    authorization_header::Authorization,
    credential::UpstreamCredential,
    decision::PendingLogout,
    error::GatewayError,
    form, on_behalf_header,
    policy::{Operation, OperationKind},
    request::{Route, RoutedRequest},
    response::LocalResponse,
    tenant::Tenant,
};
use crate::{
    config,
    observability::audit::AuditRecord,
    salesforce::{error::SalesforceError, transport::Response},
    tokens::sessions::Sessions,
    types::{ClientId, OrganizationId, SiteId},
    verify::shopper_token::ShopperVerifier,
};

/// Serves the SLAS paths.
#[derive(Debug)]
pub struct SlasRoutes {
    token_endpoint: TokenEndpoint,
    logouts: Logouts,
}

impl SlasRoutes {
    /// The SLAS paths of a configuration.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, shoppers: Arc<ShopperVerifier>) -> Self {
        let logouts = Logouts::new(Arc::clone(&sessions), Arc::clone(&shoppers));
        Self { token_endpoint: TokenEndpoint::new(sessions, shoppers), logouts }
    }

    /// Whether the form of a request must be read before the gateway can decide: it names the client whose credential the
    /// gateway may add, or a session.
    pub(super) fn needs_form(tenant: &Tenant, route: &Route, head: &Parts) -> bool {
        let Some(operation) = route.operation.as_ref().filter(|operation| operation.is_checked_by_slas()) else {
            return false;
        };
        head.method == Method::POST
            && form::is_form(&head.headers)
            && (response::issues_tokens(operation)
                || is_revocation(&tenant.settings, operation)
                || client_auth::needs_form(&tenant.settings, route, operation, head))
    }

    /// Returns the SLAS clients that a request names: in Basic credentials, and in the query or in the form. SLAS may use either.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] if the query and the form name two clients.
    pub(super) fn clients(routed: RoutedRequest<'_>) -> Result<Vec<String>, GatewayError> {
        let request = routed.request;
        let of_basic = match Authorization::parse(&request.head.headers) {
            Ok(Authorization::Basic(basic)) => Some(basic.user),
            _ => None,
        };
        let body = request.body.as_ref().filter(|_| form::is_form(&request.head.headers));
        let named = client_auth::named_client(request.head, body)?;
        Ok(of_basic.into_iter().chain(named).collect())
    }

    /// Returns the error of a refresh that SLAS rejected.
    pub(super) fn refresh_error(response: &LocalResponse) -> GatewayError {
        let LocalResponse { status, headers, body, .. } = response;
        let response = Response { status: *status, headers: headers.clone(), body: body.clone() };
        let error = SalesforceError::from_response(&response);
        if error.is_refresh_token_rejected() {
            GatewayError::AccessCookieMissing
        } else {
            GatewayError::from_slas(&error)
        }
    }

    /// Returns whether the shopper of a refresh token's session has refused to be tracked, as `dnt` of a token request. `None` if the
    /// gateway does not have the session.
    ///
    /// # Errors
    /// [`GatewayError::StoreUnavailable`].
    pub(super) async fn do_not_track(
        &self,
        organization: &OrganizationId,
        client: &ClientId,
        site: &SiteId,
        refresh: &SecretString,
    ) -> Result<Option<&'static str>, GatewayError> {
        self.token_endpoint.do_not_track(organization, client, site, refresh).await
    }

    /// Checks a request and returns the credential to send: the client's own, or the credential of the private client that the
    /// request names.
    ///
    /// # Errors
    /// [`GatewayError::CallerNotAllowed`] if the request names a shopper in `X-On-Behalf-Of`; [`GatewayError::TokenMissing`] if
    /// SLAS would reject the request for want of a credential; [`GatewayError::RequestInvalid`] if the body is not a form;
    /// [`GatewayError::Ambiguous`] if the request names two clients.
    pub(super) fn credential(
        routed: RoutedRequest<'_>,
        operation: &Operation,
    ) -> Result<UpstreamCredential, GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        let head = request.head;
        if on_behalf_header::is_present(&head.headers) {
            return Err(GatewayError::CallerNotAllowed);
        }
        if needs_credential(operation) && matches!(Authorization::parse(&head.headers), Ok(Authorization::Nothing)) {
            // SLAS would reject the request, and it would have spent a call of the organization's budget.
            return Err(GatewayError::TokenMissing);
        }
        let reads_form = response::issues_tokens(operation) || is_revocation(&tenant.settings, operation);
        if reads_form && request.body_follows && head.method == Method::POST {
            // SLAS might read the body as a form that the gateway has not seen.
            let problem = "The body must be a form: Content-Type: application/x-www-form-urlencoded, in UTF-8.";
            return Err(GatewayError::RequestInvalid(problem.into()));
        }
        client_auth::credential(&tenant.settings, route, operation, head, request.body.as_ref())
    }

    /// Returns the audit record of a request if it is a login.
    pub(super) fn login_record(
        routed: RoutedRequest<'_>,
        operation: &Operation,
        audit: &AuditRecord,
    ) -> Option<AuditRecord> {
        let RoutedRequest { tenant, request, .. } = routed;
        let record = client_auth::login(&tenant.settings, operation, request.head, request.body.as_ref());
        record.map(|record| AuditRecord { address: audit.address, ..record })
    }

    /// Performs a token request whose response the gateway must see before the client: it begins or refreshes a session. Returns
    /// `None` for any other request.
    pub(super) async fn perform(
        &self,
        routed: RoutedRequest<'_>,
        operation: &Operation,
        credential: &UpstreamCredential,
    ) -> Option<Result<LocalResponse, GatewayError>> {
        let RoutedRequest { request, registers_session, .. } = routed;
        let form = request.body.as_ref().filter(|_| form::is_form(&request.head.headers))?;
        if !response::issues_tokens(operation) {
            return None;
        }
        if !registers_session && !self.token_endpoint.must_record_epoch(operation, form) {
            return None;
        }
        let token_request = TokenRequest { routed, operation, form: form.clone(), credential };
        Some(self.token_endpoint.perform(&token_request).await)
    }

    /// Returns the logout that a request performs, with the refresh token that is valid now.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] for a query with two readings; [`GatewayError::StoreUnavailable`].
    pub(super) async fn pending_logout(
        &self,
        routed: RoutedRequest<'_>,
    ) -> Result<Option<PendingLogout>, GatewayError> {
        let RoutedRequest { tenant, route, request, registers_session } = routed;
        let Some(operation) = route.operation.as_ref().filter(|operation| operation.kind == OperationKind::Slas) else {
            return Ok(None);
        };
        if let Some(form) = request.body.as_ref().filter(|_| is_revocation(&tenant.settings, operation)) {
            return self.logouts.of_revocation(route, request.head, form).await;
        }
        if operation.id != "logoutCustomer" {
            return Ok(None);
        }
        let uses_caller_held = registers_session && operation.is_checked_by_slas();
        self.logouts.of_logout(route, request.head, uses_caller_held).await
    }

    /// Ends the sessions of a logout that SLAS has confirmed.
    pub(super) async fn complete_logout(&self, logout: &PendingLogout) {
        self.logouts.complete(logout).await;
    }
}

/// Whether an operation revokes a refresh token of a registered session.
fn is_revocation(tenant: &config::Tenant, operation: &Operation) -> bool {
    tenant.register_sessions && operation.id == "revokeToken" && operation.is_checked_by_slas()
}

/// Whether SLAS rejects the operation without `Authorization`, by its description: `userinfo` and `logout` need a shopper's
/// token, `introspect` and `revoke` a client's Basic credentials.
fn needs_credential(operation: &Operation) -> bool {
    operation.is_checked_by_slas()
        && matches!(operation.id.as_str(), "getUserInfo" | "logoutCustomer" | "introspectToken" | "revokeToken")
}
