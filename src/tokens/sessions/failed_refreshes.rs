//! A negative cache of refreshes that failed without ending the session.
//!
//! SLAS's published rejections of a refresh token end the session. Any other rejection (4xx), and a token of another shopper,
//! leaves the session as it is, and the next request would fail in the same way. The cache holds the error for the session.
//! If SLAS rejected the gateway's client, the error applies to all sessions of that client at that site. A reload starts
//! with an empty cache, so that a corrected secret is used at once. Failures of SLAS itself (5xx, 429, no response) are not
//! cached here: see [`CallGuard`](crate::salesforce::guard::CallGuard).

use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::error::SessionError;
use crate::{
    salesforce::{error::SalesforceError, transport::Response},
    store::{Owner, Session, SessionId},
    types::{ClientId, OrganizationId, SiteId},
};

/// How long a rejection is cached for a session.
const SESSION_REJECTION_TTL: Duration = Duration::from_secs(10);
/// How long a conflict with another request of the same shopper is cached. SLAS's windows last one or three seconds.
const CONFLICT_TTL: Duration = Duration::from_secs(1);
/// How long the error of another shopper's token is cached.
const WRONG_TOKEN_TTL: Duration = Duration::from_secs(1);
/// How long a rejection of the gateway's client is cached for its sessions. Its secret may be in rotation.
const CLIENT_REJECTION_TTL: Duration = Duration::from_secs(5);
/// How long SLAS's response to a client's own request is repeated for the same request.
const RESPONSE_TTL: Duration = Duration::from_secs(10);
/// Maximum numbers of cached errors and responses.
const MAX_FAILURES: u64 = 100_000;
const MAX_RESPONSES: u64 = 10_000;
/// Maximum size of a cached response, bytes. SLAS's rejections have about 150.
const MAX_RESPONSE_BYTES: usize = 4 * 1024;

/// What a cached error applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FailureKey {
    Session(SessionId),
    Client(OrganizationId, ClientId, SiteId),
}

impl FailureKey {
    fn client(owner: &Owner) -> Self {
        Self::Client(owner.organization.clone(), owner.client.clone(), owner.site.clone())
    }
}

/// The failed refreshes of one configuration.
#[derive(Debug)]
pub(super) struct FailedRefreshes {
    failures: Cache<FailureKey, (SalesforceError, Instant)>,
    /// SLAS's responses to clients' own requests, by a digest of the request.
    responses: Cache<[u8; 32], Response>,
}

impl FailedRefreshes {
    pub(super) fn new() -> Self {
        Self {
            failures: Cache::builder().max_capacity(MAX_FAILURES).time_to_live(SESSION_REJECTION_TTL).build(),
            responses: Cache::builder().max_capacity(MAX_RESPONSES).time_to_live(RESPONSE_TTL).build(),
        }
    }

    /// Caches the error of a refresh, if the next refresh would fail in the same way.
    pub(super) fn record(&self, session: &Session, error: &SessionError) {
        let SessionError::Slas(error) = error else { return };
        let ttl = match error {
            error if error.is_client_rejected() => CLIENT_REJECTION_TTL,
            SalesforceError::Rejected { .. } => SESSION_REJECTION_TTL,
            SalesforceError::Conflict => CONFLICT_TTL,
            SalesforceError::RateLimited { .. }
            | SalesforceError::ServerError(_)
            | SalesforceError::Transport(_)
            | SalesforceError::Malformed(_)
            | SalesforceError::CircuitOpen
            | SalesforceError::Random(_) => return,
        };
        self.insert(session, error, ttl);
        if error.is_client_rejected() {
            let until = Instant::now() + CLIENT_REJECTION_TTL;
            self.failures.insert(FailureKey::client(&session.owner), (error.clone(), until));
        }
    }

    /// Caches that SLAS responded with another shopper's token.
    pub(super) fn record_wrong_token(&self, session: &Session, error: &SalesforceError) {
        self.insert(session, error, WRONG_TOKEN_TTL);
    }

    fn insert(&self, session: &Session, error: &SalesforceError, ttl: Duration) {
        self.failures.insert(FailureKey::Session(session.id), (error.clone(), Instant::now() + ttl));
    }

    /// The cached error of a session.
    pub(super) fn find(&self, session: &Session) -> Option<SessionError> {
        let now = Instant::now();
        let of = |key: FailureKey| self.failures.get(&key).filter(|(_, until)| *until > now);
        let (error, _) = of(FailureKey::Session(session.id)).or_else(|| of(FailureKey::client(&session.owner)))?;
        Some(SessionError::Slas(error))
    }

    /// Caches SLAS's response to a client's own request, if it is a rejection.
    pub(super) fn record_response(&self, request: [u8; 32], response: &Response) {
        let is_rejection = matches!(SalesforceError::from_response(response), SalesforceError::Rejected { .. });
        if is_rejection && response.body.len() <= MAX_RESPONSE_BYTES {
            self.responses.insert(request, response.clone());
        }
    }

    /// The cached response to the same request.
    pub(super) fn response(&self, request: &[u8; 32]) -> Option<Response> {
        self.responses.get(request)
    }
}
