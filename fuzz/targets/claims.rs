//! Tokens as text, their claims, and `isb`: an accepted identity belongs to one tenant.
#![no_main]

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, jwk::Jwk};
use libfuzzer_sys::fuzz_target;
use shopper_gateway::{
    jwt::{UnverifiedToken, VerifyingKey, has_system_token_algorithm, token_digest},
    verify::{isb::Isb, shopper_token::Claims},
};

static KEY: LazyLock<VerifyingKey> = LazyLock::new(|| {
    // The key of RFC 7515, appendix A.3.
    let jwk: Jwk = serde_json::from_str(
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
    )
    .expect("a key");
    VerifyingKey::from_jwk(&jwk).expect("a key")
});

fuzz_target!(|text: &str| {
    read_token(text);
    // The same as claims of a token of the right form.
    let encoded = URL_SAFE_NO_PAD.encode(text);
    read_token(&format!("eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.{encoded}.{}", "A".repeat(86)));
    read_token(&format!("{encoded}.e30.AA"));

    if let Ok(shopper) =
        serde_json::from_str::<Claims<'_>>(text).map_err(drop).and_then(|claims| claims.shopper().map_err(drop))
    {
        let tenant = shopper.organization.tenant();
        let named = text.matches(tenant.as_str()).count();
        assert!(named >= 3 || text.contains('\\'), "issuer, audience and subject name {tenant}: {text}");
    }
    if let Ok(isb) = text.parse::<Isb>() {
        assert!(
            !(isb.delegation.tsob || isb.delegation.taob)
                || isb.registered_customer.is_some()
                || isb.guest_customer.is_some()
        );
    }
});

fn read_token(token: &str) {
    let _ = (has_system_token_algorithm(token), token_digest(token));
    for algorithm in [Algorithm::ES256, Algorithm::RS256] {
        if let Ok(unverified) = UnverifiedToken::parse(token, algorithm) {
            assert!(!unverified.kid().is_empty());
            let _ = unverified.unverified_claims();
            if algorithm == Algorithm::ES256 {
                assert!(unverified.verify::<Claims<'_>>(&KEY).is_err(), "a forged token verifies: {token}");
            }
        }
    }
}
