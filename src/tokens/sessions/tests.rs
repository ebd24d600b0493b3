//! `Sessions::resolve` as a table: from the token, the session and the store's state to the token that is forwarded.
//!
//! Waits use tokio's paused clock. Expiries are relative to the time of day, which no test waits for. "Another replica" is a
//! second user of the same store.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{
    state::{CacheEntry, UNKNOWN_TTL},
    *,
};
use crate::{
    config,
    jwt::TokenDigest,
    observability::metrics::Metrics,
    salesforce::error::SalesforceError,
    store::{
        Bucket, CasResult, CreationLock, Cursor, Epoch, FencingToken, KeyCheck, LockResult, LookupResult, Owner,
        REVOCATION_TTL, RejectedCommand, Revocation, RevocationEvents, RevocationKeys, RevocationTarget, Revocations,
        Session, SessionId, SessionStore, StoreError, StoreState, memory::MemoryStore,
    },
    time::unix_now,
    types::{ByOrganization, CustomerId, OrganizationId},
    verify::{
        shopper::{Delegation, Shopper},
        shopper_token::{ShopperVerifier, VerifiedToken},
    },
};
use std::{sync::Arc, time::Duration};

/// The seconds before its expiry in which a token is due.
const MARGIN: u64 = 20;
const IDLE_TIMEOUT: u64 = 3600;

/// A store in memory that can be made unavailable.
#[derive(Debug)]
struct FailingStore {
    memory: MemoryStore,
    is_unavailable: AtomicBool,
}

macro_rules! failing_store {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $value:ty;)*) => {
        #[async_trait]
        impl SessionStore for FailingStore {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$value, StoreError> {
                if self.is_unavailable.load(Ordering::Relaxed) {
                    return Err(StoreError::Unavailable);
                }
                self.memory.$name($($argument),*).await
            })*

            async fn sweep(&self, now: u64, idle: Duration) -> Option<usize> {
                self.memory.sweep(now, idle).await
            }

            fn is_shared(&self) -> bool {
                false
            }

            fn state(&self) -> StoreState {
                StoreState::default()
            }

            async fn check_commands(&self) -> Result<(), RejectedCommand> {
                Ok(())
            }

            fn write_timeout(&self) -> Duration {
                Duration::ZERO
            }
        }
    };
}

