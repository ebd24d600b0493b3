//! The session store: what every store does.
//!
//! Replicas share sessions, locks, login slots, token buckets and small values through a store. Both stores guarantee
//! that a session is replaced only over the version that was read, that a lock expires by itself, and that a revoked
//! token stays rejected on every replica. Every method may be called by several replicas at the same time.

mod encryption;
mod key_check;
pub mod memory;
mod outage;
pub mod redis;
mod refresh_token_history;
mod revocations;
mod session;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::key_check::KeyCheck;
pub use self::outage::{Outage, StorePeer, UnavailableCause};
pub use self::refresh_token_history::{
    CallerRefreshToken, MAX_CALLER_REFRESH_TOKENS, ROTATION_GRACE_SECONDS, RefreshTokenHistory,
};
pub use self::revocations::{
    Epoch, MAX_REVOCATIONS, REVOCATION_TTL, Revocation, RevocationKey, RevocationKeys, RevocationSet, Revocations,
};
pub use self::session::{CallerEntry, Owner, RECENT_TOKENS, Session, SessionId};
use crate::{
    jwt::TokenDigest,
    ratelimit::BucketConfig,
    types::{CustomerId, OrganizationId},
};

/// What a store knows of a token.
#[derive(Debug, Clone)]
pub enum LookupResult {
    /// The token is of this session, which was last used at this time (seconds since 1970). No revocation covers it.
    Session(Arc<Session>, u64),
    /// The token was of a session that does not exist any more. If there is a revocation of the session, it covers the
    /// token.
    Gone,
    /// The token has no session, and this epoch.
    Epoch(Epoch),
    /// The token's session was revoked.
    Revoked,
    /// The store knows nothing of the token.
    Unknown,
}

/// What a revocation ends.
#[derive(Debug, Clone)]
pub enum RevocationTarget<'s> {
    /// A session.
    Session(&'s Session),
    /// The session at SLAS of a token that has no session here.
    Token {
        /// The token.
        digest: TokenDigest,
        /// The keys of its revocations.
        keys: RevocationKeys,
        /// When the token was issued, by SLAS's clock.
        issued_at: u64,
        /// The token's epoch, if known.
        epoch: Option<Epoch>,
    },
}

/// The stored revocation records that cover what a revocation ends. Such a record is not replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Coverage {
    /// Records with a higher number than this one.
    After(u64),
    /// Records that are not earlier than this issue time.
    IssuedAt(u64),
    /// No record.
    Never,
}

impl Coverage {
    /// Whether this record covers it.
    pub(crate) fn includes(self, record: &Revocation) -> bool {
        match self {
            Self::After(number) => record.number > number,
            Self::IssuedAt(time) => record.revokes_issued_at(time),
            Self::Never => false,
        }
    }
}

impl RevocationTarget<'_> {
    /// The key of the revocation record, and which stored records cover the target.
    pub(crate) fn key_and_coverage(&self) -> (RevocationKey, Coverage) {
        match self {
            Self::Session(session) => (session.revocation_keys().session, Coverage::After(session.epoch.session)),
            Self::Token { keys, epoch: Some(epoch), .. } => (keys.session, Coverage::After(epoch.session)),
            Self::Token { keys, issued_at, epoch: None, .. } => (keys.session, Coverage::IssuedAt(*issued_at)),
        }
    }
}

/// A bucket of time that all gateways with one store share.
#[derive(Debug, Clone, Copy)]
pub enum Bucket<'k> {
    /// The login slots of this key.
    LoginSlot(&'k [u8]),
    /// The token bucket of this key.
    Tokens(&'k [u8]),
}

/// The revocations of other replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationEvents {
    /// Tokens that are rejected, and names that can be used again.
    pub tokens: Vec<TokenDigest>,
    /// Revocation records.
    pub revocations: Vec<(RevocationKey, Revocation)>,
}

/// A lock on refreshing a session. A later lock of the session has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// The number of this lock of the session.
    pub number: u64,
    /// Tells this lock from any other.
    pub owner: [u8; 16],
}

/// The result of an attempt to lock a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockResult {
    /// The caller holds the lock until its lease ends.
    Acquired(FencingToken),
    /// Another caller holds the lock.
    Taken,
    /// The session does not exist any more.
    SessionGone,
}

/// A lock on creating the session of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreationLock(pub [u8; 16]);

/// The result of replacing a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CasResult {
    /// The new version was written.
    Written,
    /// The stored version is not the one that was read, or the session does not exist. Nothing was changed.
    Conflict,
}

/// The position up to which revocations were read, see [`SessionStore::revocations_since`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Why an operation of the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The server cannot be reached, has not answered in time, or refuses commands at the moment. [`SessionStore::state`] has
    /// the cause.
    #[error("the session store is unavailable")]
    Unavailable,
    /// The server returned something unexpected.
    #[error("the session store returned an unexpected value: {0}")]
    Broken(&'static str),
}

/// The state of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreState {
    /// The cause, while the store is unavailable.
    pub outage: Option<Outage>,
    /// Whether the replicas that share the store have the same encryption key.
    pub key: KeyCheck,
}

/// A command that the store's server rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedCommand {
    /// The name of the command.
    pub command: String,
    /// The cause, if the server's reply is known.
    pub outage: Option<Outage>,
}

impl fmt::Display for RejectedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outage {
            Some(outage) => write!(f, "{} failed: {outage}", self.command),
            None => write!(f, "{} was rejected; see the log", self.command),
        }
    }
}

