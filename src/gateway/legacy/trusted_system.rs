//! The deprecated login of a trusted system for a registered shopper.
//!
//! The organization's TSOB client performs it. The public `clientId` of the body only counts in the migration report.

use std::sync::Arc;

use http::HeaderMap;

use super::{
    body::TrustedSystemLoginBody,
    response,
    services::{LegacyLogins, customer_document, site},
};
use crate::{
    gateway::{
        error::GatewayError, on_behalf_header::OnBehalfHeader, request::RoutedRequest, response::LocalResponse,
        tenant::Tenant,
    },
    observability::deprecated_usage::Endpoint,
    tokens::on_behalf::{OnBehalfSubject, OnBehalfToken},
};

impl LegacyLogins {
    /// Reads and counts the login (`shopper-customers.authorizeTrustedSystem`).
    ///
    /// # Errors
    /// [`GatewayError::RequestInvalid`] for an invalid body or site; [`GatewayError::OperationNotAllowed`] if the policy refuses
    /// deprecated logins; [`GatewayError::ShopperUnknown`] for a guest.
    pub(in crate::gateway) fn read_trusted_system_login(
        &self,
        routed: RoutedRequest<'_>,
    ) -> Result<OnBehalfHeader, GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        let body = TrustedSystemLoginBody::read(request.body.as_deref().unwrap_or_default())?;
        let client = tenant.settings.slas_clients.iter().find(|client| client.id.as_str() == body.client_id);
        self.count_use(Endpoint::TrustedSystemLogin, client.map(|client| &client.id), tenant);
        self.check_allowed()?;
        site(tenant, route)?;
        OnBehalfHeader::registered(&body.login)
    }

    /// Returns the response to the login: the Customer document and the token.
    ///
    /// # Errors
    /// The errors of the Shopper Customers API.
    pub(in crate::gateway) async fn trusted_system_response(
        &self,
        tenant: &Tenant,
        subject: &Arc<OnBehalfSubject>,
        token: &OnBehalfToken,
        headers: &HeaderMap,
    ) -> Result<LocalResponse, GatewayError> {
        let (shopper, token) = (&token.ready.verified.shopper, token.ready.token());
        let document = customer_document(tenant, &subject.site, shopper, headers, &token).await?;
        Ok(response::with_token(document, &token))
    }
}
