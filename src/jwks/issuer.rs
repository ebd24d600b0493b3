//! Who publishes a key set: SLAS of one organization, or Account Manager.
//!
//! Owns what differs between the two. Keys come only from the configured service's pinned address, never from what
//! a token names.

use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::Algorithm;

use crate::salesforce::{account_manager::AccountManager, error::SalesforceError, slas::Slas};

/// A service that answers at all does so within this time, mostly.
const SIGN_OF_LIFE: Duration = Duration::from_millis(700);

/// Who publishes a key set.
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

    /// Where its key set is.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Slas(slas) => slas.jwks_url(),
            Self::AccountManager(account_manager) => account_manager.jwks_url().into(),
        }
    }

    /// Its key set, as it came.
    pub(super) async fn key_set(&self) -> Result<Bytes, SalesforceError> {
        match self {
            Self::Slas(slas) => slas.jwks().await,
            Self::AccountManager(account_manager) => account_manager.jwks().await,
        }
    }

    /// Whether it is worth asking for its key set. SLAS can be asked something cheaper first; Account
    /// Manager has no such limit.
    pub(super) async fn answers(&self) -> bool {
        match self {
            Self::Slas(slas) => slas.probe(SIGN_OF_LIFE).await,
            Self::AccountManager(_) => true,
        }
    }
}