/// A store of sessions and of the state that replicas share.
#[async_trait]
pub trait SessionStore: fmt::Debug + Send + Sync {
    /// Stores a new session. A session that was revoked since it began is not stored.
    async fn insert(&self, session: Arc<Session>, used_at: u64) -> Result<(), StoreError>;

    /// What the store knows of a token.
    async fn find(&self, token: &TokenDigest) -> Result<LookupResult, StoreError>;

    /// Tries to lock a session for `lease`.
    async fn lock(&self, session: &Session, lease: Duration) -> Result<LockResult, StoreError>;

    /// Releases a lock that the caller still holds.
    async fn unlock(&self, session: &Session, fencing_token: FencingToken) -> Result<(), StoreError>;

    /// Replaces the previous version of a session (compare-and-set), and releases the lock. The new token identifies the
    /// session from now on.
    async fn replace(&self, session: Arc<Session>, fencing_token: FencingToken) -> Result<CasResult, StoreError>;

    /// Tries to lock the creation of a name's session for `lease`. `None` if another caller holds the lock.
    async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
        lease: Duration,
    ) -> Result<Option<CreationLock>, StoreError>;

    /// Releases that lock.
    async fn release_creation_lock(&self, name: &TokenDigest, lock: CreationLock) -> Result<(), StoreError>;

    /// Notes that a session was used.
    async fn touch(&self, session: &Session, used_at: u64) -> Result<(), StoreError>;

    /// Revokes a session, on every replica that shares the store, including the result of a refresh in progress. `at` is the
    /// time by SLAS's clock: unknown tokens of the session are revoked if they were issued at that time or before. Returns the
    /// revocation record. If an earlier record covers the session, that one is returned and nothing is changed.
    async fn revoke(&self, target: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError>;

    /// Revokes every session of a customer. Returns the revocation record.
    async fn revoke_customer(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        at: u64,
    ) -> Result<Revocation, StoreError>;

    /// The latest revocation records of a shopper.
    async fn revocations(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError>;

    /// Stores the epoch of a token without a session, for `life`.
    async fn record_epoch(&self, token: &TokenDigest, epoch: Epoch, life: Duration) -> Result<(), StoreError>;

    /// Revokes a token that has no session here.
    async fn revoke_token(&self, token: &TokenDigest) -> Result<(), StoreError>;

    /// The revocations after the cursor's position, which is moved. An empty cursor begins at the newest revocation.
    async fn revocations_since(&self, cursor: &mut Cursor) -> Result<RevocationEvents, StoreError>;

    /// Takes `cost` from a bucket, if at most `limit` is missing then: see
    /// [`TokenBucket::reserve`](crate::ratelimit::TokenBucket::reserve). Returns the time that was missing before.
    ///
    /// # Errors
    /// The inner error is the time until `cost` can be taken.
    async fn reserve(
        &self,
        bucket: Bucket<'_>,
        cost: Duration,
        limit: Duration,
    ) -> Result<Result<Duration, Duration>, StoreError>;

    /// Reserves the next slot of `key`, where slots are one `window` apart. Returns the time until the slot begins. `None` if
    /// that is more than `max_wait`; no slot is reserved then.
    async fn reserve_login_slot(
        &self,
        key: &[u8],
        window: Duration,
        max_wait: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let reserved = self.reserve(Bucket::LoginSlot(key), window, window.saturating_add(max_wait)).await?;
        Ok(reserved.ok())
    }

    /// Acquires tokens from a bucket that all gateways with this store share: all of them or none. `reserve` tokens must be
    /// left. Every call for one bucket must pass the same `config`.
    ///
    /// # Errors
    /// The inner error is the time until the tokens are available.
    async fn acquire_tokens(
        &self,
        bucket: &[u8],
        config: BucketConfig,
        tokens: u32,
        reserve: u32,
    ) -> Result<Result<(), Duration>, StoreError> {
        let limit = config.with_reserve(reserve).full_refill_time();
        let reserved = self.reserve(Bucket::Tokens(bucket), config.refill_time(tokens), limit).await?;
        // After a failover to a server whose clock is behind, more is missing than the bucket holds.
        Ok(reserved.map(|_| ()).map_err(|wait| wait.min(config.refill_time(tokens.saturating_add(reserve)))))
    }

    /// Stores a small value for `life`. It replaces an earlier value of this name.
    async fn put_value(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError>;

    /// The stored value of a name, exactly as it was written.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if the value was not written with this store's key, or has been moved from another name.
    async fn get_value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Drops sessions that have expired or were not used within `idle`. A session whose refresh token a caller holds is kept,
    /// because that token would be void without it. Redis expires sessions by itself. Returns the number of sessions, if known.
    async fn sweep(&self, now: u64, idle: Duration) -> Option<usize>;

    /// Whether other replicas use the same store.
    fn is_shared(&self) -> bool;

    /// The state of the store, as the last operations have shown it.
    fn state(&self) -> StoreState;

    /// Runs every command that the store needs, on keys of its own that are deleted afterwards.
    ///
    /// # Errors
    /// The first command that the server rejected.
    async fn check_commands(&self) -> Result<(), RejectedCommand>;

    /// Compares the encryption key with that of the other replicas. A replica that `registers` stores a check value of its key,
    /// if there is none or one of its previous key.
    async fn check_key(&self, registers: bool) -> Result<KeyCheck, StoreError>;

    /// The time limit of one write.
    fn write_timeout(&self) -> Duration;
}

/// 16 random bytes.
///
/// # Errors
/// [`StoreError::Broken`] if the operating system has no randomness.
pub fn random_bytes() -> Result<[u8; 16], StoreError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Broken("the operating system gave no randomness"))?;
    Ok(bytes)
}
