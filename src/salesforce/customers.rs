//! The one Shopper API call that the gateway makes itself: a shopper's own profile.
//!
//! The gateway passes the document on unchanged. It only checks that the document is a JSON object, and not an error page of an
//! intermediary.

use std::collections::HashMap;

use bytes::Bytes;
use http::{StatusCode, header::ACCEPT};
use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use url::Url;

use super::{
    error::SalesforceError,
    guard::Priority,
    json::without_byte_order_mark,
    response::Response,
    transport::{CallKind, Transport},
};
use crate::types::{CustomerId, OrganizationId, SiteId};

/// Shopper Customers of one organization.
#[derive(Debug, Clone)]
pub struct Customers {
    transport: Transport,
    base: String,
}

impl Customers {
    /// Creates a client of Shopper Customers at `api` (origin only).
    #[must_use]
    pub fn new(transport: Transport, api: &Url, organization: &OrganizationId) -> Self {
        let origin = api.as_str().trim_end_matches('/');
        Self {
            transport,
            base: format!("{origin}/customer/shopper-customers/v1/organizations/{organization}/customers"),
        }
    }

    /// Returns the Customer document, by `shopper-customers.getCustomer` with the shopper's own token.
    ///
    /// # Errors
    /// [`SalesforceError`] if the call fails or the document is not a JSON object.
    pub async fn customer(
        &self,
        site: &SiteId,
        customer: &CustomerId,
        access_token: &SecretString,
    ) -> Result<Bytes, SalesforceError> {
        let request = self
            .transport
            .client()
            .get(format!("{}/{customer}", self.base))
            .query(&[("siteId", site.as_str())])
            .bearer_auth(access_token.expose_secret())
            .header(ACCEPT, "application/json");
        let kind = CallKind::new("api", "customer", Priority::Profile).retryable();
        let document = |response: &Response| match response.status {
            StatusCode::OK if is_object(&response.body) => Ok(response.body.clone()),
            StatusCode::OK => Err(SalesforceError::malformed("profile is not a JSON object")),
            _ => Err(SalesforceError::from_response(response)),
        };
        self.transport.exchange(kind, request, document).await
    }
}

fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(without_byte_order_mark(body)).is_ok()
}
