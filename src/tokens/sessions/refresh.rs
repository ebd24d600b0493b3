//! Refreshes a session at SLAS, once for all concurrent requests on all replicas.
//!
//! In this process, a session has one refresh task at a time, and callers wait for its result. Among replicas, the task holds
//! the session's lock in the store, which has a lease and a fencing token. The new version replaces the version that was read
//! (compare-and-set) before any caller gets the new token.
//!
//! SLAS voids a public client's refresh token as soon as it is used. So a caller that hangs up does not abort the task, and
//! the result is offered to the store until the store accepts it or this process ends.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{
    cache::CachedSession,
    error::{RefreshResult, SessionError},
    state::{CacheEntry, REPLACEMENTS, Sessions, digest_of, owns, token_expiry},
};
use crate::{
    correlation,
    jwt::TokenDigest,
    salesforce::{error::SalesforceError, guard::Priority, slas::TokenResponse},
    store::{CasResult, FencingToken, LockResult, LookupResult, RevocationTarget, Session, StoreError},
    time::unix_now,
    tokens::{
        background_retry::{RetrySchedule, retry_in_background},
        polling::poll_until,
        single_flight::FlightRole,
    },
    verify::shopper_token::TokenError,
};

/// A caller that asks for refreshes gets the newest token again for this time after a refresh, seconds.
pub const MIN_REFRESH_INTERVAL: u64 = 10;
/// Time in addition to the time limit of the SLAS request, in which the result is written under the lock.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// After SLAS has rejected a refresh token: how long another replica's refresh, whose lock has expired, may take to write the
/// version that explains the rejection.
const OVERTAKEN_GRACE: Duration = Duration::from_secs(1);
/// The number of attempts to write a new version that a caller waits for, and the time between them.
const WRITE_ATTEMPTS: u32 = 3;
const WRITE_INTERVAL: Duration = Duration::from_millis(500);
/// How a new version is written that the store did not accept at first.
const WRITE_RETRIES: RetrySchedule = RetrySchedule {
    interval: WRITE_INTERVAL,
    attempts: 117,
    failure_message: "refreshed session never stored, its shopper must log in again",
};

/// A session whose lock this process holds, as read under the lock.
pub(super) type LockedSession = (Arc<Session>, FencingToken);

impl Sessions {
    /// A later version of the session than `seen_version`. Concurrent callers share one refresh.
    pub(super) async fn refresh_session(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        seen_version: u64,
        priority: Priority,
    ) -> RefreshResult {
        let session = cached.session.load_full();
        if session.version > seen_version {
            self.count("coalesced");
            return Ok(session);
        }
        let (outcome, role) = self.join_refresh(&session, || self.refresh_task(cached, &session, priority)).await;
        if role == FlightRole::Follower {
            self.count("coalesced");
        }
        outcome
    }

    /// A session whose newest token is not `rejected`. If that token was obtained less than a second ago, the session is
    /// returned as it is.
    pub(super) async fn refresh_rejected(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        rejected: &TokenDigest,
    ) -> RefreshResult {
        let (sessions, known, rejected) = (Arc::clone(self), Arc::clone(cached), *rejected);
        let work = || async move {
            let session = known.session.load_full();
            let is_good = match session.tokens.last() == Some(&rejected) {
                true => sessions.replacements.try_acquire(&session.id, REPLACEMENTS, 1).is_err(),
                false => session.access_expires_at > unix_now(),
            };
            if is_good { Ok(session) } else { sessions.refresh_task(&known, &session, Priority::Refresh).await }
        };
        self.join_refresh(&cached.session.load(), work).await.0
    }

    /// Waits for the refresh of a session that is in progress, or starts `work`.
    async fn join_refresh<F>(&self, session: &Session, work: impl FnOnce() -> F) -> (RefreshResult, FlightRole)
    where
        F: Future<Output = RefreshResult> + Send + 'static,
    {
        let (outcome, role) = self.refreshes.join(&session.id, work).await;
        (outcome.unwrap_or(Err(SessionError::Store(StoreError::Broken("a refresh task has panicked")))), role)
    }

    /// Starts a refresh, unless one is in progress.
    pub(super) fn refresh_in_background(self: &Arc<Self>, cached: &Arc<CachedSession>) {
        let session = cached.session.load_full();
        self.refreshes.start(&session.id, || self.refresh_task(cached, &session, Priority::BackgroundRefresh));
    }

    fn refresh_task(
        self: &Arc<Self>,
        cached: &Arc<CachedSession>,
        session: &Arc<Session>,
        priority: Priority,
    ) -> impl Future<Output = RefreshResult> + use<> {
        let (sessions, cached, session) = (Arc::clone(self), Arc::clone(cached), Arc::clone(session));
        async move {
            let outcome = sessions.run_refresh(&cached, &session, priority).await;
            sessions.count(if outcome.is_ok() { "miss" } else { "error" });
            outcome
        }
    }

