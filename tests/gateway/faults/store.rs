//! A Redis whose replies come late, never, cut in half or garbled, and whose connections are reset.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{PRIVATE_CLIENT, PUBLIC_CLIENT, World, search};
use crate::{
    redis::{Redis, in_redis},
    world::{eventually, expired},
};

/// The fault that the proxy applies to replies.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
enum Fault {
    None,
    Late,
    Never,
    Half,
    Nonsense,
    Huge,
    Error,
    Reset,
}

const FAULTS: [Fault; 7] =
    [Fault::Late, Fault::Never, Fault::Half, Fault::Nonsense, Fault::Huge, Fault::Error, Fault::Reset];

/// A proxy between gateway and Redis.
struct FaultyProxy {
    address: SocketAddr,
    fault: Arc<AtomicU8>,
}

impl FaultyProxy {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), fault: Arc::default() };
        let fault = Arc::clone(&relay.fault);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // Closing the connection resets it.
                near.set_zero_linger().unwrap();
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(forward(near, far, Arc::clone(&fault)));
            }
        });
        relay
    }

    fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Relaxed);
    }
}

async fn forward(near: TcpStream, far: TcpStream, fault: Arc<AtomicU8>) {
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
    let asking = tokio::spawn(async move {
        // If one side breaks off, the other is closed too.
        let _ = tokio::io::copy(&mut from_near, &mut to_far).await;
    });
    let mut answer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_far.read(&mut answer).await {
        let answer = &answer[..read];
        let now = fault.load(Ordering::Relaxed);
        let is = |fault: Fault| now == fault as u8;
        let written = if is(Fault::Late) {
            // Longer than `store.timeout`.
            tokio::time::sleep(Duration::from_secs(1)).await;
            to_near.write_all(answer).await
        } else if is(Fault::Never) {
            continue;
        } else if is(Fault::Half) {
            let _ = to_near.write_all(&answer[..read / 2]).await;
            break;
        } else if is(Fault::Nonsense) {
            to_near.write_all(b"$99999999999\r\n<html>s3cret\x00\xff").await
        } else if is(Fault::Huge) {
            let _ = to_near.write_all(b"$20000000\r\n").await;
            to_near.write_all(&vec![b'x'; 20_000_002]).await
        } else if is(Fault::Error) {
            to_near.write_all(b"-OOM s3cret java.lang.Error 10.0.0.7\r\n").await
        } else if is(Fault::Reset) {
            break;
        } else {
            to_near.write_all(answer).await
        };
        if written.is_err() {
            break;
        }
    }
    asking.abort();
}

async fn status(world: &World, token: &str) -> (StatusCode, Option<String>) {
    let answer = world.send(world.get(&search()).bearer_auth(token)).await;
    let code = answer.header("x-shopper-gateway-error").map(str::to_owned);
    if answer.status.is_server_error() {
        super::check("redis", &answer, (503, "store_unavailable"));
    }
    (answer.status, code)
}

#[tokio::test]
async fn redis_fault_leaves_valid_tokens_working_and_sessions_recover() {
    let redis = Redis::start().await;
    let relay = FaultyProxy::to(redis.port).await;
    let url = format!("redis://{}/0", relay.address);
    let change = |config: &mut toml::Table| {
        in_redis(config, &url);
        config["store"].as_table_mut().unwrap().insert("timeout".into(), "100ms".into());
    };
    // Two gateways: the second one knows sessions only from the store.
    let first = World::with(change).await;
    let second = crate::world::Gateway::start(&first.simulator.url(), change).await;
    let client = first.client.clone();
    let on_second = async |token: &str| {
        let url = format!("http://{}{}", second.address, search());
        let answer = client.get(url).bearer_auth(token).send().await.unwrap();
        let code = answer.headers().get("x-shopper-gateway-error").map(|code| code.to_str().unwrap().to_owned());
        let text = format!("{:?} {}", answer.headers(), StatusCode::as_u16(&answer.status()));
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        for mark in ["s3cret", "java", "10.0.0.7", "redis"] {
            assert!(!text.contains(mark) && !body.contains(mark), "{mark} in {text} {body}");
        }
        (status, code)
    };
    let sessions_in_redis = async || redis.run::<Vec<String>>(redis::cmd("KEYS").arg("test:{*}:s")).await.len();
    let mut sessions = 0;
    for fault in FAULTS {
        first.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
        let ended = first.guest(PUBLIC_CLIENT).await.token();
        first.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
        let valid = first.guest(PUBLIC_CLIENT).await.token();
        expired(&ended).await;
        // After a fault the first gateway writes its sessions in the background: one attempt a second.
        sessions += 2;
        eventually("all sessions are in Redis", async || sessions_in_redis().await == sessions).await;
        relay.set_fault(fault);
        for _ in 0..5 {
            assert_eq!(status(&first, &valid).await.0, 200, "{fault:?}");
            assert_eq!(on_second(&valid).await.0, 200, "{fault:?}");
            assert_eq!(on_second(&ended).await, (503, Some("store_unavailable".into())), "{fault:?}");
        }
        assert_eq!(first.guest(PUBLIC_CLIENT).await.status, 200, "{fault:?}: a login succeeds");
        sessions += 1;
        relay.set_fault(Fault::None);
        eventually("the session is there again", async || on_second(&ended).await.0 == 200).await;
    }
}

#[tokio::test]
async fn login_is_not_rate_limited_while_redis_is_slow() {
    let redis = Redis::start().await;
    let relay = FaultyProxy::to(redis.port).await;
    let world = World::with(|config| {
        in_redis(config, &format!("redis://{}/0", relay.address));
        for tenant in config["tenants"].as_array_mut().unwrap() {
            // A replica's own quarter is 25 a minute, a fifth of them at once.
            tenant.as_table_mut().unwrap().insert("slas_requests_per_minute".into(), 100.into());
        }
    })
    .await;
    relay.set_fault(Fault::Late);
    let logins = futures::future::join_all((0..5).map(|_| world.guest(PRIVATE_CLIENT))).await;
    let statuses = logins.iter().map(|login| login.status.as_u16()).collect::<Vec<_>>();
    assert_eq!(statuses, [200; 5]);
}
