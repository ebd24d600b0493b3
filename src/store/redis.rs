//! Sessions in Redis or Valkey, shared by all replicas with the same encryption key.
//!
//! Every key is a keyed hash or a random id, and every value with a secret is encrypted. Operations that must be atomic
//! are scripts. A script uses the keys of one session only, so that it works in a cluster.
//!
//! | key | value |
//! |---|---|
//! | `{prefix}:t:{hash of token}` | the session's id, or that it was revoked, or the epoch of a token without a session; also for refresh tokens that callers hold |
//! | `{prefix}:e:{hash of session or customer}` | the revocation record: number and time |
//! | `{prefix}:{id}:s` | hash: `r` the encrypted session, `v` its version, `f` the last lock's number, `w` the last writer's number, `u` the last use |
//! | `{prefix}:{id}:l` | the owner of the session's lock, for the length of the lease |
//! | `{prefix}:u:{hash of customer}` | set of the customer's session ids |
//! | `{prefix}:ended` | stream of revocations: `d` encrypted digests of revoked tokens, `e` encrypted revocation records |
//! | `{prefix}:w:{hash of login}` | when the login's next slot begins |
//! | `{prefix}:c:{hash of name}` | the owner of the lock on creating that name's session, for the length of the lease |
//! | `{prefix}:b:{hash of bucket}` | when the token bucket is full again |
//! | `{prefix}:k:{hash of name}` | an encrypted value that outlives a process |
//! | `{prefix}:key` | an encrypted constant, by which a replica finds that its key is not that of the others |
//!
//! Every key expires: the command or script that writes a key also sets its expiry.

mod cause;
mod codec;
mod command_check;
mod config_error;
mod connection;
mod connector;
mod health;
mod scripts;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus::IntGauge;
use redis::{ScriptInvocation, cmd, streams::StreamRangeReply};

pub use self::config_error::RedisConfigError;
use self::{
    connection::ConnectionManager,
    scripts::{
        ACQUIRE_TOKENS, ADD_TO_CUSTOMER, APPEND_EVENT, DELETE, INSERT, LOCK, RECORD_REVOCATION, REPLACE,
        RESERVE_LOGIN_SLOT, TOUCH, UNLOCK,
    },
};
use super::{
    CasResult, CreationLock, Cursor, Epoch, FencingToken, KeyCheck, LockResult, LookupResult, REVOCATION_TTL,
    RejectedCommand, Revocation, RevocationEvents, RevocationKey, RevocationKeys, RevocationTarget, Revocations,
    Session, SessionId, SessionStore, StoreError, StoreState,
    encryption::{KeyComparison, StoreCipher},
    random_bytes,
};
use crate::{
    config::RedisStore as Configured,
    jwt::TokenDigest,
    observability::metrics::Metrics,
    ratelimit::BucketConfig,
    time::unix_now,
    types::{CustomerId, OrganizationId},
};

/// The value of a token whose session was revoked.
const REVOKED: &[u8] = b"ended";
/// The beginning of the value of a token without a session, in front of its epoch. No session id is as long.
const EPOCH_PREFIX: &[u8] = b"after";
/// The length of an epoch, bytes.
const EPOCH_BYTES: usize = 2 * 8;
/// The length of a revocation record in the stream, bytes: key, number, time.
const RECORD_LENGTH: usize = 16 + 8 + 8;
/// Maximum number of entries of the stream that are read at a time.
const MAX_EVENTS: usize = 1000;

/// How long the key's check value is kept after a replica has last read it: as long as the longest session, seconds.
const KEY_CHECK_TTL: u64 = 90 * 24 * 3600;

/// Sessions in Redis.
#[derive(Debug)]
pub struct RedisStore {
    connection: ConnectionManager,
    cipher: StoreCipher,
    prefix: String,
    key: Mutex<KeyCheck>,
    /// Whether this replica has written the check value of its current key, or found it.
    has_registered: AtomicBool,
    key_mismatch: IntGauge,
}

