//! [`Table`]: validates the keys of one table, and adds errors with their paths.
//!
//! Errors never contain the value, because a string at the wrong key may be a secret.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::{IpNet, Ipv4Net};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use url::{Host, Url};

use crate::{
    config::{diagnostics::Diagnostics, file, secret_files::Resolver},
    host::{is_localhost, without_root_dot},
    types::{InvalidIdentifier, Scope, Scopes},
};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// Length of an encryption key in bytes.
const KEY_LENGTH: usize = 32;

/// A check of a file that the configuration names. Returns the file's path if the check succeeds.
type FileCheck<'f> = fn(&Resolver<'f>, &str, &Path, &mut Diagnostics) -> Option<PathBuf>;

/// Validates the keys of one table.
pub(super) struct Table<'f> {
    path: String,
    resolver: &'f Resolver<'f>,
    diagnostics: &'f mut Diagnostics,
}

impl<'f> Table<'f> {
    /// The table of the whole file.
    pub(super) fn root(resolver: &'f Resolver<'f>, diagnostics: &'f mut Diagnostics) -> Self {
        Self { path: String::new(), resolver, diagnostics }
    }

    /// A table below this one.
    pub(super) fn table(&mut self, key: &str) -> Table<'_> {
        Table { path: self.key_path(key), resolver: self.resolver, diagnostics: self.diagnostics }
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn error(&mut self, key: &str, message: impl Into<String>) {
        self.diagnostics.error(self.key_path(key), message);
    }

    /// Whether no key of the table has an error.
    pub(super) fn is_valid(&self) -> bool {
        !self.diagnostics.has_errors(&self.path)
    }

