//! Signed tokens as text: one strict reading of a compact JWS (RFC 7515) and its signature.
//!
//! Owns what makes a token well-formed, and the check of its signature under one key. Refuses to
//! know what the claims mean, where keys come from, and what time it is. The algorithm is always the
//! caller's; what the token says of itself can only agree or be refused (RFC 8725, 3.1), and the
//! header's `jwk`, `jku`, `x5u` and `x5c` are never looked at.

pub mod expiry;
mod key;

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

pub use self::key::{Signed, VerifyingKey};

/// Longest token that is looked at, bytes. SLAS's are about 1,100; a larger one is refused unread.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// SHA-256 of a token's signed part: its name wherever a token must be recognised and itself must not
/// stand. Only the name of a token that verified says anything.
pub type TokenDigest = [u8; 32];

/// The name of a token, whichever of its two signatures it has.
#[must_use]
pub fn token_digest(token: &str) -> TokenDigest {
    sha256(token.rsplit_once('.').map_or(token, |(signed, _)| signed))
}

/// SHA-256 of a text.
#[must_use]
pub fn sha256(text: impl AsRef<[u8]>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_ref()).as_ref());
    bytes
}

/// `Bearer` and a token, marked so that no library prints it.
#[must_use]
pub fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Why a text is not a token that could be verified at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is too long")]
    TooLong,
    /// Not three parts separated by dots.
    #[error("the token is not a compact JWS of three parts")]
    NotCompact,
    /// A part is not canonical base64url without padding.
    #[error("a part of the token is not canonical base64url")]
    NotBase64Url,
    /// The header is not the JSON object it should be.
    #[error("the token's header is not readable")]
    HeaderUnreadable,
    /// The header names another algorithm than the one of this issuer.
    #[error("the token's algorithm is not the issuer's")]
    AlgorithmRefused,
    /// The header asks for an extension (`crit`, `b64`, `enc`, `zip`).
    #[error("the token's header asks for an extension that is not accepted")]
    ExtensionRefused,
    /// The header names no key.
    #[error("the token names no key")]
    KeyMissing,
    /// The claims are not the JSON object they should be.
    #[error("the token's claims are not readable")]
    ClaimsUnreadable,
}

/// Why a well-formed token was not accepted under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverifiable {
    /// The signature is not this key's over this text.
    #[error("the token's signature does not verify")]
    SignatureWrong,
    /// The signature verifies, but the claims are not the JSON object they should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A token that has the right form. Nothing in it has been verified.
#[derive(Debug)]
pub struct Unverified<'a> {
    algorithm: Algorithm,
    kid: String,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: &'a str,
}

/// What a token says of itself. Good only for choosing whose keys to try, and whether to ask for them.
#[derive(Debug, Default, Deserialize)]
pub struct ClaimedOrigin {
    /// Who issued it (`iss`).
    #[serde(default, rename = "iss")]
    pub issuer: Option<String>,
    /// When, seconds since 1970 (`iat`).
    #[serde(default, rename = "iat", deserialize_with = "whole_number")]
    pub issued_at: Option<u64>,
}

/// Whom a token is for (`aud`; RFC 7519, 4.1.3): one text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Audience<'t> {
    /// One text.
    #[serde(borrow)]
    One(Cow<'t, str>),
    /// A list, which may be empty: the token is then for nobody.
    List(Vec<Cow<'t, str>>),
}

impl Audience<'_> {
    /// Whether a token is for this recipient, perhaps among others. Case counts.
    #[must_use]
    pub fn includes(&self, recipient: &str) -> bool {
        match self {
            Self::One(one) => one == recipient,
            Self::List(list) => list.iter().any(|one| one == recipient),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
    #[serde(default, deserialize_with = "present")]
    enc: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
}

/// Whether a member is there, whatever its value, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|IgnoredAny| true)
}

/// A whole number; nothing for any other value.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(|value| value.as_u64())
}

impl<'a> Unverified<'a> {
    /// Reads a compact JWS whose algorithm must be `algorithm`.
    ///
    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    pub fn read(token: &'a str, algorithm: Algorithm) -> Result<Self, Malformed> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Malformed::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Malformed::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Malformed::NotCompact)?;
        if header.is_empty() || payload.is_empty() || signature.is_empty() || payload.contains('.') {
            return Err(Malformed::NotCompact);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed::NotBase64Url);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Malformed::HeaderUnreadable)?;
        decode(signature)?;
        if header.alg != algorithm_name(algorithm) {
            return Err(Malformed::AlgorithmRefused);
        }
        if header.crit || header.b64 || header.enc || header.zip {
            return Err(Malformed::ExtensionRefused);
        }
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt") && !typ.eq_ignore_ascii_case("at+jwt")) {
            return Err(Malformed::HeaderUnreadable);
        }
        let kid = header.kid.filter(|kid| (1..=256).contains(&kid.len())).ok_or(Malformed::KeyMissing)?;
        Ok(Self { algorithm, kid, signing_input, payload: decode(payload)?, signature })
    }

    /// The key that the token says signed it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What the token says of its origin before verification. Nothing, if it cannot be read.
    #[must_use]
    pub fn claimed_origin(&self) -> ClaimedOrigin {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }

    /// Checks the signature and only then hands out the claims, and the token's name.
    ///
    /// # Errors
    /// [`Unverifiable`].
    pub fn verify<'c, Claims: Deserialize<'c>>(
        &'c self,
        key: &VerifyingKey,
    ) -> Result<(Claims, TokenDigest), Unverifiable> {
        let signed = Signed::of(self.signing_input.as_bytes());
        if key.algorithm() != self.algorithm || !key.verifies(&signed, self.signature) {
            return Err(Unverifiable::SignatureWrong);
        }
        let claims = serde_json::from_slice(&self.payload).map_err(|_| Malformed::ClaimsUnreadable)?;
        Ok((claims, signed.sha256()))
    }
}

