//! One parsed JWKS (RFC 7517): its usable keys.
//!
//! An empty, unreadable or oversized document is no key set, so it never replaces a working one. A key that is ambiguous,
//! malformed, oversized, of another type or for another use is ignored. An ignored key does not affect the others (RFC 7517, 5).

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::issuer::Issuer;
use crate::{jwt::VerifyingKey, salesforce::json::without_byte_order_mark};

/// Maximum usable keys of a set. SLAS publishes three.
const MAX_KEYS: usize = 100;
/// Maximum bytes of a key's members. An RSA key of 8,192 bits has 1,400.
const MAX_KEY_BYTES: usize = 4 * 1024;
/// Maximum bytes of a key id. A token with a longer one is malformed.
const MAX_KID_BYTES: usize = 256;
/// The members of a key that the gateway reads (RFC 7517, 4; RFC 7518, 6). All others are ignored, whatever their form.
const MEMBERS: [&str; 10] = ["kty", "kid", "use", "key_ops", "alg", "crv", "x", "y", "n", "e"];

/// The number of keys in a JWKS document that can verify this issuer's tokens.
#[must_use]
pub fn count_usable_keys(issuer: &Issuer, document: &[u8]) -> usize {
    KeySet::parse(document, issuer.algorithm()).map_or(0, |key_set| key_set.kids().count())
}

/// The usable keys of one JWKS, all of one algorithm.
#[derive(Default)]
pub(super) struct KeySet {
    keys: HashMap<String, Arc<VerifyingKey>>,
    /// The published form of each key, for comparison and persistence.
    jwks: HashMap<String, Jwk>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("kids", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.jwks == other.jwks
    }
}

impl KeySet {
    /// Parses a JWKS document. `None` if it has no usable key of the algorithm.
    pub(super) fn parse(document: &[u8], algorithm: Algorithm) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document<'d> {
            #[serde(borrow)]
            keys: Vec<&'d RawValue>,
        }
        let document: Document<'_> = serde_json::from_slice(without_byte_order_mark(document)).ok()?;
        Self::from_jwks(document.keys.into_iter().filter_map(parse_jwk), algorithm)
    }

    /// The set of the usable keys among these. A key that is listed twice counts once. Two different keys with one id are
    /// ambiguous, so neither is used. `None` if no usable key is left.
    pub(super) fn from_jwks(jwks: impl IntoIterator<Item = Jwk>, algorithm: Algorithm) -> Option<Self> {
        let (mut set, mut seen) = (Self::default(), HashMap::new());
        for jwk in jwks {
            let Some(kid) = jwk.common.key_id.clone().filter(|kid| kid.len() <= MAX_KID_BYTES) else { continue };
            if !is_for_algorithm(&jwk, algorithm) {
                continue;
            }
            // Only the key material is compared: `use`, `key_ops` and `alg` may differ.
            let Ok(material) = serde_json::to_string(&jwk.algorithm) else { continue };
            match seen.get(&kid) {
                Some(earlier) if *earlier == material => continue,
                Some(_) => {
                    set.keys.remove(&kid);
                    set.jwks.remove(&kid);
                    continue;
                }
                None => seen.insert(kid.clone(), material),
            };
            let Some(key) = VerifyingKey::from_jwk(&jwk) else { continue };
            set.keys.insert(kid.clone(), Arc::new(key));
            set.jwks.insert(kid, jwk);
        }
        (1..=MAX_KEYS).contains(&set.keys.len()).then_some(set)
    }

    /// The key with this id.
    pub(super) fn key(&self, kid: &str) -> Option<&Arc<VerifyingKey>> {
        self.keys.get(kid)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The keys in their published form.
    pub(super) fn jwks(&self) -> impl Iterator<Item = &Jwk> {
        self.jwks.values()
    }

    /// Whether a key id has the form of this issuer's key ids: the same length, with hyphens and dots in the same places.
    pub(super) fn has_similar_kid(&self, kid: &str) -> bool {
        let form = |kid: &str| -> Vec<u8> {
            kid.bytes().map(|byte| if byte.is_ascii_alphanumeric() { b'a' } else { byte }).collect()
        };
        let wanted = form(kid);
        self.kids().any(|own| own.len() == kid.len() && form(own) == wanted)
    }
}

/// Parses one key. `None` if it is unreadable or oversized.
fn parse_jwk(document: &RawValue) -> Option<Jwk> {
    let mut members: Map<String, Value> = serde_json::from_str(document.get()).ok()?;
    members.retain(|name, _| MEMBERS.contains(&name.as_str()));
    let size: usize = members.values().filter_map(Value::as_str).map(str::len).sum();
    if size > MAX_KEY_BYTES {
        return None;
    }
    serde_json::from_value(Value::Object(members)).ok()
}