    /// Whether there is an error of this key or of a key below it.
    pub(super) fn has_errors(&self, key: &str) -> bool {
        self.diagnostics.has_errors(&self.key_path(key))
    }

    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.diagnostics.warn(self.key_path(key), message);
    }

    /// Adds an error if a required value is absent. Only for keys that the schema does not require.
    pub(super) fn required<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.error(key, "missing");
        }
        value
    }

    /// Checks a file that the configuration names.
    pub(super) fn file(&mut self, key: &str, file: Option<PathBuf>, check: FileCheck<'f>) -> Option<PathBuf> {
        check(self.resolver, &self.key_path(key), &file?, self.diagnostics)
    }

    /// Resolves a secret.
    pub(super) fn secret(&mut self, key: &str, secret: Option<file::Secret>) -> Option<SecretString> {
        self.resolver.secret(&self.key_path(key), secret?, self.diagnostics)
    }

    /// Resolves and decodes an encryption key: 32 bytes in base64.
    pub(super) fn encryption_key(&mut self, key: &str, secret: Option<file::Secret>) -> Option<SecretSlice<u8>> {
        let text = self.secret(key, secret)?;
        let bytes = STANDARD.decode(text.expose_secret().trim()).ok().filter(|bytes| bytes.len() == KEY_LENGTH);
        if bytes.is_none() {
            self.error(key, "expected 32 bytes in base64; generate a key with `openssl rand -base64 32`");
        }
        bytes.map(SecretSlice::from)
    }

    /// Parses an identifier.
    pub(super) fn name<T: FromStr<Err = InvalidIdentifier>>(&mut self, key: &str, text: &str) -> Option<T> {
        text.parse().map_err(|message: InvalidIdentifier| self.error(key, message.to_string())).ok()
    }

    /// The valid identifiers of a list. Adds an error for each other element.
    pub(super) fn names<T>(&mut self, key: &str, list: file::List) -> Vec<T>
    where
        T: FromStr<Err = InvalidIdentifier> + PartialEq,
    {
        let mut names = Vec::new();
        for (position, text) in list.into_texts().iter().enumerate() {
            let element = format!("{key}[{position}]");
            if let Some(name) = self.name(&element, text) {
                if names.contains(&name) {
                    self.error(&element, "duplicate element of this list");
                }
                names.push(name);
            }
        }
        names
    }

    /// Parses scopes. At least one is required.
    pub(super) fn scopes(&mut self, key: &str, list: file::List) -> Scopes {
        let texts = list.into_texts();
        if texts.is_empty() {
            self.error(key, "empty; expected at least one scope");
        }
        let mut scopes: Vec<Scope> = Vec::new();
        for (position, text) in texts.iter().enumerate() {
            // A single string may separate scopes with spaces, as in OAuth 2.
            for word in text.split_whitespace() {
                scopes.extend(self.name::<Scope>(&format!("{key}[{position}]"), word));
            }
            if text.trim().is_empty() {
                self.error(&format!("{key}[{position}]"), "empty");
            }
        }
        scopes.into_iter().collect()
    }

    /// Parses a duration greater than zero.
    pub(super) fn duration(&mut self, key: &str, text: &str, max: Duration) -> Option<Duration> {
        let message = match humantime::parse_duration(text) {
            Err(_) => "not a duration; expected a number and a unit, e.g. \"30s\", \"5m\" or \"1m 30s\"".to_owned(),
            Ok(Duration::ZERO) => "must be greater than zero".to_owned(),
            Ok(duration) if duration > max => {
                format!("must be at most {}", humantime::format_duration(max))
            }
            Ok(duration) => return Some(duration),
        };
        self.error(key, message);
        None
    }

    /// Parses a size greater than zero, in bytes.
    pub(super) fn size(&mut self, key: &str, raw: &file::Size, max: u64) -> Option<usize> {
        let bytes = match raw {
            file::Size::Bytes(bytes) => Some(*bytes),
            file::Size::Text(text) => parse_size(text),
        };
        let message = match bytes {
            None => "not a size; expected bytes, or a number and a unit, e.g. 65536, \"64KiB\" or \"1MiB\"".to_owned(),
            Some(0) => "must be greater than zero".to_owned(),
            Some(bytes) if bytes > max => format!("must be at most {max} bytes"),
            Some(bytes) => return usize::try_from(bytes).ok(),
        };
        self.error(key, message);
        None
    }

    /// Parses an IP address with a port.
    pub(super) fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let expected = "not an IP address with a port; expected e.g. 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080";
        text.trim().parse().map_err(|_| self.error(key, expected)).ok()
    }

    /// Parses a network, or a single address as a network.
    pub(super) fn network(&mut self, key: &str, text: &str) -> Option<IpNet> {
        let text = text.trim();
        let expected = "not a network; expected e.g. 10.0.0.0/8, 2001:db8:1::/48 or 192.0.2.7";
        let one = |_| text.parse().map(|address: IpAddr| IpNet::from(address));
        text.parse().or_else(one).map(unmap_ipv4).map_err(|_| self.error(key, expected)).ok()
    }

    /// Parses the origin of a server: scheme, host and port. Adds a warning for `http` to another machine.
    pub(super) fn origin(&mut self, key: &str, text: &str, example: &str) -> Option<Url> {
        let Ok(url) = Url::parse(text) else {
            self.error(key, format!("not a URL; expected e.g. {example}"));
            return None;
        };
        let mut excess = Vec::new();
        if !url.username().is_empty() || url.password().is_some() {
            excess.push("user and password");
        }
        if !matches!(url.path(), "" | "/") {
            excess.push("path");
        }
        if url.query().is_some() {
            excess.push("query");
        }
        if url.fragment().is_some() {
            excess.push("fragment");
        }
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            self.error(key, format!("not an http or https URL; expected e.g. {example}"));
            return None;
        }
        if let Some(Host::Domain(name)) = url.host()
            && without_root_dot(name).split('.').any(str::is_empty)
        {
            self.error(key, format!("the host has an empty part (two dots); expected e.g. {example}"));
            return None;
        }
        if !excess.is_empty() {
            self.error(key, format!("must not have a {}; expected e.g. {example}", excess.join(" or ")));
            return None;
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            self.warn(key, "http to another machine sends tokens and secrets unencrypted; use https");
        }
        Some(url)
    }
}

impl file::List {
    /// Whether the list has no elements.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Array(texts) => texts.is_empty(),
            Self::Text(text) => text.split(',').all(|part| part.trim().is_empty()),
        }
    }

    /// The elements of the list.
    pub(super) fn into_texts(self) -> Vec<String> {
        match self {
            Self::Array(texts) => texts,
            Self::Text(text) => {
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
            }
        }
    }
}

/// Whether a URL's host is this machine: `localhost` and names below it, 127.0.0.0/8, `::1`.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_localhost(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Converts a network of IPv4-mapped IPv6 addresses (RFC 4291, 2.5.5.2) to IPv4, because client addresses are converted too.
fn unmap_ipv4(network: IpNet) -> IpNet {
    let IpNet::V6(long) = network else { return network };
    let short = long.addr().to_ipv4_mapped().zip(long.prefix_len().checked_sub(96));
    short.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_binary_units() {
        for (text, size) in
            [("0", 0), ("512", 512), ("512B", 512), ("64KiB", 65_536), (" 1 MiB ", 1 << 20), ("2GiB", 1 << 31)]
        {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "1MB", "1 kib", "99999999999GiB", "18446744073709551616"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_urls_are_recognized() {
        let loopback = |text: &str| is_loopback(&text.parse().unwrap());
        assert!(loopback("http://localhost.:1") && loopback("http://shop.localhost./"));
        assert!(loopback("http://localhost:1") && loopback("http://127.9.0.1") && loopback("http://[::1]:80"));
        assert!(!loopback("http://localhost.example.com") && !loopback("http://10.0.0.1") && !loopback("http://[::]"));
    }
}
