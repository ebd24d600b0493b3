//! Generated identifiers, in the length and alphabet of the real ones.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// 26 letters and digits, as customer ids have.
pub(crate) fn customer() -> String {
    let bytes = random();
    let mut text = String::from("ab");
    text.extend(bytes.iter().take(24).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])));
    text
}

/// 26 hexadecimal digits, as baskets, items and lists have.
pub(crate) fn record() -> String {
    Uuid::new_v4().simple().to_string()[..26].to_owned()
}

/// A shopper session id.
pub(crate) fn usid() -> String {
    Uuid::new_v4().to_string()
}

/// An unguessable opaque token: codes, refresh tokens.
pub(crate) fn opaque() -> String {
    URL_SAFE_NO_PAD.encode(random())
}

/// Eight digits, as one-time passwords have.
pub(crate) fn digits() -> String {
    let number = Uuid::new_v4().as_u128() % 100_000_000;
    format!("{number:08}")
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    bytes[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    bytes
}