failing_store! {
    fn insert(session: Arc<Session>, used_at: u64) -> ();
    fn find(token: &TokenDigest) -> LookupResult;
    fn lock(session: &Session, lease: Duration) -> LockResult;
    fn unlock(session: &Session, fencing_token: FencingToken) -> ();
    fn replace(session: Arc<Session>, fencing_token: FencingToken) -> CasResult;
    fn acquire_creation_lock(name: &TokenDigest, lease: Duration) -> Option<CreationLock>;
    fn release_creation_lock(name: &TokenDigest, lock: CreationLock) -> ();
    fn touch(session: &Session, used_at: u64) -> ();
    fn revoke(target: RevocationTarget<'_>, at: u64) -> Revocation;
    fn revoke_customer(organization: &OrganizationId, customer: &CustomerId, at: u64) -> Revocation;
    fn revocations(keys: &RevocationKeys) -> Revocations;
    fn record_epoch(token: &TokenDigest, epoch: Epoch, life: Duration) -> ();
    fn revoke_token(token: &TokenDigest) -> ();
    fn revocations_since(cursor: &mut Cursor) -> RevocationEvents;
    fn reserve(bucket: Bucket<'_>, cost: Duration, limit: Duration) -> Result<Duration, Duration>;
    fn put_value(name: &[u8], value: &[u8], life: Duration) -> ();
    fn get_value(name: &[u8]) -> Option<Vec<u8>>;
    fn check_key(registers: bool) -> KeyCheck;
}

struct World {
    store: Arc<FailingStore>,
    sessions: Arc<Sessions>,
}

/// A token of the shopper that expires in so many seconds, or has expired before so many.
fn token(name: u8, expires_in: i64) -> VerifiedToken {
    let (organization, client, usid): (OrganizationId, _, _) =
        ("f_ecom_zzrf_001".parse().unwrap(), "c1".parse().unwrap(), "u1".parse().unwrap());
    let customer: CustomerId = "customer".parse().unwrap();
    let shopper = Shopper {
        revocation_keys: RevocationKeys::new(&organization, &client, &usid, Some(&customer)),
        organization,
        client,
        usid,
        customer: Some(customer),
        is_registered: true,
        site: Some("RefArch".parse().unwrap()),
        scopes: "".parse().unwrap(),
        delegation: Delegation::default(),
        agent: None,
        issued_at: unix_now() - 1800,
        expires_at: unix_now().saturating_add_signed(expires_in),
    };
    VerifiedToken { shopper: Arc::new(shopper), digest: [name; 32], generation: 0 }
}

/// A session with the access tokens 1 and, if it has two, 2. The newest expires in so many seconds.
fn session(tokens: &[u8], expires_in: i64) -> Session {
    let shopper = token(1, 0).shopper;
    Session {
        // The last two bytes spread the margin; 0 leaves it whole.
        id: SessionId([0; 16]),
        owner: Owner {
            organization: shopper.organization.clone(),
            site: "RefArch".parse().unwrap(),
            client: shopper.client.clone(),
            usid: shopper.usid.clone(),
            customer: shopper.customer.clone(),
            registered: true,
        },
        access_token: format!("access {}", tokens.last().unwrap()).into(),
        access_expires_at: unix_now().saturating_add_signed(expires_in),
        access_lifetime: 1800,
        refresh_token: "refresh".into(),
        expires_at: unix_now() + 30 * 24 * 3600,
        tokens: tokens.iter().map(|name| [*name; 32]).collect(),
        is_named: false,
        refresh_token_history: None,
        epoch: Epoch::default(),
        refreshed_at: 0,
        caller: None,
        version: 0,
    }
}

impl World {
    fn new() -> Self {
        let store = Arc::new(FailingStore { memory: MemoryStore::new(1000), is_unavailable: AtomicBool::new(false) });
        let metrics = Arc::new(Metrics::new("test", "test").unwrap());
        let settings = config::Sessions {
            refresh_ahead: Duration::from_secs(MARGIN),
            idle_timeout: Duration::from_secs(IDLE_TIMEOUT),
            capacity: 1000,
            background_refreshes_per_minute: 0,
        };
        let verifier = Arc::new(ShopperVerifier::new(ByOrganization::default(), Arc::clone(&metrics)));
        let shared: Arc<dyn SessionStore> = Arc::<FailingStore>::clone(&store);
        // No endpoint: a refresh by this process finds no client, as after the client's removal from the configuration.
        let sessions =
            Sessions::new(shared, ByOrganization::default(), verifier, settings, Duration::from_secs(5), metrics);
        Self { store, sessions }
    }

    /// A world with this session, last used so many seconds ago.
    async fn with(session: Session, unused_for: u64) -> Self {
        let world = Self::new();
        world.store.insert(Arc::new(session), unix_now() - unused_for).await.unwrap();
        world
    }

    async fn resolve(&self, token: &VerifiedToken) -> Result<TokenChoice, SessionError> {
        self.sessions.resolve(token).await
    }

    /// Makes the store unavailable. What the cache holds remains.
    fn fail(&self) {
        self.store.is_unavailable.store(true, Ordering::Relaxed);
    }

    /// Refreshes the session as another replica does, which finishes after this time.
    async fn refresh_elsewhere(&self, session: &Session, takes: Duration) {
        let LockResult::Acquired(lock) = self.store.lock(session, Duration::from_secs(60)).await.unwrap() else {
            panic!("the lock is taken")
        };
        let next = session.refreshed("access 9".into(), unix_now() + 1800, 1800, [9; 32], None, None);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            assert_eq!(store.replace(Arc::new(next), lock).await.unwrap(), CasResult::Written);
        });
    }
}

/// The choice in one word: `own`, the text of the token that takes its place, or the error.
fn outcome(choice: Result<TokenChoice, SessionError>) -> String {
    use secrecy::ExposeSecret;
    match choice {
        Ok(TokenChoice::AsPresented) => "own".to_owned(),
        Ok(TokenChoice::Refreshed(token)) => token.expose_secret().to_owned(),
        Err(SessionError::Expired) => "expired".to_owned(),
        Err(SessionError::LoggedOut) => "logged out".to_owned(),
        Err(SessionError::RefreshRejected(_)) => "rejected".to_owned(),
        Err(SessionError::Slas(_)) => "slas".to_owned(),
        Err(SessionError::Store(_)) => "store".to_owned(),
    }
}

const CONFLICT: SessionError = SessionError::Slas(SalesforceError::Conflict);

