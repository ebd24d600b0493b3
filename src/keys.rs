//! Key rings: the public keys of one issuer, by key id.
//!
//! Owns when a key set is fetched and which one is in use. Reading is lock-free; one fetch runs at a
//! time, in a task of its own, so that a caller who hangs up does not abort it. A fetch that fails, or
//! gives an empty or unreadable set, changes nothing. Keys come only from the configured
//! service's pinned address, never from what a token names.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use tokio::sync::Mutex;
use tracing::Instrument;

use crate::{
    clock::{random_fraction, unix_now},
    metrics::Metrics,
    salesforce::{account_manager::AccountManager, exchange::ExchangeError, slas::Slas},
    waiting,
};

/// How long after a fetch for an unknown key id the next one may be made. SLAS allows 25 fetches a minute.
const UNKNOWN_KEY_COOL_DOWN: Duration = Duration::from_secs(30);
/// How often a ring without keys tries again, whoever asks: 20 times a minute.
const EMPTY_RETRY: Duration = Duration::from_secs(3);
/// How often a ring with keys is renewed; up to a quarter is taken off at random.
const RENEWAL: Duration = Duration::from_secs(6 * 60 * 60);

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

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let document = match self {
            Self::Slas(slas) => slas.jwks().await?,
            Self::AccountManager(account_manager) => account_manager.jwks().await?,
        };
        KeySet::read(&document, self.algorithm()).ok_or(FetchError::NoKeys)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Slas(_) => "slas",
            Self::AccountManager(_) => "account_manager",
        }
    }
}

/// How many keys of a published set this issuer's tokens could be verified with.
#[must_use]
pub fn count_usable(issuer: &Issuer, document: &[u8]) -> usize {
    KeySet::read(document, issuer.algorithm()).map_or(0, |set| set.keys.len())
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeyRing {
    issuer: Issuer,
    tenant: String,
    keys: ArcSwap<KeySet>,
    attempts: Mutex<Attempts>,
    metrics: Arc<Metrics>,
}

/// Why a key cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The issuer has no such key.
    #[error("the issuer publishes no such key")]
    Unknown,
    /// The issuer could not be asked.
    #[error("the issuer's keys cannot be had at the moment")]
    Unavailable,
}

#[derive(Debug, Default)]
struct Attempts {
    last: Option<Attempt>,
    /// When an unknown key id last caused one. The ring's own renewals do not count: a key that is
    /// first used just after one must not wait for the end of the cool-down.
    for_unknown: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    at: Instant,
    succeeded: bool,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("the key set is unreadable or has no key that could be used")]
    NoKeys,
}

