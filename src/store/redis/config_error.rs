//! Configuration errors that prevent any connection to Redis.

/// Why no connection to Redis can be made with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum RedisConfigError {
    /// The library rejects the address.
    #[error("store.url: not an address of Redis: {0}")]
    Url(String),
    /// A TLS file cannot be used: its configuration key, and the error.
    #[error("{0}: {1}")]
    File(&'static str, String),
    /// An encryption key cannot be used.
    #[error("store.encryption_key: cannot be used")]
    Keys,
}
