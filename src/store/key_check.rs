//! Whether the gateways that share a store have their encryption key in common.

use std::fmt;

/// What this gateway knows of the others' key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KeyCheck {
    /// Nothing: the store has not been asked, or no gateway has used it yet.
    #[default]
    Unknown,
    /// The key is one of this gateway's.
    Match,
    /// Another key. Both are named by their ids, which say nothing of them.
    Mismatch {
        /// The id of this gateway's current key.
        own: String,
        /// The id of the key in the store.
        stored: String,
    },
}

impl fmt::Display for KeyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no gateway has used this store yet"),
            Self::Match => f.write_str("encryption_key is that of the other gateways"),
            Self::Mismatch { own, stored } => write!(
                f,
                "store.encryption_key is not that of the gateways that use this store (key {own} here, {stored} there): \
                 sessions and logouts are not shared"
            ),
        }
    }
}
