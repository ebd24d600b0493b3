//! The encoding of a session, before its encryption.
//!
//! Replicas of two versions share a store during an upgrade, so a field that is added later must have a default. The
//! names of the fields are part of the format.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{
    jwt::TokenDigest,
    store::{CallerEntry, CallerRefreshToken, Epoch, Owner, RefreshTokenHistory, Session, SessionId, StoreError},
};

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    organization: &'a str,
    site: &'a str,
    client: &'a str,
    usid: &'a str,
    customer: Option<&'a str>,
    registered: bool,
    access_token: &'a str,
    access_expires_at: u64,
    access_lifetime: u64,
    refresh_token: &'a str,
    ends_at: u64,
    tokens: Vec<String>,
    #[serde(default)]
    is_named: bool,
    /// Digests of the refresh tokens that callers hold, each with the time at which it was superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handed: Option<Vec<(String, Option<u64>)>>,
    /// The epoch: the numbers of the session's and the customer's revocation records.
    #[serde(default, skip_serializing_if = "is_none")]
    after: (u64, u64),
    #[serde(default)]
    refreshed_at: u64,
    /// The caller's name, and what the caller was authenticated by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<(String, String)>,
    version: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_none(after: &(u64, u64)) -> bool {
    *after == (0, 0)
}

/// Encodes a session.
pub(super) fn write(session: &Session) -> Result<Vec<u8>, StoreError> {
    let owner = &session.owner;
    let wire = Wire {
        organization: owner.organization.as_str(),
        site: owner.site.as_str(),
        client: owner.client.as_str(),
        usid: owner.usid.as_str(),
        customer: owner.customer.as_ref().map(AsRef::as_ref),
        registered: owner.registered,
        access_token: session.access_token.expose_secret(),
        access_expires_at: session.access_expires_at,
        access_lifetime: session.access_lifetime,
        refresh_token: session.refresh_token.expose_secret(),
        ends_at: session.expires_at,
        tokens: session.tokens.iter().map(|token| URL_SAFE_NO_PAD.encode(token)).collect(),
        is_named: session.is_named,
        handed: session.refresh_token_history.as_deref().map(|handed| handed.iter().map(handed_text).collect()),
        after: (session.epoch.session, session.epoch.customer),
        refreshed_at: session.refreshed_at,
        caller: session.caller.as_deref().map(|entry| (entry.name.clone(), entry.identity.clone())),
        version: session.version,
    };
    serde_json::to_vec(&wire).map_err(|_| StoreError::Broken("a session cannot be encoded"))
}

/// Decodes a session.
pub(super) fn read(id: SessionId, bytes: &[u8]) -> Result<Session, StoreError> {
    let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    let tokens = wire.tokens.iter().map(|text| digest(text)).collect::<Option<Vec<_>>>();
    let read_handed =
        |(name, superseded_at): (String, Option<u64>)| Some(CallerRefreshToken { name: digest(&name)?, superseded_at });
    let handed = match wire.handed {
        Some(handed) => {
            let handed = handed.into_iter().map(read_handed).collect::<Option<RefreshTokenHistory>>();
            Some(Box::new(handed.ok_or_else(unreadable)?))
        }
        None => None,
    };
    Ok(Session {
        id,
        owner: Owner {
            organization: wire.organization.parse().map_err(|_| unreadable())?,
            site: wire.site.parse().map_err(|_| unreadable())?,
            client: wire.client.parse().map_err(|_| unreadable())?,
            usid: wire.usid.parse().map_err(|_| unreadable())?,
            customer: wire.customer.map(str::parse).transpose().map_err(|_| unreadable())?,
            registered: wire.registered,
        },
        access_token: SecretString::from(wire.access_token),
        access_expires_at: wire.access_expires_at,
        access_lifetime: wire.access_lifetime,
        refresh_token: SecretString::from(wire.refresh_token),
        expires_at: wire.ends_at,
        tokens: tokens.ok_or_else(unreadable)?,
        is_named: wire.is_named,
        refresh_token_history: handed,
        epoch: Epoch { session: wire.after.0, customer: wire.after.1 },
        refreshed_at: wire.refreshed_at,
        caller: wire.caller.map(|(name, identity)| Box::new(CallerEntry { name, identity })),
        version: wire.version,
    })
}

fn handed_text(handed: &CallerRefreshToken) -> (String, Option<u64>) {
    (URL_SAFE_NO_PAD.encode(handed.name), handed.superseded_at)
}

fn digest(text: &str) -> Option<TokenDigest> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn unreadable() -> StoreError {
    StoreError::Broken("a session is unreadable")
}
