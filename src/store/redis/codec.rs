//! The encoding of a session, before its encryption.
//!
//! Replicas of two versions share a store during an upgrade. So the names of the fields never change (`rename` keeps the name
//! of a field that is called otherwise in the code), and a field that is added later has a default.

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
    #[serde(rename = "access_ends_at")]
    access_expires_at: u64,
    #[serde(rename = "access_life")]
    access_lifetime: u64,
    refresh_token: &'a str,
    #[serde(rename = "ends_at")]
    expires_at: u64,
    tokens: Vec<String>,
    #[serde(default)]
    is_named: bool,
    /// Digests of the refresh tokens that callers hold, each with the time at which it was superseded.
    #[serde(rename = "handed", default, skip_serializing_if = "Option::is_none")]
    refresh_token_history: Option<Vec<(String, Option<u64>)>>,
    /// The epoch: the numbers of the session's and the customer's revocation records.
    #[serde(rename = "after", default, skip_serializing_if = "is_none")]
    epoch: (u64, u64),
    #[serde(rename = "renewed_at", default)]
    refreshed_at: u64,
    /// The caller's name, and what the caller was authenticated by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<(String, String)>,
    version: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_none(epoch: &(u64, u64)) -> bool {
    *epoch == (0, 0)
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
        expires_at: session.expires_at,
        tokens: session.tokens.iter().map(|token| URL_SAFE_NO_PAD.encode(token)).collect(),
        is_named: session.is_named,
        refresh_token_history: session
            .refresh_token_history
            .as_deref()
            .map(|history| history.iter().map(encode_caller_refresh_token).collect()),
        epoch: (session.epoch.session, session.epoch.customer),
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
    let decode_token =
        |(name, superseded_at): (String, Option<u64>)| Some(CallerRefreshToken { name: digest(&name)?, superseded_at });
    let history = match wire.refresh_token_history {
        Some(tokens) => {
            let history = tokens.into_iter().map(decode_token).collect::<Option<RefreshTokenHistory>>();
            Some(Box::new(history.ok_or_else(unreadable)?))
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
        expires_at: wire.expires_at,
        tokens: tokens.ok_or_else(unreadable)?,
        is_named: wire.is_named,
        refresh_token_history: history,
        epoch: Epoch { session: wire.epoch.0, customer: wire.epoch.1 },
        refreshed_at: wire.refreshed_at,
        caller: wire.caller.map(|(name, identity)| Box::new(CallerEntry { name, identity })),
        version: wire.version,
    })
}

fn encode_caller_refresh_token(handed: &CallerRefreshToken) -> (String, Option<u64>) {
    (URL_SAFE_NO_PAD.encode(handed.name), handed.superseded_at)
}

fn digest(text: &str) -> Option<TokenDigest> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn unreadable() -> StoreError {
    StoreError::Broken("a session is unreadable")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A session as a gateway of the first version stored it. The field names are the format: gateways of two versions share
    /// a store during an upgrade.
    const STORED: &str = r#"{
        "organization": "f_ecom_zzrf_001", "site": "RefArch", "client": "7ae070a6-f4ec-4def-a383-d9cacc3f20a1",
        "usid": "18cda486-fe32-4e27-888b-6e4f89938e67", "customer": "bcmbsVlbIVkbIRlHwVxqYYxKlY", "registered": true,
        "access_token": "access", "access_ends_at": 1790000000, "access_life": 1800, "refresh_token": "refresh",
        "ends_at": 1797776000,
        "tokens": ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"],
        "is_named": true,
        "handed": [["AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM", 1789999000],
                   ["BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ", null]],
        "after": [17, 5], "renewed_at": 1789998200, "caller": ["experience-cloud", "subject CN=a"], "version": 3
    }"#;

    #[test]
    fn session_of_first_version_decodes() {
        let session = read(SessionId([7; 16]), STORED.as_bytes()).unwrap();
        assert_eq!(session.id, SessionId([7; 16]));
        assert_eq!(session.owner.customer.as_ref().map(AsRef::as_ref), Some("bcmbsVlbIVkbIRlHwVxqYYxKlY"));
        assert!(session.owner.registered && session.is_named);
        assert_eq!(session.access_token.expose_secret(), "access");
        assert_eq!(session.refresh_token.expose_secret(), "refresh");
        assert_eq!((session.access_expires_at, session.access_lifetime), (1_790_000_000, 1800));
        assert_eq!((session.expires_at, session.refreshed_at), (1_797_776_000, 1_789_998_200));
        assert_eq!(session.tokens, [[1; 32], [2; 32]]);
        let handed = session.caller_refresh_tokens().map(|handed| (handed.name, handed.superseded_at));
        assert_eq!(handed.collect::<Vec<_>>(), [([3; 32], Some(1_789_999_000)), ([4; 32], None)]);
        assert_eq!(session.epoch, Epoch { session: 17, customer: 5 });
        let caller = CallerEntry { name: "experience-cloud".to_owned(), identity: "subject CN=a".to_owned() };
        assert_eq!(session.caller.as_deref(), Some(&caller));
        assert_eq!(session.version, 3);
    }

    #[test]
    fn session_encodes_with_the_field_names_of_the_first_version() {
        let stored: Value = serde_json::from_str(STORED).unwrap();
        let session = read(SessionId([7; 16]), STORED.as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&write(&session).unwrap()).unwrap(), stored);
    }

    #[test]
    fn session_without_later_fields_decodes() {
        let mut stored: Value = serde_json::from_str(STORED).unwrap();
        for field in ["is_named", "handed", "after", "renewed_at", "caller"] {
            stored.as_object_mut().unwrap().remove(field).unwrap();
        }
        let session = read(SessionId([7; 16]), stored.to_string().as_bytes()).unwrap();
        assert!(!session.is_named && session.refresh_token_history.is_none() && session.caller.is_none());
        assert_eq!((session.epoch, session.refreshed_at), (Epoch::default(), 0));
    }
}
