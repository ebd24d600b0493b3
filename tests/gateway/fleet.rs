//! Several replicas, each in a process of its own, share one Redis and one simulated Salesforce.

mod on_behalf;

use std::{net::SocketAddr, time::Duration};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault, Seed, Simulator};

use crate::{
    redis::{KEY, OTHER_KEY, Redis, in_redis},
    replica::Replica,
    world::{
        LOGIN, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, customers, eventually, expired, install_cryptography,
        login_target, products,
    },
};

const PRODUCTS: &str = "?ids=a&siteId=RefArch";

struct Fleet {
    simulator: Simulator,
    redis: Redis,
    replicas: Vec<Replica>,
    client: Client,
}

impl Fleet {
    async fn start(replicas: usize) -> Self {
        Self::with(replicas, |_| {}).await
    }

    async fn with(count: usize, change: impl Fn(&mut toml::Table)) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let redis = Redis::start().await;
        let mut replicas = Vec::new();
        for _ in 0..count {
            let (salesforce, store) = (simulator.url(), redis.url());
            let start = Replica::start(&salesforce, |config| {
                in_redis(config, &store);
                change(config);
            });
            replicas.push(start.await);
        }
        Self { simulator, redis, replicas, client: Client::builder().no_proxy().build().unwrap() }
    }

    fn address(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].address
    }

    fn read(&self, replica: usize, token: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{}", self.address(replica), products(PRODUCTS))).bearer_auth(token)
    }

    async fn status(&self, replica: usize, token: &str) -> StatusCode {
        self.read(replica, token).send().await.unwrap().status()
    }

    async fn guest(&self, replica: usize, client: &str) -> String {
        let url = format!("http://{}{}", self.address(replica), login_target(client));
        let answer = self.client.post(url).body(r#"{"type":"guest"}"#).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        token_of(&answer)
    }

    async fn log_in(&self, replica: usize, client: &str) -> String {
        let url = format!("http://{}{}", self.address(replica), login_target(client));
        let request = self.client.post(url).basic_auth(LOGIN, Some(PASSWORD)).body(r#"{"type":"credentials"}"#);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        token_of(&answer)
    }

    async fn log_out(&self, replica: usize, token: &str) {
        let url = format!("http://{}{}", self.address(replica), customers("/customers/actions/logout?siteId=RefArch"));
        let answer = self.client.request(Method::DELETE, url).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    }
}

fn token_of(answer: &reqwest::Response) -> String {
    answer.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

#[tokio::test]
async fn concurrent_requests_at_two_replicas_cause_one_refresh() {
    let fleet = Fleet::start(2).await;
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 3);
        let token = fleet.guest(0, client).await;
        expired(&token).await;
        fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
        fleet.simulator.clear_ledger();
        fleet.simulator.inject(Fault::on("slas", Effect::Delay { ms: 300 }).flow("token:refresh_token"));
        let requests = (0..200).map(|number| fleet.read(number % 2, &token).send());
        let mut tokens = Vec::new();
        for answer in futures::future::join_all(requests).await {
            let answer = answer.unwrap();
            assert_eq!(answer.status(), 200);
            tokens.push(token_of(&answer));
        }
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "everybody gets the same token");
        assert_eq!(fleet.simulator.count("slas", "token:refresh_token"), 1, "{client}");
        fleet.simulator.clear_faults();
    }
}

