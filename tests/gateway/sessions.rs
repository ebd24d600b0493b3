//! Sessions in one gateway process outlive their access tokens.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use salesforce_simulator::{Effect, Fault, ResetAt};

use crate::{
    scale::{self, figure},
    world::{
        Answer, LOGIN, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, customers, eventually, expired, login_target,
        products, refresh_due,
    },
};

const PRODUCTS: &str = "?ids=a&siteId=RefArch";

fn lifetime(world: &World, seconds: u64) {
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = seconds);
}

/// An expired guest token. Later tokens have a long lifetime.
async fn expired_token(world: &World, client: &str) -> String {
    lifetime(world, 2);
    let token = world.guest(client).await.token();
    expired(&token).await;
    lifetime(world, 600);
    token
}

fn read(world: &World, token: &str) -> RequestBuilder {
    world.get(&products(PRODUCTS)).bearer_auth(token)
}

fn logout(world: &World, token: &str) -> RequestBuilder {
    world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch")).bearer_auth(token)
}

fn new_token(answer: &Answer) -> Option<String> {
    answer.header("authorization").map(|value| value.strip_prefix("Bearer ").unwrap().to_owned())
}

#[tokio::test]
async fn expired_token_is_refreshed_and_returned() {
    let world = World::start().await;
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        let fresh = world.guest(client).await.token();
        let answer = world.send(read(&world, &fresh)).await;
        assert_eq!((answer.status.as_u16(), new_token(&answer)), (200, None), "a fresh token needs no other");
        let first = expired_token(&world, client).await;
        world.simulator.clear_ledger();
        let renewed = world.send(read(&world, &first)).await;
        assert_eq!(renewed.status, 200, "{}", renewed.text());
        let second = new_token(&renewed).expect("a new token");
        assert_ne!(second, first);
        assert_eq!(renewed.header("cache-control"), Some("no-store"), "no cache may keep a token");
        let forwarded = world.forwarded("shopper-products.getProducts").pop().unwrap();
        assert_eq!(forwarded.header("authorization"), Some(format!("Bearer {second}").as_str()));
        assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);

        // The new token is valid, and a request with the old one still returns it.
        assert_eq!(new_token(&world.send(read(&world, &second)).await), None);
        assert_eq!(new_token(&world.send(read(&world, &first)).await), Some(second));
        assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
    }
}

#[tokio::test]
async fn concurrent_requests_with_expiring_token_cause_one_refresh() {
    let requests = scale::of(200, 1000);
    let world = World::with(|config| {
        // A busy machine cannot serve all requests at once within the API's default limits.
        config.insert("timeouts".into(), "upstream = '60s'\nconnect = '30s'".parse::<toml::Table>().unwrap().into());
    })
    .await;
    for (life, is_expired) in [(2, true), (scale::of(4, 12), false)] {
        for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
            lifetime(&world, life);
            let token = world.guest(client).await.token();
            if is_expired {
                expired(&token).await;
            } else {
                refresh_due(&token).await;
            }
            lifetime(&world, 600);
            world.simulator.clear_ledger();
            world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 200 }).flow("token:refresh_token"));
            let answers = futures::future::join_all((0..requests).map(|_| world.send(read(&world, &token)))).await;
            assert!(answers.iter().all(|answer| answer.status == 200), "{client}");
            let mut tokens: Vec<_> = answers.iter().filter_map(new_token).collect();
            assert!(tokens.len() == requests || !is_expired, "who needs a new one has it");
            tokens.dedup();
            assert_eq!(tokens.len(), 1, "all get the same token");
            let ledger = world.simulator.ledger();
            let refreshes: Vec<_> = ledger.iter().filter(|entry| entry.flow == "token:refresh_token").collect();
            let refused = refreshes.iter().filter(|entry| entry.status.is_some_and(|status| status >= 400)).count();
            assert_eq!((refreshes.len(), refused), (1, 0), "{client}");
            figure(
                "R4",
                format!(
                    "{requests} requests with a token of {life} s, expired: {is_expired}: 1 refresh, 0 `invalid_grant`"
                ),
            );
            world.simulator.clear_faults();
        }
    }
}

