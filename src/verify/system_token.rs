//! The verifier of system tokens: RS256 under Account Manager's keys, issuer, audience, times and tenant.
//!
//! A verified token is cached until the key set changes. Its times and its tenant are checked on each request. The configuration
//! (`[[callers]]`), not the token alone, decides which operations a client may call.

use std::sync::Arc;

use serde::Deserialize;

use super::cache::{HashedToken, VerifiedTokenCache};
use crate::{
    jwks::{KeyError, KeyRing, TokenOrigin},
    jwt::{Audience, UnverifiedToken, VerifyError, expiry},
    time::unix_now,
    types::{ClientId, Scopes, TENANT_SCOPE_PREFIX, TenantId},
};

/// Maximum cached tokens.
const MAX_CACHED_TOKENS: usize = 1000;
/// The issuer of Account Manager's production tokens.
const PRODUCTION_ISSUER: &str = "https://account.demandware.com:443/dwsso/oauth2";

/// A client of Account Manager, and what its token allows.
#[derive(Debug, Clone)]
pub struct SystemClient {
    /// The client's id.
    pub client: ClientId,
    /// The token's scopes, the tenant's own scope included.
    pub scopes: Scopes,
    /// The token's validity period, in seconds since 1970.
    expires_at: u64,
    not_before: Option<u64>,
}

#[cfg(test)]
impl SystemClient {
    /// A client with these scopes, for tests of what it may do.
    pub(crate) fn with_scopes(scopes: Scopes) -> Self {
        let client = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".parse().expect("a client id");
        Self { client, scopes, expires_at: u64::MAX, not_before: None }
    }
}

/// An error of a system token's verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SystemTokenError {
    /// The token is not a valid token of Account Manager.
    #[error("the token is not a valid token of Account Manager")]
    Invalid,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is of other tenants.
    #[error("the token is of another tenant")]
    WrongTenant,
    /// Account Manager's keys are unavailable.
    #[error("the token cannot be verified at the moment")]
    KeysUnavailable,
}

/// How Salesforce authorizes the call that a system token is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationModel {
    /// By the token's scopes. The tenant's own scope must be among them.
    Scopes,
    /// By the roles of the client, which only Salesforce knows. The token needs no scopes. If its scopes name tenants, this
    /// one must be among them.
    Roles,
}

/// Verifies system tokens of one Account Manager.
#[derive(Debug)]
pub struct SystemVerifier {
    key_ring: Arc<KeyRing>,
    issuers: Vec<String>,
    /// Each client with the generation of the key that verified its token.
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
    /// Absent if the client is authorized by its roles.
    #[serde(default)]
    scope: Option<ScopeClaim>,
}

/// A list, as Account Manager writes it, or one text, as in RFC 9068.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ScopeClaim {
    List(Vec<String>),
    Text(String),
}

impl SystemVerifier {
    /// A verifier for the Account Manager whose tokens name `issuer`. With `is_local` (a simulator on this machine) the tokens
    /// may also name the production issuer. Their keys still come only from the configured address.
    #[must_use]
    pub fn new(key_ring: Arc<KeyRing>, issuer: String, is_local: bool) -> Self {
        let mut issuers = vec![issuer];
        if is_local {
            issuers.push(PRODUCTION_ISSUER.to_owned());
        }
        Self { key_ring, issuers, cache: VerifiedTokenCache::new(MAX_CACHED_TOKENS) }
    }

    /// Verifies a token for one tenant.
    ///
    /// # Errors
    /// [`SystemTokenError::WrongTenant`] if the token is of other tenants. Another [`SystemTokenError`] if it is invalid, has
    /// expired or cannot be verified.
    pub async fn verify(
        &self,
        token: &HashedToken<'_>,
        tenant: &TenantId,
        authorization: AuthorizationModel,
    ) -> Result<Arc<SystemClient>, SystemTokenError> {
        let client = match self.cache.get(token, |(_, generation)| self.key_ring.is_current(*generation)) {
            Some((client, _)) => client,
            None => self.verify_uncached(token).await?,
        };
        client.check(tenant, authorization, unix_now())?;
        Ok(client)
    }

    async fn verify_uncached(&self, token: &HashedToken<'_>) -> Result<Arc<SystemClient>, SystemTokenError> {
        let unverified =
            UnverifiedToken::parse(token.text(), self.key_ring.algorithm()).map_err(|_| SystemTokenError::Invalid)?;
        let claimed = unverified.unverified_claims();
        let origin = match &claimed.issuer {
            Some(issuer) if self.issuers.iter().any(|own| own == issuer) => {
                TokenOrigin::Client { issued_at: claimed.issued_at }
            }
            _ => TokenOrigin::OtherIssuer,
        };
        let key = self.key_ring.key(unverified.kid(), origin).await.map_err(|error| match error {
            KeyError::UnknownKid => SystemTokenError::Invalid,
            KeyError::Unavailable => SystemTokenError::KeysUnavailable,
        })?;
        let (claims, _): (Claims<'_>, _) = unverified.verify(&key.verifying_key).map_err(|error: VerifyError| {
            tracing::debug!(%error, "system token rejected");
            SystemTokenError::Invalid
        })?;
        let client = Arc::new(self.client(&claims)?);
        self.cache.insert(token, (Arc::clone(&client), key.generation));
        Ok(client)
    }

    fn client(&self, claims: &Claims<'_>) -> Result<SystemClient, SystemTokenError> {
        // The audience of a client's own token includes the client. Tokens of users and ID tokens are for another client.
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
    /// Checks that the token is valid now and for this tenant.
    fn check(&self, tenant: &TenantId, authorization: AuthorizationModel, now: u64) -> Result<(), SystemTokenError> {
        if expiry::is_expired(self.expires_at, now) {
            return Err(SystemTokenError::Expired);
        }
        if self.not_before.is_some_and(|not_before| expiry::is_not_yet_valid(not_before, now)) {
            return Err(SystemTokenError::Invalid);
        }
        let mut tenants =
            self.scopes.iter().filter_map(|scope| scope.as_str().strip_prefix(TENANT_SCOPE_PREFIX)).peekable();
        let needs_no_tenant = authorization == AuthorizationModel::Roles && tenants.peek().is_none();
        if needs_no_tenant || tenants.any(|named| named == tenant.as_str()) {
            Ok(())
        } else {
            Err(SystemTokenError::WrongTenant)
        }
    }
}
