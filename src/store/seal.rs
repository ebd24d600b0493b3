//! What stands in a shared store: sealed values and keyed hashes, nothing in clear.
//!
//! Owns the key ring of the store. Values are sealed with AES-256-GCM under the current key, bound to the
//! name they stand under; what an older key sealed is still opened. Names are HMAC-SHA-256 under a
//! key derived from the same secret, so that who reads the store learns neither a token nor a login.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf, hmac,
};
use secrecy::{ExposeSecret, SecretSlice};

use super::StoreError;

/// First byte of every sealed value: the format.
const FORMAT: u8 = 1;
/// Bytes of a key's own name in front of what it sealed.
const KEY_ID_LENGTH: usize = 4;
const NONCE_LENGTH: usize = 12;
const HEADER_LENGTH: usize = 1 + KEY_ID_LENGTH + NONCE_LENGTH;

/// The keys of a store: the current one first, then the previous one while a rotation is under way.
#[derive(Debug)]
pub(super) struct Seals {
    keys: Vec<Seal>,
}

struct Seal {
    id: [u8; KEY_ID_LENGTH],
    values: RandomizedNonceKey,
    names: hmac::Key,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

struct Length32;

impl hkdf::KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

impl Seals {
    /// The current key and perhaps the previous one, 32 bytes each.
    pub(super) fn new(current: &SecretSlice<u8>, previous: Option<&SecretSlice<u8>>) -> Result<Self, StoreError> {
        let keys = std::iter::once(current).chain(previous).map(Seal::new).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// Seals a value for the place `name`.
    pub(super) fn seal(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let key = self.keys.first().ok_or(StoreError::Broken("no key to seal with"))?;
        let mut sealed = value.to_vec();
        let nonce = key
            .values
            .seal_in_place_append_tag(Aad::from(associated(key.id, name)), &mut sealed)
            .map_err(|_| StoreError::Broken("a value cannot be sealed"))?;
        let mut out = Vec::with_capacity(HEADER_LENGTH + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(nonce.as_ref());
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what was sealed for the place `name`.
    pub(super) fn open(&self, name: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let unreadable = StoreError::Broken("a value was not sealed by this store's keys");
        let (header, text) = sealed.split_at_checked(HEADER_LENGTH).ok_or(unreadable.clone())?;
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

    /// The keyed hashes under which something may stand: by the current key, then by the previous one.
    pub(super) fn names(&self, kind: &str, what: &[u8]) -> impl Iterator<Item = String> {
        self.keys.iter().map(move |key| {
            let mut context = hmac::Context::with_key(&key.names);
            context.update(kind.as_bytes());
            context.update(&[0]);
            context.update(what);
            hex(context.sign().as_ref())
        })
    }

    /// The keyed hash by the current key.
    pub(super) fn name(&self, kind: &str, what: &[u8]) -> String {
        self.names(kind, what).next().unwrap_or_default()
    }
}

impl Seal {
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

/// Ties a sealed value to the key and the place it was sealed for.
fn associated(key: [u8; KEY_ID_LENGTH], name: &[u8]) -> Vec<u8> {
    [b"shopper-gateway/1".as_slice(), &key, name].concat()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretSlice<u8> {
        SecretSlice::from(vec![byte; 32])
    }

    #[test]
    fn what_is_sealed_opens_only_in_its_place_and_unchanged() {
        let seals = Seals::new(&key(1), None).unwrap();
        let sealed = seals.seal(b"place", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(seals.open(b"place", &sealed).unwrap(), b"secret");
        assert!(seals.open(b"other place", &sealed).is_err());
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(seals.open(b"place", &changed).is_err(), "byte {position}");
        }
        for length in 0..sealed.len() {
            assert!(seals.open(b"place", &sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_rotation_loses_nothing() {
        let old = Seals::new(&key(1), None).unwrap();
        let rotating = Seals::new(&key(2), Some(&key(1))).unwrap();
        let new = Seals::new(&key(2), None).unwrap();
        let sealed = old.seal(b"place", b"secret").unwrap();
        assert_eq!(rotating.open(b"place", &sealed).unwrap(), b"secret");
        assert!(new.open(b"place", &sealed).is_err());
        let sealed = rotating.seal(b"place", b"secret").unwrap();
        assert_eq!(new.open(b"place", &sealed).unwrap(), b"secret");
        assert_eq!(rotating.names("t", b"x").collect::<Vec<_>>(), [new.name("t", b"x"), old.name("t", b"x")]);
    }

    #[test]
    fn names_of_two_kinds_differ() {
        let seals = Seals::new(&key(1), None).unwrap();
        assert_ne!(seals.name("t", b"x"), seals.name("l", b"x"));
    }
}
