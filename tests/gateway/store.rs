//! The guarantees of a store, checked with each implementation.

use std::{net::TcpListener, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use shopper_gateway::{
    config::{RedisAddress, RedisLogin, RedisStore as Configured, RedisTls, RedisTopology},
    jwt::TokenDigest,
    observability::metrics::Metrics,
    ratelimit::BucketConfig,
    store::{
        CasResult, Cursor, Epoch, FencingToken, LockResult, LookupResult, Owner, ROTATION_GRACE_SECONDS,
        RefreshTokenHistory, Revocation, RevocationEvents, RevocationKeys, RevocationTarget, Revocations, Session,
        SessionId, SessionStore, StoreError, memory::MemoryStore, redis::RedisStore,
    },
    time::unix_now,
};

use crate::{
    redis::Redis,
    tls::authority::{Authority, text},
    world::{eventually, install_cryptography, wait_until},
};

const LEASE: Duration = Duration::from_secs(30);

pub fn session(number: u8) -> Arc<Session> {
    Arc::new(Session {
        id: SessionId([number; 16]),
        owner: Owner {
            organization: "f_ecom_zzrf_001".parse().unwrap(),
            site: "RefArch".parse().unwrap(),
            client: "c1".parse().unwrap(),
            usid: format!("u{number}").parse().unwrap(),
            customer: Some("customer".parse().unwrap()),
            registered: true,
        },
        access_token: SecretString::from("access"),
        access_expires_at: unix_now() + 1800,
        access_lifetime: 1800,
        refresh_token: SecretString::from("refresh"),
        expires_at: unix_now() + 3600,
        tokens: vec![[number; 32]],
        is_named: false,
        refresh_token_history: None,
        epoch: Epoch::default(),
        refreshed_at: 0,
        caller: None,
        version: 0,
    })
}

fn refreshed(session: &Session, token: u8) -> Arc<Session> {
    let access = SecretString::from(format!("access {token}"));
    Arc::new(session.refreshed(access, unix_now() + 1800, 1800, [token; 32], Some(SecretString::from("rotated")), None))
}

/// Runs a check with a store in memory, one in Redis, and one in a cluster.
async fn with_each_store(ask: impl AsyncFn(&dyn SessionStore)) {
    ask(&MemoryStore::new(1000)).await;
    let redis = Redis::start().await;
    ask(&in_redis(&redis)).await;
    let cluster = Redis::cluster().await;
    ask(&redis_store(&configured(RedisTopology::Cluster(vec![cluster.address()])))).await;
}

fn in_redis(redis: &Redis) -> RedisStore {
    store_with_keys(redis, 7, None)
}

pub fn store_with_keys(redis: &Redis, current: u8, previous: Option<u8>) -> RedisStore {
    let mut settings = configured(RedisTopology::Standalone(redis.address()));
    settings.encryption_key = SecretSlice::from(vec![current; 32]);
    settings.previous_encryption_key = previous.map(|key| SecretSlice::from(vec![key; 32]));
    redis_store(&settings)
}

/// Settings without TLS and login.
pub fn configured(topology: RedisTopology) -> Configured {
    Configured {
        topology,
        login: RedisLogin::default(),
        database: 0,
        tls: None,
        encryption_key: SecretSlice::from(vec![7; 32]),
        previous_encryption_key: None,
        key_prefix: "test".into(),
        timeout: Duration::from_secs(2),
    }
}

pub fn login(username: Option<&str>, password: &str) -> RedisLogin {
    RedisLogin { username: username.map(str::to_owned), password: Some(SecretString::from(password)) }
}

/// TLS that trusts this authority alone.
pub fn tls_trusting(authority: &Authority) -> RedisTls {
    RedisTls { ca: Some(authority.certificate.clone()), client_certificate: None }
}

pub fn redis_store(settings: &Configured) -> RedisStore {
    install_cryptography();
    RedisStore::new(settings, &Metrics::new("test", "test").unwrap()).unwrap()
}

fn accepts(session: &Session, name: &TokenDigest, now: u64) -> bool {
    session.refresh_token_history.as_deref().unwrap_or(&RefreshTokenHistory::default()).accepts(name, now)
}

async fn end_all(store: &dyn SessionStore, owner: &Owner) -> Result<Revocation, StoreError> {
    store.revoke_customer(&owner.organization, owner.customer.as_ref().unwrap(), unix_now()).await
}

async fn locked(store: &dyn SessionStore, session: &Session) -> FencingToken {
    match store.lock(session, LEASE).await.unwrap() {
        LockResult::Acquired(fencing_token) => fencing_token,
        lock => panic!("{lock:?}"),
    }
}

#[tokio::test]
async fn session_is_found_by_its_tokens_only() {
    with_each_store(async |store| {
        store.insert(session(1), 77).await.unwrap();
        let LookupResult::Session(found, used_at) = store.find(&[1; 32]).await.unwrap() else { panic!() };
        assert_eq!((found.id, found.refresh_token.expose_secret(), used_at), (SessionId([1; 16]), "refresh", 77));
        assert!(matches!(store.find(&[2; 32]).await.unwrap(), LookupResult::Unknown));
    })
    .await;
}

#[tokio::test]
async fn session_is_found_by_refresh_tokens_held_by_callers() {
    with_each_store(async |store| {
        let now = unix_now();
        let first = Arc::new(Session::clone(&session(1)).with_caller_refresh_token([101; 32], None, now));
        store.insert(Arc::clone(&first), 1).await.unwrap();
        let handed = async |name: u8| match store.find(&[name; 32]).await.unwrap() {
            LookupResult::Session(found, _) => Some(accepts(&found, &[name; 32], now)),
            LookupResult::Revoked | LookupResult::Gone | LookupResult::Epoch(_) | LookupResult::Unknown => None,
        };
        assert_eq!((handed(101).await, handed(1).await, handed(102).await), (Some(true), Some(false), None));

        // The gateway's own refresh returns no refresh token to a caller.
        let fencing_token = locked(store, &first).await;
        let second = refreshed(&first, 2);
        assert_eq!(store.replace(Arc::clone(&second), fencing_token).await.unwrap(), CasResult::Written);
        assert_eq!(handed(101).await, Some(true));
        // A caller's refresh does.
        let fencing_token = locked(store, &second).await;
        let third = Arc::new(Session::clone(&refreshed(&second, 3)).with_caller_refresh_token(
            [102; 32],
            Some(&[101; 32]),
            now,
        ));
        assert_eq!(store.replace(Arc::clone(&third), fencing_token).await.unwrap(), CasResult::Written);
        assert_eq!((handed(101).await, handed(102).await), (Some(true), Some(true)));
        let LookupResult::Session(found, _) = store.find(&[102; 32]).await.unwrap() else { panic!() };
        assert_eq!(found.refresh_token_history, third.refresh_token_history);
        assert!(!accepts(&found, &[101; 32], now + ROTATION_GRACE_SECONDS), "for a minute");
        assert!(accepts(&found, &[102; 32], now + ROTATION_GRACE_SECONDS), "and the last for good");

        store.revoke(RevocationTarget::Session(&first), unix_now()).await.unwrap();
        assert_eq!((handed(101).await, handed(102).await), (None, None));
        assert!(matches!(store.find(&[3; 32]).await.unwrap(), LookupResult::Revoked));
    })
    .await;
}

#[tokio::test]
async fn session_held_by_caller_is_kept_while_idle() {
    let store = MemoryStore::new(1000);
    let now = unix_now();
    store
        .insert(Arc::new(Session::clone(&session(1)).with_caller_refresh_token([101; 32], None, now)), now)
        .await
        .unwrap();
    store.insert(session(2), now).await.unwrap();
    assert_eq!(store.sweep(now + 3000, LEASE).await, Some(1));
    assert!(matches!(store.find(&[101; 32]).await.unwrap(), LookupResult::Session(..)));
    assert_eq!(store.sweep(now + 3600, LEASE).await, Some(0), "until its refresh token ends");
    assert!(matches!(store.find(&[101; 32]).await.unwrap(), LookupResult::Unknown));
}

#[tokio::test]
async fn lock_is_exclusive_until_unlock_or_end_of_lease() {
    with_each_store(async |store| {
        let session = session(1);
        store.insert(Arc::clone(&session), 1).await.unwrap();
        let first = locked(store, &session).await;
        assert_eq!(store.lock(&session, LEASE).await.unwrap(), LockResult::Taken);
        let other = FencingToken { owner: [9; 16], ..first };
        store.unlock(&session, other).await.unwrap();
        assert_eq!(store.lock(&session, LEASE).await.unwrap(), LockResult::Taken, "nobody gives back another's lock");
        store.unlock(&session, first).await.unwrap();
        let LockResult::Acquired(second) = store.lock(&session, Duration::from_millis(50)).await.unwrap() else {
            panic!()
        };
        assert!(second.number > first.number);
        eventually("the lease ends", async || store.lock(&session, LEASE).await.unwrap() != LockResult::Taken).await;
    })
    .await;
}

#[tokio::test]
async fn replace_requires_previous_version_and_releases_lock() {
    with_each_store(async |store| {
        let session = session(1);
        store.insert(Arc::clone(&session), 1).await.unwrap();
        let fencing_token = locked(store, &session).await;
        let next = refreshed(&session, 2);
        assert_eq!(store.replace(Arc::clone(&next), fencing_token).await.unwrap(), CasResult::Written);
        for token in [[1; 32], [2; 32]] {
            let LookupResult::Session(found, _) = store.find(&token).await.unwrap() else { panic!() };
            assert_eq!((found.version, found.refresh_token.expose_secret()), (1, "rotated"));
        }
        // The next refresh does not wait for the lease of the last.
        let fencing_token = locked(store, &next).await;
        assert_eq!(store.replace(refreshed(&session, 3), fencing_token).await.unwrap(), CasResult::Conflict);
        let LookupResult::Session(found, _) = store.find(&[1; 32]).await.unwrap() else { panic!() };
        assert_eq!(found.version, 1);
    })
    .await;
}

#[tokio::test]
async fn session_is_found_by_first_and_recent_tokens() {
    with_each_store(async |store| {
        let mut newest = session(1);
        store.insert(Arc::clone(&newest), 1).await.unwrap();
        for token in 2..30 {
            let fencing_token = locked(store, &newest).await;
            newest = refreshed(&newest, token);
            assert_eq!(store.replace(Arc::clone(&newest), fencing_token).await.unwrap(), CasResult::Written);
        }
        assert_eq!(newest.tokens.len(), 9);
        for token in [1, 22, 29] {
            assert!(matches!(store.find(&[token; 32]).await.unwrap(), LookupResult::Session(found, _) if found.version == 28));
        }
    })
    .await;
}

#[tokio::test]
async fn ended_sessions_and_tokens_stay_rejected() {
    with_each_store(async |store| {
        let (one, other) = (session(1), session(2));
        for session in [&one, &other] {
            store.insert(Arc::clone(session), 1).await.unwrap();
        }
        let fencing_token = locked(store, &one).await;
        store.replace(refreshed(&one, 3), fencing_token).await.unwrap();
        // A gateway that has not seen the refresh.
        store.revoke(RevocationTarget::Session(&one), unix_now()).await.unwrap();
        for token in [[1; 32], [3; 32]] {
            assert!(matches!(store.find(&token).await.unwrap(), LookupResult::Revoked));
        }
        assert_eq!(store.lock(&one, LEASE).await.unwrap(), LockResult::SessionGone);
        assert_eq!(store.replace(refreshed(&one, 4), fencing_token).await.unwrap(), CasResult::Conflict);
        assert!(matches!(store.find(&[2; 32]).await.unwrap(), LookupResult::Session(..)));

        store.insert(session(5), 1).await.unwrap();
        end_all(store, &other.owner).await.unwrap();
        for token in [[2; 32], [5; 32]] {
            assert!(matches!(store.find(&token).await.unwrap(), LookupResult::Revoked));
        }
        store.revoke_token(&[6; 32]).await.unwrap();
        assert!(matches!(store.find(&[6; 32]).await.unwrap(), LookupResult::Revoked));
    })
    .await;
}

fn token_of(session: &Session, digest: TokenDigest, issued_at: u64, after: Option<Epoch>) -> RevocationTarget<'static> {
    RevocationTarget::Token { digest, keys: session.revocation_keys(), issued_at, epoch: after }
}

