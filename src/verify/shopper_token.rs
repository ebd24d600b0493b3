//! The verifier of shopper tokens: signature, issuer, audience, tenant, times and claims.
//!
//! A verified token is cached until the issuer's key set changes. Expiry, organization, site and scopes are not part of that and
//! are checked on each request. A token's digest covers its signed part only: ECDSA allows two signatures of the same text, and
//! a logout must revoke both.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use serde::Deserialize;

use super::{
    cache::{HashedToken, VerifiedTokenCache},
    isb::Isb,
    shopper::Shopper,
};
use crate::{
    jwks::{KeyError, KeyRing, TokenOrigin},
    jwt::{Audience, ParseError, TokenDigest, UnverifiedToken, VerifyError, expiry},
    observability::metrics::Metrics,
    store::RevocationKeys,
    time::{unix_now, unix_now_ms},
    types::{ByOrganization, ClientId, OrganizationId, Scopes, TenantId, Usid},
};

/// Maximum cached tokens.
const MAX_CACHED_TOKENS: usize = 100_000;
/// Maximum cached scope lists. There is about one for each client and kind of login.
const MAX_SCOPE_LISTS: usize = 1000;

/// An error of a shopper token's verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is malformed, or has another algorithm than its issuer's.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// The signature is not by a key of the issuer.
    #[error("the token's signature does not verify")]
    InvalidSignature,
    /// The issuer does not publish the token's key.
    #[error("the issuer does not publish the token's key")]
    UnknownKey,
    /// The issuer's keys are unavailable.
    #[error("the token cannot be verified at the moment")]
    KeysUnavailable,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token is of another issuer or for another audience.
    #[error("the token is of another issuer or for another audience")]
    WrongIssuer,
    /// The token is of another organization than the requested one.
    #[error("the token is of another organization")]
    WrongOrganization,
    /// The signature verifies, but the claims are not those of a shopper's access token.
    #[error("the token is not a shopper's access token")]
    NotAShopperToken,
}

/// A verified token.
#[derive(Debug, Clone)]
pub struct VerifiedToken {
    /// The shopper that the token is for.
    pub shopper: Arc<Shopper>,
    /// The digest that identifies the token.
    pub digest: TokenDigest,
    /// The generation of the key that verified it: see [`ShopperVerifier::is_current`].
    pub generation: u64,
}

impl VerifiedToken {
    /// Whether the token has expired, with leeway.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        expiry::is_expired(self.shopper.expires_at, now)
    }
}

/// Verifies the shopper tokens of all tenants.
#[derive(Debug)]
pub struct ShopperVerifier {
    key_rings: ByOrganization<Arc<KeyRing>>,
    cache: VerifiedTokenCache<VerifiedToken>,
    /// Parsed scope lists by their text in `scp`. Thousands of tokens have the same one.
    scope_lists: Cache<Box<str>, Scopes>,
    /// The seconds by which SLAS's clock is known to be ahead of this machine's, learned from tokens issued in the future.
    clock_skew: ByOrganization<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// The sender of a token.
#[derive(Debug, Clone, Copy)]
enum TokenSource {
    Slas,
    Client,
}

/// The claims of a shopper's access token that the gateway uses.
#[derive(Debug, Deserialize)]
pub struct Claims<'c> {
    #[serde(borrow)]
    iss: Cow<'c, str>,
    #[serde(borrow)]
    aud: Audience<'c>,
    #[serde(borrow)]
    sub: Cow<'c, str>,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    iat: Option<u64>,
    #[serde(borrow)]
    scp: Cow<'c, str>,
    #[serde(borrow)]
    isb: Cow<'c, str>,
}

impl ShopperVerifier {
    /// A verifier with the key ring of each organization.
    #[must_use]
    pub fn new(key_rings: ByOrganization<Arc<KeyRing>>, metrics: Arc<Metrics>) -> Self {
        let clock_skew = key_rings.keys().map(|organization| (organization.clone(), AtomicU64::new(0))).collect();
        Self {
            key_rings,
            cache: VerifiedTokenCache::new(MAX_CACHED_TOKENS),
            scope_lists: Cache::new(MAX_SCOPE_LISTS),
            clock_skew,
            metrics,
        }
    }

