//! Validates `[store]`.
//!
//! The URL may contain a password, so no error contains the URL.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    redis_url::{self, RedisUrl, Servers},
    table::TableValidator,
};
use crate::config::{
    RedisLogin, RedisStore, RedisTls, RedisTopology, Store,
    diagnostics::Diagnostics,
    file::{self, Secret, StoreKind},
    secret_files::Resolver,
};

/// Maximum time limit of one command. Requests must not wait longer for the store.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
const KEY_LENGTH: usize = 32;

/// `[store]`.
pub(super) fn store(raw: file::Store, resolver: &Resolver<'_>, diagnostics: &mut Diagnostics) -> Option<Store> {
    let mut table = TableValidator::new("store", diagnostics);
    let timeout = table.duration("timeout", &raw.timeout, MAX_COMMAND_TIMEOUT);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let is_prefix_valid = (1..=64).contains(&raw.key_prefix.len()) && raw.key_prefix.bytes().all(is_word);
    if !is_prefix_valid {
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
        return (timeout.is_some() && is_prefix_valid).then_some(Store::Memory);
    }
    let url = diagnostics.required("store.url", raw.url).and_then(|url| address(url, resolver, diagnostics));
    let url = url.and_then(|url| {
        let read = redis_url::parse(url.expose_secret());
        if read.is_none() {
            diagnostics.error("store.url", format!("not a URL of Redis; {}", redis_url::EXPECTED));
        }
        read
    });
    let connection = connection(
        url,
        TlsFiles { ca: raw.ca, certificate: raw.certificate, private_key: raw.private_key },
        SentinelKeys {
            username: raw.sentinel_username,
            password: raw.sentinel_password,
            tls: raw.sentinel_tls,
            ca: raw.sentinel_ca,
        },
        resolver,
        diagnostics,
    );
    let current = diagnostics
        .required("store.encryption_key", raw.encryption_key)
        .and_then(|secret| decode_key("store.encryption_key", secret, resolver, diagnostics));
    let previous = match raw.previous_encryption_key {
        Some(secret) => decode_key("store.previous_encryption_key", secret, resolver, diagnostics).map(Some),
        None => Some(None),
    };
    let (current, previous) = (current?, previous?);
    if previous.as_ref().is_some_and(|previous| previous.expose_secret() == current.expose_secret()) {
        diagnostics.error("store.previous_encryption_key", "equal to store.encryption_key; remove it");
        return None;
    }
    let (topology, RedisUrl { login, database, .. }, tls) = connection?;
    Some(Store::Redis(Box::new(RedisStore {
        topology,
        login,
        database,
        tls,
        encryption_key: current,
        previous_encryption_key: previous,
        key_prefix: is_prefix_valid.then_some(raw.key_prefix)?,
        timeout: timeout?,
    })))
}

/// The TLS keys of the file.
struct TlsFiles {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
}

/// The Sentinel keys of the file.
struct SentinelKeys {
    username: Option<String>,
    password: Option<Secret>,
    tls: Option<bool>,
    ca: Option<PathBuf>,
}

