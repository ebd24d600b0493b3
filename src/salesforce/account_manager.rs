//! Account Manager: the issuer of system tokens.

use bytes::Bytes;
use http::StatusCode;
use url::Url;

use super::{
    exchange::ExchangeError,
    transport::{Purpose, Transport},
};

const JWKS_PATH: &str = "/dwsso/oauth2/connect/jwk_uri";
const ISSUER_PATH: &str = "/dwsso/oauth2";

/// Account Manager at one address.
#[derive(Debug, Clone)]
pub struct AccountManager {
    transport: Transport,
    url: Url,
}

impl AccountManager {
    /// Account Manager at `url` (origin only).
    #[must_use]
    pub fn new(transport: Transport, url: Url) -> Self {
        Self { transport, url }
    }

    /// The issuer of its tokens: its origin with the port spelled out, and `/dwsso/oauth2`, e.g.
    /// `https://account.demandware.com:443/dwsso/oauth2`.
    #[must_use]
    pub fn issuer(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}://{host}:{port}{ISSUER_PATH}", self.url.scheme())
    }

    /// Where its key set is.
    #[must_use]
    pub fn jwks_url(&self) -> Url {
        let mut url = self.url.clone();
        url.set_path(JWKS_PATH);
        url
    }

    /// Its key set, as it came.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn jwks(&self) -> Result<Bytes, ExchangeError> {
        let purpose = Purpose { service: "account_manager", flow: "jwks" };
        let answer = self.transport.send(purpose, self.transport.client().get(self.jwks_url())).await?;
        if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(ExchangeError::of(&answer)) }
    }
}
