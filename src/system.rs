//! A system client: who a verified Account Manager token speaks for.
//!
//! Owns the check of a system token: RS256 under Account Manager's keys, issuer, times, and the tenant
//! among its scopes. What a client may do at this gateway is the configuration's to say, not the token's alone.

use std::sync::Arc;

use serde::Deserialize;

use crate::{
    clock::unix_now,
    jwt::{Unverifiable, Unverified},
    keys::{KeyRing, NoKey, Source},
    names::{ClientId, Scopes, TenantId},
};

/// How far the clocks of Account Manager and of this machine may differ, seconds.
const LEEWAY_SECONDS: u64 = 30;
/// The issuer that Account Manager's production tokens name.
const PUBLISHED_ISSUER: &str = "https://account.demandware.com:443/dwsso/oauth2";
/// Stands before the tenant in the scope that ties a token to it.
const TENANT_SCOPE: &str = "SALESFORCE_COMMERCE_API:";

/// Who a verified system token speaks for.
#[derive(Debug, Clone)]
pub struct SystemClient {
    /// The Account Manager client.
    pub client: ClientId,
    /// What it may do, the tenant's own scope included.
    pub scopes: Scopes,
}

/// Why a system token speaks for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SystemTokenError {
    /// It is no valid token of Account Manager.
    #[error("the token is not a valid token of Account Manager")]
    Invalid,
    /// Its end has come.
    #[error("the token has expired")]
    Expired,
    /// It was issued for other tenants.
    #[error("the token is of another tenant")]
    TenantWrong,
    /// Nobody can tell at the moment.
    #[error("the token cannot be verified at the moment")]
    KeysUnavailable,
}

/// Verifies system tokens of one Account Manager.
#[derive(Debug, Clone)]
pub struct SystemVerifier {
    ring: Arc<KeyRing>,
    issuers: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    scope: ScopeClaim,
}

/// A list, as Account Manager writes it, or one text, as RFC 9068 does.
#[derive(Deserialize)]
#[serde(untagged)]
enum ScopeClaim {
    List(Vec<String>),
    Text(String),
}

impl SystemVerifier {
    /// A verifier for the Account Manager whose tokens name `issuer`. A simulator on this machine may
    /// also name the published issuer: its keys are still only those of the configured address.
    #[must_use]
    pub fn new(ring: Arc<KeyRing>, issuer: String, on_this_machine: bool) -> Self {
        let mut issuers = vec![issuer];
        if on_this_machine {
            issuers.push(PUBLISHED_ISSUER.to_owned());
        }
        Self { ring, issuers }
    }

    /// Who a token speaks for, for this tenant.
    ///
    /// # Errors
    /// [`SystemTokenError`].
    pub async fn verify(&self, token: &str, tenant: &TenantId) -> Result<SystemClient, SystemTokenError> {
        let unverified = Unverified::read(token, self.ring.algorithm()).map_err(|_| SystemTokenError::Invalid)?;
        let source = match unverified.claimed_issuer() {
            Some(issuer) if self.issuers.contains(&issuer) => {
                Source::Presented { issued_at: unverified.claimed_issue() }
            }
            _ => Source::Foreign,
        };
        let key = self.ring.key(unverified.kid(), source).await.map_err(|error| match error {
            NoKey::Unknown => SystemTokenError::Invalid,
            NoKey::Unavailable => SystemTokenError::KeysUnavailable,
        })?;
        let claims: Claims = unverified.verify(&key).map_err(|error: Unverifiable| {
            tracing::debug!(%error, "system token refused");
            SystemTokenError::Invalid
        })?;
        self.client(&claims, tenant, unix_now())
    }

    fn client(&self, claims: &Claims, tenant: &TenantId, now: u64) -> Result<SystemClient, SystemTokenError> {
        if !self.issuers.contains(&claims.iss) || claims.sub != claims.aud {
            return Err(SystemTokenError::Invalid);
        }
        if now >= claims.exp.saturating_add(LEEWAY_SECONDS) {
            return Err(SystemTokenError::Expired);
        }
        if claims.nbf.is_some_and(|from| from > now.saturating_add(LEEWAY_SECONDS)) {
            return Err(SystemTokenError::Invalid);
        }
        let client: ClientId = claims.sub.parse().map_err(|_| SystemTokenError::Invalid)?;
        let scopes: Result<Scopes, _> = match &claims.scope {
            ScopeClaim::List(list) => list.iter().map(|scope| scope.parse()).collect(),
            ScopeClaim::Text(text) => text.parse(),
        };
        let scopes = scopes.map_err(|_| SystemTokenError::Invalid)?;
        if !names_tenant(&scopes, tenant) {
            return Err(SystemTokenError::TenantWrong);
        }
        Ok(SystemClient { client, scopes })
    }
}

fn names_tenant(scopes: &Scopes, tenant: &TenantId) -> bool {
    scopes.iter().any(|scope| scope.as_str().strip_prefix(TENANT_SCOPE) == Some(tenant.as_str()))
}