#[tokio::test]
async fn client_disconnect_does_not_abort_refresh() {
    let world = World::start().await;
    let token = expired_token(&world, PUBLIC_CLIENT).await;
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 500 }).flow("token:refresh_token").times(1));
    let impatient = read(&world, &token).timeout(Duration::from_millis(100)).send().await;
    assert!(impatient.is_err(), "the caller hung up");
    let patient = world.send(read(&world, &token)).await;
    assert_eq!(patient.status, 200, "{}", patient.text());
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1);
}

#[tokio::test]
async fn transient_slas_failure_keeps_session() {
    let world = World::start().await;
    let token = expired_token(&world, PUBLIC_CLIENT).await;
    let failures = [
        (Effect::Status { code: 500, retry_after: None, body: None }, (503, "slas_unavailable")),
        (Effect::Status { code: 503, retry_after: None, body: Some("<html>".into()) }, (503, "slas_unavailable")),
        (Effect::Reset { at: ResetAt::Before }, (503, "slas_unavailable")),
        (Effect::Status { code: 429, retry_after: Some("1".into()), body: None }, (429, "slas_rate_limited")),
    ];
    for (effect, expected) in failures {
        world.simulator.inject(Fault::on("slas", effect.clone()).flow("token:refresh_token").times(1));
        let answer = world.send(read(&world, &token)).await;
        assert_eq!(answer.refusal(), expected, "{effect:?}");
        assert!(answer.header("retry-after").is_some(), "{effect:?}");
    }
    eventually("the session is still there", async || world.send(read(&world, &token)).await.status == 200).await;
    // After a failure with a secret that is being changed, the gateway tries again a moment later.
    let token = expired_token(&world, PUBLIC_CLIENT).await;
    let refused = Effect::Status { code: 401, retry_after: None, body: Some(r#"{"error":"invalid_client"}"#.into()) };
    world.simulator.inject(Fault::on("slas", refused).flow("token:refresh_token").times(1));
    assert_eq!(world.send(read(&world, &token)).await.refusal(), (503, "slas_unavailable"));
    eventually("the session is still there", async || world.send(read(&world, &token)).await.status == 200).await;
}

#[tokio::test]
async fn valid_token_is_served_while_refresh_fails() {
    let world = World::start().await;
    lifetime(&world, 24);
    let token = world.guest(PUBLIC_CLIENT).await.token();
    // Six seconds before it expires.
    refresh_due(&token).await;
    world.simulator.inject(Fault::on("slas", Effect::Status { code: 500, retry_after: None, body: None }));
    let answer = world.send(read(&world, &token)).await;
    assert_eq!((answer.status.as_u16(), new_token(&answer)), (200, None));
    world.simulator.clear_faults();
    // The gateway waits for a moment after the failure; then, or after the token's expiry, it calls SLAS again.
    eventually("the session is renewed when SLAS is back", async || {
        let answer = world.send(read(&world, &token)).await;
        assert_eq!(answer.status, 200);
        new_token(&answer).is_some()
    })
    .await;
}

#[tokio::test]
async fn rejected_refresh_token_ends_session() {
    let world = World::start().await;
    let token = expired_token(&world, PUBLIC_CLIENT).await;
    let refused = Effect::Status { code: 400, retry_after: None, body: Some(r#"{"error":"invalid_grant"}"#.into()) };
    world.simulator.inject(Fault::on("slas", refused).flow("token:refresh_token").times(1));
    assert_eq!(world.send(read(&world, &token)).await.refusal(), (401, "token_expired"));
    world.simulator.clear_ledger();
    let after = world.send(read(&world, &token)).await;
    assert_eq!(after.status, 401, "{}", after.text());
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 0, "nobody asks again");
}

#[tokio::test]
async fn password_change_ends_session() {
    let world = World::start().await;
    lifetime(&world, 2);
    let login = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await;
    let (token, id) = (login.token(), login.json()["customerId"].as_str().unwrap().to_owned());
    let change = world
        .request(Method::PUT, &customers(&format!("/customers/{id}/password?siteId=RefArch")))
        .bearer_auth(&token)
        .header("content-type", "application/json")
        .body(format!(r#"{{"currentPassword":"{PASSWORD}","password":"N3w!Passw0rd"}}"#));
    let changed = world.send(change).await;
    assert_eq!(changed.status, 204, "{}", changed.text());
    expired(&token).await;
    lifetime(&world, 600);
    assert_eq!(world.send(read(&world, &token)).await.refusal(), (401, "token_expired"));
}

#[tokio::test]
async fn idle_session_expires() {
    let world = World::with(|config| {
        config.insert("sessions".into(), "idle_timeout = \"6s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    lifetime(&world, 2);
    let (used, idle) = (world.guest(PUBLIC_CLIENT).await.token(), world.guest(PUBLIC_CLIENT).await.token());
    // Longer than the idle timeout, with a use each second.
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.send(read(&world, &used)).await.status, 200, "a session in use goes on");
        lifetime(&world, 4);
    }
    world.simulator.clear_ledger();
    assert_eq!(world.send(read(&world, &idle)).await.refusal(), (401, "token_expired"));
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 0);
}

#[tokio::test]
async fn session_ends_when_refresh_token_expires() {
    let world = World::start().await;
    lifetime(&world, 2);
    world.simulator.set(|behaviour| behaviour.guest_refresh_token_seconds = 3);
    let token = world.guest(PUBLIC_CLIENT).await.token();
    // A refresh token shows no expiry, so these waits are longer than its lifetime.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.send(read(&world, &token)).await;
    }
    let refreshes = world.simulator.count("slas", "token:refresh_token");
    world.simulator.clear_ledger();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let answer = world.send(read(&world, &token)).await;
    assert_eq!(answer.refusal().0, 401, "after {refreshes} refreshes: {}", answer.text());
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 0, "SLAS is not asked with what has ended");
}

#[tokio::test]
async fn token_not_issued_by_gateway_gets_no_session() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let claims: serde_json::Value = {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    };
    let usid = claims["sub"].as_str().unwrap().rsplit_once("usid:").unwrap().1.to_owned();
    // A correctly signed token of the same shopper's session at SLAS, which this gateway has not issued.
    let forged = world.mint(|spec| {
        spec.usid = Some(usid);
        spec.lifetime_seconds = Some(-100);
    });
    world.simulator.clear_ledger();
    assert_eq!(world.send(read(&world, &forged)).await.refusal(), (401, "token_expired"));
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 0);
}

#[tokio::test]
async fn logout_at_slas_path_ends_gateway_sessions() {
    let world = World::start().await;
    let login = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await;
    // SLAS accepts one login of a shopper in a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let other = world.log_in(PRIVATE_CLIENT, LOGIN, PASSWORD).await;
    let refresh = world.simulator.ledger();
    assert!(!refresh.is_empty());
    let slas = |hint: &str| {
        format!(
            "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/logout?client_id={PUBLIC_CLIENT}&channel_id=RefArch&refresh_token=x{hint}"
        )
    };
    // SLAS refuses, so no session ends.
    let refused = world.send(world.get(&slas("")).bearer_auth(login.token())).await;
    assert!(refused.status.is_client_error(), "{}", refused.text());
    assert_eq!(world.send(read(&world, &login.token())).await.status, 200);
    // SLAS confirms, so every session of this shopper ends.
    let agreed = Effect::Status { code: 200, retry_after: None, body: Some("{}".into()) };
    world.simulator.inject(Fault::on("slas", agreed).flow("logout"));
    assert_eq!(world.send(world.get(&slas("&hint=all-sessions")).bearer_auth(login.token())).await.status, 200);
    for token in [login.token(), other.token()] {
        assert_eq!(world.send(read(&world, &token)).await.refusal(), (401, "token_invalid"));
    }
}

#[tokio::test]
async fn password_logins_of_one_shopper_are_queued_and_get_separate_tokens() {
    let world = World::start().await;
    let logins = (0..3).map(|_| world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD));
    let answers = futures::future::join_all(logins).await;
    let mut tokens: Vec<_> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.token()
        })
        .collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 3, "each login has its own token");
    let ledger = world.simulator.ledger();
    let conflicts = ledger.iter().filter(|entry| entry.flow == "login" && entry.status == Some(409)).count();
    assert_eq!(conflicts, 0, "queued, not sent into a conflict");
}

