//! The services that deprecated logins use, and what all of them do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

use super::response;
use crate::{
    config::{DeprecatedLogins, SlasClient, Timeouts},
    correlation,
    gateway::{error::GatewayError, request::Route, tenant::Tenant},
    observability::{
        audit::{AuditLog, AuditRecord},
        deprecated_usage::{DeprecatedUsage, Endpoint},
        metrics::Metrics,
    },
    salesforce::{error::SalesforceError, slas::TokenResponse},
    tokens::sessions::Sessions,
    types::{ClientId, SiteId},
    verify::{shopper::Shopper, shopper_token::ShopperVerifier},
};

/// Performs the deprecated logins.
#[derive(Debug)]
pub struct LegacyLogins {
    pub(super) sessions: Arc<Sessions>,
    shoppers: Arc<ShopperVerifier>,
    usage: Arc<DeprecatedUsage>,
    pub(super) audit: Arc<AuditLog>,
    metrics: Arc<Metrics>,
    policy: DeprecatedLogins,
    /// The deadline of a password login that waits for its turn at SLAS.
    pub(super) login_timeout: Duration,
    /// The timeout of a call to SLAS.
    pub(super) call_timeout: Duration,
}

/// The SLAS client and the site of a login.
#[derive(Debug, Clone, Copy)]
pub struct LoginTarget<'a> {
    pub(in crate::gateway) tenant: &'a Tenant,
    pub(in crate::gateway) client: &'a SlasClient,
    pub(in crate::gateway) site: &'a SiteId,
}

impl LegacyLogins {
    /// The deprecated logins of a configuration.
    #[must_use]
    pub fn new(
        sessions: Arc<Sessions>,
        shoppers: Arc<ShopperVerifier>,
        usage: Arc<DeprecatedUsage>,
        audit: Arc<AuditLog>,
        metrics: Arc<Metrics>,
        policy: DeprecatedLogins,
        timeouts: &Timeouts,
    ) -> Self {
        let (login_timeout, call_timeout) = (timeouts.upstream, timeouts.exchange);
        Self { sessions, shoppers, usage, audit, metrics, policy, login_timeout, call_timeout }
    }

    /// Counts a use of a deprecated endpoint by a configured client. Other clients share one label value.
    pub(super) fn count_use(&self, endpoint: Endpoint, client: Option<&ClientId>, tenant: &Tenant) {
        let label = self.usage.record(&tenant.settings.organization, client, endpoint);
        self.metrics.legacy_requests.with_label_values(&[endpoint.as_str(), label]).inc();
    }

    /// Checks that the policy allows deprecated logins. The use is counted before, so that the migration report is complete.
    pub(super) fn check_allowed(&self) -> Result<(), GatewayError> {
        match self.policy {
            DeprecatedLogins::Allow => Ok(()),
            DeprecatedLogins::Refuse => Err(GatewayError::OperationNotAllowed),
        }
    }

    /// Verifies the token that SLAS issued, stores the session and notes the shopper in the audit record.
    pub(super) async fn begin_session(
        &self,
        target: LoginTarget<'_>,
        tokens: &TokenResponse,
        audit: &mut AuditRecord,
    ) -> Result<Arc<Shopper>, GatewayError> {
        let organization = &target.tenant.settings.organization;
        let verified = self.shoppers.verify_issued(tokens.access_token.expose_secret(), organization).await;
        let verified = verified.map_err(|error| {
            tracing::error!(%error, %organization, "SLAS issued a token that does not verify");
            GatewayError::SlasUnavailable
        })?;
        self.sessions.begin(target.site, &verified, tokens).await;
        let customer = verified.shopper.customer.as_ref();
        audit.shopper = customer.map(|customer| self.audit.pseudonym(organization.as_str(), customer.as_str()));
        Ok(verified.shopper)
    }
}

/// Returns the site of a deprecated login. The request must name one of the organization's sites.
pub(super) fn site<'t>(tenant: &'t Tenant, route: &Route) -> Result<&'t SiteId, GatewayError> {
    let site = tenant.settings.sites.iter().find(|site| Some(*site) == route.site.as_ref());
    site.ok_or_else(GatewayError::site_invalid)
}

/// Returns the Customer document: Salesforce's own for a registered shopper, three fields for a guest.
pub(super) async fn customer_document(
    tenant: &Tenant,
    site: &SiteId,
    shopper: &Shopper,
    headers: &HeaderMap,
    access_token: &SecretString,
) -> Result<Bytes, GatewayError> {
    if !shopper.is_registered {
        return response::guest_document(shopper, headers);
    }
    let customer = response::customer_of(shopper)?;
    let document = tenant.customers.customer(site, customer, access_token).await;
    document.map_err(|error| {
        let (organization, correlation_id) = (&tenant.settings.organization, correlation::current_text());
        tracing::warn!(%error, %organization, correlation_id, "failed to read the profile of a logged-in shopper");
        GatewayError::from_api(&error)
    })
}

/// Logs and converts the failure of a call to SLAS.
pub(super) fn slas_error(flow: &'static str, error: &SalesforceError) -> GatewayError {
    let correlation_id = correlation::current_text();
    tracing::warn!(flow, %error, correlation_id, "deprecated login failed at SLAS");
    GatewayError::from_slas(error)
}
