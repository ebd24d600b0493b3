//! `[sessions]` and `[keys]`: lifetimes of sessions and of key sets.

use std::path::PathBuf;
use std::time::Duration;

/// The lifetime of shopper sessions.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// How long before its expiry a token is refreshed by the next request.
    pub refresh_ahead: Duration,
    /// A session ends if it is not used for this long.
    pub idle_timeout: Duration,
    /// Maximum number of sessions in memory.
    pub capacity: u64,
    /// Maximum number of background refreshes per minute; 0: none.
    pub background_refreshes_per_minute: u32,
}

/// How long key sets of issuers are valid, and where they survive a restart.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Maximum age of a key set.
    pub max_age: Duration,
    /// Directory of key sets on this machine.
    pub jwks_cache_dir: Option<PathBuf>,
}
