//! New keys of an issuer, and key ids that no issuer has published.

use std::time::{Duration, Instant};

use salesforce_simulator::Fault;
use shopper_gateway::time::unix_now;

use super::{INVALID, SERVED, Shop, UNAVAILABLE, status};
use crate::{
    redis::{Redis, in_redis},
    scale::{figure, ms},
    world::{Gateway, PUBLIC_CLIENT, eventually, login_target},
};

impl Shop {
    /// SLAS signs with a key that was not published a moment ago: twice, because it announces the next one.
    fn rotates_unannounced(&self) {
        self.simulator.rotate_keys();
        self.simulator.rotate_keys();
    }

    async fn guest(&self, gateway: &Gateway) -> reqwest::Response {
        let url = format!("http://{}{}", gateway.address, login_target(PUBLIC_CLIENT));
        self.client.post(url).body(r#"{"type":"guest"}"#).send().await.unwrap()
    }
}

/// A key id as SLAS's are.
fn lifelike(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

#[tokio::test]
async fn fifty_made_up_key_ids_cause_one_fetch() {
    let shop = Shop::open().await;
    let gateway = shop.ready(|_| {}).await;
    shop.simulator.clear_ledger();
    for number in 0..50 {
        let answer = shop.present(&gateway, &shop.of_key(&format!("made-up-{number}"))).await;
        assert!([INVALID, UNAVAILABLE].contains(&answer), "{answer:?}");
    }
    assert_eq!(shop.fetches(), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let at_once = (0..50).map(|number| {
        let token = shop.of_key(&lifelike(number));
        let (shop, gateway) = (&shop, &gateway);
        async move { shop.present(gateway, &token).await }
    });
    for answer in futures::future::join_all(at_once).await {
        assert!([INVALID, UNAVAILABLE].contains(&answer), "{answer:?}");
    }
    assert_eq!(shop.fetches(), 2, "those that look right may use up the reserve, and no more");
    assert_eq!(shop.present(&gateway, &shop.shopper(|_| {})).await, SERVED);
}

#[tokio::test]
async fn key_rotation_is_not_delayed_by_earlier_made_up_key_ids() {
    let shop = Shop::open().await;
    let gateway = shop.ready(|_| {}).await;
    for number in 0..20 {
        shop.present(&gateway, &shop.of_key(&format!("made-up-{number}"))).await;
    }
    shop.rotates_unannounced();
    shop.simulator.clear_ledger();
    // A token of the same second as the last reading could be older than that: it must come again, or a later one.
    let token = shop.shopper(|_| {});
    let began = Instant::now();
    eventually("the new key is in use", async || shop.present(&gateway, &token).await == SERVED).await;
    assert_eq!(shop.fetches(), 1);
    figure(
        "R9",
        format!("the first token of a new key, after noise: accepted after 1 fetch and {}", ms(began.elapsed())),
    );
}

#[tokio::test]
async fn key_rotation_is_found_by_login_after_made_up_key_ids_used_the_limit() {
    let shop = Shop::open().await;
    let gateway = shop.ready(|_| {}).await;
    shop.present(&gateway, &shop.of_key(&lifelike(0))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for number in 1..20 {
        shop.present(&gateway, &shop.of_key(&lifelike(number))).await;
    }
    assert_eq!(shop.fetches(), 3, "at the start, by the first of them, and the reserve");
    shop.rotates_unannounced();
    shop.simulator.clear_ledger();
    let token = shop.shopper(|_| {});
    let in_doubt = shop.present(&gateway, &token).await;
    assert!([INVALID, UNAVAILABLE].contains(&in_doubt), "{in_doubt:?}");
    assert_eq!(shop.fetches(), 0);
    assert_eq!(shop.guest(&gateway).await.status(), 200);
    assert_eq!(shop.fetches(), 1);
    assert_eq!(shop.present(&gateway, &token).await, SERVED);
}

#[tokio::test]
async fn old_or_foreign_unknown_key_id_causes_no_fetch() {
    let shop = Shop::open().await;
    let gateway = shop.ready(|_| {}).await;
    shop.simulator.clear_ledger();
    let long_ago = shop.shopper(|spec| {
        spec.kid = Some(lifelike(1));
        spec.claims.insert("iat".into(), (unix_now() - 600).into());
    });
    assert_eq!(shop.present(&gateway, &long_ago).await, INVALID);
    let foreign = shop.shopper(|spec| {
        spec.kid = Some(lifelike(2));
        spec.claims.insert("iss".into(), "slas/prod/zzzz_009".into());
    });
    assert_eq!(shop.present(&gateway, &foreign).await, INVALID);
    assert_eq!(shop.fetches(), 0);
}

#[tokio::test]
async fn new_key_is_fetched_by_one_gateway_for_all() {
    let shop = Shop::open().await;
    let redis = Redis::start().await;
    let one = shop.ready(|config| in_redis(config, &redis.url())).await;
    let other = shop.ready(|config| in_redis(config, &redis.url())).await;
    // What the other one does at its start must not be mistaken for what comes now.
    eventually("both have fetched", async || shop.fetches() == 2).await;
    shop.rotates_unannounced();
    let token = shop.shopper(|_| {});
    assert_eq!(shop.present(&one, &token).await, SERVED);
    assert_eq!(shop.fetches(), 3);
    // SLAS fails from now on, so that the key can come from the store only.
    shop.simulator.inject(Fault::on("slas", status(503)).flow("jwks"));
    eventually("the other has the key", async || shop.present(&other, &token).await == SERVED).await;
}

#[tokio::test]
async fn account_manager_key_rotation_is_followed() {
    let shop = Shop::open().await;
    let gateway = shop.ready(|_| {}).await;
    assert_eq!(shop.present_system(&gateway, &shop.system()).await, (404, None));
    shop.simulator.rotate_keys();
    shop.simulator.clear_ledger();
    assert_eq!(shop.present_system(&gateway, &shop.system()).await, (404, None));
    assert_eq!(shop.simulator.count("account_manager", "jwks"), 1);
}
