//! A session: one login, as the stores keep it.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    refresh_token_history::{CallerRefreshToken, MAX_CALLER_REFRESH_TOKENS, RefreshTokenHistory},
    revocations::{Epoch, RevocationKeys},
};
use crate::{
    jwt::{self, TokenDigest},
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

    /// Whether the shopper has refused to be tracked (`dnt`), by the newest access token, in the form of a token request: the token
    /// has `0` or `1`. SLAS resets the choice at a refresh that does not send it.
    #[must_use]
    pub fn do_not_track(&self) -> Option<&'static str> {
        #[derive(Deserialize)]
        struct Choice {
            dnt: Option<serde_json::Value>,
        }
        let claims = jwt::read_unverified::<Choice>(self.access_token.expose_secret())?;
        match claims.dnt?.to_string().trim_matches('"') {
            "1" | "true" => Some("true"),
            "0" | "false" => Some("false"),
            _ => None,
        }
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