#[tokio::test]
async fn session_survives_kill_of_refreshing_replica() {
    let mut fleet = Fleet::with(2, |config| {
        config.insert("timeouts".into(), "exchange = \"2s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let token = fleet.guest(0, PUBLIC_CLIENT).await;
    expired(&token).await;
    // The first refresh hangs before SLAS processes it; its replica is killed during the refresh.
    fleet.simulator.clear_ledger();
    fleet.simulator.inject(Fault::on("slas", Effect::Hang).flow("token:refresh_token").times(1));
    let doomed = tokio::spawn(fleet.read(0, &token).send());
    eventually("the refresh is under way", async || fleet.simulator.count("slas", "token:refresh_token") == 1).await;
    fleet.replicas[0].kill();
    assert!(doomed.await.unwrap().is_err());
    // The other replica refreshes after the lease has expired.
    let answer = fleet.read(1, &token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_ne!(token_of(&answer), token);
}

#[tokio::test]
async fn logout_reaches_other_replicas_within_a_second() {
    let fleet = Fleet::start(2).await;
    let token = fleet.log_in(0, PUBLIC_CLIENT).await;
    assert_eq!(fleet.status(0, &token).await, 200);
    assert_eq!(fleet.status(1, &token).await, 200, "the other replica knows the session by now");
    fleet.log_out(0, &token).await;
    assert_eq!(fleet.status(0, &token).await, 401);
    eventually("the other replica refuses the token", async || fleet.status(1, &token).await == 401).await;

    // A replica that has not seen the token reads the store first.
    let late = fleet.guest(0, PUBLIC_CLIENT).await;
    fleet.log_out(0, &late).await;
    assert_eq!(fleet.status(1, &late).await, 401);
}

#[tokio::test]
async fn session_in_use_at_one_replica_is_not_idle_at_others() {
    let fleet = Fleet::with(2, |config| {
        config.insert("sessions".into(), "idle_timeout = \"4s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 8);
    let token = fleet.guest(0, PUBLIC_CLIENT).await;
    // Longer than the idle timeout, with a use each second.
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fleet.status(1, &token).await, 200);
    }
    // The login's replica has not seen the session for longer than the idle time.
    let answer = fleet.read(0, &token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_ne!(token_of(&answer), token, "the session goes on");
}

#[tokio::test]
async fn redis_holds_no_secret_in_clear_text() {
    let fleet = Fleet::start(1).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let mut secrets = vec![LOGIN.to_owned(), PASSWORD.to_owned(), KEY.to_owned()];
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        secrets.push(fleet.guest(0, client).await);
    }
    let token = fleet.log_in(0, PUBLIC_CLIENT).await;
    expired(&token).await;
    secrets.push(token_of(&fleet.read(0, &token).send().await.unwrap()));
    let dump = fleet.redis.dump().await;
    assert!(dump.lines().count() >= 6, "there is something to look at:\n{dump}");
    fleet.log_out(0, &token).await;
    let dump = format!("{dump}{}", fleet.redis.dump().await);
    // Refresh tokens, as SLAS gave them.
    for entry in fleet.simulator.ledger() {
        if let Some((_, rest)) = entry.body.split_once("refresh_token=") {
            secrets.push(rest.split('&').next().unwrap().to_owned());
        }
    }
    secrets.push(token);
    for secret in secrets {
        assert!(!dump.contains(&secret), "{secret} stands in Redis");
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!dump.contains(signature), "{signature} stands in Redis");
    }
}

#[tokio::test]
async fn encryption_key_rotation_keeps_sessions() {
    let mut fleet = Fleet::start(1).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let token = fleet.guest(0, PUBLIC_CLIENT).await;
    fleet.replicas.clear();
    let rotate = |previous: Option<&str>| {
        let url = fleet.redis.url();
        let previous = previous.map(|key| format!("previous_encryption_key = \"{key}\"")).unwrap_or_default();
        move |config: &mut toml::Table| {
            in_redis(config, &url);
            let store = config["store"].as_table_mut().unwrap();
            store.insert("encryption_key".into(), OTHER_KEY.into());
            store.extend(previous.parse::<toml::Table>().unwrap());
        }
    };
    expired(&token).await;
    let rotating = Replica::start(&fleet.simulator.url(), rotate(Some(KEY))).await;
    let read = |replica: &Replica| {
        fleet.client.get(format!("http://{}{}", replica.address, products(PRODUCTS))).bearer_auth(&token).send()
    };
    let renewed = read(&rotating).await.unwrap();
    assert_eq!(renewed.status(), 200);
    drop(rotating);
    expired(&token_of(&renewed)).await;
    let rotated = Replica::start(&fleet.simulator.url(), rotate(None)).await;
    let answer = read(&rotated).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_ne!(token_of(&answer), token);
}

#[tokio::test]
async fn redis_restart_loses_no_session() {
    let mut fleet = Fleet::start(2).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1800);
    let valid = fleet.guest(0, PUBLIC_CLIENT).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let ended = fleet.guest(0, PUBLIC_CLIENT).await;
    expired(&ended).await;
    // The following has no effect on shoppers with a valid token.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = [0, 1].map(|replica| {
        let (request, stopped) = (fleet.read(replica, &valid), stopped.clone());
        tokio::spawn(async move {
            let (mut sent, mut failed) = (0, 0);
            while !*stopped.borrow() {
                let answer = request.try_clone().unwrap().send().await;
                sent += 1;
                failed += usize::from(!answer.is_ok_and(|answer| answer.status() == 200));
            }
            (sent, failed)
        })
    });
    fleet.redis.kill();
    for replica in [0, 1] {
        for _ in 0..20 {
            assert_eq!(fleet.status(replica, &valid).await, 200, "a valid token needs no store");
        }
        let answer = fleet.read(replica, &ended).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["x-shopper-gateway-error"], "store_unavailable");
        assert!(answer.headers().contains_key("retry-after"));
        let readyz = fleet.client.get(format!("http://{}/readyz", fleet.replicas[replica].admin)).send().await.unwrap();
        assert_eq!(readyz.status(), 200, "readiness does not flap");
        let metrics =
            fleet.client.get(format!("http://{}/metrics", fleet.replicas[replica].admin)).send().await.unwrap();
        assert!(metrics.text().await.unwrap().contains("shopper_gateway_store_up 0"));
    }
    let during = fleet.guest(0, PUBLIC_CLIENT).await;
    fleet.redis.restart().await;
    eventually("the session is there again", async || fleet.status(1, &ended).await == 200).await;
    expired(&during).await;
    eventually("a login during the outage became a session", async || {
        let answer = fleet.read(1, &during).send().await.unwrap();
        answer.headers().contains_key("authorization")
    })
    .await;
    stop.send(true).unwrap();
    for task in load {
        let (sent, failed) = task.await.unwrap();
        assert!(sent > 20 && failed == 0, "{failed} of {sent} requests failed");
    }
}

