//! Tokens that the deprecated trusted-system login issues are valid as long as the configuration lists their caller.

use reqwest::RequestBuilder;
use serde_json::json;

use crate::{
    callers::CALLER_SECRET,
    world::{
        Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, customers, expired,
        login_target, products,
    },
};

fn trusted_login(world: &World) -> RequestBuilder {
    let body = json!({"login": LOGIN, "clientId": PUBLIC_CLIENT}).to_string();
    let request = world.post(&customers("/customers/trusted-system/actions/login?siteId=RefArch"));
    request.basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).body(body)
}

async fn read(world: &World, token: &str) -> Answer {
    world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)).await
}

async fn refresh(world: &World, token: &str) -> Answer {
    let request = world.post(&login_target(PRIVATE_CLIENT)).bearer_auth(token);
    world.send(request.body(r#"{"type":"refresh"}"#)).await
}

fn caller(config: &mut toml::Table) -> &mut toml::Table {
    config["callers"][0].as_table_mut().unwrap()
}

#[tokio::test]
async fn trusted_system_token_is_rejected_when_its_config_entry_changes() {
    let mut world = World::start().await;
    let token = world.send(trusted_login(&world)).await.token();
    let shopper = world.guest(PUBLIC_CLIENT).await.token();
    assert_eq!(read(&world, &token).await.status, 200);
    type Change = (&'static str, fn(&mut toml::Table));
    let changes: [Change; 6] = [
        ("the entry is gone", |config| drop(config.remove("callers"))),
        ("another client", |config| drop(caller(config).insert("account_manager_client_id".into(), "other".into()))),
        ("another name", |config| drop(caller(config).insert("name".into(), "other".into()))),
        ("no on_behalf", |config| drop(caller(config).insert("may".into(), toml::Value::Array(vec!["system".into()])))),
        ("no such operation", |config| {
            caller(config).insert("operations".into(), toml::Value::Array(vec!["shopper-products.*".into()]));
        }),
        ("another site", |config| {
            caller(config).insert("sites".into(), toml::Value::Array(vec!["RefArchGlobal".into()]));
        }),
    ];
    for (told, change) in changes {
        let before = world.gateway.table();
        world.gateway.reload(change).unwrap();
        assert_eq!(read(&world, &token).await.refusal(), (401, "token_invalid"), "{told}");
        assert_eq!(refresh(&world, &token).await.refusal(), (401, "token_invalid"), "{told}");
        assert_eq!(read(&world, &shopper).await.status, 200, "{told}: a shopper's own token is no caller's affair");
        world.gateway.reload(|config| *config = before).unwrap();
        assert_eq!(read(&world, &token).await.status, 200, "{told}: and back");
    }
}

#[tokio::test]
async fn trusted_system_token_counts_against_caller_rate() {
    let world = World::with(|config| drop(caller(config).insert("requests_per_second".into(), 2.into()))).await;
    let token = world.send(trusted_login(&world)).await.token();
    let mut refused = 0;
    for _ in 0..30 {
        let answer = read(&world, &token).await;
        refused += usize::from(answer.refusal() == (429, "caller_rate_limited"));
    }
    assert!(refused > 5, "{refused} of 30 were refused");
}

#[tokio::test]
async fn trusted_system_token_is_renewed_while_caller_is_permitted() {
    let world = World::start().await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let token = world.send(trusted_login(&world)).await.token();
    expired(&token).await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
    let answer = read(&world, &token).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.token(), token);
}

#[tokio::test]
async fn two_callers_have_separate_sessions() {
    let mut world = World::with(|config| {
        let mut second = config["callers"][0].clone();
        second.as_table_mut().unwrap().insert("name".into(), "second".into());
        second.as_table_mut().unwrap().insert("account_manager_client_id".into(), "second-client".into());
        config["callers"].as_array_mut().unwrap().push(second);
    })
    .await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let token = world.send(trusted_login(&world)).await.token();
    let second =
        world.simulator.mint_account_manager_token("second-client", &["sfcc.shopper-customers.login"], "zzrf_001", 600);
    let body = json!({"login": LOGIN, "clientId": PUBLIC_CLIENT}).to_string();
    let request = world.post(&customers("/customers/trusted-system/actions/login?siteId=RefArch")).bearer_auth(second);
    let other = world.send(request.body(body)).await.token();
    assert_ne!(token, other);
    world.gateway.reload(|config| drop(config["callers"].as_array_mut().unwrap().remove(0))).unwrap();
    assert_eq!(read(&world, &token).await.refusal(), (401, "token_invalid"));
    assert_eq!(read(&world, &other).await.status, 200);
}

#[tokio::test]
async fn on_behalf_token_given_to_no_caller_is_not_renewed() {
    let world = World::start().await;
    world.simulator.set(|behaviour| {
        behaviour.shopper_token_seconds = 2;
        behaviour.enforce_windows = false;
    });
    // One token from SLAS for a private client, and one that the gateway uses itself and has issued to no caller.
    let form = [
        ("grant_type", "client_credentials"),
        ("hint", "ts_ext_on_behalf_of"),
        ("client_id", PRIVATE_CLIENT),
        ("channel_id", "RefArch"),
        ("login_id", LOGIN),
        ("idp_origin", "ecom"),
    ];
    let url = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/trusted-system/token");
    let request = world.post(&url).basic_auth(PRIVATE_CLIENT, Some("private-client-secret")).form(&form);
    let elsewhere = world.send(request).await.json()["access_token"].as_str().unwrap().to_owned();
    let search = world.get(&products("?ids=a&siteId=RefArch")).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    assert_eq!(world.send(search.header("X-On-Behalf-Of", LOGIN)).await.status, 200);
    let used = world.forwarded("shopper-products.getProducts").pop().unwrap();
    let used = used.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    for token in [&elsewhere, &used] {
        assert_eq!(read(&world, token).await.status, 200);
        assert_eq!(refresh(&world, token).await.refusal(), (401, "token_invalid"));
    }
    // A shopper logs in at the same time.
    let own = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.token();
    expired(&own).await;
    for token in [&elsewhere, &used] {
        // The token is forwarded unchanged within the leeway for clocks.
        assert_eq!(read(&world, token).await.header("authorization"), None);
    }
    assert_eq!(world.simulator.count("slas", "token:refresh_token"), 0);
    assert_ne!(read(&world, &own).await.token(), own);
}