#[tokio::test]
async fn login_conflict_is_retried_once() {
    let world = World::start().await;
    let conflict = Effect::Status { code: 409, retry_after: None, body: None };
    world.simulator.inject(Fault::on("slas", conflict.clone()).flow("login").times(1));
    let answer = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    world.simulator.inject(Fault::on("slas", conflict).flow("login").times(2));
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.refusal(), (409, "login_conflict"));
}

#[tokio::test]
async fn deprecated_refresh_accepts_expired_token() {
    let world = World::start().await;
    let token = expired_token(&world, PUBLIC_CLIENT).await;
    let refresh = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(&token).body(r#"{"type":"refresh"}"#);
    let answer = world.send(refresh).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.token(), token);
    assert_eq!(world.send(logout(&world, &answer.token())).await.status, 204);
    for token in [token, answer.token()] {
        assert_eq!(
            world.send(read(&world, &token)).await.refusal(),
            (401, "token_invalid"),
            "both tokens of the session"
        );
    }
}

#[tokio::test]
async fn background_refresh_renews_sessions_when_configured() {
    let world = World::with(|config| {
        config.insert("sessions".into(), "background_refreshes_per_minute = 60".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let idle = World::start().await;
    for world in [&world, &idle] {
        // The token is due after twelve seconds; a gateway checks every fifteen.
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 16);
        world.guest(PUBLIC_CLIENT).await;
    }
    eventually("the session was renewed without a request", async || {
        world.simulator.count("slas", "token:refresh_token") == 1
    })
    .await;
    assert_eq!(idle.simulator.count("slas", "token:refresh_token"), 0, "off by default");
}

#[tokio::test]
async fn refresh_response_with_token_of_another_shopper_is_rejected() {
    let world = World::start().await;
    for wrong in [world.mint(|_| {}), "no.token.either".to_owned()] {
        let token = expired_token(&world, PRIVATE_CLIENT).await;
        let body = format!(r#"{{"access_token":"{wrong}","expires_in":1800}}"#);
        let answered = Effect::Status { code: 200, retry_after: None, body: Some(body) };
        world.simulator.inject(Fault::on("slas", answered).flow("token:refresh_token").times(1));
        world.simulator.clear_ledger();
        let refused = world.send(read(&world, &token)).await;
        assert_eq!((refused.refusal(), new_token(&refused)), ((503, "slas_unavailable"), None));
        assert!(world.forwarded("shopper-products.getProducts").is_empty(), "nor does it go upstream");
        eventually("the session stays", async || world.send(read(&world, &token)).await.status == 200).await;
    }
}

#[tokio::test]
async fn valid_token_does_not_wait_for_hanging_slas() {
    let world = World::with(|config| {
        config.insert("timeouts".into(), "exchange = \"60s\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    lifetime(&world, 24);
    let token = world.guest(PUBLIC_CLIENT).await.token();
    refresh_due(&token).await;
    world.simulator.inject(Fault::on("slas", Effect::Hang).flow("token:refresh_token"));
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(20), world.send(read(&world, &token))).await;
        let answer = answer.expect("long before the exchange gives up");
        assert_eq!((answer.status.as_u16(), new_token(&answer)), (200, None));
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 1, "and asks once");
}
