//! The store's section: which kind, and what Redis needs.
//!
//! Owns the forms of Redis's address. Refuses to repeat an address in an error: it may hold a password.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use url::Url;

use super::value::Keys;
use crate::settings::{
    RedisStore, RedisTopology, Store,
    finding::Findings,
    raw::{self, Secret, StoreKind},
    secret::Surroundings,
};

/// Longest time limit of one command: beyond it requests would rather wait for the store than go on.
const LONGEST_COMMAND: Duration = Duration::from_secs(5);
const KEY_LENGTH: usize = 32;
const SENTINEL_PORT: u16 = 26379;
const FORMS: &str = "expected redis://host:6379/0, rediss://…, redis+cluster://host1:6379,host2:6379 or \
                     redis+sentinel://host1:26379,host2:26379/master/0";

/// The store of the configuration.
pub(super) fn store(raw: raw::Store, surroundings: &Surroundings<'_>, findings: &mut Findings) -> Option<Store> {
    let mut keys = Keys::new("store", findings);
    let timeout = keys.duration("timeout", &raw.timeout, LONGEST_COMMAND);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let prefix_fits = (1..=64).contains(&raw.key_prefix.len()) && raw.key_prefix.bytes().all(is_word);
    if !prefix_fits {
        keys.error("key_prefix", "expected 1 to 64 letters, digits, '-', '_', '.' or ':', e.g. shopper-gateway");
    }
    if raw.kind == StoreKind::Memory {
        for (key, is_set) in [
            ("url", raw.url.is_some()),
            ("ca", raw.ca.is_some()),
            ("encryption_key", raw.encryption_key.is_some()),
            ("previous_encryption_key", raw.previous_encryption_key.is_some()),
        ] {
            if is_set {
                keys.error(key, "has no effect with kind = \"memory\"; write kind = \"redis\" or take it out");
            }
        }
        return (timeout.is_some() && prefix_fits).then_some(Store::Memory);
    }
    let url = findings.required("store.url", raw.url).and_then(|url| address(url, surroundings, findings));
    let topology = url.and_then(|url| match topology(url.expose_secret()) {
        Some(topology) => Some(topology),
        None => {
            findings.error("store.url", format!("not an address of Redis; {FORMS}"));
            None
        }
    });
    let ca = match raw.ca {
        Some(file) => surroundings.trusted("store.ca", &file, findings).map(Some),
        None => Some(None),
    };
    let current = findings
        .required("store.encryption_key", raw.encryption_key)
        .and_then(|secret| key("store.encryption_key", secret, surroundings, findings));
    let previous = match raw.previous_encryption_key {
        Some(secret) => key("store.previous_encryption_key", secret, surroundings, findings).map(Some),
        None => Some(None),
    };
    let (current, previous) = (current?, previous?);
    if previous.as_ref().is_some_and(|previous| previous.expose_secret() == current.expose_secret()) {
        findings.error("store.previous_encryption_key", "the same as encryption_key; take it out");
        return None;
    }
    Some(Store::Redis(Box::new(RedisStore {
        topology: topology?,
        ca: ca?,
        encryption_key: current,
        previous_encryption_key: previous,
        key_prefix: prefix_fits.then_some(raw.key_prefix)?,
        timeout: timeout?,
    })))
}

/// An address may stand in the file without a warning as long as it holds no password.
fn address(url: Secret, surroundings: &Surroundings<'_>, findings: &mut Findings) -> Option<SecretString> {
    match url {
        Secret::Literal(url) if !url.expose_secret().is_empty() && !url.expose_secret().contains('@') => Some(url),
        url => surroundings.secret("store.url", url, findings),
    }
}

