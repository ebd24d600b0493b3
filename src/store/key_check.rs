//! The comparison of the encryption keys of replicas that share a store.

use std::fmt;

/// The result of the comparison with the key of the other replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KeyCheck {
    /// Unknown: the store was not read yet, or no replica has used it.
    #[default]
    Unknown,
    /// The store's key is one of this replica's keys.
    Match,
    /// The store's key is another key. The ids reveal nothing of the keys.
    Mismatch {
        /// The id of this replica's current key.
        own: String,
        /// The id of the store's key.
        stored: String,
    },
}

impl fmt::Display for KeyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no replica has used this store yet"),
            Self::Match => f.write_str("encryption_key matches that of the other replicas"),
            Self::Mismatch { own, stored } => write!(
                f,
                "store.encryption_key is not that of the replicas that use this store (key {own} here, {stored} there): \
                 sessions and logouts are not shared"
            ),
        }
    }
}
