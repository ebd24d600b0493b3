//! Sessions in Redis or Valkey, shared by every gateway that uses the same keys.
//!
//! Owns the layout: every name is a keyed hash or a random id, every value with a secret is sealed, and
//! everything ends by itself with its session. What must happen at once happens in a script, on the
//! keys of one session only, so that it works in a cluster.
//!
//! | name | value |
//! |---|---|
//! | `{prefix}:t:{hash of token}` | the session's id, or that it was ended, or the ends that a token without a session came after; refresh tokens in callers' hands too |
//! | `{prefix}:e:{hash of session or customer}` | the record of its end: number and time |
//! | `{prefix}:{id}:s` | hash: `r` the sealed session, `v` its version, `f` the last lock's number, `w` the last writer's, `u` last use |
//! | `{prefix}:{id}:l` | whose lock it is, for the length of the lease |
//! | `{prefix}:u:{hash of customer}` | set of the customer's session ids |
//! | `{prefix}:ended` | stream of what ended: `d` sealed token digests that are refused from now on, `e` sealed records of ends |
//! | `{prefix}:w:{hash of login}` | when the login's next turn is |
//! | `{prefix}:c:{hash of name}` | who makes the session of that name, for the length of the lease |
//! | `{prefix}:b:{hash of bucket}` | when the bucket is full again |
//! | `{prefix}:k:{hash of name}` | a sealed value that outlives a process |
//! | `{prefix}:key` | a sealed constant, by which a gateway finds that it has another key than the others |
//!
//! No key is without an end: one that is written is given its end in the same command or script.

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
    scripts::{END, ENLIST, INSERT, LOCK, NEWS, REPLACE, TAKE, TAKE_AWAY, TOUCH, TURN, UNLOCK},
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

/// What stands under a token whose session was ended.
const ENDED: &[u8] = b"ended";
/// Begins what stands under a token without a session that came after ends. No session's id is as long.
const EPOCH_PREFIX: &[u8] = b"after";
/// Bytes of the numbers behind it.
const EPOCH_BYTES: usize = 2 * 8;
/// Bytes of a record in the stream: key, number, time.
const RECORD_LENGTH: usize = 16 + 8 + 8;
/// Most entries of the stream of ended tokens that are read at a time.
const ENDED_AT_ONCE: usize = 1000;

/// How long the key's check value lasts after the last gateway has seen it: as long as the longest session, seconds.
const KEY_CHECK_LASTS: u64 = 90 * 24 * 3600;

/// Sessions in Redis.
#[derive(Debug)]
pub struct RedisStore {
    connection: ConnectionManager,
    cipher: StoreCipher,
    prefix: String,
    key: Mutex<KeyCheck>,
    /// Whether the check value in the store was this gateway's current key since the store was made.
    has_registered: AtomicBool,
    key_mismatch: IntGauge,
}

impl RedisStore {
    /// A store that connects when it is first asked.
    ///
    /// # Errors
    /// [`RedisConfigError`] if the address or a key cannot be used at all.
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

    fn end_names(&self, key: &RevocationKey) -> impl Iterator<Item = String> {
        self.cipher.hashes("e", &key.0).map(|name| format!("{}:e:{name}", self.prefix))
    }

    fn claim_key(&self, name: &TokenDigest) -> String {
        format!("{}:c:{}", self.prefix, self.cipher.hash("c", name))
    }

    fn customer_keys(&self, organization: &OrganizationId, customer: &CustomerId) -> Vec<String> {
        let who = format!("{organization}|{customer}");
        self.cipher.hashes("u", who.as_bytes()).map(|name| format!("{}:u:{name}", self.prefix)).collect()
    }

    async fn session(&self, id: SessionId) -> Result<Option<(Arc<Session>, u64)>, StoreError> {
        let read = cmd("HMGET").arg(self.session_key(id)).arg("r").arg("u").to_owned();
        let (sealed, used_at): (Option<Vec<u8>>, Option<u64>) = self.connection.query(&read).await?;
        let Some(sealed) = sealed else { return Ok(None) };
        let session = codec::read(id, &self.cipher.decrypt(&id.0, &sealed)?)?;
        Ok(Some((Arc::new(session), used_at.unwrap_or(0))))
    }

    /// Lets a session be found by its names for as long as it lives.
    async fn point(&self, session: &Session) -> Result<(), StoreError> {
        for name in session.lookup_keys() {
            let (key, id) = (self.token_key(name), session.id.0);
            let point = cmd("SET").arg(key).arg(&id).arg("EXAT").arg(session.expires_at).to_owned();
            self.connection.query::<()>(&point).await?;
        }
        Ok(())
    }

