//! The sessions and tokens that a logout ends, one case after the other. Races are in `races`.

use std::time::Duration;

use reqwest::Client;
use salesforce_simulator::{Effect, Fault};

use crate::{
    races::fleet::{Fleet, Shared, Tokens},
    world::{ORGANIZATION, PRIVATE_CLIENT, eventually, register_sessions},
};

async fn gateway(registers: bool) -> Fleet {
    fleet(1, Shared::Memory, registers).await
}

async fn fleet(count: usize, shared: Shared, registers: bool) -> Fleet {
    Fleet::start(count, shared, |config| {
        if registers {
            register_sessions(config);
        }
    })
    .await
}

/// A refresh at SLAS's `token`, not through the gateway.
async fn refresh_directly_at_slas(fleet: &Fleet, refresh: &str) -> String {
    let url = format!("{}/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token", fleet.simulator.url());
    let form = [("grant_type", "refresh_token"), ("channel_id", "RefArch"), ("refresh_token", refresh)];
    let request = Client::builder().no_proxy().build().unwrap().post(url).form(&form);
    let answer = request.basic_auth(PRIVATE_CLIENT, Some("private-client-secret")).send().await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    document["access_token"].as_str().unwrap().to_owned()
}

/// A login and eleven more tokens of its session, of which a gateway with sessions knows only the first.
async fn twelve_tokens(fleet: &Fleet) -> (Tokens, Vec<String>) {
    let login = fleet.log_in_at_slas(0, None).await;
    let mut tokens = vec![login.access.clone()];
    for _ in 0..11 {
        tokens.push(refresh_directly_at_slas(fleet, &login.refresh).await);
    }
    for token in &tokens {
        assert_eq!(fleet.status(0, token).await, 200);
    }
    (login, tokens)
}

#[tokio::test]
async fn logout_ends_earlier_tokens_of_session() {
    for (registers, deprecated) in [(true, true), (true, false), (false, true), (false, false)] {
        let fleet = gateway(registers).await;
        let (login, tokens) = twelve_tokens(&fleet).await;
        let other = fleet.log_in_at_slas(0, None).await;
        let status = match deprecated {
            true => fleet.log_out(0, &tokens[11]).await,
            false => fleet.log_out_at_slas(0, &login.access, &login.refresh, None).await,
        };
        assert!(matches!(status, 200 | 204), "{status}");
        for (number, token) in tokens.iter().enumerate() {
            assert_eq!(fleet.status(0, token).await, 401, "registers {registers}, deprecated {deprecated}: {number}");
        }
        assert_eq!(fleet.status(0, &other.access).await, 200, "another session of the customer goes on");
    }
}

#[tokio::test]
async fn logout_survives_reload_and_reaches_new_gateways() {
    for registers in [true, false] {
        let mut fleet = fleet(2, Shared::Redis, registers).await;
        let (login, tokens) = twelve_tokens(&fleet).await;
        assert_eq!(fleet.log_out_at_slas(0, &login.access, &login.refresh, None).await, 200);
        fleet.gateways[0].reload(|_| {}).unwrap();
        // This gateway has seen none of these tokens.
        let fresh = fleet
            .new_gateway(|config| {
                if registers {
                    register_sessions(config);
                }
            })
            .await;
        fleet.gateways.push(fresh);
        for token in &tokens {
            for gateway in [0, 2] {
                assert_eq!(fleet.status(gateway, token).await, 401, "gateway {gateway}, registers {registers}");
            }
            eventually("the other gateway refuses it", async || fleet.status(1, token).await == 401).await;
        }
    }
}