#[tokio::test]
async fn revocation_covers_earlier_sessions_of_usid_and_no_later_ones() {
    with_each_store(async |store| {
        let (now, keys) = (unix_now(), session(1).revocation_keys());
        assert_eq!(store.revocations(&keys).await.unwrap(), Revocations::default());
        let of_one_usid = |number| {
            let mut session = Session::clone(&session(number));
            session.owner.usid = "u1".parse().unwrap();
            Arc::new(session)
        };
        for number in [1, 2] {
            store.insert(of_one_usid(number), 1).await.unwrap();
        }
        let end = store.revoke(RevocationTarget::Session(&session(1)), now).await.unwrap();
        assert!(end.number > 0 && end.at == now, "{end:?}");
        for token in [[1; 32], [2; 32]] {
            assert!(matches!(store.find(&token).await.unwrap(), LookupResult::Revoked), "{token:?}");
        }
        let ends = store.revocations(&keys).await.unwrap();
        assert_eq!(ends.session, end);
        // The same shopper logs in again, in the same second, with the same USID.
        let later = Arc::new(Session { epoch: ends.epoch(), ..Session::clone(&of_one_usid(3)) });
        store.insert(Arc::clone(&later), 1).await.unwrap();
        assert!(matches!(store.find(&[3; 32]).await.unwrap(), LookupResult::Session(..)));
        // A login that the store did not accept before the logout is written again.
        store.insert(of_one_usid(4), 1).await.unwrap();
        assert!(!matches!(store.find(&[4; 32]).await.unwrap(), LookupResult::Session(..)));
        // The logout is written again too, and ends no later session.
        assert_eq!(store.revoke(RevocationTarget::Session(&of_one_usid(2)), now + 9).await.unwrap(), end);
        assert_eq!(store.revoke(token_of(&later, [9; 32], now, None), now + 9).await.unwrap(), end);
        assert!(matches!(store.find(&[3; 32]).await.unwrap(), LookupResult::Session(..)));
        let second = store.revoke(RevocationTarget::Session(&later), now + 9).await.unwrap();
        assert!(second.number > end.number && second.at == now + 9);
        assert!(matches!(store.find(&[3; 32]).await.unwrap(), LookupResult::Revoked));
    })
    .await;
}

