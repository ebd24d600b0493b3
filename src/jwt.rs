//! Signed tokens: strict parsing of a compact JWS (RFC 7515), and signature verification.
//!
//! The caller chooses the algorithm. A token whose header names another one is rejected (RFC 8725, 3.1). The header's `jwk`, `jku`,
//! `x5u` and `x5c` are never read. This module does not interpret claims, and does not know the time.

pub mod expiry;
mod key;

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};

pub use self::key::{SigningInput, VerifyingKey};

/// Maximum bytes of a token. SLAS's tokens have about 1,100. A longer one is rejected unread.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The SHA-256 of a token's signed part, which identifies the token in caches, stores and logs. Only the digest of a verified
/// token has a meaning.
pub type TokenDigest = [u8; 32];

/// The digest of a token. It does not depend on the signature: ECDSA allows several signatures of one text.
#[must_use]
pub fn token_digest(token: &str) -> TokenDigest {
    sha256(token.rsplit_once('.').map_or(token, |(signing_input, _)| signing_input))
}

/// The SHA-256 of a text.
#[must_use]
pub fn sha256(text: impl AsRef<[u8]>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_ref()).as_ref());
    bytes
}

/// The header value `Bearer` with a token, marked as sensitive. `None` if the token has a character that no header may have.
#[must_use]
pub fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An error of a token's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three parts separated by dots.
    #[error("the token is not a compact JWS of three parts")]
    NotCompact,
    /// A part is not canonical base64url without padding.
    #[error("a part of the token is not canonical base64url")]
    NotBase64Url,
    /// The header is not the expected JSON object.
    #[error("the token's header is unreadable")]
    InvalidHeader,
    /// The header names another algorithm than the issuer's.
    #[error("the token's algorithm is not the issuer's")]
    WrongAlgorithm,
    /// The header has an extension (`crit`, `b64`, `enc`, `zip`).
    #[error("the token's header has an unsupported extension (crit, b64, enc or zip)")]
    UnsupportedExtension,
    /// The header has no key id.
    #[error("the token's header has no kid")]
    MissingKid,
    /// The claims are not the expected JSON object.
    #[error("the token's claims are unreadable")]
    InvalidClaims,
}

/// An error of a well-formed token's verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The signature is not by this key.
    #[error("the token's signature does not verify")]
    InvalidSignature,
    /// The signature verifies, but the claims are not the expected JSON object.
    #[error(transparent)]
    Malformed(#[from] ParseError),
}

/// A well-formed token whose signature has not been verified.
#[derive(Debug)]
pub struct UnverifiedToken<'a> {
    algorithm: Algorithm,
    kid: String,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: &'a str,
}

/// Claims of an unverified token. They may only choose the key set, and whether to fetch it.
#[derive(Debug, Default, Deserialize)]
pub struct UnverifiedClaims {
    /// The issuer (`iss`).
    #[serde(default, rename = "iss")]
    pub issuer: Option<String>,
    /// The issue time (`iat`), in seconds since 1970.
    #[serde(default, rename = "iat", deserialize_with = "whole_number")]
    pub issued_at: Option<u64>,
}

/// The audience of a token (`aud`; RFC 7519, 4.1.3): one text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Audience<'t> {
    /// One text.
    #[serde(borrow)]
    One(Cow<'t, str>),
    /// A list. A token with an empty list has no audience.
    List(Vec<Cow<'t, str>>),
}

impl Audience<'_> {
    /// Whether the audience includes this recipient. The comparison is case-sensitive.
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
    #[serde(default, rename = "crit", deserialize_with = "is_present")]
    has_crit: bool,
    #[serde(default, rename = "b64", deserialize_with = "is_present")]
    has_b64: bool,
    #[serde(default, rename = "enc", deserialize_with = "is_present")]
    has_enc: bool,
    #[serde(default, rename = "zip", deserialize_with = "is_present")]
    has_zip: bool,
}

/// Whether a member is present, with any value, `null` included.
fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|IgnoredAny| true)
}

/// A whole number. `None` for any other value.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(|value| value.as_u64())
}