    /// Lets a session be found by its customer, under the current key.
    async fn enlist(&self, session: &Session) -> Result<(), StoreError> {
        let Some(customer) = &session.owner.customer else { return Ok(()) };
        let who = format!("{}|{customer}", session.owner.organization);
        let mut script = ENLIST.key(format!("{}:u:{}", self.prefix, self.cipher.hash("u", who.as_bytes())));
        self.script(script.arg(&session.id.0).arg(session.expires_at)).await
    }

    /// Refuses tokens, frees names, and tells the other gateways of both and of a record.
    async fn refuse_all(
        &self,
        names: &[TokenDigest],
        tokens: &[TokenDigest],
        record: Option<(RevocationKey, Revocation)>,
    ) -> Result<(), StoreError> {
        for token in tokens {
            let refuse =
                cmd("SET").arg(self.token_key(token)).arg(ENDED).arg("EX").arg(REVOCATION_TTL.as_secs()).to_owned();
            self.connection.query::<()>(&refuse).await?;
        }
        for name in names {
            self.connection.query::<()>(cmd("DEL").arg(self.token_key(name))).await?;
        }
        let sealed = self.cipher.encrypt(b"ended", [names, tokens].concat().as_flattened())?;
        let oldest = unix_now().saturating_sub(REVOCATION_TTL.as_secs()) * 1000;
        // Longer than any entry is kept: an end that is written meanwhile gives the stream another.
        let mut tell = NEWS.key(self.ended_key());
        tell.arg(oldest).arg(unix_now() + 2 * REVOCATION_TTL.as_secs()).arg("d").arg(sealed);
        if let Some((RevocationKey(key), end)) = record {
            let record = [&key[..], &end.number.to_be_bytes(), &end.at.to_be_bytes()].concat();
            tell.arg("e").arg(self.cipher.encrypt(b"end", &record)?);
        }
        self.script::<redis::Value>(&tell).await.map(|_| ())
    }

    /// The record of one key.
    async fn end_of(&self, key: RevocationKey) -> Result<Revocation, StoreError> {
        let mut latest = Revocation::default();
        for name in self.end_names(&key) {
            let record = self.connection.query::<Option<String>>(cmd("GET").arg(name)).await?;
            latest = latest.later(record.as_deref().map(read_record).transpose()?.unwrap_or_default());
        }
        Ok(latest)
    }

    /// Writes a record, unless the one that is there covers what is ended.
    async fn record(&self, key: RevocationKey, rule: &str, value: u64, at: u64) -> Result<Revocation, StoreError> {
        let mut names = self.end_names(&key);
        let current = names.next().unwrap_or_default();
        let mut earlier = Revocation::default();
        for name in names {
            let record = self.connection.query::<Option<String>>(cmd("GET").arg(name)).await?;
            earlier = earlier.later(record.as_deref().map(read_record).transpose()?.unwrap_or_default());
        }
        let mut script = END.key(current);
        script.arg(rule).arg(value).arg(at).arg(earlier.number).arg(earlier.at).arg(milliseconds(REVOCATION_TTL));
        let (number, at): (u64, u64) = self.script(&script).await?;
        Ok(Revocation { number, at })
    }

