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
mod key_comparer;
mod keyspace;
mod revocations;
mod scripts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::cmd;

pub use self::config_error::RedisConfigError;
use self::{
    connection::ConnectionManager,
    key_comparer::KeyComparer,
    keyspace::Keyspace,
    scripts::{ADD_TO_CUSTOMER, DELETE, INSERT, LOCK, REPLACE, RESERVE, TOUCH, UNLOCK},
};
use super::{
    Bucket, CasResult, Coverage, CreationLock, Cursor, Epoch, FencingToken, KeyCheck, LockResult, LookupResult,
    REVOCATION_TTL, RejectedCommand, Revocation, RevocationEvents, RevocationKey, RevocationKeys, RevocationTarget,
    Revocations, Session, SessionId, SessionStore, StoreError, StoreState, encryption::StoreCipher, random_bytes,
};
use crate::{
    config::RedisStore as Configured,
    jwt::TokenDigest,
    observability::metrics::Metrics,
    time::unix_now,
    types::{CustomerId, OrganizationId},
};

/// The value of a token whose session was revoked.
const REVOKED: &[u8] = b"ended";
/// The beginning of the value of a token without a session, in front of its epoch. No session id is as long.
const EPOCH_PREFIX: &[u8] = b"after";
/// The length of an epoch, bytes.
const EPOCH_BYTES: usize = 2 * 8;

/// Sessions in Redis.
#[derive(Debug)]
pub struct RedisStore {
    keyspace: Keyspace,
    key_comparer: KeyComparer,
}

impl RedisStore {
    /// A store that connects with its first command.
    ///
    /// # Errors
    /// [`RedisConfigError`] if the address, a TLS file or a key cannot be used.
    pub fn new(settings: &Configured, metrics: &Metrics) -> Result<Self, RedisConfigError> {
        let cipher = StoreCipher::new(&settings.encryption_key, settings.previous_encryption_key.as_ref())
            .map_err(|_| RedisConfigError::Keys)?;
        let connection = ConnectionManager::new(settings, metrics)?;
        Ok(Self {
            keyspace: Keyspace { connection, cipher, prefix: settings.key_prefix.clone() },
            key_comparer: KeyComparer::new(metrics.store_key_mismatch.clone()),
        })
    }

    fn token_key(&self, token: &TokenDigest) -> String {
        self.keyspace.hashed("t", token)
    }

    async fn session(&self, id: SessionId) -> Result<Option<(Arc<Session>, u64)>, StoreError> {
        let read = cmd("HMGET").arg(self.keyspace.session(id)).arg("r").arg("u").to_owned();
        let (encrypted, used_at): (Option<Vec<u8>>, Option<u64>) = self.keyspace.connection.query(&read).await?;
        let Some(encrypted) = encrypted else { return Ok(None) };
        Ok(Some((Arc::new(self.decrypt(id, &encrypted)?), used_at.unwrap_or(0))))
    }

    fn encrypt(&self, session: &Session) -> Result<Vec<u8>, StoreError> {
        self.keyspace.cipher.encrypt(&session.id.0, &codec::write(session)?)
    }

    fn decrypt(&self, id: SessionId, encrypted: &[u8]) -> Result<Session, StoreError> {
        codec::read(id, &self.keyspace.cipher.decrypt(&id.0, encrypted)?)
    }

    /// Lets the session's digests identify it until it expires.
    async fn index(&self, session: &Session) -> Result<(), StoreError> {
        for name in session.lookup_keys() {
            self.keyspace.set(&self.token_key(name), &session.id.0, session.expires_at).await?;
        }
        Ok(())
    }

    /// Adds the session to its customer's set, under the current key.
    async fn add_to_customer(&self, session: &Session) -> Result<(), StoreError> {
        let Some(customer) = &session.owner.customer else { return Ok(()) };
        let set = customer_name(&session.owner.organization, customer);
        let mut script = ADD_TO_CUSTOMER.key(self.keyspace.hashed("u", &set));
        self.keyspace.script(script.arg(&session.id.0).arg(session.expires_at)).await
    }

