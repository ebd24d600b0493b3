//! The deprecated logins of the Shopper Customers API, performed at SLAS.
//!
//! Responses have the old format. The Customer document of a registered shopper is Salesforce's own, byte for byte.

mod body;
mod guest;
mod password;
mod response;
mod services;
mod trusted_system;

use http::{HeaderMap, StatusCode};

use self::services::{customer_document, site};
pub use self::{
    body::LoginKind,
    response::mark_deprecated,
    services::{LegacyLogins, LoginTarget},
};
use super::{
    authorization_header::{Authorization, BasicCredentials},
    error::GatewayError,
    request::RoutedRequest,
    response::LocalResponse,
    tenant::Tenant,
};
use crate::{
    correlation,
    observability::{
        audit::{AuditRecord, Event},
        deprecated_usage::Endpoint,
    },
    tokens::sessions::SessionError,
    verify::shopper_token::VerifiedToken,
};

/// The credentials of a deprecated login.
#[derive(Debug)]
pub(super) enum LoginCredentials {
    /// None: a guest login.
    Guest {
        /// The calls to SLAS that it needs.
        calls: u32,
    },
    /// A login and password.
    Password(BasicCredentials),
    /// The token of an earlier login, in `Authorization`.
    Token,
}

impl LegacyLogins {
    /// Reads and counts a login (`shopper-customers.authorizeCustomer`).
    ///
    /// # Errors
    /// [`GatewayError::RequestInvalid`] for an invalid client, site or body; [`GatewayError::OperationNotAllowed`] if the policy
    /// refuses deprecated logins; [`GatewayError::LoginRejected`] for a password login without readable Basic credentials.
    pub(super) fn read<'t>(
        &self,
        routed: RoutedRequest<'t>,
        audit: &mut AuditRecord,
    ) -> Result<(LoginTarget<'t>, LoginCredentials), GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        let requested = route.client_id.as_deref();
        let client = tenant.settings.slas_clients.iter().find(|client| Some(client.id.as_str()) == requested);
        self.count_use(Endpoint::Login, client.map(|client| &client.id), tenant);
        self.check_allowed()?;
        let site = site(tenant, route)?;
        let client = client.ok_or_else(|| {
            let problem = "The query's clientId must be one of the SLAS clients of this organization.";
            GatewayError::RequestInvalid(problem.into())
        })?;
        let kind = LoginKind::read(request.body.as_deref().unwrap_or_default())?;
        audit.event = (kind != LoginKind::Refresh).then_some(Event::Login);
        audit.actor = Some(client.id.to_string());
        let credentials = match kind {
            LoginKind::Guest => LoginCredentials::Guest { calls: if client.secret.is_some() { 1 } else { 2 } },
            LoginKind::Credentials => match Authorization::parse(&request.head.headers) {
                Ok(Authorization::Basic(credentials)) => LoginCredentials::Password(credentials),
                // An unreadable value is not a login and password either.
                Ok(Authorization::Bearer(_) | Authorization::Nothing) | Err(GatewayError::TokenInvalid(_)) => {
                    return Err(GatewayError::LoginRejected { login: None });
                }
                Err(error) => return Err(error),
            },
            LoginKind::Refresh => LoginCredentials::Token,
        };
        Ok((LoginTarget { tenant, client, site }, credentials))
    }

    /// Refreshes the session of a token.
    ///
    /// # Errors
    /// [`GatewayError::RequestInvalid`] for the token of another client; [`GatewayError::TokenInvalid`] if the gateway does not hold the session; the errors of SLAS and the store.
    pub(super) async fn refresh(
        &self,
        target: LoginTarget<'_>,
        token: &VerifiedToken,
        headers: &HeaderMap,
    ) -> Result<LocalResponse, GatewayError> {
        let fresh = self.sessions.refresh(token).await.map_err(|error| match error {
            SessionError::Expired => {
                GatewayError::TokenInvalid("its session is not held by this gateway; log in again".into())
            }
            error => error.into(),
        })?;
        let document = customer_document(target.tenant, target.site, &token.shopper, headers, &fresh).await?;
        Ok(response::with_token(document, &fresh))
    }

    /// Ends the session of a token, here and at SLAS (`shopper-customers.invalidateCustomerAuth`).
    ///
    /// # Errors
    /// The errors of the store.
    pub(super) async fn log_out(&self, tenant: &Tenant, token: &VerifiedToken) -> Result<LocalResponse, GatewayError> {
        self.count_use(Endpoint::Logout, Some(&token.shopper.client), tenant);
        let ended = self.sessions.log_out(token).await?;
        // SLAS logs out registered shoppers only. The gateway just forgets the tokens of a guest.
        if let Some(ended) = ended.filter(|ended| ended.registered) {
            let logout = tenant.slas.logout(ended.client, &ended.site, &ended.access_token, &ended.refresh_token).await;
            if let Err(error) = logout {
                // The session has ended here, which is what the client asked for.
                let correlation_id = correlation::current_text();
                tracing::warn!(%error, organization = %tenant.settings.organization, correlation_id, "logout not confirmed by SLAS");
            }
        }
        Ok(LocalResponse::empty(StatusCode::NO_CONTENT))
    }
}