impl KeyRing {
    /// A ring without keys; [`KeyRing::keep_fresh`] fills it.
    #[must_use]
    pub fn new(issuer: Issuer, tenant: &str, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            issuer,
            tenant: tenant.to_owned(),
            keys: ArcSwap::from_pointee(KeySet::default()),
            attempts: Mutex::default(),
            metrics,
        })
    }

    /// The algorithm of the issuer's tokens.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.issuer.algorithm()
    }

    /// Whether any key is there.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        !self.keys.load().keys.is_empty()
    }

    /// Counts the changes of the key set: a verdict from before a change must not outlive it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.keys.load().generation
    }

    /// The key of this id. An unknown one causes one fetch, unless one was tried within the last 30 s.
    ///
    /// # Errors
    /// [`NoKey`].
    pub async fn key(self: &Arc<Self>, kid: &str) -> Result<Arc<DecodingKey>, NoKey> {
        if let Some(key) = self.keys.load().keys.get(kid) {
            return Ok(Arc::clone(key));
        }
        let (ring, wanted) = (Arc::clone(self), kid.to_owned());
        let fetch = tokio::spawn(async move { ring.fetch_unless_recent(&wanted).await }.in_current_span());
        let fetched = waiting::on_others(fetch).await.unwrap_or(false);
        match self.keys.load().keys.get(kid) {
            Some(key) => Ok(Arc::clone(key)),
            None if fetched => Err(NoKey::Unknown),
            None => Err(NoKey::Unavailable),
        }
    }

    /// Keeps the ring fresh for ever: fills it as soon as the issuer answers, renews it every few hours.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            self.fetch_in_time().await;
            self.record_age();
            let wait = if self.is_filled() {
                RENEWAL.mul_f64(1.0 - 0.25 * random_fraction())
            } else {
                // What requests have tried meanwhile counts: the issuer allows so many calls a minute in all.
                let tried = self.attempts.lock().await.last.map_or(EMPTY_RETRY, |attempt| attempt.at.elapsed());
                EMPTY_RETRY.saturating_sub(tried)
            };
            let next = Instant::now() + wait;
            while Instant::now() < next {
                tokio::time::sleep((next - Instant::now()).min(Duration::from_secs(15))).await;
                self.record_age();
            }
        }
    }

    fn record_age(&self) {
        if let Some(fetched_at) = self.keys.load().fetched_at {
            let age = i64::try_from(unix_now().saturating_sub(fetched_at)).unwrap_or(i64::MAX);
            self.metrics.jwks_age.with_label_values(&[self.tenant.as_str(), self.issuer.name()]).set(age);
        }
    }

    /// Fetches unless someone just did; says whether the last attempt succeeded.
    async fn fetch_unless_recent(&self, kid: &str) -> bool {
        let mut attempts = self.attempts.lock().await;
        // Whoever held the lock before may have brought the key.
        if self.keys.load().keys.contains_key(kid) {
            return true;
        }
        // A ring without keys has its own pace: it must fill as soon as the issuer is back.
        let (since, cool_down) = if self.is_filled() {
            (attempts.for_unknown, UNKNOWN_KEY_COOL_DOWN)
        } else {
            (attempts.last.map(|attempt| attempt.at), EMPTY_RETRY)
        };
        if since.is_some_and(|at| at.elapsed() < cool_down) {
            return attempts.last.is_some_and(|attempt| attempt.succeeded);
        }
        if self.is_filled() {
            attempts.for_unknown = Some(Instant::now());
        }
        self.fetch_locked(&mut attempts).await
    }

    /// Fetches, but for a ring without keys that somebody just tried to fill.
    async fn fetch_in_time(&self) {
        let mut attempts = self.attempts.lock().await;
        let is_early = attempts.last.is_some_and(|attempt| attempt.at.elapsed() < EMPTY_RETRY);
        if self.is_filled() || !is_early {
            self.fetch_locked(&mut attempts).await;
        }
    }

    async fn fetch_locked(&self, attempts: &mut Attempts) -> bool {
        let result = self.issuer.fetch().await;
        let succeeded = result.is_ok();
        match result {
            Ok(mut fresh) => {
                let current = self.keys.load();
                fresh.generation = current.generation + u64::from(!fresh.has_the_keys_of(&current));
                self.keys.store(Arc::new(fresh));
                self.metrics.jwks_refreshes.with_label_values(&["ok"]).inc();
            }
            Err(error) => {
                self.metrics.jwks_refreshes.with_label_values(&["failed"]).inc();
                tracing::warn!(tenant = self.tenant, issuer = self.issuer.name(), %error, "key set not fetched; the one in use stays");
            }
        }
        attempts.last = Some(Attempt { at: Instant::now(), succeeded });
        succeeded
    }
}