#[tokio::test]
async fn token_without_session_is_revoked_by_issue_time_unless_known_later() {
    with_each_store(async |store| {
        let (now, whose) = (unix_now(), session(1));
        let keys = whose.revocation_keys();
        let end = store.revoke(token_of(&whose, [1; 32], now - 60, None), now).await.unwrap();
        assert!(matches!(store.find(&[1; 32]).await.unwrap(), LookupResult::Revoked));
        let ends = store.revocations(&keys).await.unwrap();
        assert!(ends.revokes_issued_at(now) && !ends.revokes_issued_at(now + 1));
        store.record_epoch(&[2; 32], ends.epoch(), LEASE).await.unwrap();
        assert!(matches!(store.find(&[2; 32]).await.unwrap(), LookupResult::Epoch(after) if after == ends.epoch()));
        assert_eq!(store.revoke(token_of(&whose, [1; 32], now - 60, None), now + 5).await.unwrap(), end, "once");
        let second = store.revoke(token_of(&whose, [2; 32], now, Some(ends.epoch())), now + 5).await.unwrap();
        assert!(second.number > end.number && store.revocations(&keys).await.unwrap().revokes(ends.epoch()));
        // Tokens with a session and refused tokens are not recorded.
        store.insert(session(5), 1).await.unwrap();
        store.revoke_token(&[6; 32]).await.unwrap();
        for token in [[5; 32], [6; 32]] {
            store.record_epoch(&token, second_after(second), LEASE).await.unwrap();
            assert!(!matches!(store.find(&token).await.unwrap(), LookupResult::Epoch(_)));
        }
    })
    .await;
}

