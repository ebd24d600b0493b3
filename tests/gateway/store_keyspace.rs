//! The commands that the gateway sends to Redis, the lifetimes of its keys, and the encryption of their values.

use std::{sync::Arc, time::Duration};

use redis::cmd;
use shopper_gateway::{
    config::RedisTopology,
    ratelimit::BucketConfig,
    store::{
        Epoch, FencingToken, KeyCheck, LockResult, Outage, RevocationTarget, Session, SessionStore,
        UnavailableCause as Cause, redis::RedisStore,
    },
    time::unix_now,
};

use crate::{
    redis::Redis,
    store::{configured, login, redis_store, session, store_with_keys},
};

const LEASE: Duration = Duration::from_secs(30);
/// Every command that a store sends, those of connecting aside.
const COMMANDS: &str = "GET SET DEL EXPIREAT PEXPIREAT TTL HSET HGET HMGET HINCRBY EXISTS SADD SREM SMEMBERS XADD XRANGE \
                        XREVRANGE EVALSHA SCRIPT TIME";
/// Keys without expiry, by the part after the prefix. There are none.
const WITHOUT_EXPIRY: [&str; 0] = [];

async fn fencing_token(store: &RedisStore, session: &Session) -> FencingToken {
    match store.lock(session, LEASE).await.unwrap() {
        LockResult::Acquired(fencing_token) => fencing_token,
        lock => panic!("{lock:?}"),
    }
}

/// Writes every kind of state that a store keeps.
async fn write_everything(store: &RedisStore) {
    let now = unix_now();
    // Three sessions: one stays, one is renewed while locked again, one ends.
    let own = Arc::new(Session::clone(&session(1)).with_caller_refresh_token([101; 32], None, now));
    store.insert(Arc::clone(&own), now).await.unwrap();
    store.insert(session(2), now).await.unwrap();
    store.insert(session(3), now).await.unwrap();
    let lock = fencing_token(store, &session(2)).await;
    let next = session(2).refreshed("a".into(), now + 1800, 1800, [22; 32], Some("r".into()), None);
    store.replace(Arc::new(next.with_caller_refresh_token([102; 32], None, now)), lock).await.unwrap();
    fencing_token(store, &session(2)).await;
    store.touch(&session(1), now + 1).await.unwrap();
    store.revoke(RevocationTarget::Session(&session(3)), now).await.unwrap();
    let keys = session(4).revocation_keys();
    let token = RevocationTarget::Token { digest: [44; 32], keys, issued_at: now, epoch: None };
    store.revoke(token, now).await.unwrap();
    let owner = &session(5).owner;
    store.revoke_customer(&owner.organization, owner.customer.as_ref().unwrap(), now).await.unwrap();
    // The sessions follow the end of the customer's sessions, which would have removed them.
    let customer = store.revocations(&session(6).revocation_keys()).await.unwrap().customer.number;
    for number in [6, 7] {
        let mut later = Session::clone(&session(number));
        later.epoch = Epoch { session: 0, customer };
        store.insert(Arc::new(later), now).await.unwrap();
    }
    fencing_token(store, &session(6)).await;
    // An expired session, as of a login that was written late.
    let mut over = Session::clone(&session(8));
    over.owner.customer = Some("late".parse().unwrap());
    over.expires_at = now - 5;
    store.insert(Arc::new(over), now).await.unwrap();
    store.revoke_token(&[55; 32]).await.unwrap();
    store.record_epoch(&[66; 32], Epoch { session: 1, customer: 1 }, LEASE).await.unwrap();
    store.acquire_creation_lock(&[77; 32], LEASE).await.unwrap();
    store.reserve_login_slot(b"ada", LEASE, LEASE).await.unwrap();
    store.acquire_tokens(b"slas", BucketConfig { capacity: 9, refill_interval: LEASE }, 1, 0).await.unwrap().unwrap();
    store.put_value(b"keys", b"value", LEASE).await.unwrap();
    store.check_key(true).await.unwrap();
    store.check_commands().await.unwrap();
}