    /// The time by SLAS's clock after `wait`, in seconds since 1970. The result is never earlier than this machine's clock, nor
    /// than the `iat` of a token that this verifier has verified.
    #[must_use]
    pub fn slas_time_after(&self, wait: Duration, organization: &OrganizationId) -> u64 {
        let skew = self.clock_skew.get(organization).map_or(0, |skew| skew.load(Ordering::Relaxed));
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        (unix_now_ms().saturating_add(wait) / 1000).saturating_add(skew)
    }

    /// Takes over the clock skews that another verifier has learned.
    pub fn inherit_clock_skew(&self, other: &Self) {
        for (organization, skew) in &self.clock_skew {
            if let Some(known) = other.clock_skew.get(organization) {
                skew.fetch_max(known.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// Whether every organization has usable keys.
    #[must_use]
    pub fn has_usable_keys(&self) -> bool {
        self.key_rings.values().all(|key_ring| key_ring.has_usable_keys())
    }

    /// Removes expired tokens from the cache. A token whose session outlives it is verified again when a client presents it.
    pub fn remove_expired(&self, now: u64) {
        self.cache.retain(|verified| !verified.is_expired(now));
    }

    /// The number of cached tokens.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.cache.len()
    }

    /// Verifies a token that a client presented. An expired token is accepted: the caller checks expiry, because a session may
    /// outlive its token.
    ///
    /// # Errors
    /// [`TokenError::WrongOrganization`] if the token is of another organization. Another [`TokenError`] if it is invalid or
    /// cannot be verified.
    pub async fn verify(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
    ) -> Result<VerifiedToken, TokenError> {
        self.verify_from(token, organization, TokenSource::Client).await
    }

    /// Verifies a token that SLAS has just returned to the gateway. An unknown key is fetched at once.
    ///
    /// # Errors
    /// Those of [`ShopperVerifier::verify`].
    pub async fn verify_issued(&self, token: &str, organization: &OrganizationId) -> Result<VerifiedToken, TokenError> {
        self.verify_from(&HashedToken::new(token), organization, TokenSource::Slas).await
    }

    /// The result of an earlier verification. `None` if the token is not cached.
    ///
    /// # Errors
    /// [`TokenError::WrongOrganization`] if the token is of another organization.
    pub fn cached(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
    ) -> Result<Option<VerifiedToken>, TokenError> {
        let Some(verified) = self.cached_token(token) else { return Ok(None) };
        self.count("cached");
        check_organization(verified, organization).map(Some)
    }

    /// Whether the key that verified a token is still in use. The holder of a [`VerifiedToken`] checks this before each use.
    #[must_use]
    pub fn is_current(&self, verified: &VerifiedToken) -> bool {
        let key_ring = self.key_rings.get(&verified.shopper.organization);
        key_ring.is_some_and(|key_ring| key_ring.is_current(verified.generation))
    }

    fn cached_token(&self, token: &HashedToken<'_>) -> Option<VerifiedToken> {
        self.cache.get(token, |verified| self.is_current(verified))
    }

    async fn verify_from(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
        source: TokenSource,
    ) -> Result<VerifiedToken, TokenError> {
        let now = unix_now();
        let verified = match self.cached_token(token) {
            Some(verified) => {
                self.count("cached");
                Ok(verified)
            }
            None => {
                self.verify_uncached(token, organization, source, now).await.inspect_err(|_| self.count("rejected"))
            }
        };
        check_organization(verified?, organization)
    }

    async fn verify_uncached(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
        source: TokenSource,
        now: u64,
    ) -> Result<VerifiedToken, TokenError> {
        let verified = self.verify_text(token.text(), organization, source, now).await?;
        self.count("verified");
        self.cache.insert(token, verified.clone());
        Ok(verified)
    }

    /// Verifies everything that stays true for the token's lifetime.
    async fn verify_text(
        &self,
        token: &str,
        organization: &OrganizationId,
        source: TokenSource,
        now: u64,
    ) -> Result<VerifiedToken, TokenError> {
        let own = self.key_rings.get(organization).ok_or(TokenError::WrongOrganization)?;
        let unverified = UnverifiedToken::parse(token, own.algorithm())?;
        // A token of another organization of this gateway is verified with that organization's keys. The client then gets
        // the error "wrong organization" instead of "invalid".
        let claimed = unverified.unverified_claims();
        let of_issuer = claimed.issuer.and_then(|issuer| self.key_rings.get(&organization_of(&issuer)?));
        let key_ring = of_issuer.unwrap_or(own);
        let origin = match source {
            TokenSource::Slas => TokenOrigin::Issuer,
            TokenSource::Client if of_issuer.is_none() => TokenOrigin::OtherIssuer,
            TokenSource::Client => TokenOrigin::Client { issued_at: claimed.issued_at },
        };
        let key = key_ring.key(unverified.kid(), origin).await.map_err(|error| match error {
            KeyError::UnknownKid => TokenError::UnknownKey,
            KeyError::Unavailable => TokenError::KeysUnavailable,
        })?;
        let (claims, digest): (Claims<'_>, _) = unverified.verify(&key.verifying_key).map_err(|error| match error {
            VerifyError::InvalidSignature => TokenError::InvalidSignature,
            VerifyError::Malformed(_) => TokenError::NotAShopperToken,
        })?;
        if claims.nbf.or(claims.iat).is_some_and(|not_before| expiry::is_not_yet_valid(not_before, now)) {
            return Err(TokenError::NotYetValid);
        }
        let shopper = Arc::new(claims.shopper_with(self.parse_scopes(&claims.scp)?)?);
        if shopper.issued_at > now
            && let Some(skew) = self.clock_skew.get(&shopper.organization)
        {
            skew.fetch_max(shopper.issued_at - now, Ordering::Relaxed);
        }
        Ok(VerifiedToken { shopper, digest, generation: key.generation })
    }

    /// Parses the scopes of a verified token. Equal lists share their memory.
    fn parse_scopes(&self, text: &str) -> Result<Scopes, TokenError> {
        if let Some(scopes) = self.scope_lists.get(text) {
            return Ok(scopes);
        }
        let scopes = parse_scopes(text)?;
        self.scope_lists.insert(text.into(), scopes.clone());
        Ok(scopes)
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_verifications.with_label_values(&[result]).inc();
    }
}

/// Checks that claims, verified or not, have the form of a shopper's access token. Returns no [`Shopper`], because that requires
/// a verified signature.
///
/// # Errors
/// [`TokenError::NotAShopperToken`] or [`TokenError::WrongIssuer`] if the claims have another form.
pub fn check_claims(payload: &[u8]) -> Result<(), TokenError> {
    let claims: Claims<'_> = serde_json::from_slice(payload).map_err(|_| TokenError::NotAShopperToken)?;
    claims.shopper().map(|_| ())
}

impl Claims<'_> {
    /// Converts the claims. Issuer, audience and subject must name the same tenant.
    ///
    /// # Errors
    /// [`TokenError::WrongIssuer`] if they name different tenants, [`TokenError::NotAShopperToken`] if a claim is invalid.
    pub fn shopper(&self) -> Result<Shopper, TokenError> {
        self.shopper_with(parse_scopes(&self.scp)?)
    }

    fn shopper_with(&self, scopes: Scopes) -> Result<Shopper, TokenError> {
        let organization = organization_of(&self.iss).ok_or(TokenError::WrongIssuer)?;
        let (_, environment_and_tenant) = self.iss.split_once('/').ok_or(TokenError::WrongIssuer)?;
        if !self.aud.includes(&format!("commercecloud/{environment_and_tenant}")) {
            return Err(TokenError::WrongIssuer);
        }
        let (tenant, client, usid) = parse_subject(&self.sub).ok_or(TokenError::NotAShopperToken)?;
        if tenant != organization.tenant() {
            return Err(TokenError::WrongIssuer);
        }
        let isb: Isb = self.isb.parse().map_err(|_| TokenError::NotAShopperToken)?;
        let is_registered = isb.registered_customer.is_some();
        let customer = isb.registered_customer.or(isb.guest_customer);
        Ok(Shopper {
            revocation_keys: RevocationKeys::new(&organization, &client, &usid, customer.as_ref()),
            organization,
            client,
            usid,
            is_registered,
            customer,
            site: isb.site,
            scopes,
            delegation: isb.delegation,
            agent: isb.agent,
            issued_at: self.iat.unwrap_or(0),
            expires_at: self.exp,
        })
    }
}

fn parse_scopes(text: &str) -> Result<Scopes, TokenError> {
    text.parse().map_err(|_| TokenError::NotAShopperToken)
}

/// Rejects a token that is valid for another organization than the requested one.
fn check_organization(verified: VerifiedToken, organization: &OrganizationId) -> Result<VerifiedToken, TokenError> {
    if verified.shopper.organization == *organization { Ok(verified) } else { Err(TokenError::WrongOrganization) }
}

/// The organization of an issuer: `slas/prod/zzrf_001` or `slas/dev/zzrf_001`.
fn organization_of(issuer: &str) -> Option<OrganizationId> {
    let tenant = issuer.strip_prefix("slas/prod/").or_else(|| issuer.strip_prefix("slas/dev/"))?;
    tenant.parse::<TenantId>().ok().map(|tenant| OrganizationId::from_tenant(&tenant))
}

/// Parses `cc-slas::{tenant}::scid:{client}::usid:{usid}`.
fn parse_subject(sub: &str) -> Option<(TenantId, ClientId, Usid)> {
    let mut parts = sub.strip_prefix("cc-slas::")?.split("::");
    let tenant = parts.next()?.parse().ok()?;
    let client = parts.next()?.strip_prefix("scid:")?.parse().ok()?;
    let usid = parts.next()?.strip_prefix("usid:")?.parse().ok()?;
    parts.next().is_none().then_some((tenant, client, usid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(audience: &'static str) -> Audience<'static> {
        Audience::One(audience.into())
    }

    fn claims() -> Claims<'static> {
        Claims {
            iss: "slas/prod/zzrf_001".into(),
            aud: one("commercecloud/prod/zzrf_001"),
            sub: "cc-slas::zzrf_001::scid:c1::usid:u1".into(),
            exp: 2,
            nbf: None,
            iat: None,
            scp: "sfcc.a sfcc.b".into(),
            isb: "uido:slas::upn:Guest::gcid:g1::chid:RefArch".into(),
        }
    }

    #[test]
    fn claims_of_one_tenant_are_accepted() {
        let shopper = claims().shopper().unwrap();
        assert_eq!(shopper.organization.as_str(), "f_ecom_zzrf_001");
        assert_eq!((shopper.client.as_str(), shopper.usid.as_str()), ("c1", "u1"));
        assert_eq!((shopper.customer.unwrap().as_str(), shopper.is_registered), ("g1", false));
    }

    #[test]
    fn claim_of_another_tenant_or_environment_is_rejected() {
        let changes: [fn(&mut Claims<'static>); 10] = [
            |claims| claims.iss = "slas/prod/zzrf_002".into(),
            |claims| claims.iss = "slas/dev/zzrf_001".into(),
            |claims| claims.iss = "slas/test/zzrf_001".into(),
            |claims| claims.iss = "https://slas/prod/zzrf_001".into(),
            |claims| claims.aud = one("commercecloud/prod/zzrf_002"),
            |claims| claims.aud = one("commercecloud/dev/zzrf_001"),
            |claims| claims.aud = one("slas/prod/zzrf_001"),
            |claims| claims.aud = Audience::List(vec!["commercecloud/prod/zzrf_002".into(), "commercecloud".into()]),
            |claims| claims.aud = Audience::List(Vec::new()),
            |claims| claims.sub = "cc-slas::zzrf_002::scid:c1::usid:u1".into(),
        ];
        for (position, change) in changes.iter().enumerate() {
            let mut claims = claims();
            change(&mut claims);
            assert_eq!(claims.shopper().unwrap_err(), TokenError::WrongIssuer, "change {position}");
        }
        let mut development = claims();
        development.iss = "slas/dev/zzrf_001".into();
        development.aud = one("commercecloud/dev/zzrf_001");
        assert!(development.shopper().is_ok());
        let mut several = claims();
        several.aud = Audience::List(vec!["https://shop.example".into(), "commercecloud/prod/zzrf_001".into()]);
        assert!(several.shopper().is_ok(), "Commerce Cloud is one of several audiences");
    }

    #[test]
    fn subject_without_three_parts_is_rejected() {
        for sub in [
            "",
            "cc-slas::zzrf_001",
            "cc-slas::zzrf_001::scid:c1",
            "cc-slas::zzrf_001::usid:u1::scid:c1",
            "cc-slas::zzrf_001::scid:c1::usid:u1::x",
            "cc-slas::zzrf_001::scid:::usid:u1",
            "zzrf_001::scid:c1::usid:u1",
        ] {
            assert!(parse_subject(sub).is_none(), "{sub}");
        }
    }
}