impl RedisStore {
    /// A store that connects with its first command.
    ///
    /// # Errors
    /// [`RedisConfigError`] if the address, a TLS file or a key cannot be used.
    pub fn new(settings: &Configured, metrics: &Metrics) -> Result<Self, RedisConfigError> {
        let cipher = StoreCipher::new(&settings.encryption_key, settings.previous_encryption_key.as_ref())
            .map_err(|_| RedisConfigError::Keys)?;
        Ok(Self {
            connection: ConnectionManager::new(settings, metrics)?,
            cipher,
            prefix: settings.key_prefix.clone(),
            key: Mutex::new(KeyCheck::default()),
            has_registered: AtomicBool::new(false),
            key_mismatch: metrics.store_key_mismatch.clone(),
        })
    }

    fn session_key(&self, id: SessionId) -> String {
        format!("{}:{{{id}}}:s", self.prefix)
    }

    fn lock_key(&self, id: SessionId) -> String {
        format!("{}:{{{id}}}:l", self.prefix)
    }

    fn ended_key(&self) -> String {
        format!("{}:ended", self.prefix)
    }

    fn token_key(&self, token: &TokenDigest) -> String {
        format!("{}:t:{}", self.prefix, self.cipher.hash("t", token))
    }

    fn record_keys(&self, key: &RevocationKey) -> impl Iterator<Item = String> {
        self.cipher.hashes("e", &key.0).map(|name| format!("{}:e:{name}", self.prefix))
    }

    fn claim_key(&self, name: &TokenDigest) -> String {
        format!("{}:c:{}", self.prefix, self.cipher.hash("c", name))
    }

    fn customer_keys(&self, organization: &OrganizationId, customer: &CustomerId) -> Vec<String> {
        let slot_key = format!("{organization}|{customer}");
        self.cipher.hashes("u", slot_key.as_bytes()).map(|name| format!("{}:u:{name}", self.prefix)).collect()
    }

    async fn session(&self, id: SessionId) -> Result<Option<(Arc<Session>, u64)>, StoreError> {
        let read = cmd("HMGET").arg(self.session_key(id)).arg("r").arg("u").to_owned();
        let (encrypted, used_at): (Option<Vec<u8>>, Option<u64>) = self.connection.query(&read).await?;
        let Some(encrypted) = encrypted else { return Ok(None) };
        let session = codec::read(id, &self.cipher.decrypt(&id.0, &encrypted)?)?;
        Ok(Some((Arc::new(session), used_at.unwrap_or(0))))
    }

    /// Lets the session's digests identify it until it expires.
    async fn index(&self, session: &Session) -> Result<(), StoreError> {
        for name in session.lookup_keys() {
            let (key, id) = (self.token_key(name), session.id.0);
            let index = cmd("SET").arg(key).arg(&id).arg("EXAT").arg(session.expires_at).to_owned();
            self.connection.query::<()>(&index).await?;
        }
        Ok(())
    }

    /// Adds the session to its customer's set, under the current key.
    async fn add_to_customer(&self, session: &Session) -> Result<(), StoreError> {
        let Some(customer) = &session.owner.customer else { return Ok(()) };
        let slot_key = format!("{}|{customer}", session.owner.organization);
        let mut script =
            ADD_TO_CUSTOMER.key(format!("{}:u:{}", self.prefix, self.cipher.hash("u", slot_key.as_bytes())));
        self.script(script.arg(&session.id.0).arg(session.expires_at)).await
    }

