//! The keys and values of the store in Redis: keys are keyed hashes, values are encrypted.

use redis::{FromRedisValue, ScriptInvocation, cmd};

use super::connection::ConnectionManager;
use crate::store::{SessionId, StoreError, encryption::StoreCipher};

/// A connection, with what its keys and values are made of.
#[derive(Debug)]
pub(super) struct Keyspace {
    pub(super) connection: ConnectionManager,
    pub(super) cipher: StoreCipher,
    pub(super) prefix: String,
}

impl Keyspace {
    /// The key with this name.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// The key of an identifier, hashed under the current encryption key.
    pub(super) fn hashed(&self, kind: &str, identifier: &[u8]) -> String {
        self.named(&format!("{kind}:{}", self.cipher.hash(kind, identifier)))
    }

    /// The keys of an identifier: hashed under the current encryption key, then under the previous one.
    pub(super) fn all_hashed(&self, kind: &str, identifier: &[u8]) -> impl Iterator<Item = String> {
        self.cipher.hashes(kind, identifier).map(move |hash| self.named(&format!("{kind}:{hash}")))
    }

    /// The key of a session. The part in braces puts the session and its lock into one slot of a cluster.
    pub(super) fn session(&self, id: SessionId) -> String {
        self.named(&format!("{{{id}}}:s"))
    }

    /// The key of a session's lock.
    pub(super) fn lock(&self, id: SessionId) -> String {
        self.named(&format!("{{{id}}}:l"))
    }

    pub(super) async fn get<T: FromRedisValue>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.connection.query(cmd("GET").arg(key)).await
    }

    /// Stores a value until this time, seconds since 1970.
    pub(super) async fn set(&self, key: &str, value: &[u8], expires_at: u64) -> Result<(), StoreError> {
        self.connection.query(cmd("SET").arg(key).arg(value).arg("EXAT").arg(expires_at)).await
    }

    /// Stores a value until this time, unless the key exists. Returns whether the value was stored.
    pub(super) async fn set_new(&self, key: &str, value: &[u8], expires_at: u64) -> Result<bool, StoreError> {
        let set = cmd("SET").arg(key).arg(value).arg("NX").arg("EXAT").arg(expires_at).to_owned();
        Ok(self.connection.query::<Option<String>>(&set).await?.is_some())
    }

    pub(super) async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.connection.script(script).await
    }
}