    /// Rejects tokens, frees names, and announces both and a revocation record to the other replicas.
    async fn reject_all(
        &self,
        names: &[TokenDigest],
        tokens: &[TokenDigest],
        record: Option<(RevocationKey, Revocation)>,
    ) -> Result<(), StoreError> {
        let until = unix_now() + REVOCATION_TTL.as_secs();
        for token in tokens {
            self.keyspace.set(&self.token_key(token), REVOKED, until).await?;
        }
        for name in names {
            self.keyspace.connection.query::<()>(cmd("DEL").arg(self.token_key(name))).await?;
        }
        revocations::announce(&self.keyspace, &[names, tokens].concat(), record).await
    }

    /// Deletes a session and rejects its tokens, including those of a refresh that the caller does not know.
    async fn delete_session(
        &self,
        session: &Session,
        record: Option<(RevocationKey, Revocation)>,
    ) -> Result<(), StoreError> {
        let mut script = DELETE.key(self.keyspace.session(session.id));
        let encrypted: Option<Vec<u8>> = self.keyspace.script(script.key(self.keyspace.lock(session.id))).await?;
        let last = encrypted.map(|encrypted| self.decrypt(session.id, &encrypted)).transpose()?;
        let (names, known) = session.name_and_tokens();
        let mut tokens = known.to_vec();
        if let Some(last) = &last {
            tokens.extend(last.tokens.iter().filter(|token| !session.tokens.contains(token)));
        }
        self.reject_all(names, &tokens, record).await?;
        // A refresh token that a caller holds may be valid at SLAS for as long as the session was.
        for handed in last.as_ref().unwrap_or(session).caller_refresh_tokens() {
            self.keyspace.set(&self.token_key(&handed.name), REVOKED, session.expires_at).await?;
        }
        if let Some(customer) = &session.owner.customer {
            for set in self.keyspace.all_hashed("u", &customer_name(&session.owner.organization, customer)) {
                self.keyspace.connection.query::<()>(cmd("SREM").arg(set).arg(&session.id.0)).await?;
            }
        }
        Ok(())
    }

    fn read_id(bytes: &[u8]) -> Result<SessionId, StoreError> {
        bytes.try_into().map(SessionId).map_err(|_| StoreError::Broken("a session's id is unreadable"))
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn insert(&self, session: Arc<Session>, used_at: u64) -> Result<(), StoreError> {
        for token in &session.tokens {
            let found = self.keyspace.get::<Vec<u8>>(&self.token_key(token)).await?;
            if found.as_deref() == Some(REVOKED) {
                return Ok(());
            }
        }
        if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
            return Ok(());
        }
        let mut put = INSERT.key(self.keyspace.session(session.id));
        put.arg(session.expires_at).arg("r").arg(self.encrypt(&session)?).arg("v").arg(session.version);
        put.arg("f").arg(0).arg("w").arg(0).arg("u").arg(used_at);
        self.keyspace.script::<redis::Value>(&put).await?;
        self.add_to_customer(&session).await?;
        self.index(&session).await
    }

