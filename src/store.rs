//! Where sessions live: what every store can do, and what a session is.
//!
//! Owns the contract between sessions and the two stores, and its guarantees: a change is written only over
//! the version that was read, a lock ends by itself, and what was ended stays refused everywhere. What else
//! replicas share goes through it too: turns, budgets, and values that must outlive a process.
//! Knows nothing of SLAS, HTTP or when a token is due.

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

/// An access token is found again this many refreshes later; the login's own is found always.
pub const RECENT_TOKENS: usize = MAX_CALLER_REFRESH_TOKENS;

/// A session's name in stores: random, and no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// One login, for as long as its refresh token lives. A value: a change makes a new one.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Who may use it: the bearer of a token with just these.
    pub owner: Owner,
    /// The newest access token.
    pub access_token: SecretString,
    /// When that ends, seconds since 1970.
    pub access_expires_at: u64,
    /// How long it lives from its issue, seconds.
    pub access_lifetime: u64,
    /// The refresh token that is valid now.
    pub refresh_token: SecretString,
    /// When that ends, and the session with it, seconds since 1970.
    pub expires_at: u64,
    /// Digests of access tokens given out: the login's own, then the most recent, oldest first.
    pub tokens: Vec<TokenDigest>,
    /// Whether the first of them is no token but a name that the gateway gave, under which it finds the session
    /// again. A name is free again when its session has ended; a token is refused.
    pub is_named: bool,
    /// The refresh tokens in callers' hands; absent where none ever left the gateway, which is most.
    pub refresh_token_history: Option<Box<RefreshTokenHistory>>,
    /// The ends that it came after: an end with a higher number is its own.
    pub epoch: Epoch,
    /// When the gateway got the newest access token by a refresh, seconds since 1970; 0 if it is the login's own.
    pub refreshed_at: u64,
    /// The trusted system that was given its tokens and may show them; absent for a shopper's own session.
    pub caller: Option<Box<CallerEntry>>,
    /// Counts the refreshes.
    pub version: u64,
}

/// The trusted system that was given a session's tokens, as the configuration described it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerEntry {
    /// Its name in `[[callers]]`.
    pub name: String,
    /// By what it proved that it is this caller.
    pub identity: String,
}

/// What must be equal in a token and in the session it asks for.
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
    /// The session after a refresh.
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

    /// The session with one more refresh token in a caller's hands, in place of the one that was presented.
    #[must_use]
    pub fn with_caller_refresh_token(mut self, name: TokenDigest, presented: Option<&TokenDigest>, now: u64) -> Self {
        let handed = self.refresh_token_history.take().map(|handed| *handed).unwrap_or_default();
        self.refresh_token_history = Some(Box::new(handed.with(name, presented, now)));
        self
    }

    /// The refresh tokens in callers' hands.
    pub fn caller_refresh_tokens(&self) -> impl Iterator<Item = &CallerRefreshToken> {
        self.refresh_token_history.iter().flat_map(|handed| handed.iter())
    }

    /// Everything under which it is found: its name, its access tokens, and the refresh tokens in callers' hands.
    pub fn lookup_keys(&self) -> impl Iterator<Item = &TokenDigest> {
        self.tokens.iter().chain(self.caller_refresh_tokens().map(|handed| &handed.name))
    }

    /// What ends it.
    #[must_use]
    pub fn revocation_keys(&self) -> RevocationKeys {
        self.owner.revocation_keys()
    }

    /// Its name and its access tokens.
    #[must_use]
    pub fn name_and_tokens(&self) -> (&[TokenDigest], &[TokenDigest]) {
        self.tokens.split_at(usize::from(self.is_named && !self.tokens.is_empty()))
    }
}

impl Owner {
    /// What ends its sessions.
    #[must_use]
    pub fn revocation_keys(&self) -> RevocationKeys {
        RevocationKeys::new(&self.organization, &self.client, &self.usid, self.customer.as_ref())
    }
}

/// What a store knows of a token.
#[derive(Debug, Clone)]
pub enum LookupResult {
    /// It is of this session, last used at that time (seconds since 1970). No end covers it.
    Session(Arc<Session>, u64),
    /// It was of a session that is not there any more. If there is an end of it, the token has ended with it.
    Gone,
    /// It has no session, and came after these ends.
    Epoch(Epoch),
    /// Its session was ended.
    Revoked,
    /// Nothing.
    Unknown,
}

/// What is ended.
#[derive(Debug, Clone)]
pub enum RevocationTarget<'s> {
    /// This session.
    Session(&'s Session),
    /// The session at SLAS of a token that has none here.
    Token {
        /// The token.
        digest: TokenDigest,
        /// What ends it.
        keys: RevocationKeys,
        /// When the token was issued, by SLAS's clock.
        issued_at: u64,
        /// The ends that it is known to have come after.
        epoch: Option<Epoch>,
    },
}

/// What other gateways ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationEvents {
    /// Tokens that are refused, and names that are free again.
    pub tokens: Vec<TokenDigest>,
    /// Records of ends.
    pub revocations: Vec<(RevocationKey, Revocation)>,
}

/// The right to refresh a session, for a while. A later lock has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// The number of this lock of the session.
    pub number: u64,
    /// Tells this lock from any other.
    pub owner: [u8; 16],
}

