//! The deprecated guest login.

use http::HeaderMap;

use super::{
    response,
    services::{LegacyLogins, LoginTarget, slas_error},
};
use crate::{
    gateway::{error::GatewayError, response::LocalResponse},
    observability::audit::AuditRecord,
    salesforce::pkce::Pkce,
};

impl LegacyLogins {
    /// Logs a guest in at SLAS.
    pub(in crate::gateway) async fn log_in_guest(
        &self,
        target: LoginTarget<'_>,
        headers: &HeaderMap,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let LoginTarget { tenant, client, site } = target;
        let tokens = if client.secret.is_some() {
            tenant.slas.guest_token(client, site).await
        } else {
            let pkce = Pkce::generate().map_err(|_| GatewayError::SlasUnavailable)?;
            match tenant.slas.authorize_guest(client, site, &pkce).await {
                Ok(code) => tenant.slas.redeem(client, site, &code, &pkce).await,
                Err(error) => Err(error),
            }
        };
        let tokens = tokens.map_err(|error| slas_error("guest", &error))?;
        let shopper = self.begin_session(target, &tokens, audit).await?;
        let document = response::guest_document(&shopper, headers)?;
        Ok(response::with_token(document, &tokens.access_token))
    }
}
