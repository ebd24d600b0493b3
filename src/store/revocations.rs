//! Revocation records: the tokens of a session, or of a customer, that a logout has ended.
//!
//! A logout revokes a session as SLAS knows it (organization, client, USID and customer), not a list of tokens. A
//! record has a time and a number. A later session or token has the record's number as its epoch, and only a record
//! with a higher number revokes it. A token without an epoch is revoked by its issue time. The numbers of one key only
//! grow, so records may arrive in any order. A record is kept for [`REVOCATION_TTL`], which is longer than an access
//! token is valid.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::RwLock;

use crate::{
    time::unix_now,
    types::{ClientId, CustomerId, OrganizationId, Usid},
};

/// How long revoked tokens are rejected: longer than any access token is valid.
pub const REVOCATION_TTL: Duration = Duration::from_secs(3600);
/// Maximum number of records in one process, about 20 MB. Beyond it, the oldest record is dropped.
pub const MAX_REVOCATIONS: usize = 200_000;
/// The number of parts of the set, each with a lock of its own.
const SHARDS: usize = 16;

/// Identifies a session at SLAS or a customer. A hash, so that stores and dumps show no USID and no customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RevocationKey(pub [u8; 16]);

/// The keys of the two records that can revoke a shopper's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationKeys {
    /// The key of the token's session at SLAS.
    pub session: RevocationKey,
    /// The key of all sessions of its customer.
    pub customer: Option<RevocationKey>,
}

/// A record: tokens that were issued up to its time are revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocation {
    /// Higher than the number of every earlier record of the key. 0: there is no record.
    pub number: u64,
    /// The time of the logout by SLAS's clock, as far as the gateway knows it, seconds since 1970.
    pub at: u64,
}

/// The numbers of the latest records when a session or token was issued; 0 where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Of the session's record.
    pub session: u64,
    /// Of the customer's record.
    pub customer: u64,
}

/// The records of both keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocations {
    /// The session's record.
    pub session: Revocation,
    /// The customer's record.
    pub customer: Revocation,
}

impl RevocationKey {
    /// The key of one session at SLAS. The customer is part of it: SLAS lets a client begin a guest session with any
    /// USID, and the logout of that session must not revoke another shopper's.
    #[must_use]
    pub fn of_session(
        organization: &OrganizationId,
        client: &ClientId,
        usid: &Usid,
        customer: Option<&CustomerId>,
    ) -> Self {
        let customer = customer.map(CustomerId::as_str).unwrap_or_default();
        Self::hash(&["session", organization.as_str(), client.as_str(), usid.as_str(), customer])
    }

    /// The key of all sessions of one customer.
    #[must_use]
    pub fn of_customer(organization: &OrganizationId, customer: &CustomerId) -> Self {
        Self::hash(&["customer", organization.as_str(), customer.as_str()])
    }

    fn hash(parts: &[&str]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part.as_bytes());
            // No identifier contains this byte.
            context.update(&[0]);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(key)
    }
}

impl RevocationKeys {
    /// The keys of a session's owner, or of a token's shopper.
    #[must_use]
    pub fn new(organization: &OrganizationId, client: &ClientId, usid: &Usid, customer: Option<&CustomerId>) -> Self {
        Self {
            session: RevocationKey::of_session(organization, client, usid, customer),
            customer: customer.map(|customer| RevocationKey::of_customer(organization, customer)),
        }
    }
}

impl Revocations {
    /// Whether the records revoke a session or token of this epoch.
    #[must_use]
    pub fn revokes(&self, epoch: Epoch) -> bool {
        self.session.number > epoch.session || self.customer.number > epoch.customer
    }

    /// Whether the records revoke a token without an epoch, by its issue time.
    #[must_use]
    pub fn revokes_issued_at(&self, issued_at: u64) -> bool {
        [self.session, self.customer].iter().any(|end| end.revokes_issued_at(issued_at))
    }

    /// The epoch of a session or token that is issued now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { session: self.session.number, customer: self.customer.number }
    }
}

impl Revocation {
    /// Whether the record revokes a token without an epoch. A token from the second of the logout is revoked.
    #[must_use]
    pub fn revokes_issued_at(&self, issued_at: u64) -> bool {
        self.number > 0 && issued_at <= self.at
    }

    /// The record with the higher number.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.number > self.number { other } else { self }
    }
}

/// The records that this process knows, each for [`REVOCATION_TTL`], and [`MAX_REVOCATIONS`] in all.
#[derive(Debug)]
pub struct RevocationSet {
    shards: [RwLock<Shard>; SHARDS],
    /// Spares requests a lock while there is no record.
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    by_key: HashMap<RevocationKey, (Revocation, u64)>,
    /// Each key once, with the expiry that its record had when the key was added, oldest first.
    expiries: VecDeque<(RevocationKey, u64)>,
}

impl Default for RevocationSet {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), held: AtomicUsize::new(0) }
    }
}

impl RevocationSet {
    /// Stores a record, unless the stored one is later. Returns the stored record.
    pub fn merge(&self, key: RevocationKey, end: Revocation) -> Revocation {
        self.update(key, |known| known.later(end))
    }