    /// Rejects tokens, frees names, and announces both and a revocation record to the other replicas.
    async fn reject_all(
        &self,
        names: &[TokenDigest],
        tokens: &[TokenDigest],
        record: Option<(RevocationKey, Revocation)>,
    ) -> Result<(), StoreError> {
        for token in tokens {
            let refuse =
                cmd("SET").arg(self.token_key(token)).arg(REVOKED).arg("EX").arg(REVOCATION_TTL.as_secs()).to_owned();
            self.connection.query::<()>(&refuse).await?;
        }
        for name in names {
            self.connection.query::<()>(cmd("DEL").arg(self.token_key(name))).await?;
        }
        let encrypted = self.cipher.encrypt(b"ended", [names, tokens].concat().as_flattened())?;
        let oldest = unix_now().saturating_sub(REVOCATION_TTL.as_secs()) * 1000;
        // Longer than any entry is kept. A later revocation extends it.
        let mut append = APPEND_EVENT.key(self.ended_key());
        append.arg(oldest).arg(unix_now() + 2 * REVOCATION_TTL.as_secs()).arg("d").arg(encrypted);
        if let Some((RevocationKey(key), end)) = record {
            let record = [&key[..], &end.number.to_be_bytes(), &end.at.to_be_bytes()].concat();
            append.arg("e").arg(self.cipher.encrypt(b"end", &record)?);
        }
        self.script::<redis::Value>(&append).await.map(|_| ())
    }

    /// The latest record of a key.
    async fn latest_record(&self, key: RevocationKey) -> Result<Revocation, StoreError> {
        let mut latest = Revocation::default();
        for name in self.record_keys(&key) {
            let record = self.connection.query::<Option<String>>(cmd("GET").arg(name)).await?;
            latest = latest.later(record.as_deref().map(read_record).transpose()?.unwrap_or_default());
        }
        Ok(latest)
    }

    /// Writes a revocation record, unless the stored record covers what is revoked.
    async fn record(&self, key: RevocationKey, rule: &str, value: u64, at: u64) -> Result<Revocation, StoreError> {
        let mut names = self.record_keys(&key);
        let current = names.next().unwrap_or_default();
        let mut earlier = Revocation::default();
        for name in names {
            let record = self.connection.query::<Option<String>>(cmd("GET").arg(name)).await?;
            earlier = earlier.later(record.as_deref().map(read_record).transpose()?.unwrap_or_default());
        }
        let mut script = RECORD_REVOCATION.key(current);
        script.arg(rule).arg(value).arg(at).arg(earlier.number).arg(earlier.at).arg(milliseconds(REVOCATION_TTL));
        let (number, at): (u64, u64) = self.script(&script).await?;
        Ok(Revocation { number, at })
    }

    /// Deletes a session and rejects its tokens, including those of a refresh that the caller does not know.
    async fn delete_session(
        &self,
        session: &Session,
        record: Option<(RevocationKey, Revocation)>,
    ) -> Result<(), StoreError> {
        let mut script = DELETE.key(self.session_key(session.id));
        let encrypted: Option<Vec<u8>> = self.script(script.key(self.lock_key(session.id))).await?;
        let last = encrypted
            .map(|encrypted| codec::read(session.id, &self.cipher.decrypt(&session.id.0, &encrypted)?))
            .transpose()?;
        let (names, known) = session.name_and_tokens();
        let mut tokens = known.to_vec();
        if let Some(last) = &last {
            tokens.extend(last.tokens.iter().filter(|token| !session.tokens.contains(token)));
        }
        self.reject_all(names, &tokens, record).await?;
        // A refresh token that a caller holds may be valid at SLAS for as long as the session was.
        for handed in last.as_ref().unwrap_or(session).caller_refresh_tokens() {
            let key = self.token_key(&handed.name);
            let refuse = cmd("SET").arg(key).arg(REVOKED).arg("EXAT").arg(session.expires_at).to_owned();
            self.connection.query::<()>(&refuse).await?;
        }
        if let Some(customer) = &session.owner.customer {
            for set in self.customer_keys(&session.owner.organization, customer) {
                self.connection.query::<()>(cmd("SREM").arg(set).arg(&session.id.0)).await?;
            }
        }
        Ok(())
    }