fn second_after(end: Revocation) -> Epoch {
    Epoch { session: end.number, customer: 0 }
}

#[tokio::test]
async fn customer_revocation_covers_other_usids_and_no_later_login() {
    with_each_store(async |store| {
        let other = session(2);
        for session in [session(1), Arc::clone(&other)] {
            store.insert(session, 1).await.unwrap();
        }
        let end = end_all(store, &other.owner).await.unwrap();
        for token in [[1; 32], [2; 32]] {
            assert!(matches!(store.find(&token).await.unwrap(), LookupResult::Revoked));
        }
        let ends = store.revocations(&other.revocation_keys()).await.unwrap();
        assert_eq!((ends.session, ends.customer), (Revocation::default(), end));
        let later = Arc::new(Session { epoch: ends.epoch(), ..Session::clone(&session(3)) });
        store.insert(later, 1).await.unwrap();
        assert!(matches!(store.find(&[3; 32]).await.unwrap(), LookupResult::Session(..)));
        let strangers = RevocationKeys::new(&other.owner.organization, &other.owner.client, &other.owner.usid, None);
        assert_eq!(store.revocations(&strangers).await.unwrap(), Revocations::default());
    })
    .await;
}

#[tokio::test]
async fn refresh_token_held_by_caller_ends_with_session() {
    with_each_store(async |store| {
        let handed = Arc::new(Session::clone(&session(1)).with_caller_refresh_token([101; 32], None, unix_now()));
        store.insert(Arc::clone(&handed), 1).await.unwrap();
        store.revoke(RevocationTarget::Session(&handed), unix_now()).await.unwrap();
        assert!(matches!(store.find(&[101; 32]).await.unwrap(), LookupResult::Revoked));
    })
    .await;
}

#[tokio::test]
async fn unlisted_old_token_of_ended_session_is_gone() {
    let redis = Redis::start().await;
    let store = in_redis(&redis);
    let mut newest = session(1);
    store.insert(Arc::clone(&newest), 1).await.unwrap();
    for token in 2..20 {
        let fencing_token = locked(&store, &newest).await;
        newest = refreshed(&newest, token);
        assert_eq!(store.replace(Arc::clone(&newest), fencing_token).await.unwrap(), CasResult::Written);
    }
    store.revoke(RevocationTarget::Session(&session(1)), unix_now()).await.unwrap();
    assert!(matches!(store.find(&[2; 32]).await.unwrap(), LookupResult::Gone));
    assert!(matches!(store.find(&[19; 32]).await.unwrap(), LookupResult::Revoked));
}