    /// Replaces the record of a key, or adds the first one, in one step. Returns the stored record.
    pub fn update(&self, key: RevocationKey, change: impl FnOnce(Revocation) -> Revocation) -> Revocation {
        let now = unix_now();
        let mut shard = self.shard(key).write();
        let before = shard.by_key.len();
        let known = shard.by_key.get(&key).filter(|(_, until)| *until > now).map(|(end, _)| *end).unwrap_or_default();
        let end = change(known);
        if end != known {
            let until = now + REVOCATION_TTL.as_secs();
            if shard.by_key.insert(key, (end, until)).is_none() {
                shard.expiries.push_back((key, until));
            }
        }
        shard.expire(now);
        let after = shard.by_key.len();
        drop(shard);
        // The difference may be negative; the addition wraps, and the sum is right.
        self.held.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        end
    }

    /// The record of a key; its number is 0 if there is none.
    #[must_use]
    pub fn of(&self, key: RevocationKey) -> Revocation {
        if self.held.load(Ordering::Relaxed) == 0 {
            return Revocation::default();
        }
        let shard = self.shard(key).read();
        shard.by_key.get(&key).filter(|(_, until)| *until > unix_now()).map(|(end, _)| *end).unwrap_or_default()
    }

    /// The records of both keys of a shopper.
    #[must_use]
    pub fn get_both(&self, keys: &RevocationKeys) -> Revocations {
        Revocations {
            session: self.of(keys.session),
            customer: keys.customer.map(|key| self.of(key)).unwrap_or_default(),
        }
    }

    /// The number of records, including expired ones that were not removed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: RevocationKey) -> &RwLock<Shard> {
        &self.shards[usize::from(key.0[0]) % SHARDS]
    }
}

impl Shard {
    /// Drops expired records, and the oldest ones beyond the bound.
    fn expire(&mut self, now: u64) {
        while let Some((key, until)) = self.expiries.front().copied() {
            if until > now && self.expiries.len() <= MAX_REVOCATIONS / SHARDS {
                return;
            }
            self.expiries.pop_front();
            match self.by_key.get(&key) {
                // The record was replaced since, so the key is one of the newest.
                Some((_, kept_until)) if *kept_until > until => self.expiries.push_back((key, *kept_until)),
                _ => _ = self.by_key.remove(&key),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> RevocationKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&number.to_le_bytes());
        RevocationKey(key)
    }

    #[test]
    fn set_keeps_record_with_higher_number() {
        let set = RevocationSet::default();
        assert_eq!(set.of(key(1)), Revocation::default());
        set.merge(key(1), Revocation { number: 7, at: 100 });
        assert_eq!(set.merge(key(1), Revocation { number: 5, at: 90 }), Revocation { number: 7, at: 100 });
        assert_eq!(set.of(key(1)), Revocation { number: 7, at: 100 });
        assert_eq!(set.of(key(2)), Revocation::default());
    }

    #[test]
    fn set_drops_oldest_record_beyond_bound() {
        let set = RevocationSet::default();
        let count = u32::try_from(MAX_REVOCATIONS).unwrap() + 5_000;
        for number in 0..count {
            set.merge(key(number), Revocation { number: 1, at: 1 });
        }
        assert_eq!(set.len(), MAX_REVOCATIONS);
        assert_eq!(set.of(key(count - 1)).number, 1);
        assert_eq!(set.of(key(0)).number, 0);
    }

    #[test]
    fn repeated_replacement_evicts_no_other_record() {
        let set = RevocationSet::default();
        (0..1_000).for_each(|number| _ = set.merge(key(number), Revocation { number: 1, at: 1 }));
        for number in 2..u64::try_from(MAX_REVOCATIONS / SHARDS).unwrap() + 1_000 {
            set.merge(key(0), Revocation { number, at: number });
        }
        assert!((0..1_000).all(|number| set.of(key(number)).number > 0));
        assert_eq!(set.len(), 1_000);
    }

    #[test]
    fn record_revokes_by_epoch_or_else_by_issue_time() {
        let ends = Revocations { session: Revocation { number: 5, at: 100 }, customer: Revocation::default() };
        assert!(ends.revokes(Epoch::default()) && ends.revokes(Epoch { session: 4, customer: 9 }));
        assert!(!ends.revokes(ends.epoch()));
        assert!(ends.revokes_issued_at(100) && !ends.revokes_issued_at(101));
        assert!(!Revocations::default().revokes_issued_at(0) && !Revocations::default().revokes(Epoch::default()));
    }

    #[test]
    fn session_keys_of_two_shoppers_differ() {
        let organization = "f_ecom_zzrf_001".parse().unwrap();
        let key = |usid: &str, customer: Option<&str>| {
            let customer = customer.map(|customer| customer.parse().unwrap());
            RevocationKey::of_session(&organization, &"c1".parse().unwrap(), &usid.parse().unwrap(), customer.as_ref())
        };
        assert_eq!(key("u1", Some("abc")), key("u1", Some("abc")));
        assert_ne!(key("u1", Some("abc")), key("u2", Some("abc")));
        assert_ne!(key("u1", Some("abc")), key("u1", Some("abd")));
        assert_ne!(key("u1", Some("abc")), key("u1", None));
    }
}