/// The servers of Redis, the other parts of the URL, and the TLS files.
fn connection(
    url: Option<RedisUrl>,
    files: TlsFiles,
    sentinels: SentinelKeys,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<(RedisTopology, RedisUrl, Option<RedisTls>)> {
    let ca = optional_trusted_file("store.ca", files.ca, resolver, diagnostics);
    let client_certificate = match (files.certificate, files.private_key) {
        (Some(certificate), Some(key)) => {
            let certificate = resolver.readable_file("store.certificate", &certificate, diagnostics);
            let key = resolver.private_key_file("store.private_key", &key, diagnostics);
            certificate.zip(key).map(Some)
        }
        (None, None) => Some(None),
        (Some(_), None) => {
            diagnostics.error("store.private_key", "missing; store.certificate requires it");
            None
        }
        (None, Some(_)) => {
            diagnostics.error("store.certificate", "missing; store.private_key requires it");
            None
        }
    };
    let sentinel_ca = optional_trusted_file("store.sentinel_ca", sentinels.ca, resolver, diagnostics);
    let password = match sentinels.password {
        Some(secret) => resolver.secret("store.sentinel_password", secret, diagnostics).map(Some),
        None => Some(None),
    };
    if sentinels.username.is_some() && password.as_ref().is_some_and(Option::is_none) {
        diagnostics.error("store.sentinel_password", "missing; store.sentinel_username requires it");
        return None;
    }
    let url = url?;
    let uses_sentinels = matches!(url.servers, Servers::Sentinels { .. });
    let sentinels_use_tls = sentinels.tls.unwrap_or(url.tls);
    let mut has_unused_keys = false;
    for (key, is_set, is_used, scheme) in [
        (
            "store.ca",
            ca.as_ref().is_some_and(Option::is_some),
            url.tls || uses_sentinels && sentinels_use_tls,
            "rediss",
        ),
        (
            "store.certificate",
            client_certificate.as_ref().is_some_and(Option::is_some),
            url.tls || uses_sentinels && sentinels_use_tls,
            "rediss",
        ),
        ("store.sentinel_username", sentinels.username.is_some(), uses_sentinels, "redis+sentinel"),
        ("store.sentinel_password", password.as_ref().is_some_and(Option::is_some), uses_sentinels, "redis+sentinel"),
        ("store.sentinel_tls", sentinels.tls.is_some(), uses_sentinels, "redis+sentinel"),
        (
            "store.sentinel_ca",
            sentinel_ca.as_ref().is_some_and(Option::is_some),
            uses_sentinels && sentinels_use_tls,
            "rediss+sentinel",
        ),
    ] {
        if is_set && !is_used {
            diagnostics
                .error(key, format!("has no effect with this store.url; use a {scheme}:// URL, or remove the key"));
            has_unused_keys = true;
        }
    }
    let (ca, client_certificate, sentinel_ca, password) = (ca?, client_certificate?, sentinel_ca?, password?);
    if has_unused_keys {
        return None;
    }
    let tls = |ca: Option<PathBuf>| RedisTls { ca, client_certificate: client_certificate.clone() };
    let topology = match &url.servers {
        Servers::One(address) => RedisTopology::Standalone(address.clone()),
        Servers::Cluster(nodes) => RedisTopology::Cluster(nodes.clone()),
        Servers::Sentinels { sentinels: addresses, master } => RedisTopology::Sentinel {
            sentinels: addresses.clone(),
            master: master.clone(),
            login: RedisLogin { username: sentinels.username, password },
            tls: sentinels_use_tls.then(|| tls(sentinel_ca.or_else(|| ca.clone()))),
        },
    };
    let tls = url.tls.then(|| tls(ca));
    Some((topology, url, tls))
}

/// An optional file of CA certificates.
fn optional_trusted_file(
    path: &str,
    file: Option<PathBuf>,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Option<PathBuf>> {
    match file {
        Some(file) => resolver.trusted_file(path, &file, diagnostics).map(Some),
        None => Some(None),
    }
}

/// The URL. A URL without a password in the file causes no warning.
fn address(url: Secret, resolver: &Resolver<'_>, diagnostics: &mut Diagnostics) -> Option<SecretString> {
    match url {
        Secret::Literal(url) if !url.expose_secret().is_empty() && !redis_url::has_password(url.expose_secret()) => {
            Some(url)
        }
        url => resolver.secret("store.url", url, diagnostics),
    }
}

/// Decodes a key: 32 bytes in base64.
pub(super) fn decode_key(
    path: &str,
    secret: Secret,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<SecretSlice<u8>> {
    let text = resolver.secret(path, secret, diagnostics)?;
    match STANDARD.decode(text.expose_secret().trim()) {
        Ok(bytes) if bytes.len() == KEY_LENGTH => Some(SecretSlice::from(bytes)),
        _ => {
            diagnostics.error(path, "expected 32 bytes in base64; generate a key with `openssl rand -base64 32`");
            None
        }
    }
}