impl<'a> UnverifiedToken<'a> {
    /// Parses a compact JWS with this algorithm.
    ///
    /// # Errors
    /// [`ParseError`] with the first violation found.
    pub fn parse(token: &'a str, algorithm: Algorithm) -> Result<Self, ParseError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ParseError::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(ParseError::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(ParseError::NotCompact)?;
        if header.is_empty() || payload.is_empty() || signature.is_empty() || payload.contains('.') {
            return Err(ParseError::NotCompact);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| ParseError::NotBase64Url);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| ParseError::InvalidHeader)?;
        decode(signature)?;
        if header.alg != algorithm_name(algorithm) {
            return Err(ParseError::WrongAlgorithm);
        }
        if header.has_crit || header.has_b64 || header.has_enc || header.has_zip {
            return Err(ParseError::UnsupportedExtension);
        }
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt") && !typ.eq_ignore_ascii_case("at+jwt")) {
            return Err(ParseError::InvalidHeader);
        }
        let kid = header.kid.filter(|kid| (1..=256).contains(&kid.len())).ok_or(ParseError::MissingKid)?;
        Ok(Self { algorithm, kid, signing_input, payload: decode(payload)?, signature })
    }

    /// The key id that the header names.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The token's issuer and issue time, unverified. Both are `None` if the claims are unreadable.
    #[must_use]
    pub fn unverified_claims(&self) -> UnverifiedClaims {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }

    /// Verifies the signature. Returns the claims and the token's digest.
    ///
    /// # Errors
    /// [`VerifyError::InvalidSignature`] if the signature is not by this key, [`VerifyError::Malformed`] if the claims are
    /// unreadable.
    pub fn verify<'c, Claims: Deserialize<'c>>(
        &'c self,
        key: &VerifyingKey,
    ) -> Result<(Claims, TokenDigest), VerifyError> {
        let signing_input = SigningInput::new(self.signing_input.as_bytes());
        if key.algorithm() != self.algorithm || !key.verifies(&signing_input, self.signature) {
            return Err(VerifyError::InvalidSignature);
        }
        let claims = serde_json::from_slice(&self.payload).map_err(|_| ParseError::InvalidClaims)?;
        Ok((claims, signing_input.sha256()))
    }
}

/// Whether a token's header names Account Manager's algorithm. The header is unverified: the result only chooses the verifier.
#[must_use]
pub fn has_system_token_algorithm(token: &str) -> bool {
    #[derive(Deserialize)]
    struct AlgorithmHeader {
        alg: String,
    }
    let header = token.split('.').next().filter(|header| header.len() <= MAX_TOKEN_BYTES).unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
    serde_json::from_slice::<AlgorithmHeader>(&header)
        .is_ok_and(|header| header.alg == algorithm_name(Algorithm::RS256))
}

/// Reads claims of a token without verification. They may only repeat what the token's holder knows anyway. `None` if the text is
/// no token with these claims.
#[must_use]
pub fn read_unverified<Claims: DeserializeOwned>(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// The registered name (RFC 7518, 3.1) of an algorithm of Salesforce's issuers.
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

    fn parse_error(text: &str) -> ParseError {
        UnverifiedToken::parse(text, Algorithm::ES256).unwrap_err()
    }

    #[test]
    fn algorithm_other_than_the_issuers_is_rejected() {
        for alg in ["none", "None", "NONE", "nOnE", "HS256", "RS256", "ES384", "EdDSA", "es256", "ES256 ", ""] {
            let text = token(&format!(r#"{{"alg":"{alg}","kid":"k"}}"#), "{}", &[1; 64]);
            assert_eq!(parse_error(&text), ParseError::WrongAlgorithm, "{alg:?}");
        }
        assert_eq!(parse_error(&token(r#"{"kid":"k"}"#, "{}", &[1; 64])), ParseError::InvalidHeader);
        assert_eq!(
            parse_error(&token(r#"{"alg":"none","alg":"ES256","kid":"k"}"#, "{}", &[1; 64])),
            ParseError::InvalidHeader
        );
    }

    #[test]
    fn header_extensions_are_rejected_even_as_null() {
        for member in [
            r#""crit":["exp"]"#,
            r#""crit":null"#,
            r#""b64":false"#,
            r#""b64":true"#,
            r#""enc":"A128GCM""#,
            r#""zip":"DEF""#,
        ] {
            let text = token(&format!(r#"{{"alg":"ES256","kid":"k",{member}}}"#), "{}", &[1; 64]);
            assert_eq!(parse_error(&text), ParseError::UnsupportedExtension, "{member}");
        }
    }

    #[test]
    fn audience_includes_only_the_named_recipients() {
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
    fn header_without_kid_is_rejected() {
        for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":""}"#, r#"{"alg":"ES256","kid":null}"#] {
            assert_eq!(parse_error(&token(header, "{}", &[1; 64])), ParseError::MissingKid, "{header}");
        }
    }

    #[test]
    fn non_canonical_encoding_is_rejected() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#, r#"{"a":1}"#, &[1; 64]);
        assert!(UnverifiedToken::parse(&good, Algorithm::ES256).is_ok());
        let padded = format!("{good}==");
        let (rest, last) = good.split_at(good.len() - 1);
        // The last character of 64 encoded bytes has two unused bits, which must be zero.
        assert_eq!(last, "Q");
        for other in ["R", "S", "Z"] {
            assert_eq!(parse_error(&format!("{rest}{other}")), ParseError::NotBase64Url);
        }
        assert_eq!(parse_error(&padded), ParseError::NotBase64Url);
        assert_eq!(parse_error(&good.replacen('.', ".\n", 1)), ParseError::NotBase64Url);
        assert_eq!(parse_error(&format!("{good}.x")), ParseError::NotCompact);
        for text in ["", ".", "..", "a.b", "a..b", r#"{"payload":"","signatures":[]}"#] {
            assert_eq!(parse_error(text), ParseError::NotCompact, "{text:?}");
        }
        assert_eq!(parse_error(&"a".repeat(MAX_TOKEN_BYTES + 1)), ParseError::TooLong);
    }
}
