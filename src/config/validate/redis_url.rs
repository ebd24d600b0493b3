//! Parses URLs of Redis: one server, a cluster, Sentinels, or a socket.
//!
//! A URL may contain a password, so no error contains the URL.

use std::{net::Ipv6Addr, path::PathBuf};

use secrecy::SecretString;
use url::{Host, Url};

use crate::config::{RedisAddress, RedisLogin};

pub(super) const EXPECTED: &str = "expected redis://host:6379/0, redis+cluster://host1:6379,host2:6379, \
                                redis+sentinel://host1:26379,host2:26379/master/0 (each with rediss for TLS) or \
                                redis+unix:///path/of/socket?db=0; IPv6 addresses are in brackets";
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A parsed URL.
#[derive(Debug, PartialEq)]
pub(super) struct RedisUrl {
    pub(super) servers: Servers,
    pub(super) login: RedisLogin,
    pub(super) database: i64,
    /// Whether connections use TLS.
    pub(super) tls: bool,
}

/// The servers of a URL.
#[derive(Debug, PartialEq)]
pub(super) enum Servers {
    One(RedisAddress),
    Cluster(Vec<RedisAddress>),
    Sentinels { sentinels: Vec<RedisAddress>, master: String },
}

/// Parses a URL; `None` if it has none of the forms in [`EXPECTED`].
pub(super) fn parse(text: &str) -> Option<RedisUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let (form, tls) = match scheme {
        "unix" | "redis+unix" => return socket(text),
        "redis" => ("", false),
        "rediss" => ("", true),
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
    let login = match credentials.map(|text| (text, text.split_once(':'))) {
        Some((_, Some((username, password)))) => login(username, Some(password))?,
        // A single word before Sentinels is a password.
        Some((alone, None)) if form == "sentinel" => login("", Some(alone))?,
        // A user without a password cannot log in.
        Some((_, None)) => return None,
        None => RedisLogin::default(),
    };
    let (servers, database) = match form {
        "cluster" if path.is_empty() => (Servers::Cluster(addresses(hosts, REDIS_PORT)?), 0),
        "sentinel" => {
            let (master, database) = path.split_once('/').unwrap_or((path, "0"));
            if master.is_empty() {
                return None;
            }
            let sentinels = addresses(hosts, SENTINEL_PORT)?;
            (Servers::Sentinels { sentinels, master: decoded(master)? }, number(database)?)
        }
        "" => {
            let mut addresses = addresses(hosts, REDIS_PORT)?;
            let one = addresses.pop().filter(|_| addresses.is_empty())?;
            (Servers::One(one), if path.is_empty() { 0 } else { number(path)? })
        }
        _ => return None,
    };
    Some(RedisUrl { servers, login, database, tls })
}

/// Whether a URL contains a password, so that it does not belong into the file.
pub(super) fn has_password(text: &str) -> bool {
    text.contains('@') || text.split_once('?').is_some_and(|(_, query)| query.contains("pass"))
}

/// Parses the URL of a socket, with `db`, `user` and `pass` in the query.
fn socket(text: &str) -> Option<RedisUrl> {
    let url = Url::parse(text).ok()?;
    let path = decoded(url.path())?;
    if url.has_host() && url.host_str() != Some("")
        || !path.starts_with('/')
        || path.len() < 2
        || url.fragment().is_some()
    {
        return None;
    }
    let (mut database, mut user, mut login) = (0, None, RedisLogin::default());
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "db" => database = number(&value)?,
            "user" if !value.is_empty() => user = Some(value.into_owned()),
            "pass" if !value.is_empty() => login.password = Some(SecretString::from(value.into_owned())),
            _ => return None,
        }
    }
    login.username = user;
    Some(RedisUrl { servers: Servers::One(RedisAddress::Unix(PathBuf::from(path))), login, database, tls: false })
}

fn addresses<'a>(hosts: impl Iterator<Item = &'a str>, port: u16) -> Option<Vec<RedisAddress>> {
    let addresses = hosts.map(|host| address(host, port)).collect::<Option<Vec<_>>>()?;
    (!addresses.is_empty()).then_some(addresses)
}

/// Parses a host and an optional port. An IPv6 address is in brackets (RFC 3986, section 3.2.2).
fn address(text: &str, default_port: u16) -> Option<RedisAddress> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host.parse::<Ipv6Addr>().ok()?.to_string(), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            // `Host::parse` rejects text that is no host name or address.
            let host = Host::parse(host).ok()?;
            (if matches!(host, Host::Ipv6(_)) { return None } else { host.to_string() }, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => default_port,
        None => return None,
    };
    // The unspecified address is no server.
    (host != "0.0.0.0" && host != "::").then_some(RedisAddress::Tcp(host, port))
}

fn login(username: &str, password: Option<&str>) -> Option<RedisLogin> {
    let username = Some(decoded(username)?).filter(|name| !name.is_empty());
    let password = password.map(decoded).map_or(Some(None), |password| password.map(Some))?;
    Some(RedisLogin { username, password: password.filter(|text| !text.is_empty()).map(SecretString::from) })
}