#[tokio::test]
async fn revocation_survives_key_rotation() {
    let redis = Redis::start().await;
    let (before, rotating) = (store_with_keys(&redis, 1, None), store_with_keys(&redis, 2, Some(1)));
    let end = before.revoke(RevocationTarget::Session(&session(1)), 100).await.unwrap();
    let keys = session(1).revocation_keys();
    assert_eq!(rotating.revocations(&keys).await.unwrap().session, end);
    assert_eq!(rotating.revoke(RevocationTarget::Session(&session(1)), 200).await.unwrap(), end, "it is ended already");
    let later = Session { epoch: Epoch { session: end.number, customer: 0 }, ..Session::clone(&session(1)) };
    let second = rotating.revoke(RevocationTarget::Session(&later), 50).await.unwrap();
    assert!(second.number > end.number && second.at == 100, "{second:?}");
    assert_eq!(rotating.revocations(&keys).await.unwrap().session, second);
}

/// A refresh during a logout is stored before it or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_refresh_and_revocation_leave_no_session() {
    let redis = Redis::start().await;
    let stores = [Arc::new(in_redis(&redis)), Arc::new(in_redis(&redis))];
    for number in 0..200 {
        let whose = session(number);
        stores[0].insert(Arc::clone(&whose), 1).await.unwrap();
        let fencing_token = locked(&*stores[0], &whose).await;
        let mut next = Session::clone(&refreshed(&whose, 0));
        next.tokens[1] = [number, 255].repeat(16).try_into().unwrap();
        let (next, token) = (Arc::new(next.clone()), next.tokens[1]);
        let (writer, refreshed) = (Arc::clone(&stores[1]), Arc::clone(&next));
        let written = tokio::spawn(async move { writer.replace(refreshed, fencing_token).await.unwrap() });
        stores[0].revoke(RevocationTarget::Session(&whose), unix_now()).await.unwrap();
        written.await.unwrap();
        for store in &stores {
            for token in [[number; 32], token] {
                let found = store.find(&token).await.unwrap();
                assert!(matches!(found, LookupResult::Revoked | LookupResult::Gone), "{found:?}");
            }
        }
    }
}

#[tokio::test]
async fn session_touched_with_earlier_time_keeps_latest_use() {
    with_each_store(async |store| {
        let session = session(1);
        store.insert(Arc::clone(&session), 10).await.unwrap();
        for used_at in [20, 15] {
            store.touch(&session, used_at).await.unwrap();
        }
        assert!(matches!(store.find(&[1; 32]).await.unwrap(), LookupResult::Session(_, 20)));
    })
    .await;
}

#[tokio::test]
async fn login_slots_are_granted_in_sequence() {
    with_each_store(async |store| {
        let turn = async |who: &[u8]| {
            store.reserve_login_slot(who, Duration::from_secs(10), Duration::from_secs(15)).await.unwrap()
        };
        assert_eq!(turn(b"ada").await, Some(Duration::ZERO));
        assert!(turn(b"ada").await.is_some_and(|wait| wait > Duration::from_secs(5)));
        assert_eq!(turn(b"ada").await, None, "that would be too long, so no turn is taken");
        assert_eq!(turn(b"bob").await, Some(Duration::ZERO));
    })
    .await;
}

#[tokio::test]
async fn token_bucket_is_spent_once_and_refills() {
    with_each_store(async |store| {
        let slow = BucketConfig { capacity: 5, refill_interval: Duration::from_secs(60) };
        let take = async |what: &[u8], amount, leave| store.acquire_tokens(what, slow, amount, leave).await.unwrap();
        assert_eq!(take(b"a", 2, 2).await, Ok(()));
        let wait = take(b"a", 2, 2).await.expect_err("the reserve is for others");
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
        assert_eq!(take(b"a", 3, 0).await, Ok(()));
        assert!(take(b"a", 1, 0).await.is_err());
        assert_eq!(take(b"b", 5, 0).await, Ok(()), "another budget is its own");
        assert!(take(b"c", 6, 0).await.is_err(), "more than the whole");
        assert_eq!(take(b"c", 5, 0).await, Ok(()), "and that took nothing");
        let quick = BucketConfig { capacity: 2, refill_interval: Duration::from_millis(100) };
        assert_eq!(store.acquire_tokens(b"d", quick, 2, 0).await.unwrap(), Ok(()));
        eventually("it comes back", async || store.acquire_tokens(b"d", quick, 2, 0).await.unwrap().is_ok()).await;
    })
    .await;
}

#[tokio::test]
async fn token_bucket_is_shared_by_gateways() {
    let redis = Redis::start().await;
    let (one, other) = (in_redis(&redis), in_redis(&redis));
    let budget = BucketConfig { capacity: 50, refill_interval: Duration::from_secs(60) };
    let spend = async |store: &RedisStore| {
        let mut taken = 0;
        while store.acquire_tokens(b"a", budget, 1, 0).await.unwrap().is_ok() {
            taken += 1;
        }
        taken
    };
    let (by_one, by_other) = tokio::join!(spend(&one), spend(&other));
    assert_eq!(by_one + by_other, 50);
}

