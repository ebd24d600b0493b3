//! Limits how many unverified secrets of a caller are sent to Account Manager.
//!
//! Guesses must not keep the caller with the right secret out. Refused secrets count per client and address. Clients at an
//! address without a refused secret have a concurrency limit of their own, which guesses from elsewhere cannot fill.
//! Behind a shared address only the right secret is presented again and again: a secret that was rejected by a limit and
//! comes back later is tried before new ones.
//!
//! The rates below limit Account Manager calls for one client from all addresses together. Every map has a
//! capacity; beyond it the least used entries and the fullest buckets are evicted.

use std::{net::IpAddr, sync::Arc, time::Duration, time::Instant};

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    ratelimit::{BucketConfig, KeyedRateLimiter},
    types::ClientId,
};

/// Most clients with an address, and most secrets that were turned away, that are cached.
const CAPACITY: usize = 10_000;
/// Refused secrets of one client from one address: so many at once, then one each so often.
const OF_ADDRESS: BucketConfig = BucketConfig { capacity: 10, refill_interval: Duration::from_secs(6) };
/// The same for secrets that come back, in addition.
const RETURNING_OF_ADDRESS: BucketConfig = BucketConfig { capacity: 4, refill_interval: Duration::from_secs(3) };
/// Refused secrets of one client from all addresses together: from addresses without one so far, from the others, and
/// of those that come back. In sum this bounds the calls to Account Manager.
const OF_NEW_ADDRESSES: BucketConfig = BucketConfig { capacity: 60, refill_interval: Duration::from_secs(1) };
const OF_KNOWN_ADDRESSES: BucketConfig = BucketConfig { capacity: 30, refill_interval: Duration::from_secs(3) };
const RETURNING: BucketConfig = BucketConfig { capacity: 10, refill_interval: Duration::from_secs(3) };
/// A secret comes back if this much time has passed since it was first turned away.
const RETURNS_AFTER: Duration = Duration::from_secs(1);
/// How long a secret that was turned away is cached.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Concurrent guesses at one client: from addresses without a refused secret and from the others, each; and from one address.
const AT_A_TIME: usize = 8;
const AT_A_TIME_OF_ADDRESS: usize = 2;
/// How long a secret waits for a concurrency permit.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Who presents a secret: one address, or the /64 of an IPv6 address; absent where the connection has none.
pub(super) type Guesser = (ClientId, Option<IpAddr>);

/// The rates and concurrency limits of all clients.
#[derive(Debug)]
pub(super) struct GuessLimiter {
    of_address: KeyedRateLimiter<Guesser>,
    returning_of_address: KeyedRateLimiter<Guesser>,
    of_new_addresses: KeyedRateLimiter<ClientId>,
    of_known_addresses: KeyedRateLimiter<ClientId>,
    returning: KeyedRateLimiter<ClientId>,
    /// When a secret was first turned away, by the keyed hash of the credentials.
    turned_away: Cache<[u8; 32], Instant>,
    turns: Cache<ClientId, Turns>,
    turns_of_address: Cache<Guesser, Arc<Semaphore>>,
}

#[derive(Debug, Clone)]
struct Turns {
    of_new_addresses: Arc<Semaphore>,
    of_known_addresses: Arc<Semaphore>,
}

/// Which rate a guess counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    NewAddress,
    KnownAddress,
    Returning,
}

