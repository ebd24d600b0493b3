//! From a shopper's token to a [`Shopper`]: signature, issuer, audience, tenant, times and claims.
//!
//! Owns the verdict over a shopper token and remembers it by the SHA-256 of the whole token, so that
//! a token is verified once and not once a request. A remembered verdict ends with
//! the key set that gave it; what an operation asks (scopes, organization, site) is not part of it and
//! is checked on each request anew, and so is its end. A verified token is named by the SHA-256 of its
//! signed part alone: ECDSA has two signatures for one text, and a logout must end both.

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
    jwt::{Audience, Malformed, TokenDigest, Unverifiable, Unverified, expiry},
    observability::metrics::Metrics,
    store::RevocationKeys,
    time::{unix_now, unix_now_ms},
    types::{ByOrganization, ClientId, OrganizationId, Scopes, TenantId, Usid},
};

/// How many verdicts are remembered.
const REMEMBERED: usize = 100_000;
/// How many lists of scopes are shared: one a client and kind of login.
const MOST_SCOPES: usize = 1000;

/// Why a token speaks for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of a token of this issuer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Its signature is not of a key of this issuer.
    #[error("the token's signature does not verify")]
    SignatureWrong,
    /// It names a key that its issuer does not publish.
    #[error("the token names a key that its issuer does not publish")]
    KeyUnknown,
    /// Nobody can tell at the moment: the keys cannot be had.
    #[error("the token cannot be verified at the moment")]
    KeysUnavailable,
    /// It is from the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It was issued by another issuer or for another audience.
    #[error("the token is of another issuer or for another audience")]
    IssuerWrong,
    /// It was issued for an organization other than the one asked for.
    #[error("the token is of another organization")]
    OrganizationWrong,
    /// It is signed rightly but lacks what a shopper's access token says.
    #[error("the token is not a shopper's access token")]
    NotAShoppers,
}

/// A token that verified: who it speaks for, and by what it is recognised.
#[derive(Debug, Clone)]
pub struct VerifiedToken {
    /// Who it speaks for.
    pub shopper: Arc<Shopper>,
    /// Its name.
    pub digest: TokenDigest,
    /// Of the key that verified it: see [`ShopperVerifier::still_verifies`].
    pub generation: u64,
}

impl VerifiedToken {
    /// Whether its end has come, give or take the clocks' difference.
    #[must_use]
    pub fn has_ended(&self, now: u64) -> bool {
        expiry::is_expired(self.shopper.expires_at, now)
    }
}

/// Verifies the shopper tokens of every tenant.
#[derive(Debug)]
pub struct ShopperVerifier {
    rings: ByOrganization<Arc<KeyRing>>,
    cache: VerifiedTokenCache<VerifiedToken>,
    /// What `scp` says in tokens that verified: thousands say the same.
    scopes: Cache<Box<str>, Scopes>,
    /// How far SLAS's clock is ahead of this machine's at least, seconds: tokens from the future have said so.
    ahead: ByOrganization<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// Who gave the token to this gateway.
#[derive(Debug, Clone, Copy)]
enum Given {
    BySlas,
    ByAnyone,
}

/// What a shopper's access token says; of the whole only what the gateway judges by.
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
    pub fn new(rings: ByOrganization<Arc<KeyRing>>, metrics: Arc<Metrics>) -> Self {
        let ahead = rings.keys().map(|organization| (organization.clone(), AtomicU64::new(0))).collect();
        Self { rings, cache: VerifiedTokenCache::new(REMEMBERED), scopes: Cache::new(MOST_SCOPES), ahead, metrics }
    }

    /// The time by SLAS's clock after `wait`, in seconds since 1970. It is never earlier than this machine's clock, nor than
    /// the `iat` of any token that was verified here.
    #[must_use]
    pub fn slas_time_in(&self, wait: Duration, organization: &OrganizationId) -> u64 {
        let ahead = self.ahead.get(organization).map_or(0, |ahead| ahead.load(Ordering::Relaxed));
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        (unix_now_ms().saturating_add(wait) / 1000).saturating_add(ahead)
    }

