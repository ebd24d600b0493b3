//! Configurations: settings or diagnostics, each with its key, and no value of a secret.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use shopper_gateway::config::Settings;

const SECRET: &str = "N0t-T0-Be-Sh0wn";

fuzz_target!(|text: &str| {
    // Files that a configuration names would be read.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let variables = [
        ("SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__0__CLIENT_SECRET".to_owned(), SECRET.to_owned()),
        ("SECRET".to_owned(), SECRET.to_owned()),
    ];
    match Settings::from_text(Path::new("/nonexistent/gateway.toml"), text, variables) {
        Ok(loaded) => {
            assert!(!loaded.settings.tenants.is_empty());
            assert!(!format!("{loaded:?}").contains(SECRET));
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            assert!(
                errors.errors.iter().all(|diagnostic| !diagnostic.path.is_empty() && !diagnostic.message.is_empty())
            );
            assert!(!format!("{errors} {errors:?}").contains(SECRET));
        }
    }
});
