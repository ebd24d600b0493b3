//! The lower bound of any gateway: one ES256 verification with the fastest library.

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use salesforce_simulator::Simulator;

use crate::{
    machine::{self, MEASURED},
    requests::mint,
};

const TOKENS: usize = 100;
const PASSES: usize = 20;

/// The time of one verification of a shopper's token with a key that is read already, on the core of whatever is
/// measured; the median of many. `None` if it does not verify.
pub fn verification(simulator: &Simulator) -> Option<Duration> {
    let key = &simulator.slas_jwks()["keys"].as_array()?.iter().find(|key| key["kid"] == simulator.slas_kid())?.clone();
    let mut point = vec![4];
    for coordinate in ["x", "y"] {
        point.extend(URL_SAFE_NO_PAD.decode(key[coordinate].as_str()?).ok()?);
    }
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
    let tokens: Vec<_> = (0..TOKENS).map(|_| mint(simulator)).collect();
    let verify = move || {
        machine::stay_on(MEASURED);
        let mut took = Vec::with_capacity(TOKENS * PASSES);
        for token in std::iter::repeat_n(&tokens, PASSES).flatten() {
            let (signed, signature) = token.rsplit_once('.')?;
            let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
            let begin = Instant::now();
            key.verify_sig(signed.as_bytes(), &signature).ok()?;
            took.push(begin.elapsed());
        }
        took.sort();
        took.get(took.len() / 2).copied()
    };
    std::thread::spawn(verify).join().ok()?
}
