//! One published key set: which of its keys are used, and when it was read.
//!
//! Owns the reading of a JWKS (RFC 7517). What is empty, unreadable or too large is no set at all, so that it can
//! never replace a good one; an ambiguous key is left out of its set. Refuses to know where a document came from.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;

use crate::{clock::unix_now_ms, jwt::VerifyingKey, salesforce::json::without_byte_order_mark};

/// More usable keys than any issuer has at a time: SLAS publishes three.
const MOST_KEYS: usize = 100;
/// A reading this far in the future, in ms, is one of a clock that was set back since; more is no honest reading.
const CLOCK_SET_BACK: u64 = 2 * 60 * 60 * 1000;

/// The keys of one document that fit their issuer's algorithm.
#[derive(Default)]
pub(super) struct KeySet {
    keys: HashMap<String, Arc<VerifyingKey>>,
    /// The published form of each key, to see changes and to keep them.
    published: HashMap<String, Jwk>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("kids", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.published == other.published
    }
}

impl KeySet {
    /// Reads a document, keeping the keys that fit the algorithm. `None` if that leaves none.
    pub(super) fn read(document: &[u8], algorithm: Algorithm) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document = serde_json::from_slice(without_byte_order_mark(document)).ok()?;
        Self::of(document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()), algorithm)
    }

    /// The set of these keys, without those that do not fit the algorithm. A key that is listed twice is one key; of two
    /// different keys under one id neither is used, because nobody can tell which is meant. `None` if that leaves none.
    pub(super) fn of(keys: impl IntoIterator<Item = Jwk>, algorithm: Algorithm) -> Option<Self> {
        let (mut set, mut seen) = (Self::default(), HashMap::new());
        for jwk in keys {
            let Some(kid) = jwk.common.key_id.clone() else { continue };
            if !fits(&jwk, algorithm) {
                continue;
            }
            // What one id stands for, in a form that other fields beside the key do not change.
            let material = serde_json::to_string(&jwk.algorithm).ok()?;
            match seen.get(&kid) {
                Some(earlier) if *earlier == material => continue,
                Some(_) => {
                    set.keys.remove(&kid);
                    set.published.remove(&kid);
                    continue;
                }
                None => seen.insert(kid.clone(), material),
            };
            let Some(key) = VerifyingKey::of(&jwk) else { continue };
            set.keys.insert(kid.clone(), Arc::new(key));
            set.published.insert(kid, jwk);
        }
        (1..=MOST_KEYS).contains(&set.keys.len()).then_some(set)
    }

    /// The key of this id.
    pub(super) fn key(&self, kid: &str) -> Option<&Arc<VerifyingKey>> {
        self.keys.get(kid)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The keys as they were published.
    pub(super) fn published(&self) -> impl Iterator<Item = &Jwk> {
        self.published.values()
    }

    /// Whether a key id looks as this issuer's do: as long, with its hyphens and dots at the same places.
    pub(super) fn resembles(&self, kid: &str) -> bool {
        let shape = |kid: &str| -> Vec<u8> {
            kid.bytes().map(|byte| if byte.is_ascii_alphanumeric() { b'a' } else { byte }).collect()
        };
        let wanted = shape(kid);
        self.kids().any(|own| own.len() == kid.len() && shape(own) == wanted)
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

/// When a set was read from its issuer. Within a process its age is measured by a clock that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadAt {
    /// Milliseconds since 1970: two gateways may read within one second.
    pub(super) unix_ms: u64,
    age: Duration,
    since: Instant,
}

impl ReadAt {
    pub(super) fn now() -> Self {
        Self { unix_ms: unix_now_ms(), age: Duration::ZERO, since: Instant::now() }
    }

    /// A reading of another process, which stays as old as it is. `None` if it lies in the future.
    pub(super) fn of(unix_ms: u64) -> Option<Self> {
        let now = unix_now_ms();
        let age = Duration::from_millis(now.saturating_sub(unix_ms));
        (unix_ms <= now.saturating_add(CLOCK_SET_BACK)).then(|| Self { unix_ms, age, since: Instant::now() })
    }

    /// Seconds since 1970.
    pub(super) fn unix(&self) -> u64 {
        self.unix_ms / 1000
    }

    pub(super) fn age(&self) -> Duration {
        self.age + self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::Signed;

    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    /// RFC 7517, appendix A.1.
    const OTHER: &str = r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#;

    fn set(keys: &str) -> Option<KeySet> {
        KeySet::read(format!(r#"{{"keys":[{keys}]}}"#).as_bytes(), Algorithm::ES256)
    }

    #[test]
    fn keys_of_the_algorithm_are_used_and_others_passed_over() {
        let keys = format!(
            r#"{{{EC},"kid":"a","use":"sig","alg":"ES256"}},{{{EC},"kid":"b"}},{{{EC},"kid":"enc","use":"enc"}},
               {{{EC},"kid":"other-alg","alg":"ES384"}},{{{EC}}},{{"kty":"oct","k":"AAAA","kid":"oct"}},
               {{"kty":"new","kid":"new"}},7"#
        );
        let set = set(&keys).unwrap();
        let mut kids: Vec<_> = set.kids().collect();
        kids.sort_unstable();
        assert_eq!(kids, ["a", "b"]);
    }

    #[test]
    fn an_empty_unreadable_ambiguous_or_too_large_set_is_none() {
        assert!(set("").is_none());
        assert!(set(&format!(r#"{{{EC},"kid":"a"}},{{{OTHER},"kid":"a"}}"#)).is_none());
        let off_the_curve = EC.replace("f83OJ3", "f83OJ4");
        assert!(set(&format!(r#"{{{off_the_curve},"kid":"a"}},{{{EC},"kid":"a"}}"#)).is_none());
        assert!(set(&format!(r#"{{{off_the_curve},"kid":"a"}},{{{EC},"kid":"b"}}"#)).is_some());
        let kids = |keys: String| set(&keys).map(|set| set.kids().map(str::to_owned).collect::<Vec<_>>());
        let other = OTHER;
        let ambiguous = format!(r#"{{{EC},"kid":"a"}},{{{other},"kid":"a"}},{{{EC},"kid":"a"}},{{{EC},"kid":"b"}}"#);
        assert_eq!(kids(ambiguous), Some(vec!["b".to_owned()]), "only what is ambiguous is left out");
        for document in ["", "{}", "[]", "<html>", r#"{"keys":{}}"#, r#"{"keys":[{"kty":"EC"}]}"#] {
            assert!(KeySet::read(document.as_bytes(), Algorithm::ES256).is_none(), "{document}");
        }
        let many =
            |count: usize| (0..count).map(|kid| format!(r#"{{{EC},"kid":"{kid}"}}"#)).collect::<Vec<_>>().join(",");
        assert!(set(&many(MOST_KEYS)).is_some());
        assert!(set(&many(MOST_KEYS + 1)).is_none());
    }

    #[test]
    fn key_listed_twice_or_behind_a_byte_order_mark_is_used() {
        let doubled = format!(r#"{{{EC},"kid":"a","use":"sig"}},{{{EC},"kid":"a"}}"#);
        assert!(set(&doubled).unwrap().key("a").is_some());
        let document = format!("\u{feff}{{\"keys\":[{{{EC},\"kid\":\"a\"}}]}}");
        assert!(KeySet::read(document.as_bytes(), Algorithm::ES256).unwrap().key("a").is_some());
    }

    #[test]
    fn what_was_published_makes_the_same_set() {
        let first = set(&format!(r#"{{{EC},"kid":"a","use":"sig"}},{{{EC},"kid":"b","x5t":"t"}}"#)).unwrap();
        let text = serde_json::to_string(&first.published().collect::<Vec<_>>()).unwrap();
        let again = KeySet::of(serde_json::from_str::<Vec<Jwk>>(&text).unwrap(), Algorithm::ES256).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn a_key_id_resembles_those_of_its_issuer() {
        let set = set(&format!(r#"{{{EC},"kid":"0a1b-22.c"}}"#)).unwrap();
        assert!(set.resembles("ffff-00.9"));
        for kid in ["", "unknown", "ffff-00.99", "fff-000.9", "ffff_00.9", "ffff-00.\u{e9}"] {
            assert!(!set.resembles(kid), "{kid}");
        }
    }

    #[test]
    fn a_restored_reading_is_as_old_as_it_was() {
        let now = unix_now_ms();
        assert!(ReadAt::of(now - 100_000).unwrap().age() >= Duration::from_secs(100));
        assert!(ReadAt::of(now + CLOCK_SET_BACK).is_some());
        assert!(ReadAt::of(now + CLOCK_SET_BACK + 60_000).is_none());
        assert!(ReadAt::of(u64::MAX).is_none());
    }

    /// Keys that other implementations took, and should not have: see `tests/vectors/README.md`.
    #[test]
    fn a_key_that_does_not_fit_verifies_nothing() {
        type Vector = (String, serde_json::Value, String, bool);
        let vectors: Vec<Vector> = serde_json::from_str(include_str!("../../tests/vectors/jwk.json")).unwrap();
        let mut accepted = 0;
        for (comment, key, token, valid) in vectors {
            let algorithm = if key["n"].is_string() { Algorithm::RS256 } else { Algorithm::ES256 };
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let set = KeySet::read(serde_json::json!({"keys": [key]}).to_string().as_bytes(), algorithm);
            let genuine = set.is_some_and(|set| {
                set.keys
                    .values()
                    .any(|key| key.algorithm() == algorithm && key.verifies(&Signed::of(signed.as_bytes()), signature))
            });
            assert_eq!(genuine, valid, "{comment}");
            accepted += usize::from(genuine);
        }
        assert_eq!(accepted, 1);
    }
}
