//! Compares names of header fields as a server does that reads `_` as `-` (CGI makes `_` of every separator).
//!
//! Names are in lower case, as HTTP libraries return them.

/// Whether two names are equal to such a server.
pub(super) fn eq_ignoring_separator(name: &str, other: &str) -> bool {
    name.len() == other.len() && starts_with_ignoring_separator(name, other)
}

/// Whether a name begins with a prefix to such a server.
pub(super) fn starts_with_ignoring_separator(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(own, wanted)| own == wanted || (wanted == b'-' && is_separator(char::from(own))))
}

/// Whether a server may read a character of a name as `-`.
pub(super) fn is_separator(character: char) -> bool {
    !character.is_ascii_alphanumeric()
}