#[tokio::test]
async fn login_with_same_usid_works_within_second_of_logout() {
    for registers in [true, false] {
        for ahead in [0, 20, -20] {
            let fleet = fleet(2, Shared::Redis, registers).await;
            fleet.simulator.set(|behaviour| behaviour.clock_ahead_seconds = ahead);
            let told = format!("registers {registers}, SLAS's clock ahead by {ahead} s");
            let mut usid = None;
            let mut ended: Vec<String> = Vec::new();
            for round in 0..3 {
                let login = fleet.log_in_at_slas(round % 2, usid.as_deref()).await;
                for gateway in [0, 1] {
                    assert_eq!(fleet.status(gateway, &login.access).await, 200, "{told}: round {round}");
                }
                let refreshed = fleet.refresh_at_slas(0, &login.refresh).await.unwrap();
                let status = fleet.log_out_at_slas(0, &refreshed.access, &refreshed.refresh, None).await;
                assert_eq!(status, 200, "{told}");
                usid = Some(login.usid);
                ended.extend([login.access, refreshed.access]);
                for token in &ended {
                    assert_eq!(fleet.status(0, token).await, 401, "{told}: round {round}");
                    eventually("the other gateway knows", async || fleet.status(1, token).await == 401).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn logout_of_guest_with_foreign_usid_does_not_end_its_owner() {
    for registers in [true, false] {
        let fleet = gateway(registers).await;
        let victim = fleet.log_in_at_slas(0, None).await;
        let stranger = fleet.guest_at_slas(0, Some(&victim.usid)).await;
        assert_eq!(stranger.usid, victim.usid);
        assert_eq!(fleet.log_out(0, &stranger.access).await, 204);
        assert_eq!(fleet.status(0, &stranger.access).await, 401);
        assert_eq!(fleet.status(0, &victim.access).await, 200, "registers {registers}");
    }
}

#[tokio::test]
async fn logout_of_all_sessions_ends_sessions_not_held_by_gateway() {
    for registers in [true, false] {
        let fleet = gateway(registers).await;
        let (first, second) = (fleet.log_in_at_slas(0, None).await, fleet.log_in_at_slas(0, None).await);
        let guest = fleet.guest_at_slas(0, None).await;
        let status = fleet.log_out_at_slas(0, &first.access, &first.refresh, Some("all-sessions")).await;
        assert_eq!(status, 200);
        for token in [&first.access, &second.access] {
            assert_eq!(fleet.status(0, token).await, 401, "registers {registers}");
        }
        assert_eq!(fleet.status(0, &guest.access).await, 200);
        let later = fleet.log_in_at_slas(0, None).await;
        assert_eq!(fleet.status(0, &later.access).await, 200, "registers {registers}");
    }
}

#[tokio::test]
async fn refresh_overtaken_by_logout_is_rejected() {
    let fleet = gateway(true).await;
    fleet.simulator.set(|behaviour| behaviour.ledger_entries = 1000);
    fleet.simulator.inject(Fault::on("slas", Effect::Delay { ms: 3000 }).flow("token:refresh_token"));
    let deprecated = fleet.log_in(0).await;
    let at_slas = fleet.guest_at_slas(0, None).await;
    let log_out = async {
        eventually("SLAS has both refreshes", async || fleet.simulator.count("slas", "token:refresh_token") == 2).await;
        [fleet.log_out(0, &deprecated).await, fleet.log_out(0, &at_slas.access).await]
    };
    let (refreshed, answer, statuses) =
        futures::future::join3(fleet.refresh(0, &deprecated), fleet.refresh_at_slas(0, &at_slas.refresh), log_out)
            .await;
    assert_eq!(statuses, [204, 204]);
    assert!(refreshed.is_none(), "it is not handed over");
    assert!(answer.is_none(), "nor is what the caller asked SLAS for");
    assert!(fleet.refresh_at_slas(0, &at_slas.refresh).await.is_none(), "the refresh token is void");
}

#[tokio::test]
async fn revocation_confirmed_by_slas_ends_session() {
    let fleet = gateway(true).await;
    let (login, other) = (fleet.guest_at_slas(0, None).await, fleet.guest_at_slas(0, None).await);
    assert_eq!(fleet.revoke(0, &other.refresh, "wrong").await, 401);
    assert_eq!(fleet.revoke(0, &login.refresh, "private-client-secret").await, 200);
    assert_eq!(fleet.status(0, &login.access).await, 401);
    assert_eq!(fleet.status(0, &other.access).await, 200, "SLAS refused that");
}

#[tokio::test]
async fn refreshes_requested_by_callers_are_rate_limited() {
    let fleet = fleet(2, Shared::Redis, true).await;
    fleet.simulator.set(|behaviour| behaviour.ledger_entries = 1000);
    let refreshes = || fleet.simulator.count("slas", "token:refresh_token");
    let first = fleet.log_in(0).await;
    let second = fleet.refresh(0, &first).await.unwrap();
    assert_ne!(first, second, "the first is answered by SLAS");
    for _ in 0..5 {
        assert_eq!(fleet.refresh(0, &second).await.unwrap(), second);
        assert_eq!(fleet.refresh(1, &first).await.unwrap(), second, "on another replica too");
    }
    assert_eq!(refreshes(), 1);

    let login = fleet.guest_at_slas(0, None).await;
    let answer = fleet.refresh_at_slas(0, &login.refresh).await.unwrap();
    assert_ne!(answer.access, login.access);
    for gateway in [0, 1, 0, 1] {
        let again = fleet.refresh_at_slas(gateway, &answer.refresh).await.unwrap();
        assert_eq!((again.access, again.refresh), (answer.access.clone(), answer.refresh.clone()));
    }
    assert_eq!(refreshes(), 2);
    assert_eq!(fleet.refresh_at_slas_as(1, &answer.refresh, "wrong").await, 401, "SLAS judges another proof");
    assert_eq!(refreshes(), 3);
}

#[tokio::test]
async fn refresh_token_from_before_logout_is_rejected() {
    for (count, shared, registers) in
        [(1, Shared::Memory, false), (1, Shared::Memory, true), (2, Shared::Redis, false), (2, Shared::Redis, true)]
    {
        let fleet = fleet(count, shared, registers).await;
        let told = format!("{count} {shared:?} {registers}");
        let before = fleet.log_in_at_slas(0, None).await;
        assert_eq!(fleet.log_out(0, &before.access).await, 204, "{told}");
        // The record's time is 0.35 s after the logout, and issue times are whole seconds.
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let last = count - 1;
        // SLAS still accepts the token.
        assert!(fleet.refresh_at_slas(last, &before.refresh).await.is_none(), "{told}");
        // A later login with the same USID refreshes at every gateway.
        let later = fleet.log_in_at_slas(0, Some(&before.usid)).await;
        let renewed = fleet.refresh_at_slas(last, &later.refresh).await.expect("a later login is good");
        for token in [&later.access, &renewed.access] {
            assert_eq!(fleet.status(last, token).await, 200, "{told}");
        }
        assert_eq!(fleet.status(last, &before.access).await, 401, "{told}");
    }
}

#[tokio::test]
async fn token_request_without_readable_form_is_rejected_before_slas() {
    for registers in [false, true] {
        let fleet = gateway(registers).await;
        let login = fleet.log_in_at_slas(0, None).await;
        fleet.simulator.clear_ledger();
        let form = format!(
            "grant_type=refresh_token&client_id={PRIVATE_CLIENT}&channel_id=RefArch&refresh_token={}",
            login.refresh
        );
        for media in [
            None,
            Some("application/x-www-form-urlencoded; charset=utf-16"),
            Some("application/json"),
            Some("text/plain"),
        ] {
            let url = format!(
                "http://{}/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token",
                fleet.gateways[0].address
            );
            let request = fleet.client.post(url).body(form.clone());
            let request = media.iter().fold(request, |request, media| request.header("content-type", *media));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 400, "{media:?}");
            assert_eq!(answer.headers()["x-shopper-gateway-error"], "request_invalid", "{media:?}");
        }
        assert!(fleet.simulator.ledger().is_empty());
    }
}
