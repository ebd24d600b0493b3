//! Replies of Redis that mean "not here, not now" are outages of the store, each with its own cause.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use redis::cmd;
use shopper_gateway::{
    config::{RedisAddress, RedisLogin, RedisTopology},
    observability::metrics::Metrics,
    store::{Cursor, LookupResult, Outage, SessionStore, StoreError, UnavailableCause as Cause, redis::RedisStore},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    redis::Redis,
    store::{configured, redis_store, session},
    world::{eventually, install_cryptography},
};

/// The commands that make Redis refuse writes, and the commands that end it.
struct RedisFault {
    cause: Cause,
    begin: &'static [&'static [&'static str]],
    end: &'static [&'static [&'static str]],
}

const REDIS_FAULTS: &[RedisFault] = &[
    RedisFault {
        cause: Cause::OutOfMemory,
        begin: &[&["CONFIG", "SET", "maxmemory", "1"]],
        end: &[&["CONFIG", "SET", "maxmemory", "0"]],
    },
    RedisFault {
        cause: Cause::TooFewReplicas,
        begin: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        end: &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
    },
    RedisFault {
        cause: Cause::ReadOnly,
        begin: &[&["REPLICAOF", "127.0.0.1", "1"]],
        end: &[&["REPLICAOF", "NO", "ONE"]],
    },
    RedisFault {
        cause: Cause::MasterDown,
        begin: &[&["CONFIG", "SET", "replica-serve-stale-data", "no"], &["REPLICAOF", "127.0.0.1", "1"]],
        end: &[&["REPLICAOF", "NO", "ONE"]],
    },
    RedisFault {
        cause: Cause::PermissionDenied,
        begin: &[&["ACL", "SETUSER", "default", "-hset"]],
        end: &[&["ACL", "SETUSER", "default", "+hset"]],
    },
];

async fn run_all(redis: &Redis, commands: &[&[&str]]) {
    for words in commands {
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        redis.run::<redis::Value>(&command).await;
    }
}

fn store_with_metrics(topology: RedisTopology) -> (RedisStore, Metrics) {
    install_cryptography();
    let metrics = Metrics::new("test", "test").unwrap();
    (RedisStore::new(&configured(topology), &metrics).unwrap(), metrics)
}

#[tokio::test]
async fn rejected_write_marks_store_down_until_writes_succeed() {
    let tried = REDIS_FAULTS.iter().map(async |RedisFault { cause, begin, end }| {
        let redis = Redis::start().await;
        let (store, metrics) = store_with_metrics(RedisTopology::Standalone(redis.address()));
        store.insert(session(1), 1).await.unwrap();
        assert_eq!((metrics.store_up.get(), store.state().outage), (1, None));
        run_all(&redis, begin).await;
        assert_eq!(store.insert(session(2), 1).await, Err(StoreError::Unavailable), "{cause:?}");
        assert_eq!((metrics.store_up.get(), store.state().outage), (0, Some(Outage::of_redis(*cause))));
        // Successful reads do not hide the outage.
        let mut cursor = Cursor::default();
        for _ in 0..5 {
            let _ = store.revocations_since(&mut cursor).await;
            assert_eq!(metrics.store_up.get(), 0, "{cause:?}");
        }
        run_all(&redis, end).await;
        eventually("the store is up again", async || {
            let _ = store.revocations_since(&mut cursor).await;
            metrics.store_up.get() == 1
        })
        .await;
        assert_eq!(store.insert(session(2), 1).await, Ok(()), "{cause:?}");
    });
    join_all(tried).await;
}

#[tokio::test]
async fn script_rejected_midway_marks_store_down() {
    let redis = Redis::start().await;
    let (store, metrics) = store_with_metrics(RedisTopology::Standalone(redis.address()));
    store.insert(session(1), 1).await.unwrap();
    run_all(&redis, &[&["ACL", "SETUSER", "default", "-hincrby"]]).await;
    let lock = store.lock(&session(1), Duration::from_secs(1)).await;
    assert_eq!(lock, Err(StoreError::Unavailable), "the script's command is forbidden, not the script");
    assert_eq!(store.state().outage, Some(Outage::of_redis(Cause::PermissionDenied)));
    assert_eq!(metrics.store_up.get(), 0);
}

#[tokio::test]
async fn value_of_wrong_type_is_no_outage() {
    let redis = Redis::start().await;
    let (store, metrics) = store_with_metrics(RedisTopology::Standalone(redis.address()));
    store.insert(session(1), 1).await.unwrap();
    let keys: Vec<String> = redis.run(cmd("KEYS").arg("test:{*}:s")).await;
    redis.run::<()>(cmd("SET").arg(&keys[0]).arg(1)).await;
    assert!(matches!(store.find(&[1; 32]).await, Err(StoreError::Broken(_))));
    assert_eq!((metrics.store_up.get(), store.state().outage), (1, None));
}

#[tokio::test]
async fn rejected_commands_reconnect_at_most_once_a_second_and_reads_continue() {
    let redis = Redis::start().await;
    let (store, _) = store_with_metrics(RedisTopology::Standalone(redis.address()));
    store.insert(session(1), 1).await.unwrap();
    run_all(&redis, &[&["CONFIG", "SET", "maxmemory", "1"]]).await;
    let connections = async || {
        let stats: String = redis.run(cmd("INFO").arg("stats")).await;
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let before = connections().await;
    for _ in 0..200 {
        assert!(store.insert(session(2), 1).await.is_err());
        assert!(matches!(store.find(&[1; 32]).await, Ok(LookupResult::Session(..))), "reads go on");
    }
    let opened = connections().await - before;
    assert!(opened < 20, "{opened}");
}

/// A Sentinel that names the server at this port. As real ones do, it closes no connection to the previous server.
async fn sentinel_that_names(port: Arc<AtomicU16>) -> RedisAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = RedisAddress::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let port = Arc::clone(&port);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = client.read(&mut bytes).await {
                    let asked = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    let number = port.load(Ordering::Relaxed).to_string();
                    let named = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{number}\r\n", number.len());
                    let answer = "+OK\r\n".repeat(asked.matches("SETINFO").count())
                        + &named.repeat(asked.matches("GET-MASTER-ADDR-BY-NAME").count());
                    client.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn demoted_master_is_left_for_master_named_by_sentinels() {
    let (before, after) = (Redis::start().await, Redis::start().await);
    let named = Arc::new(AtomicU16::new(before.port));
    let (store, metrics) = store_with_metrics(RedisTopology::Sentinel {
        sentinels: vec![sentinel_that_names(Arc::clone(&named)).await],
        master: "shop".into(),
        login: RedisLogin::default(),
        tls: None,
    });
    store.insert(session(1), 1).await.unwrap();
    assert_eq!(after.run::<i64>(&cmd("DBSIZE")).await, 0);
    // The connection stays open, and its replies are READONLY.
    before.run::<()>(cmd("REPLICAOF").arg("127.0.0.1").arg(after.port)).await;
    named.store(after.port, Ordering::Relaxed);
    eventually("the next connection may be made", async || store.insert(session(2), 1).await.is_ok()).await;
    assert!(after.run::<i64>(&cmd("DBSIZE")).await > 0);
    eventually("the store is up", async || {
        let _ = store.revocations_since(&mut Cursor("0-0".to_owned())).await;
        metrics.store_up.get() == 1
    })
    .await;

    // The first refused command replaces a connection older than a second, without an error for the caller.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    after.run::<()>(cmd("REPLICAOF").arg("127.0.0.1").arg(before.port)).await;
    before.run::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    named.store(before.port, Ordering::Relaxed);
    assert_eq!(store.insert(session(3), 1).await, Ok(()));
    assert_eq!((metrics.store_up.get(), store.state().outage), (1, None));
}

#[tokio::test]
async fn outage_cause_follows_latest_failure() {
    let mut redis = Redis::start().await;
    let store = Arc::new(redis_store(&configured(RedisTopology::Standalone(redis.address()))));
    store.insert(session(1), 1).await.unwrap();
    run_all(&redis, &[&["CONFIG", "SET", "maxmemory", "1"]]).await;
    assert!(store.insert(session(2), 1).await.is_err());
    redis.kill();
    eventually("the store says that nothing listens", async || {
        let _ = store.find(&[1; 32]).await;
        store.state().outage == Some(Outage::of_redis(Cause::ConnectionRefused))
    })
    .await;
    redis.restart().await;
    eventually("an answer is enough after a lost connection", async || {
        store.find(&[1; 32]).await.is_ok() && store.state().outage.is_none()
    })
    .await;
}
