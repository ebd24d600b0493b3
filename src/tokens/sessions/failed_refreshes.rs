//! Refreshes that ended no session and that would fail the same way at once: a negative cache.
//!
//! SLAS's published refusals of a void refresh token end the session. Any other refusal (4xx), and a token of another shopper,
//! says nothing about the session, so the session stays; but its requests must not ask SLAS again one by one. The
//! refusal is remembered for the session and, where SLAS refused the gateway's own client, for all sessions of that client
//! at that site. A configuration that takes its place begins with an empty cache, so that a corrected secret counts at once.
//! Failures of SLAS itself (5xx, 429, no answer, or one that cannot be read) are the guard's affair.

use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::error::SessionError;
use crate::{
    salesforce::{error::SalesforceError, transport::Response},
    store::{Owner, Session, SessionId},
    types::{ClientId, OrganizationId, SiteId},
};

/// How long a refusal is remembered for a session.
const SESSION_REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a conflict with another request of the same shopper is: SLAS's windows are of a second or three.
const CONFLICT_FOR: Duration = Duration::from_secs(1);
/// How long a token of another shopper is.
const WRONG_TOKEN_FOR: Duration = Duration::from_secs(1);
/// How long a refusal of the gateway's own client is remembered for its sessions: its secret may just be changing.
const CLIENT_REFUSED_FOR: Duration = Duration::from_secs(5);
/// How long SLAS's answer to a client's own request is given again to the same request.
const ANSWER_REFUSED_FOR: Duration = Duration::from_secs(10);
/// Most refusals remembered, and most answers.
const MAX_REFUSALS: u64 = 100_000;
const MAX_ANSWERS: u64 = 10_000;
/// Longest answer that is remembered, bytes. SLAS's refusals have about 150.
const MAX_RESPONSE_BYTES: usize = 4 * 1024;

/// What SLAS refused to refresh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Refused {
    Session(SessionId),
    Client(OrganizationId, ClientId, SiteId),
}

impl Refused {
    fn client(owner: &Owner) -> Self {
        Self::Client(owner.organization.clone(), owner.client.clone(), owner.site.clone())
    }
}

/// The refusals of one configuration.
#[derive(Debug)]
pub(super) struct RefreshRefusals {
    refusals: Cache<Refused, (SalesforceError, Instant)>,
    /// By a digest of a client's own request: its answer.
    answers: Cache<[u8; 32], Response>,
}

impl RefreshRefusals {
    pub(super) fn new() -> Self {
        Self {
            refusals: Cache::builder().max_capacity(MAX_REFUSALS).time_to_live(SESSION_REFUSED_FOR).build(),
            answers: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(ANSWER_REFUSED_FOR).build(),
        }
    }

    /// Remembers why a refresh failed, if the next one would fail the same way.
    pub(super) fn note(&self, session: &Session, error: &SessionError) {
        let SessionError::Slas(error) = error else { return };
        let remembered_for = match error {
            error if error.is_client_rejected() => CLIENT_REFUSED_FOR,
            SalesforceError::Rejected { .. } => SESSION_REFUSED_FOR,
            SalesforceError::Conflict => CONFLICT_FOR,
            SalesforceError::RateLimited { .. }
            | SalesforceError::ServerError(_)
            | SalesforceError::Transport(_)
            | SalesforceError::Malformed(_)
            | SalesforceError::CircuitOpen
            | SalesforceError::Random(_) => return,
        };
        self.remember(session, error, remembered_for);
        if error.is_client_rejected() {
            let until = Instant::now() + CLIENT_REFUSED_FOR;
            self.refusals.insert(Refused::client(&session.owner), (error.clone(), until));
        }
    }

    /// Remembers that SLAS answered with a token that is not this shopper's.
    pub(super) fn note_wrong_token(&self, session: &Session, error: &SalesforceError) {
        self.remember(session, error, WRONG_TOKEN_FOR);
    }

    fn remember(&self, session: &Session, error: &SalesforceError, time: Duration) {
        self.refusals.insert(Refused::Session(session.id), (error.clone(), Instant::now() + time));
    }

    /// Why SLAS is not worth asking for this session now.
    pub(super) fn find(&self, session: &Session) -> Option<SessionError> {
        let now = Instant::now();
        let of = |refused: Refused| self.refusals.get(&refused).filter(|(_, until)| *until > now);
        let (error, _) = of(Refused::Session(session.id)).or_else(|| of(Refused::client(&session.owner)))?;
        Some(SessionError::Slas(error))
    }

    /// Remembers SLAS's answer to a client's own request, if it is a refusal.
    pub(super) fn note_answer(&self, request: [u8; 32], answer: &Response) {
        let is_refusal = matches!(SalesforceError::from_response(answer), SalesforceError::Rejected { .. });
        if is_refusal && answer.body.len() <= MAX_RESPONSE_BYTES {
            self.answers.insert(request, answer.clone());
        }
    }

    /// SLAS's answer to the same request a moment ago, if it was a refusal.
    pub(super) fn answer(&self, request: &[u8; 32]) -> Option<Response> {
        self.answers.get(request)
    }
}