/// Permits one secret to be sent to Account Manager.
#[derive(Debug)]
pub(super) struct GuessPermit {
    class: Class,
    guesser: Guesser,
    _turns: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl GuessLimiter {
    pub(super) fn new() -> Self {
        Self {
            of_address: KeyedRateLimiter::new(CAPACITY),
            returning_of_address: KeyedRateLimiter::new(CAPACITY),
            of_new_addresses: KeyedRateLimiter::new(CAPACITY),
            of_known_addresses: KeyedRateLimiter::new(CAPACITY),
            returning: KeyedRateLimiter::new(CAPACITY),
            turned_away: Cache::builder().max_capacity(CAPACITY as u64).time_to_live(REMEMBERED_FOR).build(),
            turns: Cache::builder().max_capacity(CAPACITY as u64).time_to_idle(REMEMBERED_FOR).build(),
            turns_of_address: Cache::builder().max_capacity(CAPACITY as u64).time_to_idle(REMEMBERED_FOR).build(),
        }
    }

    /// Waits until a secret may be sent to Account Manager.
    ///
    /// # Errors
    /// How long to wait before it is presented again.
    pub(super) async fn begin(&self, guesser: &Guesser, credentials: &[u8; 32]) -> Result<GuessPermit, Duration> {
        let class = self.class(guesser, credentials)?;
        let turns = self.turns.get_with_by_ref(&guesser.0, || Turns {
            of_new_addresses: Arc::new(Semaphore::new(AT_A_TIME)),
            of_known_addresses: Arc::new(Semaphore::new(AT_A_TIME)),
        });
        let own = self.turns_of_address.get_with_by_ref(guesser, || Arc::new(Semaphore::new(AT_A_TIME_OF_ADDRESS)));
        let of_client = match class {
            // Few secrets return, and none as often as it likes: they share the turns that guesses cannot fill.
            Class::NewAddress | Class::Returning => turns.of_new_addresses,
            Class::KnownAddress => turns.of_known_addresses,
        };
        let wait = async { Some((own.acquire_owned().await.ok()?, of_client.acquire_owned().await.ok()?)) };
        let Ok(Some(permits)) = tokio::time::timeout(LONGEST_WAIT, wait).await else {
            self.turn_away(credentials);
            return Err(OF_ADDRESS.refill_interval);
        };
        // Secrets that were refused meanwhile count.
        let class = self.class(guesser, credentials)?;
        Ok(GuessPermit { class, guesser: guesser.clone(), _turns: permits })
    }

    /// Account Manager refused the secret.
    pub(super) fn refused(&self, permit: &GuessPermit) {
        let GuessPermit { class, guesser, .. } = permit;
        match class {
            Class::NewAddress => self.of_new_addresses.debit(&guesser.0, OF_NEW_ADDRESSES),
            Class::KnownAddress => self.of_known_addresses.debit(&guesser.0, OF_KNOWN_ADDRESSES),
            Class::Returning => {
                self.returning.debit(&guesser.0, RETURNING);
                self.returning_of_address.debit(guesser, RETURNING_OF_ADDRESS);
                return;
            }
        }
        self.of_address.debit(guesser, OF_ADDRESS);
    }

    fn class(&self, guesser: &Guesser, credentials: &[u8; 32]) -> Result<Class, Duration> {
        let (class, limiter, config) = if self.of_address.is_full(guesser) {
            (Class::NewAddress, &self.of_new_addresses, OF_NEW_ADDRESSES)
        } else {
            (Class::KnownAddress, &self.of_known_addresses, OF_KNOWN_ADDRESSES)
        };
        let Err(wait) = self.of_address.check(guesser, OF_ADDRESS).and_then(|()| limiter.check(&guesser.0, config))
        else {
            return Ok(class);
        };
        let first = self.turn_away(credentials);
        let may_return = || {
            self.returning_of_address
                .check(guesser, RETURNING_OF_ADDRESS)
                .and_then(|()| self.returning.check(&guesser.0, RETURNING))
                .is_ok()
        };
        if first.elapsed() >= RETURNS_AFTER && may_return() { Ok(Class::Returning) } else { Err(wait) }
    }

    /// When a secret was first turned away, which is now if it was not before.
    fn turn_away(&self, credentials: &[u8; 32]) -> Instant {
        self.turned_away.get_with_by_ref(credentials, Instant::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesser(address: &str) -> Guesser {
        ("c1".parse().unwrap(), Some(address.parse().unwrap()))
    }

    fn secret(number: u32) -> [u8; 32] {
        crate::jwt::sha256(number.to_be_bytes())
    }

    /// How many of so many secrets are tried, all of which are wrong.
    async fn tried(guess_limiter: &GuessLimiter, secrets: impl Iterator<Item = (Guesser, u32)>) -> usize {
        let mut tried = 0;
        for (guesser, number) in secrets {
            if let Ok(permit) = guess_limiter.begin(&guesser, &secret(number)).await {
                guess_limiter.refused(&permit);
                tried += 1;
            }
        }
        tried
    }

    #[tokio::test]
    async fn guesses_from_one_address_do_not_limit_another() {
        let guess_limiter = GuessLimiter::new();
        let one = tried(&guess_limiter, (0..1000).map(|number| (guesser("192.0.2.1"), number))).await;
        assert!((10..=11).contains(&one), "{one}");
        assert_eq!(guess_limiter.begin(&guesser("192.0.2.2"), &secret(2000)).await.unwrap().class, Class::NewAddress);
    }

    #[tokio::test]
    async fn guesses_from_many_addresses_are_bounded_in_total() {
        let guess_limiter = GuessLimiter::new();
        let from = |number: u32| guesser(&format!("198.51.{}.{}", number / 250, number % 250));
        let all = tried(&guess_limiter, (0..5000).map(|number| (from(number % 500), number))).await;
        let most = OF_NEW_ADDRESSES.capacity + OF_KNOWN_ADDRESSES.capacity + 5;
        assert!(all <= most as usize, "{all}");
        assert!(all >= OF_NEW_ADDRESSES.capacity as usize, "{all}");
    }

    #[tokio::test]
    async fn returning_secret_is_verified_before_new_ones() {
        let guess_limiter = GuessLimiter::new();
        tried(&guess_limiter, (0..100).map(|number| (guesser("192.0.2.1"), number))).await;
        let right = secret(1_000_000);
        assert!(guess_limiter.begin(&guesser("192.0.2.1"), &right).await.is_err());
        assert!(
            guess_limiter.begin(&guesser("192.0.2.1"), &right).await.is_err(),
            "it has not come back, it has stayed"
        );
        tokio::time::sleep(RETURNS_AFTER + Duration::from_millis(50)).await;
        tried(&guess_limiter, (200..300).map(|number| (guesser("192.0.2.1"), number))).await;
        assert_eq!(guess_limiter.begin(&guesser("192.0.2.1"), &right).await.unwrap().class, Class::Returning);
    }

    #[tokio::test]
    async fn returning_secret_is_recognised_beyond_cache_capacity() {
        let guess_limiter = GuessLimiter::new();
        let flood = |from: u32| (from..from + 20_000).map(|number| (guesser("192.0.2.1"), number));
        tried(&guess_limiter, flood(0)).await;
        let right = secret(1_000_000);
        for number in 1.. {
            if let Ok(permit) = guess_limiter.begin(&guesser("192.0.2.1"), &right).await {
                assert_eq!(permit.class, Class::Returning);
                break;
            }
            assert!(number < 10, "it is never cached");
            tried(&guess_limiter, flood(number * 20_000)).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    #[tokio::test]
    async fn permits_of_one_address_leave_permits_to_others() {
        let guess_limiter = GuessLimiter::new();
        let (one, other) = (guesser("192.0.2.1"), guesser("192.0.2.2"));
        let _held = (
            guess_limiter.begin(&one, &secret(1)).await.unwrap(),
            guess_limiter.begin(&one, &secret(2)).await.unwrap(),
        );
        assert!(guess_limiter.begin(&one, &secret(3)).await.is_err());
        assert!(guess_limiter.begin(&other, &secret(4)).await.is_ok());
    }
}
