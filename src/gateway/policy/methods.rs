//! [`Methods`]: the methods that are published at one path.

use std::fmt;

use http::{HeaderValue, Method};

/// A set of methods of operations.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Methods(u8);

impl Methods {
    /// All methods that an operation can have, in the order of `Allow`.
    pub(super) const EACH: [Method; 6] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

    /// Every method that an operation can have.
    #[must_use]
    pub fn all() -> Self {
        Self::EACH.into_iter().collect()
    }

    /// The methods of a path that only serves content.
    #[must_use]
    pub fn read_only() -> Self {
        [Method::GET, Method::HEAD].into_iter().collect()
    }

    /// Whether the set has no method.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the set has a method. Names of methods are case-sensitive (RFC 9110, 9.1).
    #[must_use]
    pub fn contains(self, name: &[u8]) -> bool {
        self.iter().any(|method| method.as_str().as_bytes() == name)
    }

    /// The methods as a list: `GET, HEAD`.
    #[must_use]
    pub fn list(self) -> HeaderValue {
        HeaderValue::from_str(&self.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The value of `Allow`: the gateway itself answers `OPTIONS`.
    #[must_use]
    pub fn allow(self) -> HeaderValue {
        HeaderValue::from_str(&format!("{self}, OPTIONS")).unwrap_or_else(|_| HeaderValue::from_static("OPTIONS"))
    }

    /// The methods, in the order of `Allow`.
    fn iter(self) -> impl Iterator<Item = Method> {
        Self::EACH
            .into_iter()
            .enumerate()
            .filter(move |(position, _)| self.0 & (1 << position) != 0)
            .map(|(_, method)| method)
    }
}

/// Where GET is published, HEAD is too: it is that GET without its body.
impl FromIterator<Method> for Methods {
    fn from_iter<I: IntoIterator<Item = Method>>(methods: I) -> Self {
        let bit = |method: Method| Self::EACH.iter().position(|own| *own == method).map_or(0, |position| 1 << position);
        let bits = methods.into_iter().fold(0, |bits, method| bits | bit(method));
        Self(if bits & bit(Method::GET) == 0 { bits } else { bits | bit(Method::HEAD) })
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, method) in self.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(formatter, "{separator}{method}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Methods({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_brings_head() {
        let methods: Methods = [Method::PATCH, Method::GET, Method::GET].into_iter().collect();
        assert_eq!(
            (methods.list(), methods.allow()),
            ("GET, HEAD, PATCH".parse().unwrap(), "GET, HEAD, PATCH, OPTIONS".parse().unwrap())
        );
        let methods: Methods = [Method::POST, Method::OPTIONS].into_iter().collect();
        assert_eq!(methods.to_string(), "POST");
        assert!(methods.contains(b"POST") && !methods.contains(b"post") && !methods.contains(b"GET"));
        assert!(!methods.is_empty() && Methods::default().is_empty());
        assert_eq!(Methods::all().to_string(), "GET, HEAD, POST, PUT, PATCH, DELETE");
    }
}
