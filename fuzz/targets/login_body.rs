//! Bodies of the deprecated logins: one of three types, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use shopper_gateway::gateway::{legacy::LoginKind, problem};

fuzz_target!(|bytes: &[u8]| {
    match LoginKind::read(bytes) {
        Ok(_) => {
            serde_json::from_slice::<IgnoredAny>(bytes).expect("what is accepted is JSON");
            // JSON has numbers that a `Value` cannot hold. The login ignores them in unknown fields.
            let Ok(body) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
            let kind = body.get("type").and_then(serde_json::Value::as_str);
            assert!(matches!(kind, Some("guest" | "credentials" | "refresh")), "{body}");
        }
        Err(refusal) => {
            assert_eq!(problem::code(&refusal), "request_invalid");
            assert!(problem::response(&refusal).status.is_client_error());
        }
    }
});
