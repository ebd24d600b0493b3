//! Validates `[store]`.
//!
//! The URL may contain a password, so no error contains the URL.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    redis_url::{self, RedisUrl, Servers},
    table::Table,
};
use crate::config::{
    RedisLogin, RedisStore, RedisTls, RedisTopology, Store,
    file::{self, Secret, StoreKind},
    secret_files::Resolver,
};

/// Maximum time limit of one command. Requests must not wait longer for the store.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns `None` if the table has an error.
pub(super) fn store(raw: file::Store, table: &mut Table<'_>) -> Option<Store> {
    let timeout = table.duration("timeout", &raw.timeout, MAX_COMMAND_TIMEOUT);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !(1..=64).contains(&raw.key_prefix.len()) || !raw.key_prefix.bytes().all(is_word) {
        table.error("key_prefix", "expected 1 to 64 letters, digits, '-', '_', '.' or ':', e.g. shopper-gateway");
    }
    if raw.kind == StoreKind::Memory {
        for (key, is_set) in [
            ("url", raw.url.is_some()),
            ("ca", raw.ca.is_some()),
            ("certificate", raw.certificate.is_some()),
            ("private_key", raw.private_key.is_some()),
            ("sentinel_username", raw.sentinel_username.is_some()),
            ("sentinel_password", raw.sentinel_password.is_some()),
            ("sentinel_tls", raw.sentinel_tls.is_some()),
            ("sentinel_ca", raw.sentinel_ca.is_some()),
            ("encryption_key", raw.encryption_key.is_some()),
            ("previous_encryption_key", raw.previous_encryption_key.is_some()),
        ] {
            if is_set {
                table.error(key, "has no effect with kind = \"memory\"; set kind = \"redis\", or remove the key");
            }
        }
        return table.is_valid().then_some(Store::Memory);
    }
    let url = table.required("url", raw.url).and_then(|url| redis_url(url, table));
    let ca = table.file("ca", raw.ca, Resolver::trusted_file);
    if raw.certificate.is_some() != raw.private_key.is_some() {
        let (missing, present) =
            if raw.certificate.is_some() { ("private_key", "certificate") } else { ("certificate", "private_key") };
        table.error(missing, format!("missing; store.{present} requires it"));
    }
    let certificate = table.file("certificate", raw.certificate, Resolver::readable_file);
    let private_key = table.file("private_key", raw.private_key, Resolver::private_key_file);
    let sentinel_ca = table.file("sentinel_ca", raw.sentinel_ca, Resolver::trusted_file);
    let uses_sentinels = |url: &RedisUrl| matches!(url.servers, Servers::Sentinels { .. });
    if raw.sentinel_username.is_some() && raw.sentinel_password.is_none() && url.as_ref().is_none_or(uses_sentinels) {
        table.error("sentinel_password", "missing; store.sentinel_username requires it");
    }
    let sentinel_login = RedisLogin {
        username: raw.sentinel_username,
        password: table.secret("sentinel_password", raw.sentinel_password),
    };
    if let Some(url) = &url {
        let uses_sentinels = uses_sentinels(url);
        let sentinels_use_tls = uses_sentinels && raw.sentinel_tls.unwrap_or(url.tls);
        for (key, is_set, is_used, scheme) in [
            ("ca", ca.is_some(), url.tls || sentinels_use_tls, "rediss"),
            ("certificate", certificate.is_some(), url.tls || sentinels_use_tls, "rediss"),
            ("sentinel_username", sentinel_login.username.is_some(), uses_sentinels, "redis+sentinel"),
            ("sentinel_password", sentinel_login.password.is_some(), uses_sentinels, "redis+sentinel"),
            ("sentinel_tls", raw.sentinel_tls.is_some(), uses_sentinels, "redis+sentinel"),
            ("sentinel_ca", sentinel_ca.is_some(), sentinels_use_tls, "rediss+sentinel"),
        ] {
            if is_set && !is_used {
                let message = format!("has no effect with this store.url; use a {scheme}:// URL, or remove the key");
                table.error(key, message);
            }
        }
    }
    let encryption_key = table.required("encryption_key", raw.encryption_key);
    let encryption_key = table.encryption_key("encryption_key", encryption_key);
    let previous_encryption_key = table.encryption_key("previous_encryption_key", raw.previous_encryption_key);
    let is_same = |(one, other): (&SecretSlice<u8>, &SecretSlice<u8>)| one.expose_secret() == other.expose_secret();
    if previous_encryption_key.as_ref().zip(encryption_key.as_ref()).is_some_and(is_same) {
        table.error("previous_encryption_key", "equal to store.encryption_key; remove it");
    }
    if !table.is_valid() {
        return None;
    }
    let RedisUrl { servers, login, database, tls } = url?;
    let client_certificate = certificate.zip(private_key);
    let tls_files = |ca| RedisTls { ca, client_certificate: client_certificate.clone() };
    let topology = match servers {
        Servers::One(address) => RedisTopology::Standalone(address),
        Servers::Cluster(nodes) => RedisTopology::Cluster(nodes),
        Servers::Sentinels { sentinels, master } => RedisTopology::Sentinel {
            sentinels,
            master,
            login: sentinel_login,
            tls: raw.sentinel_tls.unwrap_or(tls).then(|| tls_files(sentinel_ca.or_else(|| ca.clone()))),
        },
    };
    Some(Store::Redis(Box::new(RedisStore {
        topology,
        login,
        database,
        tls: tls.then(|| tls_files(ca)),
        encryption_key: encryption_key?,
        previous_encryption_key,
        key_prefix: raw.key_prefix,
        timeout: timeout?,
    })))
}

/// Parses the URL. A URL without a password in the file causes no warning.
fn redis_url(url: Secret, table: &mut Table<'_>) -> Option<RedisUrl> {
    let url: SecretString = match url {
        Secret::Literal(url) if !url.expose_secret().is_empty() && !redis_url::has_password(url.expose_secret()) => url,
        url => table.secret("url", Some(url))?,
    };
    let parsed = redis_url::parse(url.expose_secret());
    if parsed.is_none() {
        table.error("url", format!("not a URL of Redis; {}", redis_url::EXPECTED));
    }
    parsed
}