#[tokio::test(start_paused = true)]
async fn resolve_without_session_forwards_token_until_it_expires() {
    for (expires_in, available, unavailable) in
        [(900, "own", "own"), (1, "own", "own"), (-1, "own", "store"), (-600, "expired", "store")]
    {
        let world = World::new();
        assert_eq!(outcome(world.resolve(&token(1, expires_in)).await), available, "{expires_in}");
        let world = World::new();
        world.fail();
        assert_eq!(outcome(world.resolve(&token(1, expires_in)).await), unavailable, "{expires_in}, store unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn lookup_of_token_without_session_does_not_renew_its_cache_entry() {
    let (world, own, start) = (World::new(), token(1, 900), unix_now());
    assert!(matches!(world.sessions.lookup(&own, start).await, Ok(CacheEntry::Unknown(_))));
    // Another replica stores the session.
    world.store.insert(Arc::new(session(&[1], 900)), start).await.unwrap();
    for seconds in [20, 40, UNKNOWN_TTL - 1] {
        let known = world.sessions.lookup(&own, start + seconds).await;
        assert!(matches!(known, Ok(CacheEntry::Unknown(_))), "after {seconds} s the store is not asked again");
    }
    assert!(matches!(world.sessions.lookup(&own, start + UNKNOWN_TTL).await, Ok(CacheEntry::Session(_))));
}

#[tokio::test(start_paused = true)]
async fn resolve_with_epoch_forwards_token_until_a_later_logout() {
    let world = World::new();
    let own = token(1, 900);
    let keys = own.shopper.revocation_keys;
    let target = RevocationTarget::Token { digest: [7; 32], keys, issued_at: 0, epoch: None };
    world.store.revoke(target, unix_now()).await.unwrap();
    let epoch = world.store.revocations(&keys).await.unwrap().epoch();
    world.store.record_epoch(&own.digest, epoch, REVOCATION_TTL).await.unwrap();
    assert_eq!(outcome(world.resolve(&own).await), "own", "issued after the logout");
    assert_eq!(outcome(world.resolve(&token(2, 900)).await), "logged out", "issued before it");
    assert!(world.sessions.log_out(&own).await.unwrap().is_none());
    assert_eq!(outcome(world.resolve(&own).await), "logged out");
}

#[tokio::test(start_paused = true)]
async fn resolve_of_fresh_token_forwards_it_and_notes_the_use() {
    let world = World::with(session(&[1], 900), 600).await;
    assert_eq!(outcome(world.resolve(&token(1, 900)).await), "own");
    let LookupResult::Session(_, used_at) = world.store.find(&[1; 32]).await.unwrap() else { panic!() };
    assert!(used_at + 60 > unix_now());
    world.fail();
    assert_eq!(outcome(world.resolve(&token(1, 900)).await), "own", "the cache needs no store");
}

#[tokio::test(start_paused = true)]
async fn resolve_of_superseded_token_returns_the_newest() {
    for expires_in in [5, -5, -3600] {
        let world = World::with(session(&[1, 2], 900), 0).await;
        assert_eq!(outcome(world.resolve(&token(1, expires_in)).await), "access 2", "{expires_in}");
    }
    let world = World::with(session(&[1, 2], 900), 0).await;
    assert_eq!(outcome(world.resolve(&token(1, 900)).await), "own", "still fresh itself");
    assert_eq!(outcome(world.resolve(&token(2, 5)).await), "own", "the newest itself");
}

#[tokio::test(start_paused = true)]
async fn resolve_of_idle_session_forwards_valid_token_and_refuses_expired_one() {
    for (expires_in, expected) in [(5, "own"), (-5, "expired")] {
        let world = World::with(session(&[1, 2], 900), IDLE_TIMEOUT + 60).await;
        assert_eq!(outcome(world.resolve(&token(1, expires_in)).await), expected, "{expires_in}");
    }
    for (expires_in, expected) in [(5, "own"), (-5, "store")] {
        let world = World::with(session(&[1, 2], 900), IDLE_TIMEOUT + 60).await;
        let own = token(1, expires_in);
        world.sessions.lookup(&own, unix_now()).await.unwrap();
        world.fail();
        assert_eq!(outcome(world.resolve(&own).await), expected, "{expires_in}, store unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn resolve_of_due_token_waits_a_moment_for_a_refresh() {
    let of = session(&[1], 5);
    let world = World::with(of.clone(), 0).await;
    world.refresh_elsewhere(&of, Duration::from_millis(100)).await;
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "access 9");

    let world = World::with(of.clone(), 0).await;
    world.refresh_elsewhere(&of, Duration::from_secs(2)).await;
    let start = tokio::time::Instant::now();
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "own", "too slow");
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "own", "no further wait after a failure");
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "access 9", "the refresh went on in the background");
}

