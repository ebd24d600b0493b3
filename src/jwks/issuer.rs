//! The publisher of a key set: SLAS of one organization, or Account Manager.
//!
//! A key set comes only from the configured address. No address in a token is ever used.

use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::Algorithm;

use crate::salesforce::{account_manager::AccountManager, error::SalesforceError, slas::Slas};

/// The time limit of a health probe. A service that is up usually answers faster.
const PROBE_TIMEOUT: Duration = Duration::from_millis(700);

/// The publisher of a key set.
#[derive(Debug, Clone)]
pub enum Issuer {
    /// SLAS of one organization: ES256.
    Slas(Slas),
    /// Account Manager: RS256.
    AccountManager(AccountManager),
}

impl Issuer {
    /// The only algorithm of this issuer's tokens.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Slas(_) => Algorithm::ES256,
            Self::AccountManager(_) => Algorithm::RS256,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Slas(_) => "slas",
            Self::AccountManager(_) => "account_manager",
        }
    }

    /// The address of its JWKS.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        match self {
            Self::Slas(slas) => slas.jwks_url(),
            Self::AccountManager(account_manager) => account_manager.jwks_url().into(),
        }
    }

    /// Fetches its JWKS.
    pub(super) async fn fetch_jwks(&self) -> Result<Bytes, SalesforceError> {
        match self {
            Self::Slas(slas) => slas.jwks().await,
            Self::AccountManager(account_manager) => account_manager.jwks().await,
        }
    }

    /// Whether a fetch of its JWKS is likely to succeed. SLAS limits JWKS fetches, so a cheaper endpoint is called first.
    /// Account Manager has no limit and is not probed.
    pub(super) async fn is_reachable(&self) -> bool {
        match self {
            Self::Slas(slas) => slas.probe(PROBE_TIMEOUT).await,
            Self::AccountManager(_) => true,
        }
    }
}
