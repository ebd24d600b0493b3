//! The `Authorization` field: Basic is read as SLAS may read it, so that no encoding of a login escapes the login
//! limits.
#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret;
use shopper_gateway::gateway::authorization_header::{Authorization, BasicCredentials};

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return read_field(bytes) };
    read_field(bytes);
    read_field(format!("Basic {}", STANDARD.encode(text)).as_bytes());
    check(text);
});

fn read_field(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    if let Ok(Authorization::Basic(_)) = Authorization::parse(&headers) {
        let text = std::str::from_utf8(bytes).expect("what is read is text");
        let (_, credential) = text.split_once([' ', '\t']).expect("a scheme");
        check(credential.trim_matches([' ', '\t']));
    }
    headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert!(Authorization::parse(&headers).is_err(), "two credentials");
}

/// Compares the reading with that of `java.util.Base64`, which takes missing padding and any bits behind the last byte.
fn check(encoded: &str) {
    let java = decoded(encoded);
    let Some(basic) = BasicCredentials::parse(encoded) else {
        let readable = java.filter(|bytes| !bytes.iter().any(u8::is_ascii_control));
        let has_user = |bytes: Vec<u8>| bytes.iter().position(|byte| *byte == b':').is_some_and(|colon| colon > 0);
        assert!(!readable.is_some_and(has_user), "a login that SLAS may read is not counted");
        return;
    };
    let password = basic.password.expose_secret();
    assert!(!basic.user.is_empty() && !basic.user.contains(':'));
    let whole = format!("{}:{password}", basic.user);
    assert!(!whole.chars().any(|character| character.is_ascii_control()));
    if let Some(bytes) = java {
        let as_latin_1: String = bytes.iter().copied().map(char::from).collect();
        let expected = std::str::from_utf8(&bytes).map_or(as_latin_1, str::to_owned);
        assert_eq!(whole, expected);
    }
    let other = BasicCredentials::parse(&STANDARD.encode(format!("{}:another", basic.user))).expect("a user");
    if basic.users().eq(other.users()) {
        assert_eq!(format!("{basic:?}"), format!("{other:?}"), "what is shown does not depend on the password");
    }
}

fn decoded(encoded: &str) -> Option<Vec<u8>> {
    let digits = encoded.trim_end_matches('=');
    let padding = encoded.len() - digits.len();
    if digits.len() % 4 == 1 || (padding > 0 && padding != (4 - digits.len() % 4) % 4) {
        return None;
    }
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|own| *own == digit)?;
        (bits, held) = (bits << 6 | u32::try_from(value).ok()?, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}
