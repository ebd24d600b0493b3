//! One published key set: which of its keys are used, and when it was read.
//!
//! Owns the reading of a JWKS (RFC 7517). What is empty, unreadable or too large is no set at all, so that it can
//! never replace a good one. A key that is ambiguous, malformed, too large, of another kind or for another use is left out of
//! its set and spoils no other (RFC 7517, 5). Refuses to know where a document came from.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{jwt::VerifyingKey, salesforce::json::without_byte_order_mark, time::unix_now_ms};

/// More usable keys than any issuer has at a time: SLAS publishes three.
const MOST_KEYS: usize = 100;
/// Longest published form of a key that is used, bytes. An RSA key of 8,192 bits has 1,400.
const MAX_KEY_BYTES: usize = 4 * 1024;
/// Longest id of a key that is used, bytes: no token names a longer one.
const MAX_KEY_ID_BYTES: usize = 256;
/// The members of a key that the gateway judges by (RFC 7517, 4; RFC 7518, 6). Others are ignored, whatever their form.
const MEMBERS: [&str; 10] = ["kty", "kid", "use", "key_ops", "alg", "crv", "x", "y", "n", "e"];
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
        struct Document<'d> {
            #[serde(borrow)]
            keys: Vec<&'d RawValue>,
        }
        let document: Document<'_> = serde_json::from_slice(without_byte_order_mark(document)).ok()?;
        Self::of(document.keys.into_iter().filter_map(key), algorithm)
    }

    /// The set of these keys, without those that do not fit the algorithm. A key that is listed twice is one key; of two
    /// different keys under one id neither is used, because nobody can tell which is meant. `None` if that leaves none.
    pub(super) fn of(keys: impl IntoIterator<Item = Jwk>, algorithm: Algorithm) -> Option<Self> {
        let (mut set, mut seen) = (Self::default(), HashMap::new());
        for jwk in keys {
            let Some(kid) = jwk.common.key_id.clone().filter(|kid| kid.len() <= MAX_KEY_ID_BYTES) else { continue };
            if !fits(&jwk, algorithm) {
                continue;
            }
            // What one id stands for, in a form that other fields beside the key do not change.
            let Ok(material) = serde_json::to_string(&jwk.algorithm) else { continue };
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

/// One published key; `None` if it cannot be read.
fn key(document: &RawValue) -> Option<Jwk> {
    let mut members: Map<String, Value> = serde_json::from_str(document.get()).ok()?;
    members.retain(|name, _| MEMBERS.contains(&name.as_str()));
    let size: usize = members.values().filter_map(Value::as_str).map(str::len).sum();
    if size > MAX_KEY_BYTES {
        return None;
    }
    serde_json::from_value(Value::Object(members)).ok()
}

/// Whether a published key is for verifying this algorithm; `use`, `key_ops` and `alg` may be missing, not wrong.
fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && jwk.common.key_operations.as_ref().is_none_or(verifies);
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
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

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

    /// Each of these stands among good keys once, before and behind them.
    #[test]
    fn bad_key_among_good_ones_is_left_out_alone() {
        let (long, deep) = ("A".repeat(MAX_KEY_BYTES + 1), "[".repeat(200) + &"]".repeat(200));
        let off_the_curve = EC.replace("f83OJ3", "f83OJ4");
        for bad in [
            "7".to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            r#""text""#.to_owned(),
            format!("{{{EC}}}"),
            format!(r#"{{{EC},"kid":7}}"#),
            format!(r#"{{{EC},"kid":null}}"#),
            format!(r#"{{{EC},"kid":"{}"}}"#, "k".repeat(MAX_KEY_ID_BYTES + 1)),
            format!(r#"{{{EC},"kid":"bad","alg":"ES512K"}}"#),
            format!(r#"{{{EC},"kid":"bad","alg":"RS256"}}"#),
            format!(r#"{{{EC},"kid":"bad","alg":7}}"#),
            format!(r#"{{{EC},"kid":"bad","use":"enc"}}"#),
            format!(r#"{{{EC},"kid":"bad","key_ops":["sign"]}}"#),
            format!(r#"{{{EC},"kid":"bad","key_ops":"verify"}}"#),
            format!(r#"{{{off_the_curve},"kid":"bad"}}"#),
            r#"{"kty":"EC","crv":"P-256","kid":"bad","x":"AA","y":"AA"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","kid":"bad","x":"!","y":"!"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","kid":"bad"}"#.to_owned(),
            r#"{"kty":"EC","crv":"secp256k1","kid":"bad","x":"AA","y":"AA"}"#.to_owned(),
            r#"{"kty":"AKP","alg":"ML-DSA-44","kid":"bad","pub":"AAAA"}"#.to_owned(),
            r#"{"kty":"OKP","crv":"Ed448","x":"AAAA","kid":"bad","alg":"EdDSA"}"#.to_owned(),
            r#"{"kty":"oct","k":"AAAA","kid":"bad"}"#.to_owned(),
            r#"{"kty":7,"kid":"bad"}"#.to_owned(),
            format!(r#"{{"kty":"RSA","n":"{long}","e":"AQAB","kid":"bad"}}"#),
            // What a JSON library refuses in a value that nobody wants.
            format!(r#"{{{EC},"kid":"bad","use":"sig","x5c":{deep}}}"#),
            r#"{"kid":"bad","exp":1e999}"#.to_owned(),
            r#"{"kid":"bad","x":"\ud800"}"#.to_owned(),
        ] {
            for keys in [format!(r#"{bad},{{{EC},"kid":"good"}}"#), format!(r#"{{{EC},"kid":"good"}},{bad}"#)] {
                let set = set(&keys).unwrap_or_else(|| panic!("no set with {bad}"));
                assert_eq!(set.kids().collect::<Vec<_>>(), ["good"], "{bad}");
            }
        }
    }

    #[test]
    fn member_that_is_not_used_spoils_no_key() {
        for member in [
            r#""x5c":"MIIB""#,
            r#""x5t":7"#,
            r#""x5t#S256":null"#,
            r#""x5u":[]"#,
            r#""exp":4102444800"#,
            r#""nbf":"1""#,
            r#""key_ops":["verify","x"]"#,
            r#""ext":{"a":[1]}"#,
        ] {
            assert!(set(&format!(r#"{{{EC},"kid":"a",{member}}}"#)).is_some(), "{member}");
        }
    }

    #[test]
    fn rsa_key_of_a_refused_size_is_no_key() {
        let rsa = |bytes: usize, exponent: &str| {
            let modulus = URL_SAFE_NO_PAD.encode([vec![0x80; bytes - 1], vec![1]].concat());
            let key = format!(r#"{{"keys":[{{"kty":"RSA","kid":"a","n":"{modulus}","e":"{exponent}"}}]}}"#);
            KeySet::read(key.as_bytes(), Algorithm::RS256).is_some()
        };
        assert!(rsa(256, "AQAB") && rsa(512, "AQAB") && rsa(1024, "AQAB"));
        assert!(!rsa(64, "AQAB") && !rsa(128, "AQAB") && !rsa(1025, "AQAB"));
        assert!(!rsa(256, "") && !rsa(256, "AQ") && !rsa(256, "AA") && !rsa(256, "!"));
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
        type Vector = (String, Value, String, bool);
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