/// The answer to a wish for the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockResult {
    /// It is yours until the lease ends.
    Acquired(FencingToken),
    /// Somebody else has it.
    Taken,
    /// The session is not there any more.
    SessionGone,
}

/// The right to make what is not there yet, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreationLock(pub [u8; 16]);

/// Whether a new version was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CasResult {
    /// It was.
    Written,
    /// Another version than the one read is there, or none: nothing was changed.
    Conflict,
}

/// Where [`SessionStore::ended_since`] goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, did not answer in time, or refuses for the time being: [`SessionStore::state`] says why.
    #[error("the session store cannot be used")]
    Unavailable,
    /// It answered, but not as this gateway's store should.
    #[error("the session store answers wrongly: {0}")]
    Broken(&'static str),
}

/// How a store is at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreState {
    /// Why it cannot be used, while that is so.
    pub outage: Option<Outage>,
    /// Whether the gateways that share it have their key in common.
    pub key: KeyCheck,
}

/// A command that the store's server did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedCommand {
    /// Its name.
    pub command: String,
    /// Why, if the server's reply is known.
    pub outage: Option<Outage>,
}

impl fmt::Display for RejectedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outage {
            Some(outage) => write!(f, "{} failed: {outage}", self.command),
            None => write!(f, "{} was refused; see the log", self.command),
        }
    }
}

/// A place for sessions. Every method may be called by several gateways at a time.
#[async_trait]
pub trait SessionStore: fmt::Debug + Send + Sync {
    /// Puts in a new session, found by all its names. One that was ended meanwhile stays ended: a login is
    /// offered again when the store did not take it at first.
    async fn insert(&self, session: Arc<Session>, used_at: u64) -> Result<(), StoreError>;

    /// What is known of a token.
    async fn find(&self, token: &TokenDigest) -> Result<LookupResult, StoreError>;

    /// Asks for the right to refresh a session.
    async fn lock(&self, session: &Session, lease: Duration) -> Result<LockResult, StoreError>;

    /// Gives the right back.
    async fn unlock(&self, session: &Session, fencing_token: FencingToken) -> Result<(), StoreError>;

    /// Writes a new version over the one before it, finds the session by its new token too, and gives
    /// the right to refresh back.
    async fn replace(&self, session: Arc<Session>, fencing_token: FencingToken) -> Result<CasResult, StoreError>;

    /// Asks for the right to make the session of a name that has none. `None` if somebody else has it.
    async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
        lease: Duration,
    ) -> Result<Option<CreationLock>, StoreError>;

    /// Gives that right back.
    async fn release_creation_lock(&self, name: &TokenDigest, claim: CreationLock) -> Result<(), StoreError>;

    /// Notes that a session was used.
    async fn touch(&self, session: &Session, used_at: u64) -> Result<(), StoreError>;

    /// Ends a session: its tokens are refused from now on, by every gateway that shares the store, and so is what a
    /// refresh makes of it that is under way. `at` is the time by SLAS's clock: tokens of the session of which nothing
    /// is known have ended if they were issued no later. Returns the record of the end: an earlier one, with nothing
    /// changed, if that covers it already.
    async fn revoke(&self, ending: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError>;

    /// Ends every session of a customer. Returns the record of the end.
    async fn revoke_customer(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        at: u64,
    ) -> Result<Revocation, StoreError>;

    /// The records of ends of a shopper.
    async fn revocations(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError>;

    /// Notes that a token without a session came after these ends, for as long as it lives.
    async fn record_epoch(&self, token: &TokenDigest, epoch: Epoch, life: Duration) -> Result<(), StoreError>;

    /// Refuses a token that has no session here.
    async fn revoke_token(&self, token: &TokenDigest) -> Result<(), StoreError>;

    /// What was ended since the cursor's last move. An empty cursor begins now.
    async fn revocations_since(&self, cursor: &mut Cursor) -> Result<RevocationEvents, StoreError>;

    /// How long to wait for one's turn where only one may go in each `window`; `None` if that would
    /// be longer than `longest`, and then no turn is taken.
    async fn reserve_login_slot(
        &self,
        who: &[u8],
        window: Duration,
        longest: Duration,
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

    /// Keeps a small value for `life`, in place of an earlier one of this name.
    async fn put_value(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError>;

    /// The value kept under this name, exactly as a gateway wrote it.
    ///
    /// # Errors
    /// [`StoreError::Broken`] also if somebody else wrote it, or under another name.
    async fn get_value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Drops what has ended by itself or was not used within `idle`, unless a caller holds a refresh token of
    /// it, which would be void without it; a store that does so by itself need not.
    /// Says how many sessions are held, where that is known.
    async fn sweep(&self, now: u64, idle: Duration) -> Option<usize>;

    /// Whether other gateways can change what is in it.
    fn is_shared(&self) -> bool;

    /// How it is, as far as the calls before have shown.
    fn state(&self) -> StoreState;

    /// Tries every command that the store needs, and leaves nothing behind.
    ///
    /// # Errors
    /// The first command that was not taken.
    async fn check_commands(&self) -> Result<(), RejectedCommand>;

    /// Compares the key with that of the gateways that share the store. A gateway that `registers` writes its own key's
    /// check value if there is none, or one of its previous key.
    async fn check_key(&self, registers: bool) -> Result<KeyCheck, StoreError>;

    /// How long one write may take before it fails.
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
