//! The signing keys: SLAS's past, current and next EC keys, Account Manager's RSA keys.
//!
//! Keys are generated in memory and end with the simulator.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

/// One key pair with its id.
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    material: Material,
}

enum Material {
    Ec { pair: EcdsaKeyPair, pkcs8: Vec<u8> },
    Rsa { pair: Box<rsa::KeyPair>, pkcs8: Vec<u8> },
}

// Making a key fails only when the system has no randomness; nothing could run then.
#[allow(clippy::expect_used)]
impl SigningKey {
    pub(crate) fn ec() -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .expect("an EC key can be made");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
            .expect("a new EC key can be read");
        Self { kid: Uuid::new_v4().to_string(), material: Material::Ec { pair, pkcs8: pkcs8.as_ref().to_vec() } }
    }

    pub(crate) fn rsa() -> Self {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).expect("an RSA key can be made");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("a new RSA key can be written");
        let pkcs8 = der.as_ref().to_vec();
        Self { kid: Uuid::new_v4().to_string(), material: Material::Rsa { pair: Box::new(pair), pkcs8 } }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.material {
            Material::Ec { pair, .. } => pair.sign(&random, message).expect("an EC key signs").as_ref().to_vec(),
            Material::Rsa { pair, .. } => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("an RSA key signs");
                signature
            }
        }
    }
}

impl SigningKey {
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Ec { .. } => "ES256",
            Material::Rsa { .. } => "RS256",
        }
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let outcome = match &self.material {
            Material::Ec { pair, .. } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref()).verify(message, signature)
            }
            Material::Rsa { pair, .. } => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref())
                    .verify(message, signature)
            }
        };
        outcome.is_ok()
    }

    /// The public key as a JSON Web Key.
    pub(crate) fn jwk(&self) -> Value {
        match &self.material {
            Material::Ec { pair, .. } => {
                // An uncompressed point: 0x04, then x and y of 32 bytes each.
                let point = pair.public_key().as_ref();
                json!({
                    "crv": "P-256", "kid": self.kid, "kty": "EC", "use": "sig",
                    "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
                    "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
                })
            }
            Material::Rsa { pair, .. } => {
                let public = pair.public_key();
                json!({
                    "kid": self.kid, "kty": "RSA", "use": "sig", "alg": "RS256",
                    "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
                    "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
        }
    }

    /// The private key as PKCS#8 PEM, for tests that sign tokens which the services would not issue.
    pub(crate) fn pem(&self) -> String {
        let (Material::Ec { pkcs8, .. } | Material::Rsa { pkcs8, .. }) = &self.material;
        let encoded = STANDARD.encode(pkcs8);
        let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (index, letter) in encoded.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text.push_str("\n-----END PRIVATE KEY-----\n");
        text
    }
}

/// Past, current and next keys of one issuer. A new issuer has no past key.
pub(crate) struct KeyRing {
    past: Option<SigningKey>,
    current: SigningKey,
    next: Option<SigningKey>,
    make: fn() -> SigningKey,
}

impl KeyRing {
    /// SLAS publishes the next key before using it.
    pub(crate) fn slas() -> Self {
        Self { past: None, current: SigningKey::ec(), next: Some(SigningKey::ec()), make: SigningKey::ec }
    }

    pub(crate) fn account_manager() -> Self {
        Self { past: None, current: SigningKey::rsa(), next: None, make: SigningKey::rsa }
    }

    pub(crate) fn rotate(&mut self) {
        let announced = self.next.is_some();
        let incoming = self.next.take().unwrap_or_else(self.make);
        self.past = Some(std::mem::replace(&mut self.current, incoming));
        if announced {
            self.next = Some((self.make)());
        }
    }

    pub(crate) fn current(&self) -> &SigningKey {
        &self.current
    }

    pub(crate) fn find(&self, kid: &str) -> Option<&SigningKey> {
        self.all().find(|key| key.kid == kid)
    }

    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": self.all().map(SigningKey::jwk).collect::<Vec<_>>()})
    }

    fn all(&self) -> impl Iterator<Item = &SigningKey> {
        [self.past.as_ref(), Some(&self.current), self.next.as_ref()].into_iter().flatten()
    }
}
