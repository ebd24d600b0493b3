//! The session store: what a session is, and what every store does.
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

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

pub use self::key_check::KeyCheck;
pub use self::outage::{Outage, StorePeer, UnavailableCause};
pub use self::refresh_token_history::{
    CallerRefreshToken, MAX_CALLER_REFRESH_TOKENS, ROTATION_GRACE_SECONDS, RefreshTokenHistory,
};
pub use self::revocations::{
    Epoch, MAX_REVOCATIONS, REVOCATION_TTL, Revocation, RevocationKey, RevocationKeys, RevocationSet, Revocations,
};
use crate::{
    jwt::TokenDigest,
    ratelimit::BucketConfig,
    time::unix_now,
    types::{ClientId, CustomerId, OrganizationId, SiteId, Usid},
};

/// The number of refreshes after which an access token still identifies its session. The login's own token always does.
pub const RECENT_TOKENS: usize = MAX_CALLER_REFRESH_TOKENS;

/// A session's random identifier in the store. It is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// One login, for as long as its refresh token is valid. A change makes a new version.
#[derive(Debug, Clone)]
pub struct Session {
    /// The identifier.
    pub id: SessionId,
    /// The shopper that a token must have to use the session.
    pub owner: Owner,
    /// The newest access token.
    pub access_token: SecretString,
    /// When the newest access token expires, seconds since 1970.
    pub access_expires_at: u64,
    /// The lifetime of the access token from its issue, seconds.
    pub access_lifetime: u64,
    /// The current refresh token.
    pub refresh_token: SecretString,
    /// When the refresh token and the session expire, seconds since 1970.
    pub expires_at: u64,
    /// Digests of the issued access tokens: the login's own, then the most recent ones, oldest first.
    pub tokens: Vec<TokenDigest>,
    /// Whether the first digest is the session's name instead of a token. A name can be used again after the session
    /// has ended; a token is rejected.
    pub is_named: bool,
    /// The refresh tokens that callers hold. Absent for sessions whose refresh token only the gateway has.
    pub refresh_token_history: Option<Box<RefreshTokenHistory>>,
    /// The latest revocations before the session began. A revocation with a higher number ends the session.
    pub epoch: Epoch,
    /// When the newest access token was obtained by a refresh, seconds since 1970; 0 if it is the login's own.
    pub refreshed_at: u64,
    /// The trusted system that was given the session's tokens; absent for a shopper's own session.
    pub caller: Option<Box<CallerEntry>>,
    /// The number of refreshes.
    pub version: u64,
}

/// The trusted system that was given a session's tokens, as configured at that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerEntry {
    /// The name in `[[callers]]`.
    pub name: String,
    /// What the caller was authenticated by.
    pub identity: String,
}

/// The properties that a token and its session have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The organization.
    pub organization: OrganizationId,
    /// The site.
    pub site: SiteId,
    /// The SLAS client.
    pub client: ClientId,
    /// The shopper's session at SLAS.
    pub usid: Usid,
    /// The customer.
    pub customer: Option<CustomerId>,
    /// Whether the customer is registered.
    pub registered: bool,
}

impl Session {
    /// The next version of the session, after a refresh.
    #[must_use]
    pub fn refreshed(
        &self,
        access_token: SecretString,
        access_expires_at: u64,
        access_lifetime: u64,
        digest: TokenDigest,
        refresh_token: Option<SecretString>,
        expires_at: Option<u64>,
    ) -> Self {
        let mut tokens = self.tokens.clone();
        tokens.push(digest);
        if tokens.len() > RECENT_TOKENS + 1 {
            tokens.remove(1);
        }
        Self {
            id: self.id,
            owner: self.owner.clone(),
            access_token,
            access_expires_at,
            access_lifetime,
            refresh_token: refresh_token.unwrap_or_else(|| self.refresh_token.clone()),
            expires_at: expires_at.unwrap_or(self.expires_at),
            tokens,
            is_named: self.is_named,
            refresh_token_history: self.refresh_token_history.clone(),
            epoch: self.epoch,
            refreshed_at: unix_now(),
            caller: self.caller.clone(),
            version: self.version + 1,
        }
    }

    /// The session with one more refresh token that a caller holds. The token supersedes the presented one.
    #[must_use]
    pub fn with_caller_refresh_token(mut self, name: TokenDigest, presented: Option<&TokenDigest>, now: u64) -> Self {
        let handed = self.refresh_token_history.take().map(|handed| *handed).unwrap_or_default();
        self.refresh_token_history = Some(Box::new(handed.with(name, presented, now)));
        self
    }

    /// The refresh tokens that callers hold.
    pub fn caller_refresh_tokens(&self) -> impl Iterator<Item = &CallerRefreshToken> {
        self.refresh_token_history.iter().flat_map(|handed| handed.iter())
    }

    /// All digests that identify the session: its name, its access tokens, and the refresh tokens that callers hold.
    pub fn lookup_keys(&self) -> impl Iterator<Item = &TokenDigest> {
        self.tokens.iter().chain(self.caller_refresh_tokens().map(|handed| &handed.name))
    }

    /// The keys of the revocations that can end the session.
    #[must_use]
    pub fn revocation_keys(&self) -> RevocationKeys {
        self.owner.revocation_keys()
    }

    /// The session's name, if it has one, and its access tokens.
    #[must_use]
    pub fn name_and_tokens(&self) -> (&[TokenDigest], &[TokenDigest]) {
        self.tokens.split_at(usize::from(self.is_named && !self.tokens.is_empty()))
    }
}

impl Owner {
    /// The keys of the revocations that can end the owner's sessions.
    #[must_use]
    pub fn revocation_keys(&self) -> RevocationKeys {
        RevocationKeys::new(&self.organization, &self.client, &self.usid, self.customer.as_ref())
    }
}

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
    async fn revoke(&self, ending: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError>;

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

    /// Reserves the next slot of `key`, where slots are one `window` apart. Returns the time until the slot begins. `None` if
    /// that is more than `max_wait`; no slot is reserved then.
    async fn reserve_login_slot(
        &self,
        key: &[u8],
        window: Duration,
        max_wait: Duration,
    ) -> Result<Option<Duration>, StoreError>;

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
    ) -> Result<Result<(), Duration>, StoreError>;

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
