//! Errors of the configuration for which no link to Redis can be made.

/// Why no link can be made at all.
#[derive(Debug, thiserror::Error)]
pub enum RedisConfigError {
    /// The address is none that the library takes.
    #[error("store.url: not an address of Redis: {0}")]
    Url(String),
    /// A file of TLS cannot be used: its key, and what is wrong.
    #[error("{0}: {1}")]
    File(&'static str, String),
    /// An encryption key cannot be used.
    #[error("store.encryption_key: cannot be used")]
    Keys,
}