#[tokio::test(start_paused = true)]
async fn resolve_of_due_token_forwards_it_when_the_refresh_fails() {
    let world = World::with(session(&[1], 5), 0).await;
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "own", "the client is not configured");

    let world = World::with(session(&[1], 5), 0).await;
    world.sessions.failed_refreshes.record(&session(&[1], 5), &CONFLICT);
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "own", "SLAS has just rejected a refresh");

    let world = World::with(session(&[1], 5), 0).await;
    world.sessions.lookup(&token(1, 5), unix_now()).await.unwrap();
    world.fail();
    assert_eq!(outcome(world.resolve(&token(1, 5)).await), "own", "the store is unavailable");
}

#[tokio::test(start_paused = true)]
async fn resolve_of_expired_token_waits_for_the_refresh() {
    let of = session(&[1], -5);
    let world = World::with(of.clone(), 0).await;
    world.refresh_elsewhere(&of, Duration::from_secs(2)).await;
    assert_eq!(outcome(world.resolve(&token(1, -5)).await), "access 9");

    let world = World::with(of.clone(), 0).await;
    assert!(matches!(world.store.lock(&of, Duration::from_secs(60)).await.unwrap(), LockResult::Acquired(_)));
    let start = tokio::time::Instant::now();
    assert_eq!(outcome(world.resolve(&token(1, -5)).await), "store", "another replica keeps the lock");
    assert!((13..=14).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());

    let world = World::with(of.clone(), 0).await;
    assert_eq!(outcome(world.resolve(&token(1, -5)).await), "expired", "the client is not configured");

    let world = World::with(of.clone(), 0).await;
    world.sessions.failed_refreshes.record(&of, &CONFLICT);
    assert_eq!(outcome(world.resolve(&token(1, -5)).await), "slas");
}

#[tokio::test(start_paused = true)]
async fn resolve_of_old_token_returns_the_newest_while_it_is_valid_and_the_refresh_fails() {
    // Token 1 has expired, and token 2 is due.
    let of = session(&[1, 2], 5);
    let world = World::with(of.clone(), 0).await;
    world.sessions.failed_refreshes.record(&of, &CONFLICT);
    assert_eq!(outcome(world.resolve(&token(1, -5)).await), "access 2", "SLAS fails");

    let world = World::with(of.clone(), 0).await;
    world.sessions.lookup(&token(1, -5), unix_now()).await.unwrap();
    world.fail();
    assert_eq!(outcome(world.resolve(&token(1, -5)).await), "access 2", "the store fails");
}

#[tokio::test(start_paused = true)]
async fn resolve_after_logout_refuses_every_token_of_the_session() {
    let world = World::with(session(&[1, 2], 900), 0).await;
    world.resolve(&token(1, 900)).await.unwrap();
    world.sessions.log_out(&token(2, 900)).await.unwrap();
    for own in [token(1, 900), token(2, 900), token(1, -5)] {
        assert_eq!(outcome(world.resolve(&own).await), "logged out");
    }
    // A logout that the store does not accept takes effect here, and in the store as soon as it is available.
    let world = World::with(session(&[1, 2], 900), 0).await;
    world.fail();
    assert!(matches!(world.sessions.log_out(&token(2, 900)).await, Err(SessionError::Store(_))));
    assert_eq!(outcome(world.resolve(&token(2, 900)).await), "logged out");
    world.store.is_unavailable.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(world.store.find(&[1; 32]).await.unwrap(), LookupResult::Revoked));
}

#[tokio::test(start_paused = true)]
async fn resolve_of_another_shoppers_token_finds_no_session() {
    let world = World::with(session(&[1, 2], 900), 0).await;
    let mut other = token(1, 5);
    let shopper = Shopper { usid: "u2".parse().unwrap(), ..Shopper::clone(&other.shopper) };
    other.shopper = Arc::new(shopper);
    assert_eq!(outcome(world.resolve(&other).await), "own");
    assert!(matches!(world.sessions.lookup(&other, unix_now()).await, Ok(CacheEntry::Unknown(_))));
}