/// Whether a token's header names Account Manager's algorithm. Says nothing of its truth: it only
/// chooses which verification the token goes through.
#[must_use]
pub fn claims_to_be_of_account_manager(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Claim {
        alg: String,
    }
    let header = token.split('.').next().filter(|header| header.len() <= MAX_TOKEN_BYTES).unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
    serde_json::from_slice::<Claim>(&header).is_ok_and(|claim| claim.alg == algorithm_name(Algorithm::RS256))
}

/// The registered name (RFC 7518, 3.1) of the algorithms that Salesforce's issuers use.
fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "ES256",
        Algorithm::RS256 => "RS256",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str, signature: &[u8]) -> String {
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        format!("{}.{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()), encode(signature))
    }

    fn refusal(text: &str) -> Malformed {
        Unverified::read(text, Algorithm::ES256).unwrap_err()
    }

    #[test]
    fn only_the_issuers_algorithm_is_read() {
        for alg in ["none", "None", "NONE", "nOnE", "HS256", "RS256", "ES384", "EdDSA", "es256", "ES256 ", ""] {
            let text = token(&format!(r#"{{"alg":"{alg}","kid":"k"}}"#), "{}", &[1; 64]);
            assert_eq!(refusal(&text), Malformed::AlgorithmRefused, "{alg:?}");
        }
        assert_eq!(refusal(&token(r#"{"kid":"k"}"#, "{}", &[1; 64])), Malformed::HeaderUnreadable);
        assert_eq!(
            refusal(&token(r#"{"alg":"none","alg":"ES256","kid":"k"}"#, "{}", &[1; 64])),
            Malformed::HeaderUnreadable
        );
    }

    #[test]
    fn extensions_are_refused_even_as_null() {
        for member in [
            r#""crit":["exp"]"#,
            r#""crit":null"#,
            r#""b64":false"#,
            r#""b64":true"#,
            r#""enc":"A128GCM""#,
            r#""zip":"DEF""#,
        ] {
            let text = token(&format!(r#"{{"alg":"ES256","kid":"k",{member}}}"#), "{}", &[1; 64]);
            assert_eq!(refusal(&text), Malformed::ExtensionRefused, "{member}");
        }
    }

    #[test]
    fn audience_includes_exactly_what_it_names() {
        let includes = |json: &str| serde_json::from_str::<Audience<'_>>(json).is_ok_and(|aud| aud.includes("a/b"));
        for json in [r#""a/b""#, r#"["a/b"]"#, r#"["x", "a/b", "y"]"#, r#""a\/b""#, r#"["a\/b", "a/b"]"#] {
            assert!(includes(json), "{json}");
        }
        for json in [
            r#""""#,
            r#""a/b ""#,
            r#""A/b""#,
            r#""a/b,x""#,
            "[]",
            r#"["x"]"#,
            r#"["a/b", 7]"#,
            r#"["a/b", null]"#,
            r#"[["a/b"]]"#,
            r#"{"a/b": "a/b"}"#,
            "null",
            "7",
        ] {
            assert!(!includes(json), "{json}");
        }
    }

    #[test]
    fn a_key_must_be_named() {
        for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":""}"#, r#"{"alg":"ES256","kid":null}"#] {
            assert_eq!(refusal(&token(header, "{}", &[1; 64])), Malformed::KeyMissing, "{header}");
        }
    }

    #[test]
    fn one_token_has_one_spelling() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#, r#"{"a":1}"#, &[1; 64]);
        assert!(Unverified::read(&good, Algorithm::ES256).is_ok());
        let padded = format!("{good}==");
        let (rest, last) = good.split_at(good.len() - 1);
        // 64 bytes end in a character that carries two unused bits: any other spelling of it must be refused.
        assert_eq!(last, "Q");
        for other in ["R", "S", "Z"] {
            assert_eq!(refusal(&format!("{rest}{other}")), Malformed::NotBase64Url);
        }
        assert_eq!(refusal(&padded), Malformed::NotBase64Url);
        assert_eq!(refusal(&good.replacen('.', ".\n", 1)), Malformed::NotBase64Url);
        assert_eq!(refusal(&format!("{good}.x")), Malformed::NotCompact);
        for text in ["", ".", "..", "a.b", "a..b", r#"{"payload":"","signatures":[]}"#] {
            assert_eq!(refusal(text), Malformed::NotCompact, "{text:?}");
        }
        assert_eq!(refusal(&"a".repeat(MAX_TOKEN_BYTES + 1)), Malformed::TooLong);
    }
}
