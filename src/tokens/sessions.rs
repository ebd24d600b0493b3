//! Sessions: the refresh tokens of the logins that this gateway performed.
//!
//! Owns who may use a held refresh token (only the bearer of a verified access token of the same
//! session) and that it is used once for all who ask at the same time. Knows nothing of HTTP.
//! A session is found by the digest of an access token that it gave out, never by a name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache};
use prometheus::IntGauge;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::{
    clock::unix_now,
    metrics::Metrics,
    names::SiteId,
    salesforce::{
        exchange::ExchangeError,
        slas::{Slas, TokenAnswer},
    },
    settings::SlasClient,
    shopper::{
        Shopper,
        verify::{TokenDigest, token_digest},
    },
};

/// Life of a guest's refresh token when SLAS does not say it, seconds.
const GUEST_REFRESH_SECONDS: u64 = 30 * 24 * 3600;
/// Life of a registered shopper's refresh token when SLAS does not say it, seconds.
const REGISTERED_REFRESH_SECONDS: u64 = 90 * 24 * 3600;
/// For how long a refresh answers later askers who still hold the old token.
const LATE_ASKERS: Duration = Duration::from_secs(30);
/// How long an ended session's tokens are refused: longer than any access token lives.
const ENDED_FOR: Duration = Duration::from_secs(3600);
/// An access token is found again this many refreshes later; the login's own is found always.
const RECENT_TOKENS: usize = 8;

/// The sessions of this gateway.
#[derive(Debug)]
pub struct Sessions {
    by_token: Cache<TokenDigest, Arc<Session>>,
    ended: Cache<TokenDigest, ()>,
    gauge: IntGauge,
}

/// One login, for as long as its refresh token lives.
#[derive(Debug)]
struct Session {
    slas: Slas,
    client: SlasClient,
    site: SiteId,
    shopper: Arc<Shopper>,
    ends_at: u64,
    held: Mutex<Held>,
    gauge: IntGauge,
}

#[derive(Debug)]
struct Held {
    access_token: SecretString,
    refresh_token: SecretString,
    /// Digests of the access tokens given out, the login's own first.
    given_out: Vec<TokenDigest>,
    refreshed_at: Option<Instant>,
    ended: bool,
}

/// Why a session gives no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// This gateway holds no session of that token.
    #[error("no session is held for this token")]
    Unknown,
    /// SLAS refused the refresh token: the session is over.
    #[error("the session is over: {0}")]
    Over(ExchangeError),
    /// SLAS could not be asked; the session stays.
    #[error("the session could not be refreshed: {0}")]
    Temporary(ExchangeError),
}

/// An ended session: what SLAS's logout needs.
#[derive(Debug)]
pub struct EndedSession {
    /// The client of the login.
    pub client: SlasClient,
    /// The site of the login.
    pub site: SiteId,
    /// Its newest access token.
    pub access_token: SecretString,
    /// Its refresh token.
    pub refresh_token: SecretString,
    /// Whether the shopper is registered.
    pub registered: bool,
}

struct UntilItsEnd;

impl Expiry<TokenDigest, Arc<Session>> for UntilItsEnd {
    fn expire_after_create(&self, _: &TokenDigest, session: &Arc<Session>, _: Instant) -> Option<Duration> {
        Some(Duration::from_secs(session.ends_at.saturating_sub(unix_now())))
    }
}

impl Sessions {
    /// An empty store of at most `capacity` sessions.
    #[must_use]
    pub fn new(capacity: u64, metrics: &Metrics) -> Self {
        Self {
            by_token: Cache::builder().max_capacity(capacity.saturating_mul(2)).expire_after(UntilItsEnd).build(),
            ended: Cache::builder().max_capacity(capacity).time_to_live(ENDED_FOR).build(),
            gauge: metrics.sessions.clone(),
        }
    }

