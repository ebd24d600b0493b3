//! The deprecated password login.
//!
//! SLAS receives the password once, and the gateway stores it nowhere. Each login is performed: two logins never share a
//! response. SLAS rejects two logins of one login id within its conflict window, so the replicas perform them one after the other.

use std::time::Instant;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

use super::{
    response,
    services::{LegacyLogins, LoginTarget, customer_document, slas_error},
};
use crate::{
    gateway::{authorization_header::BasicCredentials, error::GatewayError, response::LocalResponse},
    observability::audit::AuditRecord,
    salesforce::{error::SalesforceError, pkce::Pkce, slas::ShopperCredentials},
    tokens::slas_window::PASSWORD_LOGIN,
};

/// The maximum length of the `Authorization` of a password login (`auth` 1.50.0, authenticateCustomer), bytes.
const MAX_AUTHORIZATION_BYTES: usize = 4096;

impl LegacyLogins {
    /// Logs a registered shopper in at SLAS.
    pub(in crate::gateway) async fn log_in_shopper(
        &self,
        target: LoginTarget<'_>,
        credentials: BasicCredentials,
        audit: &mut AuditRecord,
    ) -> Result<LocalResponse, GatewayError> {
        let LoginTarget { tenant, client, site } = target;
        let login_id = credentials.user.clone();
        if authorization_bytes(&credentials) > MAX_AUTHORIZATION_BYTES {
            // SLAS would reject the login unread.
            return Err(GatewayError::LoginRejected { login: Some(login_id) });
        }
        audit.shopper = Some(self.audit.pseudonym_of_login(tenant.settings.organization.as_str(), &login_id));
        let credentials =
            ShopperCredentials { login: SecretString::from(credentials.user), password: credentials.password };
        let deadline = Instant::now() + self.login_timeout;
        let before_deadline = |time| deadline.checked_sub(time).unwrap_or_else(Instant::now);
        let organization = tenant.settings.organization.as_str();
        PASSWORD_LOGIN
            .wait_for_slot(&self.sessions, organization, &login_id, before_deadline(self.call_timeout))
            .await
            .map_err(|_| GatewayError::LoginConflict)?;
        let attempt = || async {
            // SLAS rejects a challenge that was used before.
            let pkce = Pkce::generate().map_err(SalesforceError::Random)?;
            let code = tenant.slas.login(client, site, &credentials, &pkce).await?;
            Ok((code, pkce))
        };
        let latest_retry = before_deadline(PASSWORD_LOGIN.length());
        let (code, pkce) = match PASSWORD_LOGIN.retry_conflicts(latest_retry, attempt).await {
            Ok(code) => code,
            Err(error) if error.is_password_rejected() => {
                return Err(GatewayError::LoginRejected { login: Some(login_id) });
            }
            Err(error) => return Err(slas_error("login", &error)),
        };
        drop(credentials);
        let tokens = tenant.slas.redeem(client, site, &code, &pkce).await;
        let tokens = tokens.map_err(|error| slas_error("redeem", &error))?;
        let shopper = self.begin_session(target, &tokens, audit).await?;
        let document = customer_document(tenant, site, &shopper, &HeaderMap::new(), &tokens.access_token).await?;
        Ok(response::with_token(document, &tokens.access_token))
    }
}

/// Returns the length of the `Authorization` that SLAS receives: `Basic`, a space, and base64 with padding.
fn authorization_bytes(credentials: &BasicCredentials) -> usize {
    let pair = credentials.user.len() + 1 + credentials.password.expose_secret().len();
    "Basic ".len() + pair.div_ceil(3) * 4
}
