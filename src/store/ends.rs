//! The ends of sessions: a record for each session, or customer, that was logged out, and the tokens that it covers.
//!
//! A logout ends a session as SLAS knows it (organization, client, USID and customer), and not a list of tokens. The
//! record says when that was and has a number. A session or token that is known to be later remembers the number of the
//! last record before it, and is covered only by a record with a higher number. Of every other token the issue time
//! decides. Numbers of one key only grow, so records may arrive in any order. A record is kept for [`ENDED_FOR`],
//! longer than an access token lives.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::RwLock;

use super::ENDED_FOR;
use crate::{
    clock::unix_now,
    names::{ClientId, CustomerId, OrganizationId, Usid},
};

/// Most records that one process keeps: about 20 MB. Beyond it the oldest is dropped.
pub const MOST_ENDS: usize = 200_000;
/// Parts of the set, each with a lock of its own.
const SHARDS: usize = 16;

/// Names what a record of an end is about. A hash: nobody can read a USID or customer from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndKey(pub [u8; 16]);

/// The two records that can end a shopper's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndKeys {
    /// Of its session at SLAS.
    pub session: EndKey,
    /// Of all sessions of its customer.
    pub customer: Option<EndKey>,
}

/// A record: what was issued up to then has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct End {
    /// Grows with each record of a key. 0: there is no record.
    pub number: u64,
    /// When it ended, by SLAS's clock as far as the gateway knows it, seconds since 1970.
    pub at: u64,
}

/// The numbers of the last records before a session or token came to be; 0 where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct After {
    /// Of the session's record.
    pub session: u64,
    /// Of the customer's.
    pub customer: u64,
}

/// The records of both keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// The session's.
    pub session: End,
    /// The customer's.
    pub customer: End,
}

impl EndKey {
    /// Of one session at SLAS. The customer is part of it: SLAS lets anyone begin a guest's session with a USID of his
    /// choice, and its end must not be another shopper's.
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

impl EndKeys {
    /// Of a session's owner, or of a token's shopper.
    #[must_use]
    pub fn new(organization: &OrganizationId, client: &ClientId, usid: &Usid, customer: Option<&CustomerId>) -> Self {
        Self {
            session: EndKey::of_session(organization, client, usid, customer),
            customer: customer.map(|customer| EndKey::of_customer(organization, customer)),
        }
    }
}

impl Ends {
    /// Whether a session or token that came after those records has ended.
    #[must_use]
    pub fn cover(&self, after: After) -> bool {
        self.session.number > after.session || self.customer.number > after.customer
    }

    /// Whether a token of which only the issue time is known has ended.
    #[must_use]
    pub fn cover_issued(&self, issued_at: u64) -> bool {
        [self.session, self.customer].iter().any(|end| end.covers_issued(issued_at))
    }

    /// For a session or token that comes to be now.
    #[must_use]
    pub fn after(&self) -> After {
        After { session: self.session.number, customer: self.customer.number }
    }
}

impl End {
    /// Whether a token of which only the issue time is known has ended. In the second of the end it has.
    #[must_use]
    pub fn covers_issued(&self, issued_at: u64) -> bool {
        self.number > 0 && issued_at <= self.at
    }

    /// The record with the higher number.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.number > self.number { other } else { self }
    }
}

/// Records of ends in this process, for [`ENDED_FOR`] each and [`MOST_ENDS`] in all.
#[derive(Debug)]
pub struct EndSet {
    shards: [RwLock<Shard>; SHARDS],
    /// Spares every request a lock while nothing was ended.
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    by_key: HashMap<EndKey, (End, u64)>,
    /// Each key once, by when its record expired when it came here, oldest first.
    expiries: VecDeque<(EndKey, u64)>,
}

impl Default for EndSet {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), held: AtomicUsize::new(0) }
    }
}

impl EndSet {
    /// Keeps a record, unless a later one of its key is kept already. Returns the one that is.
    pub fn note(&self, key: EndKey, end: End) -> End {
        self.update(key, |known| known.later(end))
    }

