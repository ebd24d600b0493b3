//! Clocks of SLAS and Account Manager that differ from the gateway's clock by seconds or by an hour.

use futures::future::join_all;

use super::{Answer, CALLER_CLIENT, CALLER_SECRET, LOGIN, PUBLIC_CLIENT, World, orders, search};
use crate::{scale::figure, world::expired};

fn ahead(world: &World, seconds: i64) {
    world.simulator.set(|behaviour| behaviour.clock_ahead_seconds = seconds);
}

async fn read(world: &World, token: &str) -> Answer {
    world.send(world.get(&search()).bearer_auth(token)).await
}

#[tokio::test]
async fn clock_skew_within_leeway_is_accepted() {
    let world = super::world().await;
    for seconds in [-50, -20, 20, 50] {
        ahead(&world, seconds);
        let token = world.guest(PUBLIC_CLIENT).await.token();
        assert_eq!(read(&world, &token).await.status, 200, "{seconds}");
        let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        assert_eq!(world.send(request.header("X-On-Behalf-Of", LOGIN)).await.status, 200, "{seconds}");
        let request = world.get(&orders()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        assert_eq!(world.send(request).await.status, 200, "{seconds}");
    }
    figure("R21", "clocks up to 50 s apart: 0 failed");
}

#[tokio::test]
async fn clock_skew_beyond_leeway_rejects_token() {
    let world = super::world().await;
    // A token is valid 30 seconds before its time of issue.
    for (seconds, refusal) in [(120, (401, "token_invalid")), (3600, (401, "token_invalid"))] {
        ahead(&world, seconds);
        assert_eq!(read(&world, &world.mint(|_| {})).await.refusal(), refusal, "{seconds}");
    }
    for (seconds, status) in [(-1800 + 40, 200), (-1800 - 120, 401), (-3600, 401)] {
        ahead(&world, seconds);
        let token = world.mint(|_| {});
        // The API uses the issuers' clock.
        assert_eq!(read(&world, &token).await.status.as_u16(), status, "{seconds}");
    }
}

#[tokio::test]
async fn clock_jump_of_an_hour_causes_no_slas_calls() {
    let world = super::world().await;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        tokens.push(world.guest(PUBLIC_CLIENT).await.token());
    }
    // From now on the gateway's clock is an hour ahead of SLAS's, so every new token looks expired.
    ahead(&world, -3600);
    let late = world.mint(|_| {});
    world.simulator.clear_ledger();
    for _ in 0..10 {
        for answer in join_all((0..20).map(|_| read(&world, &late))).await {
            assert_eq!(answer.refusal(), (401, "token_expired"));
        }
    }
    assert_eq!(world.simulator.ledger().iter().filter(|entry| entry.service == "slas").count(), 0);
    // Earlier sessions continue with their tokens, new sessions with the lifetime in SLAS's responses.
    tokens.push(world.guest(PUBLIC_CLIENT).await.token());
    for token in &tokens {
        for _ in 0..5 {
            assert_ne!(read(&world, token).await.status, 503);
        }
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 0);
    figure("R21", "clock ahead by an hour: 200 requests with ended tokens, 0 calls to SLAS");
}

#[tokio::test]
async fn clock_skew_of_slas_causes_one_refresh_per_session() {
    // At 29 minutes a token seems to have one minute of its lifetime left.
    for seconds in [-3600, -29 * 60, -10 * 60] {
        let world = super::world().await;
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
        let token = world.guest(PUBLIC_CLIENT).await.token();
        expired(&token).await;
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1800);
        ahead(&world, seconds);
        world.simulator.clear_ledger();
        let newest = read(&world, &token).await.token();
        for token in [&token, &newest] {
            for _ in 0..5 {
                for answer in join_all((0..20).map(|_| read(&world, token))).await {
                    assert_eq!(answer.status, 200, "{seconds}: {}", answer.text());
                }
            }
        }
        let refreshes = world.simulator.count("slas", "token:refresh_token");
        assert_eq!(refreshes, 1, "{seconds}: for 200 requests of one session");
        figure("R21", format!("SLAS's clock {seconds} s ahead: 200 requests of one session, {refreshes} refresh"));
    }
}