    async fn find(&self, token: &TokenDigest) -> Result<LookupResult, StoreError> {
        let mut unknown = LookupResult::Unknown;
        for (age, key) in self.keyspace.all_hashed("t", token).enumerate() {
            let Some(found) = self.keyspace.get::<Vec<u8>>(&key).await? else { continue };
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
        let mut script = LOCK.key(self.keyspace.session(session.id));
        script.key(self.keyspace.lock(session.id)).arg(&owner).arg(milliseconds(lease));
        Ok(match self.keyspace.script::<i64>(&script).await? {
            -1 => LockResult::SessionGone,
            0 => LockResult::Taken,
            number => LockResult::Acquired(FencingToken { number: number.unsigned_abs(), owner }),
        })
    }

    async fn unlock(&self, session: &Session, fencing_token: FencingToken) -> Result<(), StoreError> {
        self.keyspace.script(UNLOCK.key(self.keyspace.lock(session.id)).arg(&fencing_token.owner)).await
    }

    async fn replace(&self, session: Arc<Session>, fencing_token: FencingToken) -> Result<CasResult, StoreError> {
        let encrypted = self.encrypt(&session)?;
        // The token is stored before any caller has it: once its session is deleted, the token is known as one of a
        // deleted session. A logout in the meantime has revoked these tokens, which must stay as they are. The login's own
        // token is kept for as long as the session, for callers that never replace it.
        if let Some(newest) = session.tokens.last() {
            self.keyspace.set_new(&self.token_key(newest), &session.id.0, session.expires_at).await?;
        }
        let mut script = REPLACE.key(self.keyspace.session(session.id));
        script.key(self.keyspace.lock(session.id)).arg(session.version - 1);
        script.arg(fencing_token.number).arg(&fencing_token.owner).arg(encrypted).arg(session.expires_at * 1000);
        if self.keyspace.script::<i64>(&script).await? != 1 {
            return Ok(CasResult::Conflict);
        }
        // A revocation writes its record before it deletes the session. So this read finds the record, or the
        // revocation finds this version.
        if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
            return Ok(CasResult::Conflict);
        }
        if let Some(first) = session.tokens.first() {
            let extend = cmd("EXPIREAT").arg(self.token_key(first)).arg(session.expires_at).to_owned();
            self.keyspace.connection.query::<()>(&extend).await?;
        }
        for handed in session.caller_refresh_tokens().filter(|handed| handed.superseded_at.is_none()) {
            self.keyspace.set(&self.token_key(&handed.name), &session.id.0, session.expires_at).await?;
        }
        self.add_to_customer(&session).await?;
        Ok(CasResult::Written)
    }

    async fn acquire_creation_lock(
        &self,
        name: &TokenDigest,
        lease: Duration,
    ) -> Result<Option<CreationLock>, StoreError> {
        let lock = CreationLock(random_bytes()?);
        let mut set = cmd("SET");
        set.arg(self.keyspace.hashed("c", name)).arg(&lock.0).arg("NX").arg("PX").arg(milliseconds(lease));
        let acquired: Option<String> = self.keyspace.connection.query(&set).await?;
        Ok(acquired.map(|_| lock))
    }

    async fn release_creation_lock(&self, name: &TokenDigest, lock: CreationLock) -> Result<(), StoreError> {
        self.keyspace.script(UNLOCK.key(self.keyspace.hashed("c", name)).arg(&lock.0)).await
    }

    async fn touch(&self, session: &Session, used_at: u64) -> Result<(), StoreError> {
        self.keyspace.script(TOUCH.key(self.keyspace.session(session.id)).arg(used_at)).await
    }

    async fn revoke(&self, target: RevocationTarget<'_>, at: u64) -> Result<Revocation, StoreError> {
        let (key, coverage) = target.key_and_coverage();
        let revocation = revocations::write(&self.keyspace, key, coverage, at).await?;
        let record = Some((key, revocation));
        match target {
            RevocationTarget::Session(session) => self.delete_session(session, record).await?,
            RevocationTarget::Token { digest, .. } => self.reject_all(&[], &[digest], record).await?,
        }
        Ok(revocation)
    }

    async fn revoke_customer(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        at: u64,
    ) -> Result<Revocation, StoreError> {
        let key = RevocationKey::of_customer(organization, customer);
        let revocation = revocations::write(&self.keyspace, key, Coverage::Never, at).await?;
        self.reject_all(&[], &[], Some((key, revocation))).await?;
        for set in self.keyspace.all_hashed("u", &customer_name(organization, customer)) {
            for id in self.keyspace.connection.query::<Vec<Vec<u8>>>(cmd("SMEMBERS").arg(&set)).await? {
                let id = Self::read_id(&id)?;
                match self.session(id).await? {
                    Some((session, _)) if revocation.number > session.epoch.customer => {
                        self.delete_session(&session, None).await?
                    }
                    // The session began after the revocation.
                    Some(_) => {}
                    None => self.keyspace.connection.query::<()>(cmd("SREM").arg(&set).arg(&id.0)).await?,
                }
            }
        }
        Ok(revocation)
    }