#[tokio::test]
async fn token_bucket_refills_after_server_clock_change() {
    let redis = Redis::start().await;
    let store = in_redis(&redis);
    let budget = BucketConfig { capacity: 2, refill_interval: Duration::from_millis(200) };
    assert_eq!(store.acquire_tokens(b"a", budget, 1, 0).await.unwrap(), Ok(()));
    let name: Vec<String> = redis.run(redis::cmd("KEYS").arg("test:b:*")).await;
    redis.run::<()>(redis::cmd("SET").arg(&name[0]).arg((unix_now() + 86_400) * 1_000_000)).await;
    let wait = store.acquire_tokens(b"a", budget, 1, 0).await.unwrap().unwrap_err();
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
}

#[tokio::test]
async fn value_is_kept_under_its_name_for_its_ttl() {
    with_each_store(async |store| {
        assert_eq!(store.get_value(b"a").await.unwrap(), None);
        for value in [b"one".as_slice(), b"two"] {
            store.put_value(b"a", value, LEASE).await.unwrap();
            assert_eq!(store.get_value(b"a").await.unwrap().unwrap(), value);
        }
        assert_eq!(store.get_value(b"b").await.unwrap(), None);
        store.put_value(b"c", b"brief", Duration::from_millis(20)).await.unwrap();
        eventually("it is gone", async || store.get_value(b"c").await.unwrap().is_none()).await;
        assert_eq!(store.get_value(b"a").await.unwrap().unwrap(), b"two");
    })
    .await;
}

#[tokio::test]
async fn forged_or_moved_value_is_rejected() {
    let redis = Redis::start().await;
    let (store, stranger) = (store_with_keys(&redis, 1, None), store_with_keys(&redis, 2, None));
    store.put_value(b"a", b"genuine", LEASE).await.unwrap();
    let names = async || redis.run::<Vec<String>>(redis::cmd("KEYS").arg("test:k:*")).await;
    let a = names().await.remove(0);
    store.put_value(b"b", b"other", LEASE).await.unwrap();
    let b = names().await.into_iter().find(|name| *name != a).unwrap();
    stranger.put_value(b"s", b"planted", LEASE).await.unwrap();
    let s = names().await.into_iter().find(|name| *name != a && *name != b).unwrap();
    let genuine: Vec<u8> = redis.run(redis::cmd("GET").arg(&a)).await;
    assert!(!redis.dump().await.contains("genuine"));
    for other in [&b, &s] {
        let bytes: Vec<u8> = redis.run(redis::cmd("GET").arg(other)).await;
        redis.run::<()>(redis::cmd("SET").arg(&a).arg(bytes)).await;
        assert!(store.get_value(b"a").await.is_err(), "sealed for another place, or by another key");
    }
    redis.run::<()>(redis::cmd("SET").arg(&a).arg("genuine")).await;
    assert!(store.get_value(b"a").await.is_err());
    redis.run::<()>(redis::cmd("SET").arg(&a).arg(genuine)).await;
    assert_eq!(store.get_value(b"a").await.unwrap().unwrap(), b"genuine");
    assert_eq!(
        store_with_keys(&redis, 3, Some(1)).get_value(b"a").await.unwrap().unwrap(),
        b"genuine",
        "after a rotation"
    );
}

#[tokio::test]
async fn replicas_read_revocations_made_after_their_start() {
    let redis = Redis::start().await;
    let (one, other) = (in_redis(&redis), in_redis(&redis));
    one.revoke_token(&[1; 32]).await.unwrap();
    let mut cursor = Cursor::default();
    assert_eq!(other.revocations_since(&mut cursor).await.unwrap(), RevocationEvents::default());
    one.insert(session(2), 1).await.unwrap();
    one.revoke(RevocationTarget::Session(&session(2)), unix_now()).await.unwrap();
    one.revoke_token(&[3; 32]).await.unwrap();
    let news = other.revocations_since(&mut cursor).await.unwrap();
    assert_eq!(news.tokens, [[2; 32], [3; 32]]);
    let keys = session(2).revocation_keys();
    assert_eq!(news.revocations, [(keys.session, one.revocations(&keys).await.unwrap().session)]);
    assert_eq!(other.revocations_since(&mut cursor).await.unwrap(), RevocationEvents::default());
}

