//! Checks the contents of the certificate and key files that a configuration names, and the system's authorities.

use std::path::{Path, PathBuf};

use url::Url;

use crate::{
    certificates::{self, Certificates, KeyPairError, SystemAuthorities},
    config::{CheckReport, Diagnostic, PartialSettings, RedisTls, RedisTopology, Store},
    server::tls::ListenerTls,
    time::unix_now_signed,
};

/// All errors and warnings of the files, as far as the configuration could be read.
pub(super) fn check(partial: &PartialSettings) -> CheckReport {
    let mut checked = partial.tls.as_ref().map(ListenerTls::check).unwrap_or_default();
    let is_tls = |url: &Option<Url>| url.as_ref().is_some_and(|url| url.scheme() == "https");
    let of_store = partial.store.iter().flat_map(store_files);
    let of_store = of_store.filter(|(_, files)| files.ca.is_none()).map(|_| "store.url".to_owned());
    let mut by_system: Vec<String> = of_store.collect();
    by_system.extend(is_tls(&partial.collector).then(|| "traces.endpoint".to_owned()));
    for (position, tenant) in partial.tenants.iter().enumerate() {
        let table = format!("tenants[{position}]");
        if let Some(file) = &tenant.api_ca {
            let organization = tenant.organization.as_ref();
            let whose = organization.map(|organization| format!("{organization}: ")).unwrap_or_default();
            check_authorities(&format!("{table}.api_ca"), &whose, file, &mut checked);
        }
        if is_tls(&tenant.api) && !tenant.has_api_ca {
            by_system.push(format!("{table}.api"));
        }
        if is_tls(&tenant.account_manager) {
            by_system.push(format!("{table}.account_manager.url"));
        }
    }
    let Some(store) = &partial.store else { return check_system(by_system, checked) };
    for (key, file) in store_authorities(store) {
        check_authorities(key, "", file, &mut checked);
    }
    if let Some((certificate, private_key)) = store_client(store) {
        match certificates::read_client_pair(certificate, private_key) {
            Ok((chain, _)) => {
                let warnings = chain.warnings(unix_now_signed()).into_iter();
                checked.warnings.extend(warnings.map(|warning| Diagnostic::new("store.certificate", warning)));
            }
            Err(error) => {
                let key = match &error {
                    KeyPairError::Certificate(_) => "store.certificate",
                    KeyPairError::PrivateKey(_) => "store.private_key",
                };
                checked.errors.push(Diagnostic::new(key, error.to_string()));
            }
        }
    }
    check_system(by_system, checked)
}

fn check_authorities(key: &str, whose: &str, file: &Path, checked: &mut CheckReport) {
    let diagnostic = |problem: String| Diagnostic::new(key, format!("{whose}{problem}"));
    match Certificates::read_authorities(file) {
        Ok(authorities) => {
            checked.warnings.extend(authorities.warnings(unix_now_signed()).into_iter().map(diagnostic));
        }
        Err(error) => checked.errors.push(diagnostic(error.to_string())),
    }
}

/// TLS files of the store's servers, each with the key of its CA certificates.
fn store_files(store: &Store) -> impl Iterator<Item = (&'static str, &RedisTls)> {
    let (redis, sentinels) = match store {
        Store::Memory => (None, None),
        Store::Redis(redis) => match &redis.topology {
            RedisTopology::Sentinel { tls, .. } => (redis.tls.as_ref(), tls.as_ref()),
            RedisTopology::Standalone(_) | RedisTopology::Cluster(_) => (redis.tls.as_ref(), None),
        },
    };
    redis.map(|files| ("store.ca", files)).into_iter().chain(sentinels.map(|files| ("store.sentinel_ca", files)))
}

/// Files of CA certificates for the store's servers, with their keys.
fn store_authorities(store: &Store) -> impl Iterator<Item = (&'static str, &Path)> {
    store_files(store).filter_map(|(key, files)| Some((key, files.ca.as_deref()?)))
}

/// The gateway's certificate chain and private key for the store's servers.
fn store_client(store: &Store) -> Option<&(PathBuf, PathBuf)> {
    store_files(store).find_map(|(_, files)| files.client_certificate.as_ref())
}

/// Expiry of the store's certificates in seconds since 1970, by label in the metrics. Unreadable files are left out, because the
/// check has rejected them.
pub(super) fn store_expiry(store: &Store) -> Vec<(&'static str, i64)> {
    let authorities = store_authorities(store).filter_map(|(key, file)| {
        let label = if key == "store.ca" { "store_ca" } else { "store_sentinel_ca" };
        Some((label, Certificates::read_authorities(file).ok()?.authorities_expiry(unix_now_signed())?))
    });
    let client = store_client(store).and_then(|(certificate, _)| {
        Some(("store_certificate", Certificates::read_chain(certificate).ok()?.chain_expiry()?))
    });
    authorities.chain(client).collect()
}

/// Checks the system's authorities if any server is verified by them.
fn check_system(keys: Vec<String>, mut checked: CheckReport) -> CheckReport {
    let Some(first) = keys.first() else { return checked };
    let system = SystemAuthorities::read();
    if let Some(problem) = system.unavailable_reason() {
        for key in keys {
            let hint = if key.ends_with("].api") { ", or api_ca to the file of its own" } else { "" };
            checked.errors.push(Diagnostic::new(key, format!("{problem}{hint}")));
        }
        return checked;
    }
    let errors = system.load_errors().iter();
    let warning = |error| Diagnostic::new(first, format!("the system's authorities: {error}"));
    checked.warnings.extend(errors.map(warning));
    checked
}
