//! Globs of operation names, for example `shopper-orders.*`.

use std::{fmt, str::FromStr};

use super::operation::Operation;

/// The API of a custom route whose name has no API.
const CUSTOM_API: &str = "custom";

/// A pattern of operation names, `{api}.{id}`. A star matches any text on its side of the dot.
///
/// An API without a version matches all versions. A pattern without a dot that ends with a star matches all operations of the
/// matching APIs, so `*` matches everything. Any other pattern without a dot is the id of a custom route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperationGlob {
    api: String,
    id: String,
}

/// An error of a glob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected {{api}}.{{operation}}, with letters, digits, '-', '_' and '*' on both sides, for example shopper-orders.*"
)]
pub struct InvalidGlob;

impl OperationGlob {
    /// Parses a glob.
    ///
    /// # Errors
    /// [`InvalidGlob`] if a side is empty or has another character.
    pub fn parse(text: &str) -> Result<Self, InvalidGlob> {
        let (api, id) = match text.split_once('.') {
            Some(sides) => sides,
            None if text.ends_with('*') => (text, "*"),
            None => (CUSTOM_API, text),
        };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        if [api, id].iter().any(|side| side.is_empty() || !side.bytes().all(is_word)) {
            return Err(InvalidGlob);
        }
        Ok(Self { api: api.to_owned(), id: id.to_owned() })
    }

    /// Whether the glob matches an operation.
    #[must_use]
    pub fn matches(&self, operation: &Operation) -> bool {
        self.matches_parts(&operation.api, &operation.id)
    }

    /// Whether the glob matches an operation's name.
    #[must_use]
    pub fn matches_name(&self, name: &str) -> bool {
        let (api, id) = split_name(name);
        self.matches_parts(api, id)
    }

    fn matches_parts(&self, api: &str, id: &str) -> bool {
        (matches(&self.api, api) || matches(&self.api, without_version(api))) && matches(&self.id, id)
    }
}

impl FromStr for OperationGlob {
    type Err = InvalidGlob;

    fn from_str(text: &str) -> Result<Self, InvalidGlob> {
        Self::parse(text)
    }
}

impl fmt::Display for OperationGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.api, self.id)
    }
}

/// Splits an operation's name into API and id.
pub(super) fn split_name(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((CUSTOM_API, name))
}

/// Returns `shopper-baskets` for `shopper-baskets-v2`.
fn without_version(api: &str) -> &str {
    match api.rsplit_once("-v") {
        Some((name, version)) if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => api,
    }
}

/// Matches the fixed pieces from left to right, each at its first occurrence. A later occurrence cannot match more.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let tail = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(position) = text.find(piece) else { return false };
        text = &text[position + piece.len()..];
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_in_a_pattern_matches_any_text() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "abc"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abc"),
            ("a*b*c", "a-b-b-c"),
            ("**", "abc"),
            ("abc", "abc"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "abc"), ("a*a", "a"), ("*b", "abc"), ("a*b*c", "acb"), ("", "a"), ("a*", "ba")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn api_name_with_a_version_loses_the_version() {
        assert_eq!(without_version("shopper-baskets-v2"), "shopper-baskets");
        assert_eq!(without_version("shopper-baskets-v10"), "shopper-baskets");
        for api in ["shopper-orders", "shopper-view", "api-v", "api-v2a"] {
            assert_eq!(without_version(api), api);
        }
    }

    #[test]
    fn glob_without_two_valid_sides_is_rejected() {
        for text in ["", ".", "a.", ".b", "a.b.c", "a b.c", "a/b.*", "shopper-orders.{id}"] {
            assert_eq!(OperationGlob::parse(text), Err(InvalidGlob), "{text}");
        }
        for (text, read) in
            [("*", "*.*"), ("shopper-*", "shopper-*.*"), ("points", "custom.points"), ("a-*.b_*", "a-*.b_*")]
        {
            assert_eq!(text.parse::<OperationGlob>().unwrap().to_string(), read);
        }
    }
}
