//! Trusted systems act on behalf of shoppers, at several gateways that share a Redis.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use reqwest::{RequestBuilder, StatusCode};
use salesforce_simulator::{Effect, Fault, ShopperTokenSpec};

use super::{Fleet, PRODUCTS, token_of};
use crate::{
    callers::CALLER_SECRET,
    world::{CALLER_CLIENT, LOGIN, PUBLIC_CLIENT, customers, eventually, expired, products},
};

const SECOND: &str = "second@example.com";

impl Fleet {
    fn on_behalf(&self, replica: usize, login: &str) -> RequestBuilder {
        let request = self.client.get(format!("http://{}{}", self.address(replica), products(PRODUCTS)));
        request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).header("X-On-Behalf-Of", login)
    }

    async fn assert_served(&self, replica: usize, login: &str) {
        let answer = self.on_behalf(replica, login).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    fn tsob(&self) -> usize {
        self.simulator.count("slas", "trusted-system")
    }
}

#[tokio::test]
async fn on_behalf_token_is_refreshed_once_for_two_replicas() {
    let fleet = Fleet::start(2).await;
    fleet.simulator.set(|behaviour| behaviour.shopper_token_seconds = 4);
    // A token in constant use is renewed in its last second, by the first gateway that sees it.
    for _ in 0..90 {
        for replica in [0, 1] {
            fleet.assert_served(replica, LOGIN).await;
        }
        // Several lifetimes of a token, in small steps.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refreshes = fleet.simulator.count("slas", "token:refresh_token");
    let most = usize::try_from(fleet.simulator.ledger().last().unwrap().time_ms / 3000).unwrap();
    assert!((2..=most).contains(&refreshes), "{refreshes} refreshes, at most {most}");
    // A token that expired unused causes one refresh for all later requests.
    let latest = fleet.simulator.ledger().into_iter().rfind(|entry| entry.service == "api").unwrap();
    expired(latest.header("authorization").unwrap().strip_prefix("Bearer ").unwrap()).await;
    fleet.simulator.clear_ledger();
    fleet.simulator.inject(Fault::on("slas", Effect::Delay { ms: 300 }).flow("token:refresh_token"));
    let requests = (0..200).map(|number| fleet.on_behalf(number % 2, LOGIN).send());
    for answer in join_all(requests).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(fleet.simulator.count("slas", "token:refresh_token"), 1);
    assert_eq!(fleet.tsob(), 0, "the session goes on");
}

#[tokio::test]
async fn logout_at_one_replica_ends_on_behalf_session_at_the_other() {
    let fleet = Fleet::start(2).await;
    fleet.simulator.set(|behaviour| behaviour.tsob_window_ms = 100);
    let log_in = async |replica: usize| {
        let target = customers("/customers/trusted-system/actions/login?siteId=RefArch");
        let url = format!("http://{}{target}", fleet.address(replica));
        let login = fleet.client.post(url).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        let body = format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#);
        let answer = login.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        token_of(&answer)
    };
    let token = log_in(0).await;
    assert_eq!(log_in(1).await, token);
    assert_eq!(fleet.tsob(), 1, "both use the one token");
    fleet.log_out(0, &token).await;
    eventually("the other replica refuses the token", async || fleet.status(1, &token).await == 401).await;
    let fresh = log_in(1).await;
    assert_eq!(log_in(0).await, fresh);
    assert_eq!(fleet.tsob(), 2, "one new session, for both");
    assert_ne!(fresh, token);
    for replica in [1, 0] {
        assert_eq!(fleet.status(replica, &fresh).await, 200);
    }
}

#[tokio::test]
async fn removed_key_ends_on_behalf_token_at_unaware_replica() {
    let fleet = Fleet::start(2).await;
    fleet.assert_served(0, LOGIN).await;
    let gone = fleet.simulator.slas_kid();
    while fleet.simulator.slas_jwks().to_string().contains(&gone) {
        fleet.simulator.rotate_keys();
    }
    let shopper = fleet.simulator.mint_shopper_token(ShopperTokenSpec::default());
    eventually("the new keys are known", async || fleet.status(1, &shopper).await == 200).await;
    for answer in join_all((0..20).map(|_| fleet.on_behalf(1, LOGIN).send())).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    assert_eq!((fleet.tsob(), fleet.simulator.count("slas", "token:refresh_token")), (1, 1));
}

#[tokio::test]
async fn swapped_redis_entries_do_not_swap_shoppers() {
    let fleet = Fleet::start(2).await;
    let pointers = async || {
        let names = fleet.redis.run::<Vec<String>>(redis::cmd("KEYS").arg("*:t:*")).await;
        names.into_iter().collect::<BTreeSet<_>>()
    };
    fleet.assert_served(0, LOGIN).await;
    let first = pointers().await;
    fleet.assert_served(0, SECOND).await;
    let second = pointers().await.difference(&first).next().unwrap().clone();
    for pointer in &first {
        fleet.redis.run::<i64>(redis::cmd("COPY").arg(&second).arg(pointer).arg("REPLACE")).await;
    }
    fleet.assert_served(1, LOGIN).await;
    let sent = fleet.simulator.ledger();
    let claims = crate::on_behalf::claims(sent.iter().rev().find(|entry| entry.service == "api").unwrap());
    assert!(claims.contains(LOGIN) && !claims.contains(SECOND), "{claims}");
    assert_eq!(fleet.tsob(), 3, "what stands under the name is not its session");
}

#[tokio::test]
async fn on_behalf_requests_succeed_while_redis_is_down() {
    let mut fleet = Fleet::start(2).await;
    for replica in [0, 1] {
        fleet.assert_served(replica, LOGIN).await;
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let counts = [0, 1].map(|_| Arc::new(AtomicUsize::new(0)));
    let load = [0, 1].map(|replica| {
        let (request, stopped) = (fleet.on_behalf(replica, LOGIN), stopped.clone());
        let count = Arc::clone(&counts[replica]);
        tokio::spawn(async move {
            let (mut sent, mut failed) = (0, 0);
            while !*stopped.borrow() {
                let answer = request.try_clone().unwrap().send().await;
                sent += 1;
                count.fetch_add(1, Ordering::Relaxed);
                failed += usize::from(!answer.is_ok_and(|answer| answer.status() == 200));
            }
            (sent, failed)
        })
    });
    let ten_more_requests = async || {
        let before = counts.clone().map(|count| count.load(Ordering::Relaxed));
        eventually("both replicas have served ten more requests", async || {
            counts.iter().zip(before).all(|(count, before)| count.load(Ordering::Relaxed) >= before + 10)
        })
        .await;
    };
    ten_more_requests().await;
    fleet.redis.kill();
    // A new shopper needs no Redis either: SLAS issues the token.
    fleet.assert_served(0, SECOND).await;
    fleet.assert_served(0, SECOND).await;
    assert_eq!(fleet.tsob(), 2, "and its token is held");
    fleet.assert_served(1, "guest").await;
    fleet.redis.restart().await;
    ten_more_requests().await;
    stop.send(true).unwrap();
    for task in load {
        let (sent, failed) = task.await.unwrap();
        assert!(failed == 0, "{failed} of {sent} requests failed");
    }
}

#[tokio::test]
async fn kill_of_replica_during_token_request_does_not_block_others() {
    let mut fleet = Fleet::start(3).await;
    fleet.simulator.inject(Fault::on("slas", Effect::Hang).flow("trusted-system").times(1));
    let doomed = tokio::spawn(fleet.on_behalf(0, LOGIN).send());
    eventually("the call is under way", async || fleet.tsob() == 1).await;
    fleet.replicas[0].kill();
    assert!(doomed.await.unwrap().is_err());
    // The default time limit of an API is ten seconds, so a caller waits that long.
    let within = Duration::from_secs(10);
    let requests = (0..20).map(|number| fleet.on_behalf(1 + number % 2, LOGIN).timeout(within).send());
    for answer in join_all(requests).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    assert_eq!(fleet.tsob(), 2, "one more call for all");
}