    /// Replaces the record of a key, or makes the first, at once. Returns the one that is kept.
    pub fn update(&self, key: EndKey, change: impl FnOnce(End) -> End) -> End {
        let now = unix_now();
        let mut shard = self.shard(key).write();
        let before = shard.by_key.len();
        let known = shard.by_key.get(&key).filter(|(_, until)| *until > now).map(|(end, _)| *end).unwrap_or_default();
        let end = change(known);
        if end != known {
            let until = now + ENDED_FOR.as_secs();
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
    pub fn of(&self, key: EndKey) -> End {
        if self.held.load(Ordering::Relaxed) == 0 {
            return End::default();
        }
        let shard = self.shard(key).read();
        shard.by_key.get(&key).filter(|(_, until)| *until > unix_now()).map(|(end, _)| *end).unwrap_or_default()
    }

    /// The records of both keys of a shopper.
    #[must_use]
    pub fn of_both(&self, keys: &EndKeys) -> Ends {
        Ends { session: self.of(keys.session), customer: keys.customer.map(|key| self.of(key)).unwrap_or_default() }
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

    fn shard(&self, key: EndKey) -> &RwLock<Shard> {
        &self.shards[usize::from(key.0[0]) % SHARDS]
    }
}

impl Shard {
    /// Drops what has expired, and the oldest beyond the bound.
    fn expire(&mut self, now: u64) {
        while let Some((key, until)) = self.expiries.front().copied() {
            if until > now && self.expiries.len() <= MOST_ENDS / SHARDS {
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

    fn key(number: u32) -> EndKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&number.to_le_bytes());
        EndKey(key)
    }

    #[test]
    fn a_late_record_does_not_replace_a_later_one() {
        let set = EndSet::default();
        assert_eq!(set.of(key(1)), End::default());
        set.note(key(1), End { number: 7, at: 100 });
        assert_eq!(set.note(key(1), End { number: 5, at: 90 }), End { number: 7, at: 100 });
        assert_eq!(set.of(key(1)), End { number: 7, at: 100 });
        assert_eq!(set.of(key(2)), End::default());
    }

    #[test]
    fn the_set_drops_the_oldest_record_beyond_its_bound() {
        let set = EndSet::default();
        let count = u32::try_from(MOST_ENDS).unwrap() + 5_000;
        for number in 0..count {
            set.note(key(number), End { number: 1, at: 1 });
        }
        assert_eq!(set.len(), MOST_ENDS);
        assert_eq!(set.of(key(count - 1)).number, 1);
        assert_eq!(set.of(key(0)).number, 0);
    }

    #[test]
    fn a_record_that_is_replaced_again_and_again_takes_the_place_of_no_other() {
        let set = EndSet::default();
        (0..1_000).for_each(|number| _ = set.note(key(number), End { number: 1, at: 1 }));
        for number in 2..u64::try_from(MOST_ENDS / SHARDS).unwrap() + 1_000 {
            set.note(key(0), End { number, at: number });
        }
        assert!((0..1_000).all(|number| set.of(key(number)).number > 0));
        assert_eq!(set.len(), 1_000);
    }

    #[test]
    fn a_later_session_is_not_covered_and_an_unknown_token_is_by_its_issue_time() {
        let ends = Ends { session: End { number: 5, at: 100 }, customer: End::default() };
        assert!(ends.cover(After::default()) && ends.cover(After { session: 4, customer: 9 }));
        assert!(!ends.cover(ends.after()));
        assert!(ends.cover_issued(100) && !ends.cover_issued(101));
        assert!(!Ends::default().cover_issued(0) && !Ends::default().cover(After::default()));
    }

    #[test]
    fn keys_of_two_shoppers_differ() {
        let organization = "f_ecom_zzrf_001".parse().unwrap();
        let key = |usid: &str, customer: Option<&str>| {
            let customer = customer.map(|customer| customer.parse().unwrap());
            EndKey::of_session(&organization, &"c1".parse().unwrap(), &usid.parse().unwrap(), customer.as_ref())
        };
        assert_eq!(key("u1", Some("abc")), key("u1", Some("abc")));
        assert_ne!(key("u1", Some("abc")), key("u2", Some("abc")));
        assert_ne!(key("u1", Some("abc")), key("u1", Some("abd")));
        assert_ne!(key("u1", Some("abc")), key("u1", None));
    }
}
