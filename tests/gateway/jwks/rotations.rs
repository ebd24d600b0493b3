//! New keys of an issuer, and key ids that no issuer has published.

use std::time::{Duration, Instant};

use salesforce_simulator::Fault;
use shopper_gateway::time::unix_now;

use super::{INVALID, Issuers, SERVED, UNAVAILABLE, status};
use crate::{
    redis::{Redis, in_redis},
    scale::{figure, ms},
    world::{Gateway, PUBLIC_CLIENT, eventually, login_target},
};

impl Issuers {
    /// SLAS signs with an unpublished key: two rotations, because SLAS announces its next key.
    fn rotate_unannounced(&self) {
        self.simulator.rotate_keys();
        self.simulator.rotate_keys();
    }

    async fn guest(&self, gateway: &Gateway) -> reqwest::Response {
        let url = format!("http://{}{}", gateway.address, login_target(PUBLIC_CLIENT));
        self.client.post(url).body(r#"{"type":"guest"}"#).send().await.unwrap()
    }
}

/// A key id in SLAS's format.
fn slas_like_kid(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

#[tokio::test]
async fn fifty_made_up_key_ids_cause_one_fetch() {
    let issuers = Issuers::start().await;
    let gateway = issuers.start_ready_gateway(|_| {}).await;
    issuers.simulator.clear_ledger();
    for number in 0..50 {
        let answer = issuers.present(&gateway, &issuers.shopper_with_kid(&format!("made-up-{number}"))).await;
        assert!([INVALID, UNAVAILABLE].contains(&answer), "{answer:?}");
    }
    assert_eq!(issuers.fetches(), 1);
    // The reserve needs an issue time after the second of the last fetch.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let at_once = (0..50).map(|number| {
        let token = issuers.shopper_with_kid(&slas_like_kid(number));
        let (issuers, gateway) = (&issuers, &gateway);
        async move { issuers.present(gateway, &token).await }
    });
    for answer in futures::future::join_all(at_once).await {
        assert!([INVALID, UNAVAILABLE].contains(&answer), "{answer:?}");
    }
    assert_eq!(issuers.fetches(), 2, "those that look right may use up the reserve, and no more");
    assert_eq!(issuers.present(&gateway, &issuers.shopper_token(|_| {})).await, SERVED);
}

#[tokio::test]
async fn key_rotation_is_not_delayed_by_earlier_made_up_key_ids() {
    let issuers = Issuers::start().await;
    let gateway = issuers.start_ready_gateway(|_| {}).await;
    for number in 0..20 {
        issuers.present(&gateway, &issuers.shopper_with_kid(&format!("made-up-{number}"))).await;
    }
    issuers.rotate_unannounced();
    issuers.simulator.clear_ledger();
    // A token from the second of the last fetch could be older than the fetch, so it must come again.
    let token = issuers.shopper_token(|_| {});
    let began = Instant::now();
    eventually("the new key is in use", async || issuers.present(&gateway, &token).await == SERVED).await;
    assert_eq!(issuers.fetches(), 1);
    figure(
        "R9",
        format!("the first token of a new key, after noise: accepted after 1 fetch and {}", ms(began.elapsed())),
    );
}

#[tokio::test]
async fn key_rotation_is_found_by_login_after_made_up_key_ids_used_the_limit() {
    let issuers = Issuers::start().await;
    let gateway = issuers.start_ready_gateway(|_| {}).await;
    issuers.present(&gateway, &issuers.shopper_with_kid(&slas_like_kid(0))).await;
    // The reserve needs an issue time after the second of the last fetch.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for number in 1..20 {
        issuers.present(&gateway, &issuers.shopper_with_kid(&slas_like_kid(number))).await;
    }
    assert_eq!(issuers.fetches(), 3, "at the start, by the first of them, and the reserve");
    issuers.rotate_unannounced();
    issuers.simulator.clear_ledger();
    let token = issuers.shopper_token(|_| {});
    let in_doubt = issuers.present(&gateway, &token).await;
    assert!([INVALID, UNAVAILABLE].contains(&in_doubt), "{in_doubt:?}");
    assert_eq!(issuers.fetches(), 0);
    assert_eq!(issuers.guest(&gateway).await.status(), 200);
    assert_eq!(issuers.fetches(), 1);
    assert_eq!(issuers.present(&gateway, &token).await, SERVED);
}

#[tokio::test]
async fn old_or_foreign_unknown_key_id_causes_no_fetch() {
    let issuers = Issuers::start().await;
    let gateway = issuers.start_ready_gateway(|_| {}).await;
    issuers.simulator.clear_ledger();
    let long_ago = issuers.shopper_token(|spec| {
        spec.kid = Some(slas_like_kid(1));
        spec.claims.insert("iat".into(), (unix_now() - 600).into());
    });
    assert_eq!(issuers.present(&gateway, &long_ago).await, INVALID);
    let foreign = issuers.shopper_token(|spec| {
        spec.kid = Some(slas_like_kid(2));
        spec.claims.insert("iss".into(), "slas/prod/zzzz_009".into());
    });
    assert_eq!(issuers.present(&gateway, &foreign).await, INVALID);
    assert_eq!(issuers.fetches(), 0);
}

#[tokio::test]
async fn new_key_is_fetched_by_one_gateway_for_all() {
    let issuers = Issuers::start().await;
    let redis = Redis::start().await;
    let one = issuers.start_ready_gateway(|config| in_redis(config, &redis.url())).await;
    let other = issuers.start_ready_gateway(|config| in_redis(config, &redis.url())).await;
    // The other gateway's fetch at its start must not count.
    eventually("both have fetched", async || issuers.fetches() == 2).await;
    issuers.rotate_unannounced();
    let token = issuers.shopper_token(|_| {});
    assert_eq!(issuers.present(&one, &token).await, SERVED);
    assert_eq!(issuers.fetches(), 3);
    // SLAS fails from now on, so that only the store can supply the key.
    issuers.simulator.inject(Fault::on("slas", status(503)).flow("jwks"));
    eventually("the other has the key", async || issuers.present(&other, &token).await == SERVED).await;
}

#[tokio::test]
async fn account_manager_key_rotation_is_followed() {
    let issuers = Issuers::start().await;
    let gateway = issuers.start_ready_gateway(|_| {}).await;
    assert_eq!(issuers.present_system(&gateway, &issuers.system_token()).await, (404, None));
    issuers.simulator.rotate_keys();
    issuers.simulator.clear_ledger();
    assert_eq!(issuers.present_system(&gateway, &issuers.system_token()).await, (404, None));
    assert_eq!(issuers.simulator.count("account_manager", "jwks"), 1);
}