/// Keys and their remaining lifetimes in seconds; -1 for a key without expiry.
async fn key_lifetimes(redis: &Redis) -> Vec<(String, i64)> {
    let mut lives = Vec::new();
    for name in redis.run::<Vec<String>>(cmd("KEYS").arg("*")).await {
        lives.push((name.clone(), redis.run::<i64>(cmd("TTL").arg(&name)).await));
    }
    lives
}

#[tokio::test]
async fn every_redis_key_has_a_ttl() {
    for redis in [Redis::start().await, Redis::cluster().await] {
        let is_cluster = redis.run::<String>(cmd("INFO").arg("cluster")).await.contains("cluster_enabled:1");
        let topology = if is_cluster {
            RedisTopology::Cluster(vec![redis.address()])
        } else {
            RedisTopology::Standalone(redis.address())
        };
        let store = redis_store(&configured(topology));
        write_everything(&store).await;
        let lives = key_lifetimes(&redis).await;
        // Each kind of the table in `store/redis.rs` is among them.
        for kind in [
            "test:t:",
            "test:e:",
            "test:{",
            "test:u:",
            "test:ended",
            "test:w:",
            "test:c:",
            "test:b:",
            "test:k:",
            "test:key",
        ] {
            assert!(lives.iter().any(|(name, _)| name.starts_with(kind)), "{kind}: {lives:?}");
        }
        for suffix in [":s", ":l"] {
            assert!(lives.iter().any(|(name, _)| name.ends_with(suffix)), "{suffix}: {lives:?}");
        }
        for (name, life) in &lives {
            let is_endless = WITHOUT_EXPIRY.iter().any(|endless| name.strip_prefix("test:") == Some(endless));
            assert!(*life > 0 || is_endless, "{name} has no end: {life}");
            assert!(*life <= 90 * 24 * 3600, "{name}: {life}");
        }
    }
}

#[tokio::test]
async fn forbidden_command_is_reported_and_leaves_no_keys() {
    let redis = Redis::start().await;
    let user = |name: &str, forbidden: Option<&str>| {
        let mut rules = cmd("ACL");
        rules.arg("SETUSER").arg(name).arg(&["ON", ">pw", "~test:*", "-@all", "+client"]);
        for command in COMMANDS.split_whitespace().filter(|command| Some(*command) != forbidden) {
            rules.arg(format!("+{}", command.to_lowercase()));
        }
        rules
    };
    for forbidden in COMMANDS.split_whitespace().map(Some).chain([None]) {
        let name = format!("without-{}", forbidden.unwrap_or("nothing"));
        redis.run::<()>(&user(&name, forbidden)).await;
        let mut settings = configured(RedisTopology::Standalone(redis.address()));
        settings.login = login(Some(&name), "pw");
        let tried = redis_store(&settings).check_commands().await;
        match forbidden {
            Some(forbidden) => {
                let refused = tried.unwrap_err();
                assert!(refused.command.starts_with(forbidden), "{forbidden}: {refused}");
                assert_eq!(refused.outage, Some(Outage::of_redis(Cause::PermissionDenied)), "{forbidden}");
                assert!(refused.to_string().starts_with(&format!("{} failed: ", refused.command)), "{refused}");
            }
            None => tried.unwrap(),
        }
        // A user without permission to delete leaves keys that expire.
        let left: Vec<_> = key_lifetimes(&redis).await;
        assert!(left.is_empty() || forbidden == Some("DEL"), "{forbidden:?}: {left:?}");
        assert!(left.iter().all(|(_, life)| *life > 0), "{forbidden:?}: {left:?}");
    }
}

