//! `[sessions]` and `[keys]`: lifetimes of sessions and of key sets.

use std::path::PathBuf;
use std::time::Duration;

/// How long sessions live.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// A token this close to its end is refreshed on the next request.
    pub refresh_ahead: Duration,
    /// A session ends this long after its last use.
    pub idle_timeout: Duration,
    /// Most sessions held in memory.
    pub capacity: u64,
    /// Refreshes a minute that may run before anyone asks, for sessions in use; 0: none.
    pub background_refreshes_per_minute: u32,
}

/// How long the issuers' public keys are good, and where they outlive the process.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The age from which a key set verifies nothing.
    pub max_age: Duration,
    /// Where key sets are kept on this machine, if anywhere.
    pub jwks_cache_dir: Option<PathBuf>,
}
