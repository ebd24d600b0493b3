//! Globs over the names of operations, as callers are granted them: `shopper-orders.*`.
//!
//! Owns what a glob matches. Knows nothing of callers.

use std::{fmt, str::FromStr};

use super::operation::Operation;

/// The API of a merchant's route whose name has no API part.
const MERCHANT_API: &str = "custom";

/// A pattern for the names of operations: `{api}.{id}`, in which `*` stands for any text on its side
/// of the dot. An API without its version stands for all its versions; a star at the end without a
/// dot for all operations of those APIs, so `*` for everything; an id alone for a merchant's route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperationGlob {
    api: String,
    id: String,
}

/// A text that is no glob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {{api}}.{{operation}}, letters, digits, '-', '_' and '*' on both sides, e.g. shopper-orders.*")]
pub struct InvalidGlob;

impl OperationGlob {
    /// Reads a glob.
    pub fn parse(text: &str) -> Result<Self, InvalidGlob> {
        let (api, id) = match text.split_once('.') {
            Some(sides) => sides,
            None if text.ends_with('*') => (text, "*"),
            None => (MERCHANT_API, text),
        };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        if [api, id].iter().any(|side| side.is_empty() || !side.bytes().all(is_word)) {
            return Err(InvalidGlob);
        }
        Ok(Self { api: api.to_owned(), id: id.to_owned() })
    }

    /// Whether an operation's name is among those it stands for.
    #[must_use]
    pub fn matches(&self, operation: &Operation) -> bool {
        self.matches_parts(&operation.api, &operation.id)
    }

    /// Whether an operation of this name would be among those it stands for.
    #[must_use]
    pub fn matches_name(&self, name: &str) -> bool {
        let (api, id) = parts(name);
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

/// API and id of an operation's name.
pub(super) fn parts(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((MERCHANT_API, name))
}

/// `shopper-baskets` of `shopper-baskets-v2`.
fn without_version(api: &str) -> &str {
    match api.rsplit_once("-v") {
        Some((name, version)) if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => api,
    }
}

/// Matches fixed pieces from left to right; taking each as early as possible never loses a match.
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
    fn a_star_stands_for_any_text() {
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
    fn a_version_is_a_number() {
        assert_eq!(without_version("shopper-baskets-v2"), "shopper-baskets");
        assert_eq!(without_version("shopper-baskets-v10"), "shopper-baskets");
        for api in ["shopper-orders", "shopper-view", "api-v", "api-v2a"] {
            assert_eq!(without_version(api), api);
        }
    }

    #[test]
    fn a_glob_has_two_sides() {
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
