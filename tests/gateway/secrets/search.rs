//! Secrets, and every encoding in which a secret may appear in a text.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Shorter secrets could be found by chance.
const MIN_LENGTH: usize = 8;

/// The secrets to search for, by name.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<Vec<u8>, String>);

/// A found secret and its encoding.
#[derive(Debug, PartialEq)]
pub struct Found {
    pub secret: String,
    pub encoding: &'static str,
}

impl Secrets {
    pub fn add(&mut self, name: &str, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref();
        if secret.len() >= MIN_LENGTH {
            self.0.entry(secret.to_vec()).or_insert_with(|| name.to_owned());
        }
    }

    /// Adds the parts of a token separately: its claims and its signature.
    pub fn add_token(&mut self, name: &str, token: &str) {
        match token.split('.').collect::<Vec<_>>()[..] {
            [_, claims, signature] => {
                self.add(&format!("claims of {name}"), claims);
                self.add(&format!("signature of {name}"), signature);
            }
            _ => self.add(name, token),
        }
    }

    pub fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.clone());
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The secrets in a text.
    pub fn find_in(&self, text: &[u8]) -> Vec<Found> {
        let (mut patterns, mut meanings) = (Vec::new(), Vec::new());
        for (secret, name) in &self.0 {
            for (encoding, pattern) in encodings(secret) {
                patterns.push(pattern);
                meanings.push((name, encoding));
            }
        }
        let search = AhoCorasick::new(&patterns).unwrap();
        let mut found: Vec<Found> = Vec::new();
        for one in search.find_overlapping_iter(text) {
            let (name, encoding) = meanings[one.pattern().as_usize()];
            let one = Found { secret: name.clone(), encoding };
            if !found.contains(&one) {
                found.push(one);
            }
        }
        found
    }
}

/// A secret in every encoding that a log, a header field or a value in a store may have.
pub fn encodings(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |byte: &u8| format!("{byte:02x}");
    let lower: String = secret.iter().map(hex).collect();
    let percent = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (*byte as char).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let percent: String = secret.iter().map(percent).collect();
    let every: String = secret.iter().map(|byte| format!("%{byte:02X}")).collect();
    let json = serde_json::to_string(&String::from_utf8_lossy(secret)).unwrap();
    let mut all = vec![
        ("plain", secret.to_vec()),
        ("hex", lower.clone().into_bytes()),
        ("hex", lower.to_uppercase().into_bytes()),
        ("percent", percent.to_lowercase_escapes().into_bytes()),
        ("percent", percent.into_bytes()),
        ("percent", every.to_lowercase().into_bytes()),
        ("percent", every.into_bytes()),
        ("JSON", json.as_bytes()[1..json.len() - 1].to_vec()),
    ];
    // In the base64 of a longer text, for example `user:secret`, a secret begins at one of three offsets. Its first and
    // last digits depend on the neighbours.
    for before in 0..3 {
        let mut shifted = vec![0; before];
        shifted.extend_from_slice(secret);
        let first = (before * 8).div_ceil(6);
        let digits = (shifted.len() * 8) / 6;
        for (encoding, engine) in [("Base64", &STANDARD_NO_PAD), ("Base64url", &URL_SAFE_NO_PAD)] {
            let text = engine.encode(&shifted);
            all.push((encoding, text.as_bytes()[first..digits].to_vec()));
        }
    }
    all.sort_by(|one, other| one.1.cmp(&other.1));
    all.dedup_by(|one, other| one.1 == other.1);
    all
}

trait Escapes {
    fn to_lowercase_escapes(&self) -> String;
}

impl Escapes for String {
    /// Replaces `%2F` by `%2f`.
    fn to_lowercase_escapes(&self) -> String {
        let mut parts = self.split('%');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (digits, rest) = part.split_at(2);
            text.push('%');
            text.push_str(&digits.to_lowercase());
            text.push_str(rest);
        }
        text
    }
}

#[test]
fn planted_secret_is_found_in_every_encoding() {
    let secret = "pass\"wörd/+\n%secret";
    let mut secrets = Secrets::default();
    secrets.add("it", secret);
    secrets.add("another", "which is nowhere");
    let bytes = secret.as_bytes();
    let basic = |user: &str| STANDARD_NO_PAD.encode(format!("{user}:{secret};"));
    let json = serde_json::to_string(secret).unwrap();
    for (encoding, planted) in [
        ("plain", secret.to_owned()),
        ("hex", bytes.iter().map(|byte| format!("{byte:02X}")).collect()),
        ("hex", bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        ("percent", "pass%22w%C3%B6rd%2F%2B%0A%25secret".into()),
        ("percent", "pass%22w%c3%b6rd%2f%2b%0a%25secret".into()),
        ("JSON", json.trim_matches('"').to_owned()),
        ("Base64", basic("a")),
        ("Base64", basic("ab")),
        ("Base64", basic("abc")),
        ("Base64url", URL_SAFE_NO_PAD.encode(format!("?>?>{secret}?>"))),
    ] {
        let found = secrets.find_in(format!("before {planted} after").as_bytes());
        assert!(
            found.iter().any(|found| found.secret == "it" && encoding.starts_with(found.encoding)),
            "{encoding}: {planted}"
        );
        assert!(found.iter().all(|found| found.secret == "it"));
    }
    assert_eq!(secrets.find_in(b"before pass\"word after"), []);
}