/// 32 bytes, given in base64.
pub(super) fn key(
    path: &str,
    secret: Secret,
    surroundings: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<SecretSlice<u8>> {
    let text = surroundings.secret(path, secret, findings)?;
    match STANDARD.decode(text.expose_secret().trim()) {
        Ok(bytes) if bytes.len() == KEY_LENGTH => Some(SecretSlice::from(bytes)),
        _ => {
            findings.error(path, "expected 32 bytes in base64; `openssl rand -base64 32` makes such a key");
            None
        }
    }
}

fn topology(text: &str) -> Option<RedisTopology> {
    let (scheme, rest) = text.split_once("://")?;
    let (kind, tls) = match scheme {
        "redis" | "rediss" => {
            let url = Url::parse(text).ok()?;
            let database = url.path().trim_start_matches('/');
            let fits = url.host().is_some() && (database.is_empty() || database.parse::<u32>().is_ok());
            return fits.then(|| RedisTopology::Standalone(SecretString::from(text)));
        }
        "redis+cluster" => ("cluster", false),
        "rediss+cluster" => ("cluster", true),
        "redis+sentinel" => ("sentinel", false),
        "rediss+sentinel" => ("sentinel", true),
        _ => return None,
    };
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = hosts.split(',').filter(|host| !host.is_empty());
    if kind == "cluster" {
        let scheme = if tls { "rediss" } else { "redis" };
        let user = credentials.map_or_else(String::new, |credentials| format!("{credentials}@"));
        let nodes: Vec<_> = hosts.map(|host| SecretString::from(format!("{scheme}://{user}{host}"))).collect();
        let valid = nodes.iter().all(|node| Url::parse(node.expose_secret()).is_ok_and(|url| url.host().is_some()));
        return (!nodes.is_empty() && valid && path.is_empty()).then_some(RedisTopology::Cluster(nodes));
    }
    let sentinels = hosts
        .map(|host| match host.rsplit_once(':') {
            Some((name, port)) => port.parse().ok().map(|port| (name.to_owned(), port)),
            None => Some((host.to_owned(), SENTINEL_PORT)),
        })
        .collect::<Option<Vec<_>>>()?;
    let (master, database) = path.split_once('/').unwrap_or((path, "0"));
    if sentinels.is_empty() || master.is_empty() {
        return None;
    }
    let (username, password) =
        match credentials.map(|credentials| credentials.split_once(':').unwrap_or(("", credentials))) {
            Some((username, password)) => (Some(username).filter(|name| !name.is_empty()), Some(decoded(password)?)),
            None => (None, None),
        };
    Some(RedisTopology::Sentinel {
        sentinels,
        master: master.to_owned(),
        database: database.parse::<u32>().ok()?.into(),
        username: username.map(decoded).map_or(Some(None), |name| name.map(Some))?,
        password: password.map(SecretString::from),
        tls,
    })
}

fn decoded(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_an_address_is_read() {
        assert!(matches!(topology("redis://127.0.0.1:6379/3"), Some(RedisTopology::Standalone(_))));
        assert!(matches!(topology("rediss://user:p%40ss@redis.internal"), Some(RedisTopology::Standalone(_))));
        let Some(RedisTopology::Cluster(nodes)) = topology("rediss+cluster://user:pw@a:1,b:2") else { panic!() };
        let nodes: Vec<_> = nodes.iter().map(|node| node.expose_secret().to_owned()).collect();
        assert_eq!(nodes, ["rediss://user:pw@a:1", "rediss://user:pw@b:2"]);
        let Some(RedisTopology::Sentinel { sentinels, master, database, username, password, tls }) =
            topology("redis+sentinel://gateway:p%40ss@a:1,b/shop/2")
        else {
            panic!()
        };
        assert_eq!(sentinels, [("a".to_owned(), 1), ("b".to_owned(), SENTINEL_PORT)]);
        assert_eq!((master.as_str(), database, username.as_deref(), tls), ("shop", 2, Some("gateway"), false));
        assert_eq!(password.unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "redis",
            "http://a",
            "redis://",
            "redis://a/x",
            "redis+cluster://",
            "redis+cluster://a/1",
            "redis+sentinel://a:1",
            "redis+sentinel://a:x/m",
            "redis+sentinel:///m",
            "redis+sentinel://a:1/m/x",
        ] {
            assert!(topology(text).is_none(), "{text}");
        }
    }
}
