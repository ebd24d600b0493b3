//! JSON Web Tokens in compact form: writing, and reading with a key ring.
//!
//! Reading checks signatures and times. Other modules read the claims.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::keys::{KeyRing, SigningKey};

/// Signs header and claims. The header's `alg` is written as given, even when it lies.
pub(crate) fn sign(key: &SigningKey, header: &Map<String, Value>, claims: &Map<String, Value>) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn encode(document: &Map<String, Value>) -> String {
    let text = Value::Object(document.clone()).to_string();
    URL_SAFE_NO_PAD.encode(text)
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed,
    UnknownKey,
    BadSignature,
    NotYetValid,
    Expired,
}

/// The claims of a token that a key of the ring signed and that is valid at a time (seconds since 1970).
pub(crate) fn verify(ring: &KeyRing, token: &str, now: i64) -> Result<Map<String, Value>, Refusal> {
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(Refusal::Malformed)?;
    let header = decode(header)?;
    let kid = header.get("kid").and_then(Value::as_str);
    let key = kid.and_then(|kid| ring.find(kid)).ok_or(Refusal::UnknownKey)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
    let declared = header.get("alg").and_then(Value::as_str);
    if declared != Some(key.algorithm()) || !key.verifies(message.as_bytes(), &signature) {
        return Err(Refusal::BadSignature);
    }
    let claims = decode(claims)?;
    let now = u64::try_from(now).unwrap_or_default();
    if number(&claims, "exp").ok_or(Refusal::Malformed)? <= now {
        return Err(Refusal::Expired);
    }
    if number(&claims, "nbf").is_some_and(|start| start > now) {
        return Err(Refusal::NotYetValid);
    }
    Ok(claims)
}

fn decode(part: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)
}

fn number(claims: &Map<String, Value>, name: &str) -> Option<u64> {
    claims.get(name)?.as_u64()
}
