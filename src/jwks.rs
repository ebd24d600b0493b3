//! The public keys of each issuer: fetched from its JWKS, cached and persisted.
//!
//! Only the configured address of an issuer is ever fetched. A failed fetch never replaces a working key set, and a set older
//! than `keys.max_age` verifies nothing.
//!
//! - `key_ring`: the active key set of one issuer, and its fetches
//! - `key_lookup`: finds a token's key, which may cause a fetch
//! - `refresher`: the background task that restores and refreshes the key set
//! - `refetch_policy`: whether an unknown key id is a reason to fetch
//! - `unknown_kids`: the negative cache of key ids that no key set has
//! - `fetch_limit`: the rate limit of fetches, shared by all replicas
//! - `persistent_cache`, `cache_directory`: copies of key sets that outlive the process
//! - `key_set`: one parsed JWKS
//! - `fetched_at`: the time of a fetch, and so the age of a key set
//! - `issuer`: SLAS or Account Manager

mod cache_directory;
mod fetch_limit;
mod fetched_at;
mod issuer;
mod key_lookup;
mod key_ring;
mod key_set;
mod persistent_cache;
mod refetch_policy;
mod refresher;
mod unknown_kids;

pub use cache_directory::{CacheDirectory, CacheDirectoryError};
pub use issuer::Issuer;
pub use key_lookup::{Key, KeyError};
pub use key_ring::KeyRing;
pub use key_set::count_usable_keys;
pub use persistent_cache::JwksPersistence;
pub use refetch_policy::TokenOrigin;