/// Whether a key is for verifying signatures of this algorithm. `use`, `key_ops` and `alg` may be absent, but not contradict.
fn is_for_algorithm(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    let is_for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && jwk.common.key_operations.as_ref().is_none_or(verifies);
    let (has_key_type, name) = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => (key.curve == EllipticCurve::P256, "ES256"),
        (AlgorithmParameters::RSA(_), Algorithm::RS256) => (true, "RS256"),
        _ => (false, ""),
    };
    let has_algorithm = jwk.common.key_algorithm.is_none_or(|own| own.to_string() == name);
    is_for_signatures && has_key_type && has_algorithm
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::jwt::SigningInput;

    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    /// RFC 7517, appendix A.1.
    const OTHER: &str = r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#;

    fn set(keys: &str) -> Option<KeySet> {
        KeySet::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes(), Algorithm::ES256)
    }

    #[test]
    fn keys_of_another_algorithm_or_use_are_ignored() {
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
    fn unusable_document_is_no_key_set() {
        assert!(set("").is_none());
        assert!(set(&format!(r#"{{{EC},"kid":"a"}},{{{OTHER},"kid":"a"}}"#)).is_none());
        let off_the_curve = EC.replace("f83OJ3", "f83OJ4");
        assert!(set(&format!(r#"{{{off_the_curve},"kid":"a"}},{{{EC},"kid":"a"}}"#)).is_none());
        assert!(set(&format!(r#"{{{off_the_curve},"kid":"a"}},{{{EC},"kid":"b"}}"#)).is_some());
        let kids = |keys: String| set(&keys).map(|set| set.kids().map(str::to_owned).collect::<Vec<_>>());
        let other = OTHER;
        let ambiguous = format!(r#"{{{EC},"kid":"a"}},{{{other},"kid":"a"}},{{{EC},"kid":"a"}},{{{EC},"kid":"b"}}"#);
        assert_eq!(kids(ambiguous), Some(vec!["b".to_owned()]), "only the ambiguous key is ignored");
        for document in ["", "{}", "[]", "<html>", r#"{"keys":{}}"#, r#"{"keys":[{"kty":"EC"}]}"#] {
            assert!(KeySet::parse(document.as_bytes(), Algorithm::ES256).is_none(), "{document}");
        }
        let many =
            |count: usize| (0..count).map(|kid| format!(r#"{{{EC},"kid":"{kid}"}}"#)).collect::<Vec<_>>().join(",");
        assert!(set(&many(MAX_KEYS)).is_some());
        assert!(set(&many(MAX_KEYS + 1)).is_none());
    }

    /// Each bad key is placed before and behind a good one.
    #[test]
    fn bad_key_does_not_affect_good_keys() {
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
            format!(r#"{{{EC},"kid":"{}"}}"#, "k".repeat(MAX_KID_BYTES + 1)),
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
            // Values that a JSON parser rejects, in members that are not read.
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
    fn unused_member_does_not_affect_its_key() {
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
    fn rsa_key_of_unsupported_size_is_ignored() {
        let rsa = |bytes: usize, exponent: &str| {
            let modulus = URL_SAFE_NO_PAD.encode([vec![0x80; bytes - 1], vec![1]].concat());
            let key = format!(r#"{{"keys":[{{"kty":"RSA","kid":"a","n":"{modulus}","e":"{exponent}"}}]}}"#);
            KeySet::parse(key.as_bytes(), Algorithm::RS256).is_some()
        };
        assert!(rsa(256, "AQAB") && rsa(512, "AQAB") && rsa(1024, "AQAB"));
        assert!(!rsa(64, "AQAB") && !rsa(128, "AQAB") && !rsa(1025, "AQAB"));
        assert!(!rsa(256, "") && !rsa(256, "AQ") && !rsa(256, "AA") && !rsa(256, "!"));
    }

    #[test]
    fn duplicate_key_and_byte_order_mark_are_accepted() {
        let doubled = format!(r#"{{{EC},"kid":"a","use":"sig"}},{{{EC},"kid":"a"}}"#);
        assert!(set(&doubled).unwrap().key("a").is_some());
        let document = format!("\u{feff}{{\"keys\":[{{{EC},\"kid\":\"a\"}}]}}");
        assert!(KeySet::parse(document.as_bytes(), Algorithm::ES256).unwrap().key("a").is_some());
    }

    #[test]
    fn persisted_form_restores_the_same_set() {
        let first = set(&format!(r#"{{{EC},"kid":"a","use":"sig"}},{{{EC},"kid":"b","x5t":"t"}}"#)).unwrap();
        let text = serde_json::to_string(&first.jwks().collect::<Vec<_>>()).unwrap();
        let again = KeySet::from_jwks(serde_json::from_str::<Vec<Jwk>>(&text).unwrap(), Algorithm::ES256).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn kid_of_the_same_form_is_similar() {
        let set = set(&format!(r#"{{{EC},"kid":"0a1b-22.c"}}"#)).unwrap();
        assert!(set.has_similar_kid("ffff-00.9"));
        for kid in ["", "unknown", "ffff-00.99", "fff-000.9", "ffff_00.9", "ffff-00.\u{e9}"] {
            assert!(!set.has_similar_kid(kid), "{kid}");
        }
    }

    /// Keys that other implementations accepted wrongly: see `tests/vectors/README.md`.
    #[test]
    fn key_of_wrong_algorithm_verifies_no_token() {
        type Vector = (String, Value, String, bool);
        let vectors: Vec<Vector> = serde_json::from_str(include_str!("../../tests/vectors/jwk.json")).unwrap();
        let mut accepted = 0;
        for (comment, key, token, valid) in vectors {
            let algorithm = if key["n"].is_string() { Algorithm::RS256 } else { Algorithm::ES256 };
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let set = KeySet::parse(serde_json::json!({"keys": [key]}).to_string().as_bytes(), algorithm);
            let genuine = set.is_some_and(|set| {
                set.keys.values().any(|key| {
                    key.algorithm() == algorithm && key.verifies(&SigningInput::new(signed.as_bytes()), signature)
                })
            });
            assert_eq!(genuine, valid, "{comment}");
            accepted += usize::from(genuine);
        }
        assert_eq!(accepted, 1);
    }
}