    /// Takes over what another verifier has learnt of SLAS's clocks.
    pub fn learn_clocks_of(&self, other: &Self) {
        for (organization, ahead) in &self.ahead {
            if let Some(known) = other.ahead.get(organization) {
                ahead.fetch_max(known.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// Whether the keys of every organization are there.
    #[must_use]
    pub fn has_all_keys(&self) -> bool {
        self.rings.values().all(|ring| ring.has_usable_keys())
    }

    /// Forgets the verdicts over tokens that have ended. One whose session outlives it is verified again when it is
    /// shown again.
    pub fn forget_ended(&self, now: u64) {
        self.cache.retain(|verified| !verified.has_ended(now));
    }

    /// How many verdicts are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.cache.len()
    }

    /// Who a token that was presented speaks for, in this organization. Its end is the caller's to judge: a session
    /// may outlive it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
    ) -> Result<VerifiedToken, TokenError> {
        self.verify_from(token, organization, Given::ByAnyone).await
    }

    /// The same of a token that SLAS has just given to this gateway. A key that nobody knows is fetched at once.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify_issued(&self, token: &str, organization: &OrganizationId) -> Result<VerifiedToken, TokenError> {
        self.verify_from(&HashedToken::new(token), organization, Given::BySlas).await
    }

    /// The same of a token that has been verified before, without a look into it; `None` of any other.
    ///
    /// # Errors
    /// [`TokenError::OrganizationWrong`].
    pub fn seen_before(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
    ) -> Result<Option<VerifiedToken>, TokenError> {
        let Some(verified) = self.cached(token) else { return Ok(None) };
        self.count("cached");
        of_organization(verified, organization).map(Some)
    }

    async fn verify_from(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
        given: Given,
    ) -> Result<VerifiedToken, TokenError> {
        let now = unix_now();
        let verdict = match self.cached(token) {
            Some(verified) => {
                self.count("cached");
                Ok(verified)
            }
            None => self.verify_anew(token, organization, given, now).await.inspect_err(|_| self.count("rejected")),
        };
        of_organization(verdict?, organization)
    }

    /// Whether the keys are still those that verified it. Whoever keeps a verdict beside its token asks this each time.
    #[must_use]
    pub fn still_verifies(&self, verified: &VerifiedToken) -> bool {
        self.rings.get(&verified.shopper.organization).is_some_and(|ring| ring.is_current(verified.generation))
    }

    fn cached(&self, token: &HashedToken<'_>) -> Option<VerifiedToken> {
        self.cache.get(token, |verified| self.still_verifies(verified))
    }

    async fn verify_anew(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
        given: Given,
        now: u64,
    ) -> Result<VerifiedToken, TokenError> {
        let verified = self.read(token.text(), organization, given, now).await?;
        self.count("verified");
        self.cache.insert(token, verified.clone());
        Ok(verified)
    }

    /// Verifies everything that stays true for as long as the token lives.
    async fn read(
        &self,
        token: &str,
        organization: &OrganizationId,
        given: Given,
        now: u64,
    ) -> Result<VerifiedToken, TokenError> {
        let own = self.rings.get(organization).ok_or(TokenError::OrganizationWrong)?;
        let unverified = Unverified::read(token, own.algorithm())?;
        // A token of another organization that this gateway serves is verified with that one's keys, so
        // that the caller learns "wrong organization" and not "invalid".
        let claimed = unverified.claimed_origin();
        let named = claimed.issuer.and_then(|issuer| self.rings.get(&organization_of(&issuer)?));
        let ring = named.unwrap_or(own);
        let origin = match given {
            Given::BySlas => TokenOrigin::Issuer,
            Given::ByAnyone if named.is_none() => TokenOrigin::OtherIssuer,
            Given::ByAnyone => TokenOrigin::Client { issued_at: claimed.issued_at },
        };
        let key = ring.key(unverified.kid(), origin).await.map_err(|error| match error {
            KeyError::UnknownKid => TokenError::KeyUnknown,
            KeyError::Unavailable => TokenError::KeysUnavailable,
        })?;
        let (claims, digest): (Claims<'_>, _) = unverified.verify(&key.verifying_key).map_err(|error| match error {
            Unverifiable::SignatureWrong => TokenError::SignatureWrong,
            Unverifiable::Malformed(_) => TokenError::NotAShoppers,
        })?;
        if claims.nbf.or(claims.iat).is_some_and(|from| expiry::is_not_yet_valid(from, now)) {
            return Err(TokenError::NotYetValid);
        }
        let shopper = Arc::new(claims.shopper_with(self.scopes(&claims.scp)?)?);
        if shopper.issued_at > now
            && let Some(ahead) = self.ahead.get(&shopper.organization)
        {
            ahead.fetch_max(shopper.issued_at - now, Ordering::Relaxed);
        }
        Ok(VerifiedToken { shopper, digest, generation: key.generation })
    }

    /// The scopes that a verified token lists, shared with others that list the same.
    fn scopes(&self, listed: &str) -> Result<Scopes, TokenError> {
        if let Some(scopes) = self.scopes.get(listed) {
            return Ok(scopes);
        }
        let scopes = read_scopes(listed)?;
        self.scopes.insert(listed.into(), scopes.clone());
        Ok(scopes)
    }