impl Fleet {
    async fn admin(&self, replica: usize, path: &str) -> String {
        let url = format!("http://{}{path}", self.replicas[replica].admin);
        let answer = self.client.get(url).header("accept", "application/json").send().await.unwrap();
        answer.text().await.unwrap()
    }

    async fn store_status(&self, replica: usize) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.admin(replica, "/status").await).unwrap()["store"].take()
    }
}

#[tokio::test]
async fn redis_out_of_memory_is_reported_and_sessions_are_stored_later() {
    let fleet = Fleet::start(1).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let earlier = fleet.guest(0, PUBLIC_CLIENT).await;
    fleet.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await;
    let during = fleet.guest(0, PUBLIC_CLIENT).await;
    expired(&during).await;
    let answer = fleet.read(0, &earlier).send().await.unwrap();
    assert_eq!(answer.headers()["x-shopper-gateway-error"], "store_unavailable");
    // The gateway reads the revocations of other gateways several times a second meanwhile.
    let status = fleet.store_status(0).await;
    assert_eq!((&status["up"], &status["cause"]), (&false.into(), &"out_of_memory".into()), "{status}");
    assert!(status["detail"].as_str().unwrap().contains("(OOM)"), "{status}");
    let metrics = fleet.admin(0, "/metrics").await;
    assert!(metrics.contains("shopper_gateway_store_up 0") && metrics.contains("shopper_gateway_store_key_mismatch 0"));
    fleet.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    eventually("the store is up again", async || fleet.store_status(0).await["up"] == true).await;
    assert_eq!(fleet.store_status(0).await["cause"], serde_json::Value::Null);
    for token in [&earlier, &during] {
        eventually("the session is refreshed", async || fleet.status(0, token).await == 200).await;
    }
}