/// One published set.
#[derive(Default)]
struct KeySet {
    keys: HashMap<String, Arc<DecodingKey>>,
    /// The published form of each key, to see changes.
    published: HashMap<String, Jwk>,
    generation: u64,
    fetched_at: Option<u64>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet")
            .field("kids", &self.keys.keys())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl KeySet {
    /// Reads a JWKS (RFC 7517), keeping the keys that fit the algorithm. `None` if that leaves none.
    fn read(document: &[u8], algorithm: Algorithm) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document = serde_json::from_slice(document).ok()?;
        let mut set = Self { fetched_at: Some(unix_now()), ..Self::default() };
        for key in document.keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key) else { continue };
            let Some(kid) = jwk.common.key_id.clone() else { continue };
            if !fits(&jwk, algorithm) {
                continue;
            }
            let Ok(key) = DecodingKey::from_jwk(&jwk) else { continue };
            if set.keys.insert(kid.clone(), Arc::new(key)).is_some() {
                // Two keys under one id: nobody can tell which is meant.
                return None;
            }
            set.published.insert(kid, jwk);
        }
        (!set.keys.is_empty()).then_some(set)
    }

    fn has_the_keys_of(&self, other: &Self) -> bool {
        self.published == other.published
    }
}

/// Whether a published key is for verifying this algorithm; `use` and `alg` may be missing, not wrong.
fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let (right_family, name) = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => (key.curve == EllipticCurve::P256, "ES256"),
        (AlgorithmParameters::RSA(_), Algorithm::RS256) => (true, "RS256"),
        _ => (false, ""),
    };
    let named_rightly = jwk.common.key_algorithm.is_none_or(|own| own.to_string() == name);
    for_signatures && right_family && named_rightly
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::crypto;

    use super::*;

    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn read(keys: &str) -> Option<Vec<String>> {
        let set = KeySet::read(format!(r#"{{"keys":[{keys}]}}"#).as_bytes(), Algorithm::ES256)?;
        let mut kids: Vec<_> = set.keys.into_keys().collect();
        kids.sort();
        Some(kids)
    }

    #[test]
    fn keys_of_the_algorithm_are_kept_and_others_passed_over() {
        let keys = format!(
            r#"{{{EC},"kid":"a","use":"sig","alg":"ES256"}},{{{EC},"kid":"b"}},{{{EC},"kid":"enc","use":"enc"}},
               {{{EC},"kid":"other-alg","alg":"ES384"}},{{{EC}}},{{"kty":"oct","k":"AAAA","kid":"oct"}},
               {{"kty":"new","kid":"new"}},7"#
        );
        assert_eq!(read(&keys).unwrap(), ["a", "b"]);
    }

    #[test]
    fn an_empty_unreadable_or_ambiguous_set_is_none() {
        assert!(read("").is_none());
        assert!(read(&format!(r#"{{{EC},"kid":"a"}},{{{EC},"kid":"a"}}"#)).is_none());
        for document in ["", "{}", "[]", "<html>", r#"{"keys":{}}"#, r#"{"keys":[{"kty":"EC"}]}"#] {
            assert!(KeySet::read(document.as_bytes(), Algorithm::ES256).is_none(), "{document}");
        }
    }
    /// Keys that other implementations took, and should not have: see `tests/vectors/README.md`.
    #[test]
    fn a_key_that_does_not_fit_verifies_nothing() {
        type Vector = (String, serde_json::Value, String, bool);
        let vectors: Vec<Vector> = serde_json::from_str(include_str!("../tests/vectors/jwk.json")).unwrap();
        let mut accepted = 0;
        for (comment, key, token, valid) in vectors {
            let algorithm = if key["n"].is_string() { Algorithm::RS256 } else { Algorithm::ES256 };
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let set = KeySet::read(serde_json::json!({"keys": [key]}).to_string().as_bytes(), algorithm);
            let genuine = set.is_some_and(|set| {
                let verifies = |key: &Arc<DecodingKey>| crypto::verify(signature, signed.as_bytes(), key, algorithm);
                set.keys.values().any(|key| verifies(key).unwrap_or(false))
            });
            assert_eq!(genuine, valid, "{comment}");
            accepted += usize::from(genuine);
        }
        assert_eq!(accepted, 1);
    }
}
