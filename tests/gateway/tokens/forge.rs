//! Signs tokens that SLAS and Account Manager never issue.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::world::World;

/// The order of P-256: the smallest number that is no valid r or s.
pub const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// A P-256 key that signs tokens, and its key id.
pub struct Forge {
    pkcs8: Vec<u8>,
    pub kid: String,
}

impl Forge {
    /// A forge with SLAS's current key: its signatures are genuine for any claims.
    pub fn with_slas_key(world: &World) -> Self {
        Self { pkcs8: der(&world.simulator.slas_private_key_pem()), kid: world.simulator.slas_kid() }
    }

    /// A forge with a key of its own, under the key id of SLAS.
    pub fn with_foreign_key(world: &World) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self { pkcs8: pkcs8.as_ref().to_vec(), kid: world.simulator.slas_kid() }
    }

    /// The header that SLAS writes.
    pub fn header(&self) -> Value {
        json!({"ver": "1.0", "jku": "slas/prod/zzrf_001", "kid": self.kid, "typ": "jwt", "clv": "J2.3.4", "alg": "ES256"})
    }

    /// The header with one member changed; `null` removes it.
    pub fn header_with(&self, name: &str, value: Value) -> String {
        changed(self.header(), name, value).to_string()
    }

    pub fn sign(&self, header: &str, claims: &str) -> String {
        let input = input(header, claims);
        let signature = self.signature(&ECDSA_P256_SHA256_FIXED_SIGNING, &input);
        with_signature(&input, &signature)
    }

    /// The claims under the usual header.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header().to_string(), &claims.to_string())
    }

    /// A signature in ASN.1 DER, which JOSE does not use.
    pub fn asn1_signature(&self, input: &str) -> Vec<u8> {
        self.signature(&ECDSA_P256_SHA256_ASN1_SIGNING, input)
    }

    /// The public key as an uncompressed point: 4, x, y.
    pub fn point(&self) -> Vec<u8> {
        self.pair(&ECDSA_P256_SHA256_FIXED_SIGNING).public_key().as_ref().to_vec()
    }

    /// The public key in the format of X.509 (SubjectPublicKeyInfo).
    pub fn spki(&self) -> Vec<u8> {
        // SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING } in front of the point.
        const BEFORE_POINT: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        [&BEFORE_POINT[..], &self.point()].concat()
    }

    pub fn spki_pem(&self) -> String {
        let text = STANDARD.encode(self.spki());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub fn jwk(&self) -> Value {
        let point = self.point();
        json!({
            "crv": "P-256", "kid": self.kid, "kty": "EC", "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        })
    }

    fn pair(&self, algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8).unwrap()
    }

    fn signature(&self, algorithm: &'static EcdsaSigningAlgorithm, input: &str) -> Vec<u8> {
        self.pair(algorithm).sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec()
    }
}

/// The claims of a guest's genuine token.
pub fn claims(world: &World) -> Value {
    let token = world.mint(|_| {});
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// The document with one member changed; `null` removes it.
pub fn changed(mut document: Value, name: &str, value: Value) -> Value {
    let members = document.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    document
}

/// The signing input: header and claims, encoded.
pub fn input(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

pub fn with_signature(input: &str, signature: &[u8]) -> String {
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token of HMAC-SHA256 under this secret.
pub fn hmac_token(secret: &[u8], header: &str, claims: &str) -> String {
    let input = input(header, claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    with_signature(&input, hmac::sign(&key, input.as_bytes()).as_ref())
}

/// The input signed under a new P-384 key.
pub fn p384_signature(input: &str) -> Vec<u8> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec()
}

/// The input signed under a new Ed25519 key.
pub fn ed25519_signature(input: &str) -> Vec<u8> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap().sign(input.as_bytes()).as_ref().to_vec()
}

/// The input signed under Account Manager's own key.
pub fn account_manager_signature(world: &World, input: &str) -> Vec<u8> {
    let pair = RsaKeyPair::from_pkcs8(&der(&world.simulator.account_manager_private_key_pem())).unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature).unwrap();
    signature
}

/// A token under Account Manager's own key.
pub fn account_manager_token(world: &World, header: &Value, claims: &Value) -> String {
    let input = input(&header.to_string(), &claims.to_string());
    let signature = account_manager_signature(world, &input);
    with_signature(&input, &signature)
}

/// The same signature with `n - s` for `s`, which is valid too.
pub fn with_negated_s(token: &str) -> String {
    let (input, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for place in (0..32).rev() {
        let difference = i16::from(ORDER[place]) - i16::from(signature[32 + place]) - borrow;
        borrow = i16::from(difference < 0);
        signature[32 + place] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    with_signature(input, &signature)
}

fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(text).unwrap()
}
