//! A client's credentials as header values.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::types::ClientId;

/// The header of a private client's credentials where `Authorization` holds the shopper's (`/login`, `/authorize`).
pub const CLIENT_AUTH: HeaderName = HeaderName::from_static("x-slas-client-auth");
/// The header of a private client's credentials where `Authorization` holds the agent's (`/trusted-agent/token`).
pub const AGENT_CLIENT_AUTH: HeaderName = HeaderName::from_static("_sfdc_client_auth");

/// Returns `base64(clientId:clientSecret)` without the scheme `Basic`.
#[must_use]
pub fn bare_credentials(client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    credentials("", client_id, secret)
}

/// Returns the value of `Authorization` for Basic credentials (RFC 7617).
#[must_use]
pub fn basic_credentials(client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    credentials("Basic ", client_id, secret)
}

fn credentials(scheme: &str, client_id: &ClientId, secret: &SecretString) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{client_id}:{}", secret.expose_secret()));
    // Base64's alphabet is always a valid header value.
    let mut value = HeaderValue::from_str(&format!("{scheme}{encoded}")).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
