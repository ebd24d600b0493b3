//! Public keys of issuers, parsed once and used for many signatures.

use std::ops::RangeInclusive;

use aws_lc_rs::{
    digest::{Digest, SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, Jwk, RSAKeyParameters},
};

/// The first byte of an uncompressed point (SEC 1, 2.3.3).
const UNCOMPRESSED_POINT: u8 = 4;
/// The supported bytes of an RSA modulus: 2,048 to 8,192 bits.
const RSA_MODULUS_BYTES: RangeInclusive<usize> = 256..=1024;
/// Maximum bytes of an RSA exponent. The library supports 33 bits.
const MAX_RSA_EXPONENT_BYTES: usize = 5;
/// Bytes of a P-256 coordinate, leading zeros included (RFC 7518, 6.2.1.2).
const COORDINATE_BYTES: usize = 32;

/// The signed bytes of a token with their SHA-256, which both algorithms sign.
pub struct SigningInput<'t> {
    bytes: &'t [u8],
    digest: Digest,
}

impl std::fmt::Debug for SigningInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningInput").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl<'t> SigningInput<'t> {
    /// Hashes the signed bytes.
    #[must_use]
    pub fn new(bytes: &'t [u8]) -> Self {
        Self { bytes, digest: digest(&SHA256, bytes) }
    }

    /// The SHA-256 of the signed bytes.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.digest.as_ref());
        bytes
    }
}

/// A public key for one algorithm.
pub struct VerifyingKey(Kind);

enum Kind {
    Es256(ParsedPublicKey),
    Rs256(DecodingKey),
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("VerifyingKey").field(&self.algorithm()).finish()
    }
}

impl VerifyingKey {
    /// Parses a published key (RFC 7517). `None` if it is malformed, or not for ES256 or RS256.
    #[must_use]
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, uncompressed_point(key)?).ok()?;
                Some(Self(Kind::Es256(key)))
            }
            AlgorithmParameters::RSA(key) if is_supported_rsa(key) => {
                Some(Self(Kind::Rs256(DecodingKey::from_jwk(jwk).ok()?)))
            }
            _ => None,
        }
    }

    /// The algorithm of the key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Kind::Es256(_) => Algorithm::ES256,
            Kind::Rs256(_) => Algorithm::RS256,
        }
    }

    /// Whether a base64url signature of the signed bytes is by this key.
    #[must_use]
    pub fn verifies(&self, input: &SigningInput<'_>, signature: &str) -> bool {
        match &self.0 {
            Kind::Es256(key) => {
                let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
                key.verify_digest_sig(&input.digest, &signature).is_ok()
            }
            Kind::Rs256(key) => crypto::verify(signature, input.bytes, key, Algorithm::RS256).unwrap_or(false),
        }
    }
}

/// Whether the library supports an RSA key's size (RFC 7518, 3.3: 2,048 bits or more) and its exponent is safe. With an exponent
/// of 1 anyone can sign.
fn is_supported_rsa(key: &RSAKeyParameters) -> bool {
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes.get(zeros..)?.to_vec())
    };
    let (Some(modulus), Some(exponent)) = (number(&key.n), number(&key.e)) else { return false };
    RSA_MODULUS_BYTES.contains(&modulus.len())
        && exponent.len() <= MAX_RSA_EXPONENT_BYTES
        && exponent != [1]
        && exponent.last().is_some_and(|last| last % 2 == 1)
}

fn uncompressed_point(key: &EllipticCurveKeyParameters) -> Option<Vec<u8>> {
    let mut point = vec![UNCOMPRESSED_POINT];
    for coordinate in [&key.x, &key.y] {
        let coordinate = URL_SAFE_NO_PAD.decode(coordinate).ok()?;
        if coordinate.len() != COORDINATE_BYTES {
            return None;
        }
        point.extend(coordinate);
    }
    Some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendix A.3.
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    const SIGNED: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    fn key(x: &str, y: &str, curve: &str) -> Option<VerifyingKey> {
        let jwk = serde_json::json!({"kty": "EC", "crv": curve, "x": x, "y": y});
        VerifyingKey::from_jwk(&serde_json::from_value(jwk).unwrap())
    }

    #[test]
    fn altered_signature_or_text_does_not_verify() {
        let key = key(X, Y, "P-256").unwrap();
        assert!(key.verifies(&SigningInput::new(SIGNED.as_bytes()), SIGNATURE));
        assert!(!key.verifies(&SigningInput::new(&SIGNED.as_bytes()[1..]), SIGNATURE));
        for signature in ["", "AAAA", "*", &SIGNATURE.replace('D', "E"), &"A".repeat(86)] {
            assert!(!key.verifies(&SigningInput::new(SIGNED.as_bytes()), signature), "{signature}");
        }
    }

    #[test]
    fn point_off_the_curve_is_rejected() {
        assert!(key(X, X, "P-256").is_none());
        assert!(key(X, Y, "P-384").is_none());
        for part in ["", "AA", "*", &Y[1..], &format!("AA{Y}")] {
            assert!(key(X, part, "P-256").is_none() && key(part, Y, "P-256").is_none(), "{part}");
        }
    }
}