#[tokio::test]
async fn keys_outside_allowed_prefix_are_an_outage() {
    let redis = Redis::start().await;
    redis.run::<()>(cmd("ACL").arg("SETUSER").arg("gateway").arg(&["ON", ">pw", "~other:*", "+@all"])).await;
    let mut settings = configured(RedisTopology::Standalone(redis.address()));
    settings.login = login(Some("gateway"), "pw");
    let refused = redis_store(&settings).check_commands().await.unwrap_err();
    assert_eq!(refused.outage, Some(Outage::of_redis(Cause::PermissionDenied)));
}

fn is_other_key(check: &KeyCheck) -> bool {
    matches!(check, KeyCheck::Mismatch { .. })
}

#[tokio::test]
async fn gateway_with_another_encryption_key_detects_mismatch_and_fleet_does_not() {
    let redis = Redis::start().await;
    let (one, two, stranger) =
        (store_with_keys(&redis, 1, None), store_with_keys(&redis, 1, None), store_with_keys(&redis, 9, None));
    assert_eq!(stranger.check_key(false).await, Ok(KeyCheck::Unknown), "a check writes nothing");
    assert_eq!(key_lifetimes(&redis).await, []);
    assert_eq!(one.check_key(true).await, Ok(KeyCheck::Match));
    assert_eq!(two.check_key(true).await, Ok(KeyCheck::Match));
    for registers in [false, true] {
        let check = stranger.check_key(registers).await.unwrap();
        let KeyCheck::Mismatch { own, stored } = &check else { panic!("{check:?}") };
        assert!(own != stored && check.to_string().contains("store.encryption_key"), "{check}");
        assert!(is_other_key(&stranger.state().key));
    }
    assert_eq!(one.check_key(true).await, Ok(KeyCheck::Match));
    // The operator of a fleet that starts with another key on purpose deletes the value.
    redis.run::<()>(cmd("DEL").arg("test:key")).await;
    assert_eq!(stranger.check_key(true).await, Ok(KeyCheck::Match));
    assert_eq!(stranger.state().key, KeyCheck::Match);
}

#[tokio::test]
async fn rolling_encryption_key_replacement_reports_no_mismatch() {
    let redis = Redis::start().await;
    // Two gateways follow the steps of OPERATIONS.md one after the other; each checks its key regularly.
    let steps: [(u8, Option<u8>); 4] = [(1, None), (1, Some(2)), (2, Some(1)), (2, None)];
    let mut fleet = [store_with_keys(&redis, 1, None), store_with_keys(&redis, 1, None)];
    for (current, previous) in steps {
        for replica in [0, 1] {
            fleet[replica] = store_with_keys(&redis, current, previous);
            for _ in 0..2 {
                for gateway in [replica, 1 - replica] {
                    let check = fleet[gateway].check_key(true).await.unwrap();
                    assert_eq!(check, KeyCheck::Match, "{current} {previous:?} at {replica}, checked by {gateway}");
                }
            }
        }
    }
    assert!(
        is_other_key(&store_with_keys(&redis, 1, None).check_key(false).await.unwrap()),
        "the old key alone is another now"
    );
}

#[tokio::test]
async fn forged_key_check_value_is_a_mismatch() {
    let redis = Redis::start().await;
    let store = store_with_keys(&redis, 1, None);
    for text in ["", "x", "key check", "0123456789012345678901234567890123456789"] {
        redis.run::<()>(cmd("SET").arg("test:key").arg(text)).await;
        assert!(is_other_key(&store.check_key(true).await.unwrap()), "{text}");
    }
    // Another sealed value of the store is no check value either.
    store.put_value(b"key check", b"key check", LEASE).await.unwrap();
    let names: Vec<String> = redis.run(cmd("KEYS").arg("test:k:*")).await;
    let sealed: Vec<u8> = redis.run(cmd("GET").arg(&names[0])).await;
    redis.run::<()>(cmd("SET").arg("test:key").arg(sealed)).await;
    assert!(is_other_key(&store.check_key(true).await.unwrap()));
}
