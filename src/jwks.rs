//! The public keys of each issuer: fetched from its JWKS, cached and persisted.
//!
//! Only the configured address of an issuer is ever fetched. A failed fetch never replaces a working key set, and a set older
//! than `keys.max_age` verifies nothing.
//!
//! - `key_ring`: the active key set of one issuer, and its fetches
//! - `search`: the lookup of a token's key, which may cause a fetch
//! - `refresher`: the background task that restores and refreshes the key set
//! - `refetch_policy`: whether an unknown key id is a reason to fetch
//! - `fetch_limit`: the rate limit of fetches, shared by all replicas
//! - `persistence`, `file_store`: copies of key sets that outlive the process
//! - `key_set`: one parsed JWKS
//! - `issuer`: SLAS or Account Manager

mod fetch_limit;
mod file_store;
mod issuer;
mod key_ring;
mod key_set;
mod persistence;
mod refetch_policy;
mod refresher;
mod search;

pub use file_store::{FileStore, FileStoreError};
pub use issuer::Issuer;
pub use key_ring::KeyRing;
pub use key_set::count_usable_keys;
pub use persistence::JwksPersistence;
pub use refetch_policy::TokenOrigin;
pub use search::{Key, KeyError};
