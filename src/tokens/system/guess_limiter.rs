//! Limits how many unverified secrets of a caller are sent to Account Manager.
//!
//! Guesses must not lock out the caller with the right secret. Rejected secrets count per client and address. Clients
//! at an address without a rejected secret have a concurrency limit of their own, which guesses from elsewhere cannot
//! exhaust. Behind a shared address, only the right secret is presented repeatedly: a secret that a limit has rejected
//! and that returns later is verified before new ones.
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

/// Maximum number of clients with an address, and of secrets that a limit has rejected.
const CAPACITY: usize = 10_000;
/// Rejected secrets of one client from one address: burst and interval.
const ADDRESS_RATE: BucketConfig = BucketConfig { capacity: 10, refill_interval: Duration::from_secs(6) };
/// The same for returning secrets, in addition.
const RETURNING_ADDRESS_RATE: BucketConfig = BucketConfig { capacity: 4, refill_interval: Duration::from_secs(3) };
/// Rejected secrets of one client from all addresses: from addresses without a rejected secret, from the others, and of
/// returning secrets. Their sum bounds the calls to Account Manager.
const NEW_ADDRESSES_RATE: BucketConfig = BucketConfig { capacity: 60, refill_interval: Duration::from_secs(1) };
const KNOWN_ADDRESSES_RATE: BucketConfig = BucketConfig { capacity: 30, refill_interval: Duration::from_secs(3) };
const RETURNING_RATE: BucketConfig = BucketConfig { capacity: 10, refill_interval: Duration::from_secs(3) };
/// A secret counts as returning from this time after a limit first rejected it.
const RETURN_DELAY: Duration = Duration::from_secs(1);
/// How long a secret that a limit has rejected is remembered.
const REJECTED_SECRET_TTL: Duration = Duration::from_secs(60);
/// Maximum concurrent verifications for one client: from addresses without a rejected secret, from the others, and from
/// one address.
const MAX_CONCURRENT: usize = 8;
const MAX_CONCURRENT_PER_ADDRESS: usize = 2;
/// How long a secret waits for a concurrency permit.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// The presenter of a secret: the client id and the address (the /64 of an IPv6 address), if known.
pub(super) type Guesser = (ClientId, Option<IpAddr>);

/// The rates and concurrency limits of all clients.
#[derive(Debug)]
pub(super) struct GuessLimiter {
    of_address: KeyedRateLimiter<Guesser>,
    returning_of_address: KeyedRateLimiter<Guesser>,
    of_new_addresses: KeyedRateLimiter<ClientId>,
    of_known_addresses: KeyedRateLimiter<ClientId>,
    returning: KeyedRateLimiter<ClientId>,
    /// When a limit first rejected a secret, by the keyed hash of the credentials.
    limited: Cache<[u8; 32], Instant>,
    permits: Cache<ClientId, ClientPermits>,
    address_permits: Cache<Guesser, Arc<Semaphore>>,
}

#[derive(Debug, Clone)]
struct ClientPermits {
    of_new_addresses: Arc<Semaphore>,
    of_known_addresses: Arc<Semaphore>,
}

/// The rate limit that a secret counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuessClass {
    NewAddress,
    KnownAddress,
    Returning,
}

