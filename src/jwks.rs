//! Key rings: the public keys of each issuer, by key id.
//!
//! Owns where keys come from, when they are fetched, and which are in use. Refuses to know what a token means: whoever
//! verifies one asks for the key that it names, and learns that there is none, or that nobody can tell.
//!
//! - `ring`: the set in use, and the search for a key that is not in it
//! - `fresh`: restoring, filling and renewing, without a request
//! - `pace`: when an unknown key id is a reason to fetch
//! - `allowance`: how often one tenant's set may be fetched, by all gateways together
//! - `shelf`, `folder`: where sets outlive a process
//! - `set`: one published document
//! - `issuer`: SLAS or Account Manager

mod fetch_limit;
mod file_store;
mod issuer;
mod key_ring;
mod key_set;
mod persistence;
mod refetch_policy;
mod refresher;

pub use file_store::{Folder, FolderError};
pub use issuer::Issuer;
pub use key_ring::{Key, KeyRing, NoKey};
pub use persistence::Keeping;
pub use refetch_policy::Source;

/// How many keys of a published set this issuer's tokens could be verified with.
#[must_use]
pub fn count_usable(issuer: &Issuer, document: &[u8]) -> usize {
    key_set::KeySet::read(document, issuer.algorithm()).map_or(0, |set| set.kids().count())
}