    /// Begins the session of a login. `shopper` is who the answer's verified access token speaks for.
    /// An answer without a refresh token gives no session.
    pub fn begin(&self, slas: &Slas, client: &SlasClient, site: &SiteId, shopper: Arc<Shopper>, answer: &TokenAnswer) {
        let Some(refresh_token) = answer.refresh_token.clone() else { return };
        let life = answer.refresh_token_expires_in.unwrap_or(if shopper.registered {
            REGISTERED_REFRESH_SECONDS
        } else {
            GUEST_REFRESH_SECONDS
        });
        let digest = token_digest(answer.access_token.expose_secret());
        self.gauge.inc();
        let session = Arc::new(Session {
            slas: slas.clone(),
            client: client.clone(),
            site: site.clone(),
            shopper,
            ends_at: unix_now().saturating_add(life),
            held: Mutex::new(Held {
                access_token: answer.access_token.clone(),
                refresh_token,
                given_out: vec![digest],
                refreshed_at: None,
                ended: false,
            }),
            gauge: self.gauge.clone(),
        });
        self.by_token.insert(digest, session);
    }

    /// Whether the token is of a session that was ended here.
    #[must_use]
    pub fn has_ended(&self, token: &TokenDigest) -> bool {
        self.ended.contains_key(token)
    }

    /// A fresh access token for the bearer of `token`, verified as `shopper`'s.
    ///
    /// The exchange runs in a task of its own: a caller who hangs up does not abort it, because a
    /// public client's refresh token is void once it was sent.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn refresh(
        self: &Arc<Self>,
        token: TokenDigest,
        shopper: &Shopper,
    ) -> Result<SecretString, SessionError> {
        let session = self.find(&token, shopper).ok_or(SessionError::Unknown)?;
        let sessions = Arc::clone(self);
        let task = tokio::spawn(async move { sessions.refresh_once(&session, &token).await });
        task.await.unwrap_or(Err(SessionError::Unknown))
    }

    /// Ends the session of `token`: none of its tokens is accepted here any more.
    pub async fn end(&self, token: TokenDigest, shopper: &Shopper) -> Option<EndedSession> {
        self.ended.insert(token, ());
        let session = self.find(&token, shopper)?;
        let mut held = session.held.lock().await;
        self.forget(&mut held);
        Some(EndedSession {
            client: session.client.clone(),
            site: session.site.clone(),
            access_token: held.access_token.clone(),
            refresh_token: held.refresh_token.clone(),
            registered: session.shopper.registered,
        })
    }

    fn find(&self, token: &TokenDigest, shopper: &Shopper) -> Option<Arc<Session>> {
        let session = self.by_token.get(token)?;
        let same = session.shopper.organization == shopper.organization
            && session.shopper.client == shopper.client
            && session.shopper.usid == shopper.usid
            && session.shopper.site == shopper.site;
        same.then_some(session)
    }

    async fn refresh_once(&self, session: &Arc<Session>, token: &TokenDigest) -> Result<SecretString, SessionError> {
        let mut held = session.held.lock().await;
        if held.ended {
            return Err(SessionError::Unknown);
        }
        let is_newest = held.given_out.last() == Some(token);
        if !is_newest && held.refreshed_at.is_some_and(|at| at.elapsed() < LATE_ASKERS) {
            return Ok(held.access_token.clone());
        }
        match session.slas.refresh(&session.client, &session.site, &held.refresh_token).await {
            Ok(answer) => {
                self.keep(session, &mut held, answer);
                Ok(held.access_token.clone())
            }
            Err(error) if error.is_final() => {
                self.forget(&mut held);
                Err(SessionError::Over(error))
            }
            Err(error) => Err(SessionError::Temporary(error)),
        }
    }

    fn keep(&self, session: &Arc<Session>, held: &mut Held, answer: TokenAnswer) {
        if let Some(rotated) = answer.refresh_token {
            held.refresh_token = rotated;
        }
        let digest = token_digest(answer.access_token.expose_secret());
        held.access_token = answer.access_token;
        held.refreshed_at = Some(Instant::now());
        held.given_out.push(digest);
        if held.given_out.len() > RECENT_TOKENS + 1 {
            self.by_token.invalidate(&held.given_out.remove(1));
        }
        self.by_token.insert(digest, Arc::clone(session));
    }

    fn forget(&self, held: &mut Held) {
        held.ended = true;
        for digest in &held.given_out {
            self.by_token.invalidate(digest);
            self.ended.insert(*digest, ());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