/// Permits one secret to be sent to Account Manager.
#[derive(Debug)]
pub(super) struct GuessPermit {
    class: GuessClass,
    guesser: Guesser,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl GuessLimiter {
    pub(super) fn new() -> Self {
        Self {
            of_address: KeyedRateLimiter::new(CAPACITY),
            returning_of_address: KeyedRateLimiter::new(CAPACITY),
            of_new_addresses: KeyedRateLimiter::new(CAPACITY),
            of_known_addresses: KeyedRateLimiter::new(CAPACITY),
            returning: KeyedRateLimiter::new(CAPACITY),
            limited: Cache::builder().max_capacity(CAPACITY as u64).time_to_live(REJECTED_SECRET_TTL).build(),
            permits: Cache::builder().max_capacity(CAPACITY as u64).time_to_idle(REJECTED_SECRET_TTL).build(),
            address_permits: Cache::builder().max_capacity(CAPACITY as u64).time_to_idle(REJECTED_SECRET_TTL).build(),
        }
    }

    /// Waits until a secret may be sent to Account Manager.
    ///
    /// # Errors
    /// The time until the secret may be presented again.
    pub(super) async fn begin(&self, guesser: &Guesser, credentials: &[u8; 32]) -> Result<GuessPermit, Duration> {
        let class = self.class(guesser, credentials)?;
        let permits = self.permits.get_with_by_ref(&guesser.0, || ClientPermits {
            of_new_addresses: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            of_known_addresses: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        });
        let own =
            self.address_permits.get_with_by_ref(guesser, || Arc::new(Semaphore::new(MAX_CONCURRENT_PER_ADDRESS)));
        let of_client = match class {
            // Returning secrets are few and limited, so they share the permits that guesses cannot exhaust.
            GuessClass::NewAddress | GuessClass::Returning => permits.of_new_addresses,
            GuessClass::KnownAddress => permits.of_known_addresses,
        };
        let wait = async { Some((own.acquire_owned().await.ok()?, of_client.acquire_owned().await.ok()?)) };
        let Ok(Some(permits)) = tokio::time::timeout(MAX_WAIT, wait).await else {
            self.note_limited(credentials);
            return Err(ADDRESS_RATE.refill_interval);
        };
        // Secrets that were rejected during the wait count.
        let class = self.class(guesser, credentials)?;
        Ok(GuessPermit { class, guesser: guesser.clone(), _permits: permits })
    }

    /// Counts a secret that Account Manager rejected.
    pub(super) fn refused(&self, permit: &GuessPermit) {
        let GuessPermit { class, guesser, .. } = permit;
        match class {
            GuessClass::NewAddress => self.of_new_addresses.debit(&guesser.0, NEW_ADDRESSES_RATE),
            GuessClass::KnownAddress => self.of_known_addresses.debit(&guesser.0, KNOWN_ADDRESSES_RATE),
            GuessClass::Returning => {
                self.returning.debit(&guesser.0, RETURNING_RATE);
                self.returning_of_address.debit(guesser, RETURNING_ADDRESS_RATE);
                return;
            }
        }
        self.of_address.debit(guesser, ADDRESS_RATE);
    }

    fn class(&self, guesser: &Guesser, credentials: &[u8; 32]) -> Result<GuessClass, Duration> {
        let (class, limiter, config) = if self.of_address.is_full(guesser) {
            (GuessClass::NewAddress, &self.of_new_addresses, NEW_ADDRESSES_RATE)
        } else {
            (GuessClass::KnownAddress, &self.of_known_addresses, KNOWN_ADDRESSES_RATE)
        };
        let Err(wait) = self.of_address.check(guesser, ADDRESS_RATE).and_then(|()| limiter.check(&guesser.0, config))
        else {
            return Ok(class);
        };
        let first = self.note_limited(credentials);
        let may_return = || {
            self.returning_of_address
                .check(guesser, RETURNING_ADDRESS_RATE)
                .and_then(|()| self.returning.check(&guesser.0, RETURNING_RATE))
                .is_ok()
        };
        if first.elapsed() >= RETURN_DELAY && may_return() { Ok(GuessClass::Returning) } else { Err(wait) }
    }

    /// When a limit first rejected a secret: now, if it is the first time.
    fn note_limited(&self, credentials: &[u8; 32]) -> Instant {
        self.limited.get_with_by_ref(credentials, Instant::now)
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

    /// How many of these wrong secrets are verified.
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
        assert_eq!(
            guess_limiter.begin(&guesser("192.0.2.2"), &secret(2000)).await.unwrap().class,
            GuessClass::NewAddress
        );
    }

    #[tokio::test]
    async fn guesses_from_many_addresses_are_bounded_in_total() {
        let guess_limiter = GuessLimiter::new();
        let from = |number: u32| guesser(&format!("198.51.{}.{}", number / 250, number % 250));
        let all = tried(&guess_limiter, (0..5000).map(|number| (from(number % 500), number))).await;
        let most = NEW_ADDRESSES_RATE.capacity + KNOWN_ADDRESSES_RATE.capacity + 5;
        assert!(all <= most as usize, "{all}");
        assert!(all >= NEW_ADDRESSES_RATE.capacity as usize, "{all}");
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
        tokio::time::sleep(RETURN_DELAY + Duration::from_millis(50)).await;
        tried(&guess_limiter, (200..300).map(|number| (guesser("192.0.2.1"), number))).await;
        assert_eq!(guess_limiter.begin(&guesser("192.0.2.1"), &right).await.unwrap().class, GuessClass::Returning);
    }

    #[tokio::test]
    async fn returning_secret_is_recognised_beyond_cache_capacity() {
        let guess_limiter = GuessLimiter::new();
        let flood = |from: u32| (from..from + 20_000).map(|number| (guesser("192.0.2.1"), number));
        tried(&guess_limiter, flood(0)).await;
        let right = secret(1_000_000);
        for number in 1.. {
            match guess_limiter.begin(&guesser("192.0.2.1"), &right).await {
                Ok(permit) if permit.class == GuessClass::Returning => break,
                // On a slow machine, the address has permits again.
                Ok(permit) => guess_limiter.refused(&permit),
                Err(_) => {}
            }
            assert!(number < 10, "it is never recognised");
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
