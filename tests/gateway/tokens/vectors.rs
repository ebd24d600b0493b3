//! Published mistakes of other implementations, as described in `tests/vectors/README.md`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, jwk::Jwk};
use serde::Deserialize;
use serde_json::{Value, json};
use shopper_gateway::jwt::{ParseError, SigningInput, UnverifiedToken, VerifyError, VerifyingKey};

#[derive(Deserialize)]
struct Point {
    x: String,
    y: String,
    cases: Vec<(String, String, String, bool)>,
}

#[derive(Deserialize)]
struct Key {
    key: Value,
    cases: Vec<(String, String, bool)>,
}

fn key(jwk: Value) -> VerifyingKey {
    let jwk: Jwk = serde_json::from_value(jwk).unwrap();
    VerifyingKey::from_jwk(&jwk).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap()).collect()
}

/// Whether the gateway accepts the signature of a compact JWS. The payloads of the vectors are no claims: a
/// rejection for this reason shows that the signature was accepted.
fn is_genuine(token: &str, key: &VerifyingKey, algorithm: Algorithm) -> bool {
    match UnverifiedToken::parse(token, algorithm).map(|unverified| unverified.verify::<Vec<Value>>(key)) {
        Ok(Ok(_)) | Ok(Err(VerifyError::Malformed(ParseError::InvalidClaims))) => true,
        Ok(Err(_)) | Err(_) => false,
    }
}

#[test]
fn published_es256_signature_vectors_pass() {
    crate::world::install_cryptography();
    let keys: Vec<Point> = serde_json::from_str(include_str!("../../vectors/es256_signatures.json")).unwrap();
    let mut seen = [0, 0];
    for Point { x, y, cases } in keys {
        let key = key(json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}));
        for (comment, message, signature, valid) in cases {
            let signature = URL_SAFE_NO_PAD.encode(bytes(&signature));
            let genuine = key.verifies(&SigningInput::new(&bytes(&message)), &signature);
            assert_eq!(genuine, valid, "{comment}: {message} {signature}");
            seen[usize::from(valid)] += 1;
        }
    }
    assert!(seen[0] > 80 && seen[1] > 20, "{seen:?}");
}

#[test]
fn published_jws_vectors_pass() {
    let keys: Vec<Key> = serde_json::from_str(include_str!("../../vectors/jws.json")).unwrap();
    let mut seen = [0, 0];
    for Key { key: jwk, cases } in keys {
        let algorithm = jwk["alg"].as_str().unwrap().parse().unwrap();
        let key = key(jwk);
        for (comment, token, valid) in cases {
            // An empty payload is a valid JWS and no token.
            let valid = valid && !token.contains("..");
            assert_eq!(is_genuine(&token, &key, algorithm), valid, "{comment}: {token}");
            seen[usize::from(valid)] += 1;
        }
    }
    assert!(seen[0] > 50 && seen[1] > 5, "{seen:?}");
}