#[tokio::test]
async fn store_follows_sentinel_to_next_master() {
    let mut master = Redis::start().await;
    let follower = Redis::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    let sentinel = Redis::sentinel(&master).await;
    let store = redis_store(&configured(RedisTopology::Sentinel {
        sentinels: vec![sentinel.address()],
        master: "shop".into(),
        login: RedisLogin::default(),
        tls: None,
    }));
    eventually("the follower follows and the Sentinel knows it", async || {
        let replicas = sentinel.run::<redis::Value>(redis::cmd("SENTINEL").arg("REPLICAS").arg("shop")).await;
        let link = follower.run::<String>(redis::cmd("INFO").arg("replication")).await;
        format!("{replicas:?}").contains(&follower.port.to_string()) && link.contains("master_link_status:up")
    })
    .await;
    store.insert(session(1), 1).await.unwrap();
    eventually("the session reached the follower", async || {
        follower.run::<i64>(&redis::cmd("DBSIZE")).await == master.run::<i64>(&redis::cmd("DBSIZE")).await
    })
    .await;
    master.kill();
    eventually("the store goes on with the next master", async || {
        store.touch(&session(1), 2).await.is_ok()
            && matches!(store.find(&[1; 32]).await, Ok(LookupResult::Session(_, 2)))
    })
    .await;
}

#[tokio::test]
async fn revocation_under_another_key_is_found() {
    let redis = Redis::start().await;
    let (before, after) = (store_with_keys(&redis, 1, Some(2)), store_with_keys(&redis, 2, Some(1)));
    before.insert(session(1), 1).await.unwrap();
    assert!(
        matches!(after.find(&[1; 32]).await.unwrap(), LookupResult::Session(..)),
        "it stands under both keys from now on"
    );
    before.revoke(RevocationTarget::Session(&session(1)), unix_now()).await.unwrap();
    assert!(matches!(after.find(&[1; 32]).await.unwrap(), LookupResult::Revoked));
}

#[tokio::test]
async fn unreadable_news_does_not_hide_other_news() {
    let redis = Redis::start().await;
    let (one, stranger) = (store_with_keys(&redis, 1, None), store_with_keys(&redis, 2, None));
    let mut cursor = Cursor::default();
    assert_eq!(one.revocations_since(&mut cursor).await.unwrap(), RevocationEvents::default());
    stranger.revoke_token(&[5; 32]).await.unwrap();
    one.revoke_token(&[6; 32]).await.unwrap();
    assert_eq!(one.revocations_since(&mut cursor).await.unwrap().tokens, [[6; 32]]);
}

#[tokio::test]
async fn token_pointers_last_as_long_as_newest_refresh_token() {
    let redis = Redis::start().await;
    let store = in_redis(&redis);
    let (now, brief) = (unix_now(), unix_now() + 3);
    let mut first = (*session(1)).clone();
    first.expires_at = brief;
    store.insert(Arc::new(first.clone()), 1).await.unwrap();
    let fencing_token = locked(&store, &first).await;
    let later = first.refreshed("access".into(), now + 1800, 1800, [2; 32], Some("rotated".into()), Some(now + 3600));
    store.replace(Arc::new(later), fencing_token).await.unwrap();
    let mut other = (*session(3)).clone();
    other.expires_at = brief;
    store.insert(Arc::new(other), 1).await.unwrap();
    wait_until(brief + 1).await;
    for token in [[1; 32], [2; 32]] {
        assert!(matches!(store.find(&token).await.unwrap(), LookupResult::Session(..)), "also the login's own");
    }
    end_all(&store, &first.owner).await.unwrap();
    assert!(matches!(store.find(&[1; 32]).await.unwrap(), LookupResult::Revoked), "another session's end hides none");
}

#[tokio::test]
async fn customer_sessions_survive_key_rotation() {
    let redis = Redis::start().await;
    store_with_keys(&redis, 1, None).insert(session(1), 1).await.unwrap();
    let rotating = store_with_keys(&redis, 2, Some(1));
    assert!(matches!(rotating.find(&[1; 32]).await.unwrap(), LookupResult::Session(..)));
    let fencing_token = locked(&rotating, &session(1)).await;
    rotating.replace(refreshed(&session(1), 9), fencing_token).await.unwrap();
    let (rotated, owner) = (store_with_keys(&redis, 2, None), session(1).owner.clone());
    end_all(&rotated, &owner).await.unwrap();
    assert!(matches!(rotated.find(&[1; 32]).await.unwrap(), LookupResult::Revoked));
}

