//! The `Authorization` field: what is read as Basic is what was written.
#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret, SecretString};
use shopper_gateway::gate::credentials::{BasicCredentials, Presented};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return read_field(bytes) };
    read_field(bytes);
    read_field(format!("Basic {}", STANDARD.encode(text)).as_bytes());
    if let Some(basic) = BasicCredentials::read(text) {
        check(&basic, text);
    }
});

fn read_field(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    if let Ok(Presented::Basic(basic)) = Presented::read(&headers) {
        let text = std::str::from_utf8(bytes).expect("what is read is text");
        check(&basic, text.split_once(' ').expect("a scheme").1.trim_matches(' '));
    }
    headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert!(Presented::read(&headers).is_err(), "two credentials");
}

fn check(basic: &BasicCredentials, encoded: &str) {
    let password = basic.password.expose_secret();
    assert!(!basic.user.is_empty() && !basic.user.contains(':'));
    assert!(!basic.user.chars().chain(password.chars()).any(char::is_control));
    assert_eq!(STANDARD.encode(format!("{}:{password}", basic.user)), encoded, "one text, one credential");
    let other = BasicCredentials { user: basic.user.clone(), password: SecretString::from("another") };
    assert_eq!(format!("{basic:?}"), format!("{other:?}"), "what is shown does not depend on the password");
}