    /// Refreshes, or waits for another replica's refresh, and caches the result.
    async fn run_refresh(
        &self,
        cached: &Arc<CachedSession>,
        session: &Arc<Session>,
        priority: Priority,
    ) -> RefreshResult {
        let mut outcome = match self.failed_refreshes.find(session) {
            // Another replica may have succeeded since.
            Some(rejected) => match self.newest(session).await {
                Ok(newest) if newest.version <= session.version => return Err(rejected),
                outcome => outcome,
            },
            None => self.refresh_or_wait(session, priority).await,
        };
        if outcome.as_ref().is_ok_and(|newest| self.revocations.get_both(&cached.revocation_keys).revokes(newest.epoch))
        {
            outcome = Err(SessionError::LoggedOut);
        }
        match &outcome {
            Ok(newest) => self.cache_version(cached, Arc::clone(newest)),
            Err(SessionError::RefreshRejected(_) | SessionError::LoggedOut) => self.mark_revoked(session),
            Err(error) => {
                self.failed_refreshes.record(session, error);
                cached.note_failure(unix_now());
            }
        }
        outcome
    }

    async fn refresh_or_wait(&self, session: &Arc<Session>, priority: Priority) -> RefreshResult {
        let waited = poll_until(self.lock_deadline(), || async {
            match self.try_lock(session).await.transpose() {
                Some(locked) => Some(locked.map(|(newest, lock)| (newest, Some(lock)))),
                None => Some(self.later_version(session).await?.map(|newest| (newest, None))),
            }
        });
        match waited.await.unwrap_or(Err(SessionError::Store(StoreError::Unavailable)))? {
            // Another replica may have refreshed the session before the lock was acquired.
            (newest, Some(fencing_token)) if newest.version > session.version => {
                self.unlock(session, fencing_token).await;
                Ok(newest)
            }
            (newest, Some(fencing_token)) => self.exchange_refresh_token(&newest, fencing_token, priority).await,
            (newest, None) => Ok(newest),
        }
    }

    /// Waits for a session's lock, and reads the session under it.
    pub(super) async fn lock(&self, session: &Session) -> Result<LockedSession, SessionError> {
        let locked = poll_until(self.lock_deadline(), || async { self.try_lock(session).await.transpose() });
        locked.await.unwrap_or(Err(SessionError::Store(StoreError::Unavailable)))
    }

    /// Tries to lock a session, and reads it under the lock. `None`: another replica holds the lock.
    async fn try_lock(&self, session: &Session) -> Result<Option<LockedSession>, SessionError> {
        match self.store.lock(session, self.lease()).await? {
            LockResult::Acquired(fencing_token) => match self.newest(session).await {
                Ok(newest) => Ok(Some((newest, fencing_token))),
                Err(error) => {
                    self.unlock(session, fencing_token).await;
                    Err(error)
                }
            },
            LockResult::Taken => Ok(None),
            LockResult::SessionGone => Err(self.newest(session).await.err().unwrap_or(SessionError::Expired)),
        }
    }

    /// How long a lock lasts that is not released.
    fn lease(&self) -> Duration {
        self.request_timeout + LEASE_MARGIN
    }

    /// The latest time at which a caller acquires a lock. A holder may have died with it, and another may have used it since.
    fn lock_deadline(&self) -> Instant {
        Instant::now() + self.lease() * 2
    }

    /// Exchanges the refresh token at SLAS, and stores the result. The caller holds the lock.
    async fn exchange_refresh_token(
        &self,
        session: &Arc<Session>,
        fencing_token: FencingToken,
        priority: Priority,
    ) -> RefreshResult {
        let (Some(endpoint), Some(client)) = (self.endpoints.get(&session.owner.organization), self.client_of(session))
        else {
            // The client is not configured any more, so its sessions cannot be refreshed.
            self.unlock(session, fencing_token).await;
            return Err(SessionError::Expired);
        };
        let (site, do_not_track) = (&session.owner.site, session.do_not_track());
        match endpoint.slas.refresh(client, site, &session.refresh_token, do_not_track, priority).await {
            Ok(response) => match self.refreshed(session, response).await {
                Some(refreshed) => self.write(session, Arc::new(refreshed), fencing_token).await,
                None => {
                    self.unlock(session, fencing_token).await;
                    let error = SalesforceError::malformed("a token of another shopper, or none");
                    self.failed_refreshes.record_wrong_token(session, &error);
                    Err(SessionError::Slas(error))
                }
            },
            Err(error) if error.is_refresh_token_rejected() => self.end_rejected(session, fencing_token, error).await,
            Err(error) => {
                self.unlock(session, fencing_token).await;
                Err(SessionError::Slas(error))
            }
        }
    }

