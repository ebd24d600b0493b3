//! Whether all replicas have the same encryption key: the store holds a constant that one of them has encrypted.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus::IntGauge;
use redis::cmd;

use super::keyspace::Keyspace;
use crate::{
    store::{KeyCheck, StoreError, encryption::KeyComparison},
    time::unix_now,
};

/// How long the check value is kept after a replica has last read it: as long as the longest session, seconds.
const CHECK_VALUE_TTL: u64 = 90 * 24 * 3600;

/// The results of the comparisons.
#[derive(Debug)]
pub(super) struct KeyComparer {
    latest: Mutex<KeyCheck>,
    /// Whether this replica has written the check value of its current key, or found it.
    has_registered: AtomicBool,
    mismatch: IntGauge,
}

impl KeyComparer {
    pub(super) fn new(mismatch: IntGauge) -> Self {
        Self { latest: Mutex::new(KeyCheck::default()), has_registered: AtomicBool::new(false), mismatch }
    }

    /// The latest result.
    pub(super) fn latest(&self) -> KeyCheck {
        self.latest.lock().clone()
    }

    /// Compares the key. If `registers`, writes its check value if there is none or one of the previous key.
    pub(super) async fn compare(&self, keyspace: &Keyspace, registers: bool) -> Result<KeyCheck, StoreError> {
        let key = keyspace.named("key");
        let expires_at = unix_now() + CHECK_VALUE_TTL;
        let mut stored = keyspace.get::<Vec<u8>>(&key).await?;
        if stored.is_none() && registers {
            // Another replica may write at the same time. The first one counts.
            keyspace.set_new(&key, &keyspace.cipher.encrypt_key_check()?, expires_at).await?;
            stored = keyspace.get(&key).await?;
        }
        let check = match stored.map(|stored| keyspace.cipher.compare_key(&stored)) {
            None => KeyCheck::Unknown,
            Some(KeyComparison::Other { own, stored }) => KeyCheck::Mismatch { own, stored },
            Some(KeyComparison::Current) => {
                if registers {
                    self.has_registered.store(true, Ordering::Relaxed);
                    keyspace.connection.query::<()>(cmd("EXPIREAT").arg(&key).arg(expires_at)).await?;
                }
                KeyCheck::Match
            }
            Some(KeyComparison::Previous) => {
                // Only once: during a rotation, a replica with the earlier configuration must not undo it.
                if registers && !self.has_registered.load(Ordering::Relaxed) {
                    keyspace.set(&key, &keyspace.cipher.encrypt_key_check()?, expires_at).await?;
                    self.has_registered.store(true, Ordering::Relaxed);
                }
                KeyCheck::Match
            }
        };
        self.note(check.clone());
        Ok(check)
    }

    fn note(&self, check: KeyCheck) {
        let is_mismatch = matches!(check, KeyCheck::Mismatch { .. });
        self.mismatch.set(i64::from(is_mismatch));
        let before = std::mem::replace(&mut *self.latest.lock(), check.clone());
        if is_mismatch && before != check {
            tracing::error!("{check}; configure the key of the other replicas");
        } else if matches!(before, KeyCheck::Mismatch { .. }) && !is_mismatch {
            tracing::info!("store.encryption_key matches that of the other replicas again");
        }
    }
}