    async fn script<T: redis::FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.connection.script(invocation).await
    }

    fn note_key(&self, check: KeyCheck) {
        let is_other = matches!(check, KeyCheck::Mismatch { .. });
        self.key_mismatch.set(i64::from(is_other));
        let before = std::mem::replace(&mut *self.key.lock(), check.clone());
        if is_other && before != check {
            tracing::error!("{check}; configure the key of the other replicas");
        } else if matches!(before, KeyCheck::Mismatch { .. }) && !is_other {
            tracing::info!("store.encryption_key matches that of the other replicas again");
        }
    }

    fn read_id(bytes: &[u8]) -> Result<SessionId, StoreError> {
        bytes.try_into().map(SessionId).map_err(|_| StoreError::Broken("a session's id is unreadable"))
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn insert(&self, session: Arc<Session>, used_at: u64) -> Result<(), StoreError> {
        for token in &session.tokens {
            let found = self.connection.query::<Option<Vec<u8>>>(cmd("GET").arg(self.token_key(token))).await?;
            if found.as_deref() == Some(REVOKED) {
                return Ok(());
            }
        }
        if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
            return Ok(());
        }
        let encrypted = self.cipher.encrypt(&session.id.0, &codec::write(&session)?)?;
        let key = self.session_key(session.id);
        let mut put = INSERT.key(key);
        put.arg(session.expires_at)
            .arg("r")
            .arg(encrypted)
            .arg("v")
            .arg(session.version)
            .arg("f")
            .arg(0)
            .arg("w")
            .arg(0);
        self.script::<redis::Value>(put.arg("u").arg(used_at)).await?;
        self.add_to_customer(&session).await?;
        self.index(&session).await
    }

    async fn find(&self, token: &TokenDigest) -> Result<LookupResult, StoreError> {
        let names = self.cipher.hashes("t", token).map(|name| format!("{}:t:{name}", self.prefix));
        let mut unknown = LookupResult::Unknown;
        for (age, key) in names.enumerate() {
            let Some(found) = self.connection.query::<Option<Vec<u8>>>(cmd("GET").arg(&key)).await? else { continue };
            if found == REVOKED {
                return Ok(LookupResult::Revoked);
            }
            if let Some(epoch) = found.strip_prefix(EPOCH_PREFIX).filter(|epoch| epoch.len() == EPOCH_BYTES) {
                unknown = LookupResult::Epoch(read_epoch(epoch)?);
                continue;
            }
            // Under the other key, the token may be marked as revoked.
            let Some((session, used_at)) = self.session(Self::read_id(&found)?).await? else {
                unknown = LookupResult::Gone;
                continue;
            };
            if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
                return Ok(LookupResult::Revoked);
            }
            if age > 0 {
                // The token was found under the previous key: store it under the current one, before the previous key
                // is removed.
                self.index(&session).await?;
            }
            return Ok(LookupResult::Session(session, used_at));
        }
        Ok(unknown)
    }

    async fn lock(&self, session: &Session, lease: Duration) -> Result<LockResult, StoreError> {
        let owner = random_bytes()?;
        let mut script = LOCK.key(self.session_key(session.id));
        script.key(self.lock_key(session.id)).arg(&owner).arg(milliseconds(lease));
        Ok(match self.script::<i64>(&script).await? {
            -1 => LockResult::SessionGone,
            0 => LockResult::Taken,
            number => LockResult::Acquired(FencingToken { number: number.unsigned_abs(), owner }),
        })
    }

    async fn unlock(&self, session: &Session, fencing_token: FencingToken) -> Result<(), StoreError> {
        let mut script = UNLOCK.key(self.lock_key(session.id));
        self.script(script.arg(&fencing_token.owner)).await
    }

    async fn replace(&self, session: Arc<Session>, fencing_token: FencingToken) -> Result<CasResult, StoreError> {
        let encrypted = self.cipher.encrypt(&session.id.0, &codec::write(&session)?)?;
        // The token is stored before any caller has it: once its session is deleted, the token is known as one of a
        // deleted session. A logout in the meantime has revoked these tokens, which NX leaves as it is. The login's own
        // token is kept for as long as the session, for callers that never replace it.
        if let Some(newest) = session.tokens.last() {
            let mut index = cmd("SET");
            index.arg(self.token_key(newest)).arg(&session.id.0).arg("NX").arg("EXAT").arg(session.expires_at);
            self.connection.query::<redis::Value>(&index).await?;
        }
        let mut script = REPLACE.key(self.session_key(session.id));
        script
            .key(self.lock_key(session.id))
            .arg(session.version - 1)
            .arg(fencing_token.number)
            .arg(&fencing_token.owner);
        script.arg(encrypted).arg(session.expires_at * 1000);
        if self.script::<i64>(&script).await? != 1 {
            return Ok(CasResult::Conflict);
        }
        // A revocation writes its record before it deletes the session. So this read finds the record, or the
        // revocation finds this version.
        if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
            return Ok(CasResult::Conflict);
        }
        if let Some(first) = session.tokens.first() {
            self.connection.query::<()>(cmd("EXPIREAT").arg(self.token_key(first)).arg(session.expires_at)).await?;
        }
        for handed in session.caller_refresh_tokens().filter(|handed| handed.superseded_at.is_none()) {
            let key = self.token_key(&handed.name);
            let index = cmd("SET").arg(key).arg(&session.id.0).arg("EXAT").arg(session.expires_at).to_owned();
            self.connection.query::<()>(&index).await?;
        }
        self.add_to_customer(&session).await?;
        Ok(CasResult::Written)
    }

    async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
        lease: Duration,
    ) -> Result<Option<CreationLock>, StoreError> {
        let claim = CreationLock(random_bytes()?);
        let mut take = cmd("SET");
        take.arg(self.claim_key(name)).arg(&claim.0).arg("NX").arg("PX").arg(milliseconds(lease));
        let taken: Option<String> = self.connection.query(&take).await?;
        Ok(taken.map(|_| claim))
    }

    async fn release_creation_lock(&self, name: &TokenDigest, claim: CreationLock) -> Result<(), StoreError> {
        let mut script = UNLOCK.key(self.claim_key(name));
        self.script(script.arg(&claim.0)).await
    }

    async fn touch(&self, session: &Session, used_at: u64) -> Result<(), StoreError> {
        let mut script = TOUCH.key(self.session_key(session.id));
        self.script(script.arg(used_at)).await
    }

    async fn revoke(&self, ending: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError> {
        match ending {
            RevocationTarget::Session(session) => {
                let key = session.revocation_keys().session;
                let end = self.record(key, "after", session.epoch.session, at).await?;
                self.delete_session(session, Some((key, end))).await?;
                Ok(end)
            }
            RevocationTarget::Token { digest, keys, issued_at, epoch } => {
                let key = keys.session;
                let end = match epoch {
                    Some(epoch) => self.record(key, "after", epoch.session, at).await?,
                    None => self.record(key, "issued", issued_at, at).await?,
                };
                self.reject_all(&[], &[digest], Some((key, end))).await?;
                Ok(end)
            }
        }
    }

    async fn revoke_customer(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        at: u64,
    ) -> Result<Revocation, StoreError> {
        let key = RevocationKey::of_customer(organization, customer);
        let end = self.record(key, "never", 0, at).await?;
        self.reject_all(&[], &[], Some((key, end))).await?;
        for set in self.customer_keys(organization, customer) {
            for id in self.connection.query::<Vec<Vec<u8>>>(cmd("SMEMBERS").arg(&set)).await? {
                let id = Self::read_id(&id)?;
                match self.session(id).await? {
                    Some((session, _)) if end.number > session.epoch.customer => {
                        self.delete_session(&session, None).await?
                    }
                    // The session began after the revocation.
                    Some(_) => {}
                    None => self.connection.query::<()>(cmd("SREM").arg(&set).arg(&id.0)).await?,
                }
            }
        }
        Ok(end)
    }

    async fn revocations(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        let of_customer = async {
            match keys.customer {
                Some(key) => self.latest_record(key).await,
                None => Ok(Revocation::default()),
            }
        };
        let (session, customer) = tokio::try_join!(self.latest_record(keys.session), of_customer)?;
        Ok(Revocations { session, customer })
    }

    async fn record_epoch(&self, token: &TokenDigest, epoch: Epoch, life: Duration) -> Result<(), StoreError> {
        let value = [EPOCH_PREFIX, &epoch.session.to_be_bytes(), &epoch.customer.to_be_bytes()].concat();
        let mut note = cmd("SET");
        note.arg(self.token_key(token)).arg(value).arg("NX").arg("PX").arg(milliseconds(life).max(1));
        self.connection.query::<redis::Value>(&note).await.map(|_| ())
    }

    async fn revoke_token(&self, token: &TokenDigest) -> Result<(), StoreError> {
        self.reject_all(&[], &[*token], None).await
    }

    async fn revocations_since(&self, cursor: &mut Cursor) -> Result<RevocationEvents, StoreError> {
        if self.connection.health().is_command_check_due() {
            let began = Instant::now();
            if self.check_commands().await.is_ok() {
                self.connection.health().note_commands_accepted(began);
            }
        }
        if cursor.0.is_empty() {
            let newest: StreamRangeReply = self
                .connection
                .query(cmd("XREVRANGE").arg(self.ended_key()).arg("+").arg("-").arg("COUNT").arg(1))
                .await?;
            cursor.0 = newest.ids.first().map_or_else(|| "0-0".to_owned(), |entry| entry.id.clone());
            return Ok(RevocationEvents::default());
        }
        let mut events = RevocationEvents::default();
        let range = cmd("XRANGE")
            .arg(self.ended_key())
            .arg(format!("({}", cursor.0))
            .arg("+")
            .arg("COUNT")
            .arg(MAX_EVENTS)
            .to_owned();
        let entries: StreamRangeReply = self.connection.query(&range).await?;
        for entry in entries.ids {
            let encrypted = entry.get::<Vec<u8>>("d").unwrap_or_default();
            match self.cipher.decrypt(b"ended", &encrypted) {
                Ok(digests) => events.tokens.extend_from_slice(digests.as_chunks::<32>().0),
                // An unreadable entry must not hide the entries behind it.
                Err(error) => tracing::warn!(%error, "revocation event not readable, an encryption key is missing"),
            }
            if let Some(encrypted) = entry.get::<Vec<u8>>("e")
                && let Ok(records) = self.cipher.decrypt(b"end", &encrypted)
            {
                events.revocations.extend(records.as_chunks::<RECORD_LENGTH>().0.iter().map(read_event));
            }
            cursor.0 = entry.id;
        }
        Ok(events)
    }

    async fn reserve_login_slot(
        &self,
        slot_key: &[u8],
        window: Duration,
        max_wait: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let mut script = RESERVE_LOGIN_SLOT.key(format!("{}:w:{}", self.prefix, self.cipher.hash("w", slot_key)));
        let wait: i64 = self.script(script.arg(milliseconds(window)).arg(milliseconds(max_wait))).await?;
        Ok(u64::try_from(wait).ok().map(Duration::from_millis))
    }

    async fn acquire_tokens(
        &self,
        bucket: &[u8],
        config: BucketConfig,
        tokens: u32,
        reserve: u32,
    ) -> Result<Result<(), Duration>, StoreError> {
        let mut script = ACQUIRE_TOKENS.key(format!("{}:b:{}", self.prefix, self.cipher.hash("b", bucket)));
        script.arg(microseconds(config.refill_time(tokens)));
        script.arg(microseconds(config.with_reserve(reserve).full_refill_time()));
        let wait: u64 = self.script(script.arg(microseconds(config.full_refill_time()))).await?;
        Ok(if wait == 0 { Ok(()) } else { Err(Duration::from_micros(wait)) })
    }

    async fn put_value(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError> {
        let key = format!("{}:k:{}", self.prefix, self.cipher.hash("k", name));
        let encrypted = self.cipher.encrypt(&value_place(name), value)?;
        self.connection.query(cmd("SET").arg(key).arg(encrypted).arg("PX").arg(milliseconds(life).max(1))).await
    }

    async fn get_value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for hash in self.cipher.hashes("k", name) {
            let key = format!("{}:k:{hash}", self.prefix);
            if let Some(encrypted) = self.connection.query::<Option<Vec<u8>>>(cmd("GET").arg(key)).await? {
                return self.cipher.decrypt(&value_place(name), &encrypted).map(Some);
            }
        }
        Ok(None)
    }

    async fn sweep(&self, _now: u64, _idle: Duration) -> Option<usize> {
        None
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn write_timeout(&self) -> Duration {
        self.connection.write_timeout()
    }

    fn state(&self) -> StoreState {
        StoreState { outage: self.connection.health().outage(), key: self.key.lock().clone() }
    }

    async fn check_commands(&self) -> Result<(), RejectedCommand> {
        command_check::run(&self.connection, &self.prefix).await
    }

    async fn check_key(&self, registers: bool) -> Result<KeyCheck, StoreError> {
        let key = format!("{}:key", self.prefix);
        let ends_at = unix_now() + KEY_CHECK_TTL;
        let mut stored: Option<Vec<u8>> = self.connection.query(cmd("GET").arg(&key)).await?;
        if stored.is_none() && registers {
            // Another replica may write at the same time. The first one counts.
            let put = cmd("SET")
                .arg(&key)
                .arg(self.cipher.encrypt_key_check()?)
                .arg("NX")
                .arg("EXAT")
                .arg(ends_at)
                .to_owned();
            self.connection.query::<redis::Value>(&put).await?;
            stored = self.connection.query(cmd("GET").arg(&key)).await?;
        }
        let check = match stored.map(|stored| self.cipher.compare_key(&stored)) {
            None => KeyCheck::Unknown,
            Some(KeyComparison::Other { own, stored }) => KeyCheck::Mismatch { own, stored },
            Some(KeyComparison::Current) => {
                if registers {
                    self.has_registered.store(true, Ordering::Relaxed);
                    self.connection.query::<()>(cmd("EXPIREAT").arg(&key).arg(ends_at)).await?;
                }
                KeyCheck::Match
            }
            Some(KeyComparison::Previous) => {
                // Only once: during a rotation, a replica with the earlier configuration must not undo it.
                if registers && !self.has_registered.load(Ordering::Relaxed) {
                    let put =
                        cmd("SET").arg(&key).arg(self.cipher.encrypt_key_check()?).arg("EXAT").arg(ends_at).to_owned();
                    self.connection.query::<()>(&put).await?;
                    self.has_registered.store(true, Ordering::Relaxed);
                }
                KeyCheck::Match
            }
        };
        self.note_key(check.clone());
        Ok(check)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Reads a record as stored under its key.
fn read_record(text: &str) -> Result<Revocation, StoreError> {
    let parts = text.split_once(':').and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)));
    let (number, at) = parts.ok_or(StoreError::Broken("a revocation record is unreadable"))?;
    Ok(Revocation { number, at })
}

/// Reads a record of the stream.
fn read_event(bytes: &[u8; RECORD_LENGTH]) -> (RevocationKey, Revocation) {
    let (mut key, mut number, mut at) = ([0; 16], [0; 8], [0; 8]);
    key.copy_from_slice(&bytes[..16]);
    number.copy_from_slice(&bytes[16..24]);
    at.copy_from_slice(&bytes[24..]);
    (RevocationKey(key), Revocation { number: u64::from_be_bytes(number), at: u64::from_be_bytes(at) })
}

fn read_epoch(bytes: &[u8]) -> Result<Epoch, StoreError> {
    let numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_be_bytes(*number)).collect::<Vec<_>>();
    match numbers[..] {
        [session, customer] => Ok(Epoch { session, customer }),
        _ => Err(StoreError::Broken("a token's epoch is unreadable")),
    }
}

/// The place that a value is encrypted for. It differs from that of every session.
fn value_place(name: &[u8]) -> Vec<u8> {
    [b"kept/".as_slice(), name].concat()
}