    /// The session with the tokens of SLAS's response. `None` if they are another shopper's, or do not verify.
    pub(super) async fn refreshed(&self, session: &Session, response: TokenResponse) -> Option<Session> {
        let digest = digest_of(&response.access_token);
        let token = response.access_token.expose_secret();
        let access_expires_at = match self.verifier.verify_issued(token, &session.owner.organization).await {
            Ok(verified) if owns(&verified.shopper, &session.owner) => {
                token_expiry(verified.shopper.expires_at, response.expires_in)
            }
            // The token came over a verified connection, and the previous refresh token may be void. So a token that cannot be
            // verified at the moment is accepted.
            Err(TokenError::KeysUnavailable | TokenError::UnknownKey) => unix_now().saturating_add(response.expires_in),
            Ok(_) | Err(_) => {
                tracing::error!(organization = %session.owner.organization, "SLAS refreshed a session with a token that does not verify as its shopper's");
                return None;
            }
        };
        Some(session.refreshed(
            response.access_token,
            access_expires_at,
            response.expires_in,
            digest,
            response.refresh_token,
            response.refresh_token_expires_in.map(|life| unix_now().saturating_add(life)),
        ))
    }

    /// Writes a new version. If the store is unavailable, the version is written in the background.
    pub(super) async fn write(
        &self,
        session: &Arc<Session>,
        refreshed: Arc<Session>,
        fencing_token: FencingToken,
    ) -> RefreshResult {
        for attempt in 1..=WRITE_ATTEMPTS {
            match self.store.replace(Arc::clone(&refreshed), fencing_token).await {
                Ok(CasResult::Written) => return Ok(refreshed),
                Ok(CasResult::Conflict) => {
                    let newest = self.newest(session).await;
                    if let Err(SessionError::LoggedOut | SessionError::Expired) = &newest {
                        self.revoke_newest(&refreshed).await;
                    }
                    return newest;
                }
                Err(error) if attempt == WRITE_ATTEMPTS => {
                    tracing::error!(%error, "failed to store refreshed session, retrying in background");
                    let state = (Arc::clone(&self.store), refreshed);
                    retry_in_background(WRITE_RETRIES, state, move |(store, refreshed)| async move {
                        store.replace(refreshed, fencing_token).await?;
                        tracing::info!("delayed refreshed session stored");
                        Ok::<_, StoreError>(())
                    });
                    return Err(SessionError::Store(error));
                }
                Err(_) => tokio::time::sleep(WRITE_INTERVAL).await,
            }
        }
        Err(SessionError::Store(StoreError::Unavailable))
    }

    /// Revokes the newest token of a refresh that a logout has overtaken.
    async fn revoke_newest(&self, refreshed: &Session) {
        let Some(token) = refreshed.tokens.last() else { return };
        self.cache.insert(*token, CacheEntry::Revoked);
        if let Err(error) = self.store.revoke_token(token).await {
            tracing::warn!(%error, "failed to revoke the token of a refresh that a logout has overtaken, no caller has it");
        }
    }

    /// Ends a session whose refresh token SLAS has rejected. If another replica had used the refresh token under a lock that
    /// has expired, its version is returned instead.
    pub(super) async fn end_rejected(
        &self,
        session: &Arc<Session>,
        fencing_token: FencingToken,
        error: SalesforceError,
    ) -> RefreshResult {
        let overtaken = fencing_token.number > session.version + 1;
        let until = Instant::now() + if overtaken { OVERTAKEN_GRACE } else { Duration::ZERO };
        if let Some(outcome) = poll_until(until, || self.later_version(session)).await {
            return outcome;
        }
        let correlation_id = correlation::current_text();
        tracing::info!(organization = %session.owner.organization, %error, correlation_id, "session ended by SLAS");
        let at = self.revocation_time(&session.owner.organization);
        match self.store.revoke(RevocationTarget::Session(session), at).await {
            Ok(revocation) => {
                self.revocations.merge(session.revocation_keys().session, revocation);
            }
            Err(error) => tracing::warn!(%error, "failed to remove an ended session from the store"),
        }
        Err(SessionError::RefreshRejected(error))
    }

    /// A later version of the session than this one, or why there is none. `None` if this version is the newest.
    async fn later_version(&self, session: &Session) -> Option<RefreshResult> {
        Some(self.newest(session).await)
            .filter(|newest| !newest.as_ref().is_ok_and(|newest| newest.version <= session.version))
    }

    /// The session as read from the store.
    pub(super) async fn newest(&self, session: &Session) -> RefreshResult {
        for token in session.tokens.iter().rev() {
            match self.store.find(token).await? {
                LookupResult::Session(newest, _) if newest.id == session.id => return Ok(newest),
                LookupResult::Revoked => return Err(SessionError::LoggedOut),
                LookupResult::Session(..) | LookupResult::Gone | LookupResult::Epoch(_) | LookupResult::Unknown => {}
            }
        }
        Err(SessionError::Expired)
    }

    pub(super) async fn unlock(&self, session: &Session, fencing_token: FencingToken) {
        // A lock that is not released expires with its lease.
        let _ = self.store.unlock(session, fencing_token).await;
    }
}
