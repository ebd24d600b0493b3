//! A system client: who a verified Account Manager token speaks for.
//!
//! Owns the check of a system token: RS256 under Account Manager's keys, issuer, times, and the tenant
//! among its scopes. What a client may do at this gateway is the configuration's to say, not the token's alone.
//! The claims of a token that verified are remembered by the SHA-256 of the whole token, until the key set changes; its
//! times and tenant are checked on each request anew.

use std::sync::Arc;

use serde::Deserialize;

use super::cache::{HashedToken, VerifiedTokenCache};
use crate::{
    jwks::{KeyError, KeyRing, TokenOrigin},
    jwt::{Audience, Unverifiable, Unverified, expiry},
    time::unix_now,
    types::{ClientId, Scopes, TENANT_SCOPE_PREFIX, TenantId},
};

/// How many tokens of trusted systems are remembered.
const REMEMBERED: usize = 1000;

/// The issuer that Account Manager's production tokens name.
const PUBLISHED_ISSUER: &str = "https://account.demandware.com:443/dwsso/oauth2";

/// Who a verified system token speaks for.
#[derive(Debug, Clone)]
pub struct SystemClient {
    /// The Account Manager client.
    pub client: ClientId,
    /// What it may do, the tenant's own scope included.
    pub scopes: Scopes,
    /// When its token ends, and from when on it counts, seconds since 1970.
    expires_at: u64,
    not_before: Option<u64>,
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

/// What ties a system token to what it is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedBy {
    /// Its scopes: the tenant's own must be among them.
    Scopes,
    /// The roles of its client, which only Salesforce knows. Tokens for that need no scopes; one that names tenants in its
    /// scopes must name this one.
    Roles,
}

/// Verifies system tokens of one Account Manager.
#[derive(Debug)]
pub struct SystemVerifier {
    ring: Arc<KeyRing>,
    issuers: Vec<String>,
    /// Whose a token is, and the generation of the keys that verified it.
    cache: VerifiedTokenCache<(Arc<SystemClient>, u64)>,
}

#[derive(Debug, Deserialize)]
struct Claims<'c> {
    iss: String,
    sub: String,
    #[serde(borrow)]
    aud: Audience<'c>,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    /// Absent from tokens of clients whose roles decide.
    #[serde(default)]
    scope: Option<ScopeClaim>,
}

/// A list, as Account Manager writes it, or one text, as RFC 9068 does.
#[derive(Debug, Deserialize)]
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
        Self { ring, issuers, cache: VerifiedTokenCache::new(REMEMBERED) }
    }

    /// Who a token speaks for, for this tenant.
    ///
    /// # Errors
    /// [`SystemTokenError`].
    pub async fn verify(
        &self,
        token: &HashedToken<'_>,
        tenant: &TenantId,
        judged_by: JudgedBy,
    ) -> Result<Arc<SystemClient>, SystemTokenError> {
        let client = match self.cache.get(token, |(_, generation)| self.ring.is_current(*generation)) {
            Some((client, _)) => client,
            None => self.verify_anew(token).await?,
        };
        client.check(tenant, judged_by, unix_now())?;
        Ok(client)
    }

    async fn verify_anew(&self, token: &HashedToken<'_>) -> Result<Arc<SystemClient>, SystemTokenError> {
        let unverified =
            Unverified::read(token.text(), self.ring.algorithm()).map_err(|_| SystemTokenError::Invalid)?;
        let claimed = unverified.claimed_origin();
        let origin = match &claimed.issuer {
            Some(issuer) if self.issuers.iter().any(|own| own == issuer) => {
                TokenOrigin::Client { issued_at: claimed.issued_at }
            }
            _ => TokenOrigin::OtherIssuer,
        };
        let key = self.ring.key(unverified.kid(), origin).await.map_err(|error| match error {
            KeyError::UnknownKid => SystemTokenError::Invalid,
            KeyError::Unavailable => SystemTokenError::KeysUnavailable,
        })?;
        let (claims, _): (Claims<'_>, _) = unverified.verify(&key.verifying_key).map_err(|error: Unverifiable| {
            tracing::debug!(%error, "system token refused");
            SystemTokenError::Invalid
        })?;
        let client = Arc::new(self.client(&claims)?);
        self.cache.insert(token, (Arc::clone(&client), key.generation));
        Ok(client)
    }

    fn client(&self, claims: &Claims<'_>) -> Result<SystemClient, SystemTokenError> {
        // A client's own token is for itself, perhaps among others. A user's is for a client, and so is an ID token.
        if !self.issuers.contains(&claims.iss) || !claims.aud.includes(&claims.sub) {
            return Err(SystemTokenError::Invalid);
        }
        let scopes: Result<Scopes, _> = match &claims.scope {
            Some(ScopeClaim::List(list)) => list.iter().map(|scope| scope.parse()).collect(),
            Some(ScopeClaim::Text(text)) => text.parse(),
            None => Ok(Scopes::default()),
        };
        Ok(SystemClient {
            client: claims.sub.parse().map_err(|_| SystemTokenError::Invalid)?,
            scopes: scopes.map_err(|_| SystemTokenError::Invalid)?,
            expires_at: claims.exp,
            not_before: claims.nbf,
        })
    }
}

impl SystemClient {
    /// Whether its token counts now, for this tenant.
    fn check(&self, tenant: &TenantId, judged_by: JudgedBy, now: u64) -> Result<(), SystemTokenError> {
        if expiry::is_expired(self.expires_at, now) {
            return Err(SystemTokenError::Expired);
        }
        if self.not_before.is_some_and(|from| expiry::is_not_yet_valid(from, now)) {
            return Err(SystemTokenError::Invalid);
        }
        let mut tenants =
            self.scopes.iter().filter_map(|scope| scope.as_str().strip_prefix(TENANT_SCOPE_PREFIX)).peekable();
        let needs_none = judged_by == JudgedBy::Roles && tenants.peek().is_none();
        if needs_none || tenants.any(|named| named == tenant.as_str()) {
            Ok(())
        } else {
            Err(SystemTokenError::TenantWrong)
        }
    }
}