fn number(text: &str) -> Option<i64> {
    text.parse::<u32>().ok().map(i64::from)
}

fn decoded(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn tcp(host: &str, port: u16) -> RedisAddress {
        RedisAddress::Tcp(host.to_owned(), port)
    }

    fn credentials(url: &RedisUrl) -> (Option<&str>, Option<&str>) {
        (url.login.username.as_deref(), url.login.password.as_ref().map(ExposeSecret::expose_secret))
    }

    #[test]
    fn redis_url_in_each_form_is_parsed() {
        let one = parse("redis://127.0.0.1:6379/3").unwrap();
        assert_eq!((one.servers, one.database, one.tls), (Servers::One(tcp("127.0.0.1", 6379)), 3, false));
        let one = parse("rediss://user:p%40ss@redis.internal").unwrap();
        assert_eq!(credentials(&one), (Some("user"), Some("p@ss")));
        assert_eq!((one.servers, one.database, one.tls), (Servers::One(tcp("redis.internal", 6379)), 0, true));
        let cluster = parse("rediss+cluster://user:pw@a:1,b:2").unwrap();
        assert_eq!(credentials(&cluster), (Some("user"), Some("pw")));
        assert_eq!((cluster.servers, cluster.tls), (Servers::Cluster(vec![tcp("a", 1), tcp("b", 2)]), true));
        let watched = parse("redis+sentinel://gateway:p%40ss@a:1,b/shop/2").unwrap();
        assert_eq!(credentials(&watched), (Some("gateway"), Some("p@ss")));
        let sentinels = vec![tcp("a", 1), tcp("b", SENTINEL_PORT)];
        assert_eq!((watched.database, watched.tls), (2, false));
        assert_eq!(watched.servers, Servers::Sentinels { sentinels, master: "shop".to_owned() });
        assert_eq!(credentials(&parse("redis+sentinel://pw@a/shop").unwrap()), (None, Some("pw")));
        assert_eq!(credentials(&parse("redis://:pw@a").unwrap()), (None, Some("pw")));
        assert!(parse("redis://user@a").is_none(), "a user without a password");
    }

    #[test]
    fn ipv6_address_in_brackets_is_parsed_in_every_form() {
        let loopback = tcp("::1", 7000);
        assert_eq!(parse("redis://[::1]:7000/0").unwrap().servers, Servers::One(loopback.clone()));
        assert_eq!(parse("rediss://u:p@[2001:db8::a]").unwrap().servers, Servers::One(tcp("2001:db8::a", 6379)));
        let cluster = parse("redis+cluster://[::1]:7000,[::2]").unwrap().servers;
        assert_eq!(cluster, Servers::Cluster(vec![loopback.clone(), tcp("::2", 6379)]));
        let watched = parse("redis+sentinel://[::1]:7000,[::1]/shop/0").unwrap().servers;
        let sentinels = vec![loopback, tcp("::1", SENTINEL_PORT)];
        assert_eq!(watched, Servers::Sentinels { sentinels, master: "shop".to_owned() });
    }

    #[test]
    fn socket_url_is_parsed_with_query() {
        let socket = |path: &str| Servers::One(RedisAddress::Unix(PathBuf::from(path)));
        let plain = parse("unix:///run/redis/redis.sock").unwrap();
        assert_eq!((plain.servers, plain.database, plain.tls), (socket("/run/redis/redis.sock"), 0, false));
        let full = parse("redis+unix:///run/my%20redis.sock?db=2&user=gateway&pass=p%40ss").unwrap();
        assert_eq!((credentials(&full), full.database), ((Some("gateway"), Some("p@ss")), 2));
        assert_eq!(full.servers, socket("/run/my redis.sock"));
    }

    #[test]
    fn invalid_url_is_rejected() {
        for text in [
            "",
            "redis",
            "http://a",
            "redis://",
            "redis://a/x",
            "redis://a,b",
            "redis://a:x",
            "redis://a:0",
            "redis://a:99999",
            "redis://a/0?protocol=resp3",
            "rediss://a#insecure",
            "redis://::1:6379",
            "redis://[::1",
            "redis://[::1]6379",
            "redis://[nonsense]:1",
            "redis://[fe80::1%25eth0]",
            "redis://0.0.0.0",
            "redis://[::]",
            "redis+cluster://",
            "redis+cluster://a/1",
            "redis+sentinel://a:1",
            "redis+sentinel://a:x/m",
            "redis+sentinel://::1:26379/m",
            "redis+sentinel:///m",
            "redis+sentinel://a:1/m/x",
            "redis+unix://host/run/redis.sock",
            "redis+unix://",
            "unix:///run/redis.sock?db=x",
            "unix:///run/redis.sock?password=pw",
            "rediss+unix:///run/redis.sock",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn password_in_url_is_detected() {
        for text in ["redis://:pw@a", "redis+sentinel://pw@a/m", "unix:///run/redis.sock?db=1&pass=pw"] {
            assert!(has_password(text), "{text}");
        }
        for text in ["redis://a:6379/0", "unix:///run/redis.sock?db=1"] {
            assert!(!has_password(text), "{text}");
        }
    }
}
