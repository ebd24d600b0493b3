//! Why there is no token on behalf of a shopper, and a negative cache of these failures.

use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::subject::{ECOM_IDP, OnBehalfSubject, SubjectShopper};
use crate::{jwt::TokenDigest, salesforce::error::SalesforceError, store::StoreError, types::ClientId};

/// How long the rejection of a login is cached: about as long as another call would be a conflict.
const LOGIN_REJECTED_TTL: Duration = Duration::from_secs(4);
/// How long a rejection for an unpublished reason is cached.
const UNEXPLAINED_REJECTION_TTL: Duration = Duration::from_secs(10);
/// How long a rejection of the gateway's client is cached for all shoppers. Its secret may be in rotation.
const CLIENT_REJECTED_TTL: Duration = Duration::from_secs(5);
/// How long a failure of SLAS is cached. It is short, so that the end of an outage is noticed.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// Maximum number of cached failures.
const MAX_FAILURES: u64 = 10_000;

/// Why there is no token on behalf of a shopper.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnBehalfError {
    /// The organization has no client for on-behalf tokens configured.
    #[error("the organization has no client that acts on behalf of shoppers")]
    NoClient,
    /// SLAS does not know the login or the guest.
    #[error("no shopper has this login, or no guest this USID")]
    ShopperUnknown,
    /// Too many logins of the organization are waiting for SLAS.
    #[error("too many logins wait already")]
    TooManyWaiting,
    /// SLAS failed, or rejected the client.
    #[error("no token on behalf of the shopper: {0}")]
    Slas(SalesforceError),
    /// The store failed, and was needed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OnBehalfError {
    /// The meaning of SLAS's error: an unknown login or USID, or a failure that is not about the shopper.
    pub(super) fn new(subject: &OnBehalfSubject, error: &SalesforceError) -> Self {
        let is_about_shopper = match &subject.shopper {
            SubjectShopper::Registered { idp, .. } => idp == ECOM_IDP,
            SubjectShopper::Guest { .. } => true,
            SubjectShopper::NewGuest => false,
        };
        if is_about_shopper && error.is_login_id_rejected() { Self::ShopperUnknown } else { Self::Slas(error.clone()) }
    }
}

/// Failures, and until when the call is not repeated.
#[derive(Debug)]
pub(super) struct Failures(Cache<TokenDigest, (OnBehalfError, Instant)>);

impl Failures {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(MAX_FAILURES).time_to_live(UNEXPLAINED_REJECTION_TTL).build())
    }

    /// The cached failure of a name or of the client.
    pub(super) fn find(
        &self,
        client: &ClientId,
        subject: &OnBehalfSubject,
        name: &TokenDigest,
    ) -> Option<OnBehalfError> {
        let now = Instant::now();
        let of = |key: &TokenDigest| self.0.get(key).filter(|(_, until)| *until > now);
        of(name).or_else(|| of(&subject.client_key(client))).map(|(failure, _)| failure)
    }

    /// Caches a failure, for as long as another call would fail in the same way.
    pub(super) fn record(
        &self,
        client: &ClientId,
        subject: &OnBehalfSubject,
        name: Option<&TokenDigest>,
        error: &SalesforceError,
    ) {
        let failure = OnBehalfError::new(subject, error);
        if error.is_client_rejected() {
            self.insert(subject.client_key(client), failure.clone(), CLIENT_REJECTED_TTL);
        }
        let key = match (name, &subject.shopper) {
            (Some(name), _) => *name,
            // A rejection applies to all new guests, and a failure only to this call.
            (None, SubjectShopper::NewGuest) if matches!(error, SalesforceError::Rejected { .. }) => {
                subject.new_guests_key(client)
            }
            (None, _) => return,
        };
        if let Some(ttl) = ttl(error, &failure) {
            self.insert(key, failure, ttl);
        }
    }

    /// Caches that SLAS issues tokens that the gateway rejects. Each further request would cost a call to SLAS.
    pub(super) fn record_unusable_token(
        &self,
        client: &ClientId,
        subject: &OnBehalfSubject,
        name: Option<&TokenDigest>,
        error: &OnBehalfError,
    ) {
        let (key, ttl) = match (name, error) {
            (Some(name), OnBehalfError::ShopperUnknown) => (*name, LOGIN_REJECTED_TTL),
            (Some(name), OnBehalfError::Slas(_)) => (*name, UNEXPLAINED_REJECTION_TTL),
            (None, OnBehalfError::Slas(_)) => (subject.new_guests_key(client), UNEXPLAINED_REJECTION_TTL),
            _ => return,
        };
        self.insert(key, error.clone(), ttl);
    }

    fn insert(&self, key: TokenDigest, failure: OnBehalfError, ttl: Duration) {
        self.0.insert(key, (failure, Instant::now() + ttl));
    }
}

/// How long a failure is cached. Calls that were not sent are not cached, because the call guard decides about them.
fn ttl(error: &SalesforceError, failure: &OnBehalfError) -> Option<Duration> {
    match error {
        error if error.is_client_rejected() => Some(CLIENT_REJECTED_TTL),
        SalesforceError::Rejected { .. } if *failure != OnBehalfError::ShopperUnknown => {
            Some(UNEXPLAINED_REJECTION_TTL)
        }
        SalesforceError::Rejected { .. } | SalesforceError::Conflict => Some(LOGIN_REJECTED_TTL),
        SalesforceError::ServerError(_) | SalesforceError::Transport(_) | SalesforceError::Malformed(_) => {
            Some(FAILURE_TTL)
        }
        SalesforceError::RateLimited { .. } | SalesforceError::CircuitOpen | SalesforceError::Random(_) => None,
    }
}
