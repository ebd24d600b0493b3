//! Revocations in Redis: a record for each session or customer, and the stream by which replicas learn of them.

use redis::{cmd, streams::StreamRangeReply};

use super::{
    keyspace::Keyspace,
    scripts::{APPEND_EVENT, RECORD_REVOCATION},
};
use crate::{
    jwt::TokenDigest,
    store::{Coverage, Cursor, REVOCATION_TTL, Revocation, RevocationEvents, RevocationKey, StoreError},
    time::unix_now,
};

/// The stream of revocations.
const STREAM: &str = "ended";
/// The length of a revocation record in the stream, bytes: key, number, time.
const RECORD_LENGTH: usize = 16 + 8 + 8;
/// Maximum number of entries of the stream that are read at a time.
const MAX_EVENTS: usize = 1000;

/// The latest record of a key.
pub(super) async fn latest(keyspace: &Keyspace, key: RevocationKey) -> Result<Revocation, StoreError> {
    latest_of(keyspace, keyspace.all_hashed("e", &key.0)).await
}

async fn latest_of(keyspace: &Keyspace, keys: impl Iterator<Item = String>) -> Result<Revocation, StoreError> {
    let mut latest = Revocation::default();
    for key in keys {
        let record = keyspace.get::<String>(&key).await?;
        latest = latest.later(record.as_deref().map(parse_record).transpose()?.unwrap_or_default());
    }
    Ok(latest)
}

/// Writes a revocation record, unless the stored record covers what is revoked. Returns the stored record.
pub(super) async fn write(
    keyspace: &Keyspace,
    key: RevocationKey,
    coverage: Coverage,
    at: u64,
) -> Result<Revocation, StoreError> {
    let mut keys = keyspace.all_hashed("e", &key.0);
    let mut script = RECORD_REVOCATION.key(keys.next().unwrap_or_default());
    let earlier = latest_of(keyspace, keys).await?;
    let (rule, value) = match coverage {
        Coverage::After(number) => ("after", number),
        Coverage::IssuedAt(time) => ("issued", time),
        Coverage::Never => ("never", 0),
    };
    script.arg(rule).arg(value).arg(at).arg(earlier.number).arg(earlier.at).arg(REVOCATION_TTL.as_secs() * 1000);
    let (number, at) = keyspace.script(&script).await?;
    Ok(Revocation { number, at })
}

/// Announces rejected tokens and free names, and a revocation record, to the other replicas.
pub(super) async fn announce(
    keyspace: &Keyspace,
    digests: &[TokenDigest],
    record: Option<(RevocationKey, Revocation)>,
) -> Result<(), StoreError> {
    let (now, ttl) = (unix_now(), REVOCATION_TTL.as_secs());
    let mut append = APPEND_EVENT.key(keyspace.named(STREAM));
    // The stream expires later than any of its entries. A later revocation extends it.
    append.arg(now.saturating_sub(ttl) * 1000).arg(now + 2 * ttl);
    append.arg("d").arg(keyspace.cipher.encrypt(b"ended", digests.as_flattened())?);
    if let Some((RevocationKey(key), revocation)) = record {
        let record = [&key[..], &revocation.number.to_be_bytes(), &revocation.at.to_be_bytes()].concat();
        append.arg("e").arg(keyspace.cipher.encrypt(b"end", &record)?);
    }
    keyspace.script::<redis::Value>(&append).await.map(|_| ())
}

/// The announcements after the cursor's position, which is moved. An empty cursor begins at the newest announcement.
pub(super) async fn read_events(keyspace: &Keyspace, cursor: &mut Cursor) -> Result<RevocationEvents, StoreError> {
    let stream = keyspace.named(STREAM);
    let mut events = RevocationEvents::default();
    if cursor.0.is_empty() {
        let newest = cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1).to_owned();
        let newest: StreamRangeReply = keyspace.connection.query(&newest).await?;
        cursor.0 = newest.ids.first().map_or_else(|| "0-0".to_owned(), |entry| entry.id.clone());
        return Ok(events);
    }
    let after = format!("({}", cursor.0);
    let range = cmd("XRANGE").arg(stream).arg(after).arg("+").arg("COUNT").arg(MAX_EVENTS).to_owned();
    let entries: StreamRangeReply = keyspace.connection.query(&range).await?;
    for entry in entries.ids {
        match keyspace.cipher.decrypt(b"ended", &entry.get::<Vec<u8>>("d").unwrap_or_default()) {
            Ok(digests) => events.tokens.extend_from_slice(digests.as_chunks::<32>().0),
            // An unreadable entry must not hide the entries behind it.
            Err(error) => tracing::warn!(%error, "revocation event not readable, an encryption key is missing"),
        }
        if let Some(encrypted) = entry.get::<Vec<u8>>("e")
            && let Ok(records) = keyspace.cipher.decrypt(b"end", &encrypted)
        {
            events.revocations.extend(records.as_chunks::<RECORD_LENGTH>().0.iter().map(parse_event));
        }
        cursor.0 = entry.id;
    }
    Ok(events)
}

/// Parses a record as stored under its key.
fn parse_record(text: &str) -> Result<Revocation, StoreError> {
    let parts = text.split_once(':').and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)));
    let (number, at) = parts.ok_or(StoreError::Broken("a revocation record is unreadable"))?;
    Ok(Revocation { number, at })
}

/// Parses a record of the stream.
fn parse_event(bytes: &[u8; RECORD_LENGTH]) -> (RevocationKey, Revocation) {
    let (mut key, mut number, mut at) = ([0; 16], [0; 8], [0; 8]);
    key.copy_from_slice(&bytes[..16]);
    number.copy_from_slice(&bytes[16..24]);
    at.copy_from_slice(&bytes[24..]);
    (RevocationKey(key), Revocation { number: u64::from_be_bytes(number), at: u64::from_be_bytes(at) })
}