    async fn revocations(&self, keys: &RevocationKeys) -> Result<Revocations, StoreError> {
        let of_customer = async {
            match keys.customer {
                Some(key) => revocations::latest(&self.keyspace, key).await,
                None => Ok(Revocation::default()),
            }
        };
        let (session, customer) = tokio::try_join!(revocations::latest(&self.keyspace, keys.session), of_customer)?;
        Ok(Revocations { session, customer })
    }

    async fn record_epoch(&self, token: &TokenDigest, epoch: Epoch, life: Duration) -> Result<(), StoreError> {
        let value = [EPOCH_PREFIX, &epoch.session.to_be_bytes(), &epoch.customer.to_be_bytes()].concat();
        let mut note = cmd("SET");
        note.arg(self.token_key(token)).arg(value).arg("NX").arg("PX").arg(milliseconds(life).max(1));
        self.keyspace.connection.query::<redis::Value>(&note).await.map(|_| ())
    }

    async fn revoke_token(&self, token: &TokenDigest) -> Result<(), StoreError> {
        self.reject_all(&[], &[*token], None).await
    }

    async fn revocations_since(&self, cursor: &mut Cursor) -> Result<RevocationEvents, StoreError> {
        let health = self.keyspace.connection.health();
        if health.is_command_check_due() {
            let began = Instant::now();
            if self.check_commands().await.is_ok() {
                health.note_commands_accepted(began);
            }
        }
        revocations::read_events(&self.keyspace, cursor).await
    }

    async fn reserve(
        &self,
        bucket: Bucket<'_>,
        cost: Duration,
        limit: Duration,
    ) -> Result<Result<Duration, Duration>, StoreError> {
        // The unit of the stored time, µs.
        let (kind, name, unit) = match bucket {
            Bucket::LoginSlot(name) => ("w", name, 1000),
            Bucket::Tokens(name) => ("b", name, 1),
        };
        let units = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX) / unit;
        let mut script = RESERVE.key(self.keyspace.hashed(kind, name));
        script.arg(units(cost)).arg(units(limit)).arg(1_000_000 / unit);
        let (is_reserved, time): (bool, u64) = self.keyspace.script(&script).await?;
        let time = Duration::from_micros(time.saturating_mul(unit));
        Ok(if is_reserved { Ok(time) } else { Err(time) })
    }

    async fn put_value(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError> {
        let encrypted = self.keyspace.cipher.encrypt(&value_place(name), value)?;
        let mut set = cmd("SET");
        set.arg(self.keyspace.hashed("k", name)).arg(encrypted).arg("PX").arg(milliseconds(life).max(1));
        self.keyspace.connection.query(&set).await
    }

    async fn get_value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for key in self.keyspace.all_hashed("k", name) {
            if let Some(encrypted) = self.keyspace.get::<Vec<u8>>(&key).await? {
                return self.keyspace.cipher.decrypt(&value_place(name), &encrypted).map(Some);
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
        self.keyspace.connection.write_timeout()
    }

    fn state(&self) -> StoreState {
        StoreState { outage: self.keyspace.connection.health().outage(), key: self.key_comparer.latest() }
    }

    async fn check_commands(&self) -> Result<(), RejectedCommand> {
        command_check::run(&self.keyspace.connection, &self.keyspace.prefix).await
    }

    async fn check_key(&self, registers: bool) -> Result<KeyCheck, StoreError> {
        self.key_comparer.compare(&self.keyspace, registers).await
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The identifier of a customer's set of sessions.
fn customer_name(organization: &OrganizationId, customer: &CustomerId) -> Vec<u8> {
    format!("{organization}|{customer}").into_bytes()
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
