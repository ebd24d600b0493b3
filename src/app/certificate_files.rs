//! Checks the contents of the certificate and key files that a configuration names, and the system's authorities.

use std::path::Path;

use crate::{
    certificates::{self, Certificates, KeyPairError, SystemAuthorities},
    config::{CheckReport, Diagnostic, PartialSettings},
    server::tls::ListenerTls,
    time::unix_now,
};

/// All errors and warnings of the files, as far as the configuration could be read.
pub(super) fn check(partial: &PartialSettings) -> CheckReport {
    let mut checked = CheckReport::default();
    let (errors, warnings) = ListenerTls::check(&partial.tls);
    let finding =
        |error: crate::server::tls::TlsFileError| Diagnostic { path: error.key.to_owned(), message: error.message };
    checked.errors.extend(errors.into_iter().map(finding));
    checked.warnings.extend(warnings.into_iter().map(finding));
    let mut by_system: Vec<String> = partial.verified_by_system.iter().map(|key| (*key).to_owned()).collect();
    for (position, tenant) in partial.tenants.iter().enumerate() {
        let table = format!("tenants[{position}]");
        if let Some(file) = &tenant.api_ca {
            let organization = tenant.organization.as_ref();
            let whose = organization.map(|organization| format!("{organization}: ")).unwrap_or_default();
            check_authorities(&format!("{table}.api_ca"), &whose, file, &mut checked);
        }
        let is_tls = |url: &Option<url::Url>| url.as_ref().is_some_and(|url| url.scheme() == "https");
        if is_tls(&tenant.api) && !tenant.has_api_ca {
            by_system.push(format!("{table}.api"));
        }
        if is_tls(&tenant.account_manager) {
            by_system.push(format!("{table}.account_manager.url"));
        }
    }
    for (key, file) in &partial.store_authorities {
        check_authorities(key, "", file, &mut checked);
    }
    if let Some((certificate, private_key)) = &partial.store_client {
        match certificates::read_client_pair(certificate, private_key) {
            Ok((chain, _)) => {
                let messages = chain.warnings(now()).into_iter();
                let warning = |problem| Diagnostic { path: "store.certificate".to_owned(), message: problem };
                checked.warnings.extend(messages.map(warning));
            }
            Err(KeyPairError::Certificate(error)) => {
                checked.errors.push(Diagnostic { path: "store.certificate".to_owned(), message: error.to_string() });
            }
            Err(KeyPairError::PrivateKey(error)) => {
                checked.errors.push(Diagnostic { path: "store.private_key".to_owned(), message: error.to_string() });
            }
        }
    }
    check_system(by_system, &mut checked);
    checked
}

fn check_authorities(key: &str, whose: &str, file: &Path, checked: &mut CheckReport) {
    let finding = |problem: String| Diagnostic { path: key.to_owned(), message: format!("{whose}{problem}") };
    match Certificates::read_authorities(file) {
        Ok(authorities) => {
            checked.warnings.extend(authorities.warnings(now()).into_iter().map(finding));
        }
        Err(error) => checked.errors.push(finding(error.to_string())),
    }
}

/// Expiry of the store's certificates in seconds since 1970, by label in the metrics. Unreadable files are left out, because the
/// check has rejected them.
pub(super) fn store_expiry(partial: &PartialSettings) -> Vec<(&'static str, i64)> {
    let authorities = partial.store_authorities.iter().filter_map(|(key, file)| {
        let label = if *key == "store.ca" { "store_ca" } else { "store_sentinel_ca" };
        Some((label, Certificates::read_authorities(file).ok()?.authorities_expiry(now())?))
    });
    let client = partial.store_client.as_ref().and_then(|(certificate, _)| {
        Some(("store_certificate", Certificates::read_chain(certificate).ok()?.chain_expiry()?))
    });
    authorities.chain(client).collect()
}

fn now() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}

/// Checks the system's authorities if any server is verified by them.
fn check_system(keys: Vec<String>, checked: &mut CheckReport) {
    let Some(first) = keys.first() else { return };
    let system = SystemAuthorities::read();
    if let Some(problem) = system.unavailable_reason() {
        for key in keys {
            let hint = if key.ends_with("].api") { ", or api_ca to the file of its own" } else { "" };
            checked.errors.push(Diagnostic { path: key, message: format!("{problem}{hint}") });
        }
        return;
    }
    for error in system.load_errors() {
        checked
            .warnings
            .push(Diagnostic { path: first.clone(), message: format!("the system's authorities: {error}") });
    }
}
