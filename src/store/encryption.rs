//! Encryption of what a shared store holds.
//!
//! Values are encrypted with AES-256-GCM under the current key, with their place in the store as associated data.
//! Values that were encrypted with the previous key can still be decrypted. Identifiers are HMAC-SHA-256 under a key
//! that is derived from the same secret. A reader of the store learns neither a token nor a login.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf, hmac,
};
use secrecy::{ExposeSecret, SecretSlice};

use super::StoreError;
use crate::hex;

/// The first byte of every encrypted value: the version of the format.
const FORMAT: u8 = 1;
/// The length of the key id in front of an encrypted value, bytes.
const KEY_ID_LENGTH: usize = 4;
const NONCE_LENGTH: usize = 12;
/// Place and content of the value by which replicas compare their keys.
const KEY_CHECK: &[u8] = b"key check";
const HEADER_LENGTH: usize = 1 + KEY_ID_LENGTH + NONCE_LENGTH;

/// The keys of a store: the current one first, then the previous one during a rotation.
#[derive(Debug)]
pub(super) struct StoreCipher {
    keys: Vec<DerivedKeys>,
}

struct DerivedKeys {
    id: [u8; KEY_ID_LENGTH],
    values: RandomizedNonceKey,
    names: hmac::Key,
}

impl std::fmt::Debug for DerivedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

/// The key that a check value was encrypted with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyComparison {
    Current,
    Previous,
    /// An unknown key: the ids of the current key and of the unknown one.
    Other {
        own: String,
        stored: String,
    },
}

struct Length32;

impl hkdf::KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

impl StoreCipher {
    /// The current key and, during a rotation, the previous one; 32 bytes each.
    pub(super) fn new(current: &SecretSlice<u8>, previous: Option<&SecretSlice<u8>>) -> Result<Self, StoreError> {
        let keys = std::iter::once(current).chain(previous).map(DerivedKeys::new).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// Encrypts a value for the place `name`.
    pub(super) fn encrypt(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let key = self.keys.first().ok_or(StoreError::Broken("no encryption key"))?;
        let mut encrypted = value.to_vec();
        let nonce = key
            .values
            .seal_in_place_append_tag(Aad::from(associated(key.id, name)), &mut encrypted)
            .map_err(|_| StoreError::Broken("a value cannot be encrypted"))?;
        let mut out = Vec::with_capacity(HEADER_LENGTH + encrypted.len());
        out.push(FORMAT);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(nonce.as_ref());
        out.extend_from_slice(&encrypted);
        Ok(out)
    }

    /// Decrypts a value that was encrypted for the place `name`.
    pub(super) fn decrypt(&self, name: &[u8], encrypted: &[u8]) -> Result<Vec<u8>, StoreError> {
        let unreadable = StoreError::Broken("a value was not encrypted with this store's keys");
        let (header, text) = encrypted.split_at_checked(HEADER_LENGTH).ok_or(unreadable.clone())?;
        let (id, nonce) = header[1..].split_at(KEY_ID_LENGTH);
        let key = self.keys.iter().find(|key| header[0] == FORMAT && key.id == id).ok_or(unreadable.clone())?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unreadable.clone())?;
        let mut text = text.to_vec();
        let opened = key
            .values
            .open_in_place(nonce, Aad::from(associated(key.id, name)), &mut text)
            .map_err(|_| unreadable)?
            .len();
        text.truncate(opened);
        Ok(text)
    }

    /// Encrypts the value by which replicas compare their keys.
    pub(super) fn encrypt_key_check(&self) -> Result<Vec<u8>, StoreError> {
        self.encrypt(KEY_CHECK, KEY_CHECK)
    }

    /// The key of a check value.
    pub(super) fn compare_key(&self, check: &[u8]) -> KeyComparison {
        let id = check.get(1..=KEY_ID_LENGTH).unwrap_or_default();
        match self.keys.iter().position(|key| key.id == id) {
            Some(position) if self.decrypt(KEY_CHECK, check).is_ok_and(|value| value == KEY_CHECK) => {
                if position == 0 {
                    KeyComparison::Current
                } else {
                    KeyComparison::Previous
                }
            }
            _ => KeyComparison::Other {
                own: self.keys.first().map_or_else(String::new, |key| hex::encode(&key.id)),
                stored: hex::encode(id),
            },
        }
    }

    /// The keyed hashes of an identifier: under the current key, then under the previous one.
    pub(super) fn hashes(&self, kind: &str, what: &[u8]) -> impl Iterator<Item = String> {
        self.keys.iter().map(move |key| {
            let mut context = hmac::Context::with_key(&key.names);
            context.update(kind.as_bytes());
            context.update(&[0]);
            context.update(what);
            hex::encode(context.sign().as_ref())
        })
    }