    /// Takes a session away and refuses its tokens, also those of a refresh that the caller has not seen.
    async fn take_away(
        &self,
        session: &Session,
        record: Option<(RevocationKey, Revocation)>,
    ) -> Result<(), StoreError> {
        let mut script = TAKE_AWAY.key(self.session_key(session.id));
        let sealed: Option<Vec<u8>> = self.script(script.key(self.lock_key(session.id))).await?;
        let last =
            sealed.map(|sealed| codec::read(session.id, &self.cipher.decrypt(&session.id.0, &sealed)?)).transpose()?;
        let (names, known) = session.name_and_tokens();
        let mut tokens = known.to_vec();
        if let Some(last) = &last {
            tokens.extend(last.tokens.iter().filter(|token| !session.tokens.contains(token)));
        }
        self.refuse_all(names, &tokens, record).await?;
        // A refresh token in a caller's hands may be good at SLAS for as long as the session was.
        for handed in last.as_ref().unwrap_or(session).caller_refresh_tokens() {
            let key = self.token_key(&handed.name);
            let refuse = cmd("SET").arg(key).arg(ENDED).arg("EXAT").arg(session.expires_at).to_owned();
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
            tracing::error!("{check}; set the key that they have");
        } else if matches!(before, KeyCheck::Mismatch { .. }) && !is_other {
            tracing::info!("store.encryption_key is that of the other gateways again");
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
            if found.as_deref() == Some(ENDED) {
                return Ok(());
            }
        }
        if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
            return Ok(());
        }
        let sealed = self.cipher.encrypt(&session.id.0, &codec::write(&session)?)?;
        let key = self.session_key(session.id);
        let mut put = INSERT.key(key);
        put.arg(session.expires_at).arg("r").arg(sealed).arg("v").arg(session.version).arg("f").arg(0).arg("w").arg(0);
        self.script::<redis::Value>(put.arg("u").arg(used_at)).await?;
        self.enlist(&session).await?;
        self.point(&session).await
    }

    async fn find(&self, token: &TokenDigest) -> Result<LookupResult, StoreError> {
        let names = self.cipher.hashes("t", token).map(|name| format!("{}:t:{name}", self.prefix));
        let mut unknown = LookupResult::Unknown;
        for (age, key) in names.enumerate() {
            let Some(found) = self.connection.query::<Option<Vec<u8>>>(cmd("GET").arg(&key)).await? else { continue };
            if found == ENDED {
                return Ok(LookupResult::Revoked);
            }
            if let Some(epoch) = found.strip_prefix(EPOCH_PREFIX).filter(|epoch| epoch.len() == EPOCH_BYTES) {
                unknown = LookupResult::Epoch(read_epoch(epoch)?);
                continue;
            }
            // Under the other key it may stand that the session was ended.
            let Some((session, used_at)) = self.session(Self::read_id(&found)?).await? else {
                unknown = LookupResult::Gone;
                continue;
            };
            if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
                return Ok(LookupResult::Revoked);
            }
            if age > 0 {
                // LookupResult under the previous key: stand under the current one too, before that key goes.
                self.point(&session).await?;
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
        let sealed = self.cipher.encrypt(&session.id.0, &codec::write(&session)?)?;
        // The token leads to its session before anybody can have it: once that is gone, the token is known to be of one
        // that ended. A logout meanwhile has refused these tokens, which must not be undone: hence NX. The login's own
        // token is kept for as long as the session: a caller who never changes it must not lose its way.
        if let Some(newest) = session.tokens.last() {
            let mut point = cmd("SET");
            point.arg(self.token_key(newest)).arg(&session.id.0).arg("NX").arg("EXAT").arg(session.expires_at);
            self.connection.query::<redis::Value>(&point).await?;
        }
        let mut script = REPLACE.key(self.session_key(session.id));
        script
            .key(self.lock_key(session.id))
            .arg(session.version - 1)
            .arg(fencing_token.number)
            .arg(&fencing_token.owner);
        script.arg(sealed).arg(session.expires_at * 1000);
        if self.script::<i64>(&script).await? != 1 {
            return Ok(CasResult::Conflict);
        }
        // An end writes its record before it takes the session away: it is seen here, or it sees this version.
        if self.revocations(&session.revocation_keys()).await?.revokes(session.epoch) {
            return Ok(CasResult::Conflict);
        }
        if let Some(first) = session.tokens.first() {
            self.connection.query::<()>(cmd("EXPIREAT").arg(self.token_key(first)).arg(session.expires_at)).await?;
        }
        for handed in session.caller_refresh_tokens().filter(|handed| handed.superseded_at.is_none()) {
            let key = self.token_key(&handed.name);
            let point = cmd("SET").arg(key).arg(&session.id.0).arg("EXAT").arg(session.expires_at).to_owned();
            self.connection.query::<()>(&point).await?;
        }
        self.enlist(&session).await?;
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
                self.take_away(session, Some((key, end))).await?;
                Ok(end)
            }
            RevocationTarget::Token { digest, keys, issued_at, epoch } => {
                let key = keys.session;
                let end = match epoch {
                    Some(epoch) => self.record(key, "after", epoch.session, at).await?,
                    None => self.record(key, "issued", issued_at, at).await?,
                };
                self.refuse_all(&[], &[digest], Some((key, end))).await?;
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
        self.refuse_all(&[], &[], Some((key, end))).await?;
        for set in self.customer_keys(organization, customer) {
            for id in self.connection.query::<Vec<Vec<u8>>>(cmd("SMEMBERS").arg(&set)).await? {
                let id = Self::read_id(&id)?;
                match self.session(id).await? {
                    Some((session, _)) if end.number > session.epoch.customer => self.take_away(&session, None).await?,
                    // It began after the end.
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
                Some(key) => self.end_of(key).await,
                None => Ok(Revocation::default()),
            }
        };
        let (session, customer) = tokio::try_join!(self.end_of(keys.session), of_customer)?;
        Ok(Revocations { session, customer })
    }

    async fn record_epoch(&self, token: &TokenDigest, epoch: Epoch, life: Duration) -> Result<(), StoreError> {
        let value = [EPOCH_PREFIX, &epoch.session.to_be_bytes(), &epoch.customer.to_be_bytes()].concat();
        let mut note = cmd("SET");
        note.arg(self.token_key(token)).arg(value).arg("NX").arg("PX").arg(milliseconds(life).max(1));
        self.connection.query::<redis::Value>(&note).await.map(|_| ())
    }

    async fn revoke_token(&self, token: &TokenDigest) -> Result<(), StoreError> {
        self.refuse_all(&[], &[*token], None).await
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
        let mut news = RevocationEvents::default();
        let range = cmd("XRANGE")
            .arg(self.ended_key())
            .arg(format!("({}", cursor.0))
            .arg("+")
            .arg("COUNT")
            .arg(ENDED_AT_ONCE)
            .to_owned();
        let entries: StreamRangeReply = self.connection.query(&range).await?;
        for entry in entries.ids {
            let sealed = entry.get::<Vec<u8>>("d").unwrap_or_default();
            match self.cipher.decrypt(b"ended", &sealed) {
                Ok(digests) => news.tokens.extend_from_slice(digests.as_chunks::<32>().0),
                // Waiting for it to become readable would hide all that comes behind it.
                Err(error) => tracing::warn!(%error, "news of an ended session cannot be read; a key is missing here"),
            }
            if let Some(sealed) = entry.get::<Vec<u8>>("e")
                && let Ok(records) = self.cipher.decrypt(b"end", &sealed)
            {
                news.revocations.extend(records.as_chunks::<RECORD_LENGTH>().0.iter().map(read_news));
            }
            cursor.0 = entry.id;
        }
        Ok(news)
    }

    async fn reserve_login_slot(
        &self,
        who: &[u8],
        window: Duration,
        longest: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let mut script = TURN.key(format!("{}:w:{}", self.prefix, self.cipher.hash("w", who)));
        let wait: i64 = self.script(script.arg(milliseconds(window)).arg(milliseconds(longest))).await?;
        Ok(u64::try_from(wait).ok().map(Duration::from_millis))
    }

    async fn acquire_tokens(
        &self,
        bucket: &[u8],
        config: BucketConfig,
        tokens: u32,
        reserve: u32,
    ) -> Result<Result<(), Duration>, StoreError> {
        let mut script = TAKE.key(format!("{}:b:{}", self.prefix, self.cipher.hash("b", bucket)));
        script.arg(microseconds(config.refill_time(tokens)));
        script.arg(microseconds(config.with_reserve(reserve).full_refill_time()));
        let wait: u64 = self.script(script.arg(microseconds(config.full_refill_time()))).await?;
        Ok(if wait == 0 { Ok(()) } else { Err(Duration::from_micros(wait)) })
    }

    async fn put_value(&self, name: &[u8], value: &[u8], life: Duration) -> Result<(), StoreError> {
        let key = format!("{}:k:{}", self.prefix, self.cipher.hash("k", name));
        let sealed = self.cipher.encrypt(&kept_place(name), value)?;
        self.connection.query(cmd("SET").arg(key).arg(sealed).arg("PX").arg(milliseconds(life).max(1))).await
    }

    async fn get_value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for hash in self.cipher.hashes("k", name) {
            let key = format!("{}:k:{hash}", self.prefix);
            if let Some(sealed) = self.connection.query::<Option<Vec<u8>>>(cmd("GET").arg(key)).await? {
                return self.cipher.decrypt(&kept_place(name), &sealed).map(Some);
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
        let ends_at = unix_now() + KEY_CHECK_LASTS;
        let mut stored: Option<Vec<u8>> = self.connection.query(cmd("GET").arg(&key)).await?;
        if stored.is_none() && registers {
            // Another gateway may do so at the same time: the first one counts.
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
                // Only once: while keys are being replaced, a gateway that has yet to follow must not undo it.
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

/// A record as it stands under its key.
fn read_record(text: &str) -> Result<Revocation, StoreError> {
    let parts = text.split_once(':').and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)));
    let (number, at) = parts.ok_or(StoreError::Broken("the record of an end is unreadable"))?;
    Ok(Revocation { number, at })
}

/// A record as it stands in the stream.
fn read_news(bytes: &[u8; RECORD_LENGTH]) -> (RevocationKey, Revocation) {
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
        _ => Err(StoreError::Broken("what a token came after is unreadable")),
    }
}

/// What a kept value is sealed for: no session's seal opens as one.
fn kept_place(name: &[u8]) -> Vec<u8> {
    [b"kept/".as_slice(), name].concat()
}