#[tokio::test]
async fn replica_with_another_encryption_key_is_reported_alone() {
    let fleet = Fleet::start(1).await;
    eventually("the first has left its check value", async || fleet.redis.dump().await.contains("test:key = ")).await;
    let (salesforce, store) = (fleet.simulator.url(), fleet.redis.url());
    let other = Replica::start(&salesforce, |config| {
        in_redis(config, &store);
        config["store"].as_table_mut().unwrap().insert("encryption_key".into(), OTHER_KEY.into());
    });
    let mut fleet = fleet;
    fleet.replicas.push(other.await);
    eventually("the other says so", async || fleet.store_status(1).await["key_mismatch"] == true).await;
    let status = fleet.store_status(1).await;
    assert!(status["detail"].as_str().unwrap().contains("store.encryption_key"), "{status}");
    assert!(fleet.admin(1, "/metrics").await.contains("shopper_gateway_store_key_mismatch 1"));
    assert_eq!(fleet.store_status(0).await["key_mismatch"], false);
    assert!(fleet.admin(0, "/metrics").await.contains("shopper_gateway_store_key_mismatch 0"));
    // The gateway serves: it knows its own logins.
    let token = fleet.guest(1, PUBLIC_CLIENT).await;
    assert_eq!(fleet.status(1, &token).await, 200);
}

#[tokio::test]
async fn valid_token_is_served_while_redis_is_paused() {
    let fleet = Fleet::with(1, |config| {
        config["store"].as_table_mut().unwrap().insert("timeout".into(), "50ms".into());
    })
    .await;
    let valid = fleet.guest(0, PUBLIC_CLIENT).await;
    fleet.redis.pause();
    for _ in 0..20 {
        assert_eq!(fleet.status(0, &valid).await, 200);
    }
    fleet.redis.resume();
    assert_eq!(fleet.status(0, &valid).await, 200);
}

#[tokio::test]
async fn session_is_not_called_idle_while_store_is_down() {
    let fleet = Fleet::with(2, |config| {
        config.insert("sessions".into(), "idle_timeout = \"4s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 6);
    let token = fleet.guest(0, PUBLIC_CLIENT).await;
    // Longer than the idle timeout, with a use each second.
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fleet.status(1, &token).await, 200);
    }
    fleet.redis.pause();
    let answer = fleet.read(0, &token).send().await.unwrap();
    fleet.redis.resume();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["x-shopper-gateway-error"], "store_unavailable");
}

#[tokio::test]
async fn refreshed_session_counts_once_in_metrics() {
    let fleet = Fleet::start(1).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let mut token = fleet.guest(0, PRIVATE_CLIENT).await;
    for _ in 0..3 {
        expired(&token).await;
        let answer = fleet.read(0, &token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        token = token_of(&answer);
    }
    let metrics = fleet.client.get(format!("http://{}/metrics", fleet.replicas[0].admin)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.lines().any(|line| line == "shopper_gateway_sessions 1"), "{metrics}");
}

#[tokio::test]
async fn logout_while_redis_is_down_is_not_lost() {
    let fleet = Fleet::start(2).await;
    for known in [true, false] {
        let token = fleet.guest(0, PUBLIC_CLIENT).await;
        assert_eq!(fleet.status(1, &token).await, 200);
        let seen_by = usize::from(!known);
        fleet.redis.pause();
        let target = customers("/customers/actions/logout?siteId=RefArch");
        let url = format!("http://{}{target}", fleet.address(seen_by));
        let answer = fleet.client.request(Method::DELETE, url).bearer_auth(&token).send().await.unwrap();
        fleet.redis.resume();
        assert_eq!(answer.status(), 503);
        for replica in [0, 1] {
            eventually("every replica refuses it", async || fleet.status(replica, &token).await == 401).await;
        }
    }
}
