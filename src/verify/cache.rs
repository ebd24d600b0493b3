//! Verified tokens, cached so that each token is verified once and not on every request.
//!
//! An entry holds what a signature proves, which stays true until the issuer's key set changes. The caller checks that with each
//! lookup, and checks everything that depends on the time or the request. The key is the SHA-256 of the whole token with its
//! signature, so a token with another signature is never found.

use std::fmt;

use quick_cache::sync::Cache;

use crate::jwt::sha256;

/// A token as text, with its key in the cache.
#[derive(Clone, Copy)]
pub struct HashedToken<'t> {
    text: &'t str,
    sha256: [u8; 32],
}

impl<'t> HashedToken<'t> {
    /// Hashes a token.
    #[must_use]
    pub fn new(text: &'t str) -> Self {
        Self { text, sha256: sha256(text) }
    }

    /// The token as text.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }
}

impl fmt::Debug for HashedToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashedToken([REDACTED])")
    }
}

/// A bounded cache of verified tokens.
#[derive(Debug)]
pub(super) struct VerifiedTokenCache<V>(Cache<[u8; 32], V>);

impl<V: Clone> VerifiedTokenCache<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity))
    }

    /// The entry of a token, unless `is_current` says that the keys that verified it have been replaced.
    pub(super) fn get(&self, token: &HashedToken<'_>, is_current: impl FnOnce(&V) -> bool) -> Option<V> {
        self.0.get(&token.sha256).filter(is_current)
    }

    pub(super) fn insert(&self, token: &HashedToken<'_>, verified: V) {
        self.0.insert(token.sha256, verified);
    }

    /// Removes all entries that `is_kept` rejects.
    pub(super) fn retain(&self, is_kept: impl Fn(&V) -> bool) {
        self.0.retain(|_, verified| is_kept(verified));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_verdict_is_returned_only_while_its_keys_are_current() {
        let cache = VerifiedTokenCache::new(10);
        let token = HashedToken::new("a.b.c");
        cache.insert(&token, 7);
        assert_eq!(cache.get(&token, |generation| *generation == 7), Some(7));
        assert_eq!(cache.get(&token, |generation| *generation == 8), None);
        assert_eq!(cache.get(&HashedToken::new("a.b.d"), |_| true), None, "another signature");
        cache.retain(|generation| *generation != 7);
        assert_eq!(cache.len(), 0);
    }
}