    fn count(&self, result: &'static str) {
        tracing::Span::current().record("result", result);
        self.metrics.token_verifications.with_label_values(&[result]).inc();
    }
}

/// Whether claims are those of a shopper's access token, verified or not. Says nothing of whom they speak for: that needs
/// a signature.
///
/// # Errors
/// [`TokenError`].
pub fn check_claims(payload: &[u8]) -> Result<(), TokenError> {
    let claims: Claims<'_> = serde_json::from_slice(payload).map_err(|_| TokenError::NotAShoppers)?;
    claims.shopper().map(|_| ())
}

impl Claims<'_> {
    /// The claims as a shopper: issuer, audience and subject must name one tenant.
    ///
    /// # Errors
    /// [`TokenError::IssuerWrong`], [`TokenError::NotAShoppers`].
    pub fn shopper(&self) -> Result<Shopper, TokenError> {
        self.shopper_with(read_scopes(&self.scp)?)
    }

    fn shopper_with(&self, scopes: Scopes) -> Result<Shopper, TokenError> {
        let organization = organization_of(&self.iss).ok_or(TokenError::IssuerWrong)?;
        let (_, environment_and_tenant) = self.iss.split_once('/').ok_or(TokenError::IssuerWrong)?;
        if !self.aud.includes(&format!("commercecloud/{environment_and_tenant}")) {
            return Err(TokenError::IssuerWrong);
        }
        let (tenant, client, usid) = subject(&self.sub).ok_or(TokenError::NotAShoppers)?;
        if tenant != organization.tenant() {
            return Err(TokenError::IssuerWrong);
        }
        let isb: Isb = self.isb.parse().map_err(|_| TokenError::NotAShoppers)?;
        let registered = isb.registered_customer.is_some();
        let customer = isb.registered_customer.or(isb.guest_customer);
        Ok(Shopper {
            revocation_keys: RevocationKeys::new(&organization, &client, &usid, customer.as_ref()),
            organization,
            client,
            usid,
            registered,
            customer,
            site: isb.site,
            scopes,
            marks: isb.marks,
            agent: isb.agent,
            issued_at: self.iat.unwrap_or(0),
            expires_at: self.exp,
        })
    }
}

fn read_scopes(listed: &str) -> Result<Scopes, TokenError> {
    listed.parse().map_err(|_| TokenError::NotAShoppers)
}

/// What verified anywhere speaks only for its own organization.
fn of_organization(verified: VerifiedToken, organization: &OrganizationId) -> Result<VerifiedToken, TokenError> {
    if verified.shopper.organization == *organization { Ok(verified) } else { Err(TokenError::OrganizationWrong) }
}

/// `slas/prod/zzrf_001` or `slas/dev/zzrf_001`.
fn organization_of(issuer: &str) -> Option<OrganizationId> {
    let tenant = issuer.strip_prefix("slas/prod/").or_else(|| issuer.strip_prefix("slas/dev/"))?;
    tenant.parse::<TenantId>().ok().map(|tenant| OrganizationId::from_tenant(&tenant))
}

/// `cc-slas::{tenant}::scid:{client}::usid:{usid}`.
fn subject(sub: &str) -> Option<(TenantId, ClientId, Usid)> {
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
    fn one_tenant_everywhere() {
        let shopper = claims().shopper().unwrap();
        assert_eq!(shopper.organization.as_str(), "f_ecom_zzrf_001");
        assert_eq!((shopper.client.as_str(), shopper.usid.as_str()), ("c1", "u1"));
        assert_eq!((shopper.customer.unwrap().as_str(), shopper.registered), ("g1", false));
    }

    #[test]
    fn a_claim_of_another_tenant_or_environment_is_refused() {
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
            assert_eq!(claims.shopper().unwrap_err(), TokenError::IssuerWrong, "change {position}");
        }
        let mut development = claims();
        development.iss = "slas/dev/zzrf_001".into();
        development.aud = one("commercecloud/dev/zzrf_001");
        assert!(development.shopper().is_ok());
        let mut several = claims();
        several.aud = Audience::List(vec!["https://shop.example".into(), "commercecloud/prod/zzrf_001".into()]);
        assert!(several.shopper().is_ok(), "it is for Commerce Cloud, among others");
    }

    #[test]
    fn a_subject_has_three_parts() {
        for sub in [
            "",
            "cc-slas::zzrf_001",
            "cc-slas::zzrf_001::scid:c1",
            "cc-slas::zzrf_001::usid:u1::scid:c1",
            "cc-slas::zzrf_001::scid:c1::usid:u1::x",
            "cc-slas::zzrf_001::scid:::usid:u1",
            "zzrf_001::scid:c1::usid:u1",
        ] {
            assert!(subject(sub).is_none(), "{sub}");
        }
    }
}