    /// The keyed hash under the current key.
    pub(super) fn hash(&self, kind: &str, what: &[u8]) -> String {
        self.hashes(kind, what).next().unwrap_or_default()
    }
}

impl DerivedKeys {
    fn new(secret: &SecretSlice<u8>) -> Result<Self, StoreError> {
        let broken = StoreError::Broken("a key cannot be used");
        let secret =
            hkdf::Salt::new(hkdf::HKDF_SHA256, b"shopper-gateway session store").extract(secret.expose_secret());
        let derive = |purpose: &'static [u8]| {
            let mut key = [0; 32];
            let info = [purpose];
            let okm = secret.expand(&info, Length32).map_err(|_| broken.clone())?;
            okm.fill(&mut key).map(|()| key).map_err(|_| broken.clone())
        };
        let id = derive(b"key id")?;
        Ok(Self {
            id: [id[0], id[1], id[2], id[3]],
            values: RandomizedNonceKey::new(&AES_256_GCM, &derive(b"values")?).map_err(|_| broken.clone())?,
            names: hmac::Key::new(hmac::HMAC_SHA256, &derive(b"names")?),
        })
    }
}

/// The associated data of a value: the key's id and the place.
fn associated(key: [u8; KEY_ID_LENGTH], name: &[u8]) -> Vec<u8> {
    [b"shopper-gateway/1".as_slice(), &key, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretSlice<u8> {
        SecretSlice::from(vec![byte; 32])
    }

    #[test]
    fn encrypted_value_decrypts_only_unchanged_and_in_its_place() {
        let cipher = StoreCipher::new(&key(1), None).unwrap();
        let encrypted = cipher.encrypt(b"place", b"secret").unwrap();
        assert!(!encrypted.windows(6).any(|window| window == b"secret"));
        assert_eq!(cipher.decrypt(b"place", &encrypted).unwrap(), b"secret");
        assert!(cipher.decrypt(b"other place", &encrypted).is_err());
        for position in 0..encrypted.len() {
            let mut changed = encrypted.clone();
            changed[position] ^= 1;
            assert!(cipher.decrypt(b"place", &changed).is_err(), "byte {position}");
        }
        for length in 0..encrypted.len() {
            assert!(cipher.decrypt(b"place", &encrypted[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn values_and_hashes_stay_readable_during_key_rotation() {
        let old = StoreCipher::new(&key(1), None).unwrap();
        let rotating = StoreCipher::new(&key(2), Some(&key(1))).unwrap();
        let new = StoreCipher::new(&key(2), None).unwrap();
        let encrypted = old.encrypt(b"place", b"secret").unwrap();
        assert_eq!(rotating.decrypt(b"place", &encrypted).unwrap(), b"secret");
        assert!(new.decrypt(b"place", &encrypted).is_err());
        let encrypted = rotating.encrypt(b"place", b"secret").unwrap();
        assert_eq!(new.decrypt(b"place", &encrypted).unwrap(), b"secret");
        assert_eq!(rotating.hashes("t", b"x").collect::<Vec<_>>(), [new.hash("t", b"x"), old.hash("t", b"x")]);
    }

    #[test]
    fn check_value_identifies_current_previous_and_unknown_key() {
        let (old, new) = (StoreCipher::new(&key(1), None).unwrap(), StoreCipher::new(&key(2), None).unwrap());
        let rotating = StoreCipher::new(&key(2), Some(&key(1))).unwrap();
        let check = old.encrypt_key_check().unwrap();
        assert_eq!(old.compare_key(&check), KeyComparison::Current);
        assert_eq!(rotating.compare_key(&check), KeyComparison::Previous);
        let KeyComparison::Other { own, stored } = new.compare_key(&check) else { panic!() };
        assert!(own.len() == 8 && stored.len() == 8 && own != stored, "{own} {stored}");
        for length in 0..check.len() {
            assert!(matches!(old.compare_key(&check[..length]), KeyComparison::Other { .. }), "length {length}");
        }
        let elsewhere = old.encrypt(b"another place", KEY_CHECK).unwrap();
        assert!(matches!(old.compare_key(&elsewhere), KeyComparison::Other { .. }));
    }

    #[test]
    fn hashes_of_two_kinds_differ() {
        let cipher = StoreCipher::new(&key(1), None).unwrap();
        assert_ne!(cipher.hash("t", b"x"), cipher.hash("l", b"x"));
    }
}
