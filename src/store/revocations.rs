//! Revocation records: which tokens of a session, or of a customer, a logout has ended.
//!
//! A logout revokes a session as SLAS knows it (organization, client, USID and customer), not a list of tokens. A record
//! has a time and a number. A session or token that came after a record remembers the record's number as its epoch; only
//! a record with a higher number revokes it. A token without an epoch is judged by its issue time. The numbers of one
//! key only grow, so records may arrive in any order. A record is kept for [`REVOCATION_TTL`], which is longer than an
//! access token lives.

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

/// How long an ended session's tokens are refused, longer than any access token lives.
pub const REVOCATION_TTL: Duration = Duration::from_secs(3600);
/// Maximum records in one process, about 20 MB. Beyond it the oldest record is dropped.
pub const MAX_REVOCATIONS: usize = 200_000;
/// Parts of the set, each with a lock of its own.
const SHARDS: usize = 16;

/// Identifies a session or a customer. A hash, so that stores and dumps show no USID or customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RevocationKey(pub [u8; 16]);

/// The keys of the two records that can revoke a shopper's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationKeys {
    /// Of its session at SLAS.
    pub session: RevocationKey,
    /// Of all sessions of its customer.
    pub customer: Option<RevocationKey>,
}

/// A record: tokens issued up to its time are revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocation {
    /// Grows with each record of a key. 0: there is no record.
    pub number: u64,
    /// When it ended, by SLAS's clock as far as the gateway knows it, seconds since 1970.
    pub at: u64,
}

/// The numbers of the last records before a session or token came to be; 0 where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Of the session's record.
    pub session: u64,
    /// Of the customer's.
    pub customer: u64,
}

/// The records of both keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocations {
    /// The session's.
    pub session: Revocation,
    /// The customer's.
    pub customer: Revocation,
}

impl RevocationKey {
    /// Of one session at SLAS. The customer is part of it: SLAS lets a client begin a guest's session with any USID,
    /// and that session's logout must not revoke another shopper's.
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

    /// Of all sessions of one customer.
    #[must_use]
    pub fn of_customer(organization: &OrganizationId, customer: &CustomerId) -> Self {
        Self::hash(&["customer", organization.as_str(), customer.as_str()])
    }

    fn hash(parts: &[&str]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part.as_bytes());
            // No identifier holds this byte.
            context.update(&[0]);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(key)
    }
}

impl RevocationKeys {
    /// Of a session's owner, or of a token's shopper.
    #[must_use]
    pub fn new(organization: &OrganizationId, client: &ClientId, usid: &Usid, customer: Option<&CustomerId>) -> Self {
        Self {
            session: RevocationKey::of_session(organization, client, usid, customer),
            customer: customer.map(|customer| RevocationKey::of_customer(organization, customer)),
        }
    }
}

impl Revocations {
    /// Whether a session or token that came after those records has ended.
    #[must_use]
    pub fn revokes(&self, epoch: Epoch) -> bool {
        self.session.number > epoch.session || self.customer.number > epoch.customer
    }

    /// Whether a token of which only the issue time is known has ended.
    #[must_use]
    pub fn revokes_issued_at(&self, issued_at: u64) -> bool {
        [self.session, self.customer].iter().any(|end| end.revokes_issued_at(issued_at))
    }

    /// For a session or token that comes to be now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { session: self.session.number, customer: self.customer.number }
    }
}

impl Revocation {
    /// Whether a token of which only the issue time is known has ended. In the second of the end it has.
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

/// The records in this process, for [`REVOCATION_TTL`] each and [`MAX_REVOCATIONS`] in all.
#[derive(Debug)]
pub struct RevocationSet {
    shards: [RwLock<Shard>; SHARDS],
    /// Spares every request a lock while nothing was ended.
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    by_key: HashMap<RevocationKey, (Revocation, u64)>,
    /// Each key once, by when its record expired when it came here, oldest first.
    expiries: VecDeque<(RevocationKey, u64)>,
}

impl Default for RevocationSet {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), held: AtomicUsize::new(0) }
    }
}

impl RevocationSet {
    /// Keeps a record, unless a later one of its key is kept already. Returns the one that is.
    pub fn merge(&self, key: RevocationKey, end: Revocation) -> Revocation {
        self.update(key, |known| known.later(end))
    }

    /// Replaces the record of a key, or makes the first, at once. Returns the one that is kept.
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
        // Wraps where it shrinks, and the sum is right again.
        self.held.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        end
    }

    /// The record of a key; one with number 0 if there is none.
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

    /// How many records are held, expired ones that nothing has removed yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: RevocationKey) -> &RwLock<Shard> {
        &self.shards[usize::from(key.0[0]) % SHARDS]
    }
}

impl Shard {
    /// Drops what has expired, and the oldest beyond the bound.
    fn expire(&mut self, now: u64) {
        while let Some((key, until)) = self.expiries.front().copied() {
            if until > now && self.expiries.len() <= MAX_REVOCATIONS / SHARDS {
                return;
            }
            self.expiries.pop_front();
            match self.by_key.get(&key) {
                // Replaced since, which makes it one of the newest.
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
    fn a_late_record_does_not_replace_a_later_one() {
        let set = RevocationSet::default();
        assert_eq!(set.of(key(1)), Revocation::default());
        set.merge(key(1), Revocation { number: 7, at: 100 });
        assert_eq!(set.merge(key(1), Revocation { number: 5, at: 90 }), Revocation { number: 7, at: 100 });
        assert_eq!(set.of(key(1)), Revocation { number: 7, at: 100 });
        assert_eq!(set.of(key(2)), Revocation::default());
    }

    #[test]
    fn the_set_drops_the_oldest_record_beyond_its_bound() {
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
    fn a_record_that_is_replaced_again_and_again_takes_the_place_of_no_other() {
        let set = RevocationSet::default();
        (0..1_000).for_each(|number| _ = set.merge(key(number), Revocation { number: 1, at: 1 }));
        for number in 2..u64::try_from(MAX_REVOCATIONS / SHARDS).unwrap() + 1_000 {
            set.merge(key(0), Revocation { number, at: number });
        }
        assert!((0..1_000).all(|number| set.of(key(number)).number > 0));
        assert_eq!(set.len(), 1_000);
    }

    #[test]
    fn a_later_session_is_not_covered_and_an_unknown_token_is_by_its_issue_time() {
        let ends = Revocations { session: Revocation { number: 5, at: 100 }, customer: Revocation::default() };
        assert!(ends.revokes(Epoch::default()) && ends.revokes(Epoch { session: 4, customer: 9 }));
        assert!(!ends.revokes(ends.epoch()));
        assert!(ends.revokes_issued_at(100) && !ends.revokes_issued_at(101));
        assert!(!Revocations::default().revokes_issued_at(0) && !Revocations::default().revokes(Epoch::default()));
    }

    #[test]
    fn keys_of_two_shoppers_differ() {
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