#[tokio::test]
async fn late_insert_does_not_restore_ended_session() {
    with_each_store(async |store| {
        store.revoke(RevocationTarget::Session(&session(1)), unix_now()).await.unwrap();
        store.insert(session(1), 1).await.unwrap();
        assert!(matches!(store.find(&[1; 32]).await.unwrap(), LookupResult::Revoked));
        assert_eq!(store.lock(&session(1), LEASE).await.unwrap(), LockResult::SessionGone);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_survives_concurrent_replace() {
    for _ in 0..5_000 {
        let store = Arc::new(MemoryStore::new(100));
        store.insert(session(1), 1).await.unwrap();
        let fencing_token = locked(&*store, &session(1)).await;
        let writing = Arc::clone(&store);
        let written =
            tokio::spawn(async move { writing.replace(refreshed(&session(1), 2), fencing_token).await.unwrap() });
        store.revoke(RevocationTarget::Session(&session(1)), unix_now()).await.unwrap();
        let _ = written.await.unwrap();
        for token in [[1; 32], [2; 32]] {
            assert!(!matches!(store.find(&token).await.unwrap(), LookupResult::Session(..)));
        }
    }
}

#[tokio::test]
async fn redis_user_database_and_prefix_are_respected() {
    let redis = Redis::start().await;
    let rules = ["ON", ">pa ss", "~test:*", "-@all"];
    let commands = "GET SET DEL EXPIREAT PEXPIREAT TTL HSET HGET HMGET HINCRBY EXISTS SADD SREM SMEMBERS XADD XRANGE \
                    XREVRANGE EVALSHA SCRIPT TIME CLIENT SELECT";
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("gateway").arg(&rules);
    for command in commands.split_whitespace() {
        user.arg(format!("+{}", command.to_lowercase()));
    }
    redis.run::<()>(&user).await;
    redis.run::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-@write")).await;
    let of = |password: &str| {
        let mut settings = configured(RedisTopology::Standalone(redis.address()));
        (settings.login, settings.database) = (login(Some("gateway"), password), 3);
        redis_store(&settings)
    };
    let store = of("pa ss");
    store.insert(session(1), 1).await.unwrap();
    let fencing_token = locked(&store, &session(1)).await;
    assert_eq!(store.replace(refreshed(&session(1), 2), fencing_token).await.unwrap(), CasResult::Written);
    store.touch(&session(1), 2).await.unwrap();
    store.reserve_login_slot(b"ada", Duration::from_secs(1), Duration::from_secs(1)).await.unwrap();
    store.acquire_tokens(b"slas", BucketConfig { capacity: 1, refill_interval: LEASE }, 1, 0).await.unwrap().unwrap();
    store.put_value(b"keys", b"value", LEASE).await.unwrap();
    assert_eq!(store.get_value(b"keys").await.unwrap().unwrap(), b"value");
    store.revoke(RevocationTarget::Session(&session(1)), unix_now()).await.unwrap();
    store.check_commands().await.unwrap();
    store.check_key(true).await.unwrap();
    assert!(redis.run::<String>(redis::cmd("INFO").arg("keyspace")).await.contains("db3:"));
    assert!(!redis.run::<String>(redis::cmd("INFO").arg("keyspace")).await.contains("db0:"));
    assert!(of("wrong").find(&[1; 32]).await.is_err());
}

#[tokio::test]
async fn redis_over_tls_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let issued = authority.server();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        text(&issued.certificate),
        "--tls-key-file",
        text(&issued.private_key),
        "--tls-ca-cert-file",
        text(&authority.certificate),
        "--tls-auth-clients",
        "no",
    ];
    let _redis = Redis::start_with(&arguments).await;
    let of = |authority: &Authority| {
        let mut settings = configured(RedisTopology::Standalone(RedisAddress::Tcp("localhost".into(), port)));
        settings.tls = Some(tls_trusting(authority));
        redis_store(&settings)
    };
    let store = of(&authority);
    store.insert(session(1), 1).await.unwrap();
    assert!(matches!(store.find(&[1; 32]).await.unwrap(), LookupResult::Session(..)));
    assert!(of(&stranger).find(&[1; 32]).await.is_err(), "signed by another authority");
}

#[tokio::test]
async fn full_memory_store_evicts_least_recently_used_sessions() {
    let store = MemoryStore::new(100);
    for number in 0..150 {
        let mut newest = session(number);
        store.insert(Arc::clone(&newest), u64::from(number)).await.unwrap();
        for token in 1..9 {
            let fencing_token = locked(&store, &newest).await;
            let access = SecretString::from("access");
            let mut digest = [number; 32];
            digest[0] = token;
            digest[1] = 255;
            newest = Arc::new(newest.refreshed(access, unix_now() + 1800, 1800, digest, None, None));
            store.replace(Arc::clone(&newest), fencing_token).await.unwrap();
        }
        if number == 99 {
            assert_eq!(store.sweep(0, LEASE).await, Some(100));
        }
    }
    assert_eq!(store.sweep(0, LEASE).await, Some(100));
    for number in 0..150 {
        let mut newest = [number; 32];
        newest[0] = 8;
        newest[1] = 255;
        for token in [[number; 32], newest] {
            let is_held = matches!(store.find(&token).await.unwrap(), LookupResult::Session(..));
            assert_eq!(is_held, number >= 50, "session {number}");
        }
    }
}
