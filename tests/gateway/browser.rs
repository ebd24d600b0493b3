//! Web pages in Chromium that use the gateway: Salesforce's SDKs, unmodified, at other origins than the gateway's.
//!
//! Each file in `tests/browser` runs with its own gateway and simulator. Chromium knows them by fixed names below `localhost`
//! (`tests/browser/browser.mjs`), so that SLAS can know the redirect URI before the gateway has an address.

use salesforce_simulator::Seed;

use crate::{
    node_tests,
    world::{LOGIN, ORGANIZATION, PASSWORD, PUBLIC_CLIENT, World},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");

const GATEWAY: &str = "http://gateway.shop.localhost";
/// Of the gateway's site: `shop.localhost` is a registrable domain.
const SHOP: &str = "http://www.shop.localhost";
/// Of another site.
const APP: &str = "http://app.localhost";
/// Of the gateway's site, and of another one. No tenant allows them.
const FOREIGN: &str = "http://other.shop.localhost http://evil.localhost";

#[tokio::test]
async fn isomorphic_sdks_work_in_pages_of_allowed_origins() {
    run("isomorphic.test.mjs").await;
}

#[tokio::test]
async fn react_sdk_works_in_page_of_allowed_origin() {
    run("react.test.mjs").await;
}

#[tokio::test]
async fn pages_read_logins_and_errors_unless_their_origin_is_foreign() {
    run("plain.test.mjs").await;
}

/// Runs one file of tests in a world of its own.
async fn run(file: &str) {
    let redirect_uri = format!("{GATEWAY}/callback");
    let mut seed = Seed::default();
    for client in &mut seed.slas_clients {
        client.redirect_uris.push(redirect_uri.clone());
    }
    let world = World::with_seed(seed, |config| {
        for tenant in config["tenants"].as_array_mut().unwrap() {
            let clients = tenant["slas_clients"].as_array_mut().unwrap();
            clients[0].as_table_mut().unwrap().insert("redirect_uri".into(), redirect_uri.clone().into());
        }
        let tenant = config["tenants"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        let origins = format!("[[origins]]\norigin = '{SHOP}'\n[[origins]]\norigin = '{APP}'");
        tenant.extend(origins.parse::<toml::Table>().unwrap());
    })
    .await;
    // One shopper logs in several times a second.
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    let profiles = tempfile::tempdir().unwrap();
    let environment = [
        ("HOME", profiles.path().to_str().unwrap()),
        ("GATEWAY_ADDRESS", &*world.gateway.address.to_string()),
        ("GATEWAY_ORIGIN", GATEWAY),
        ("SHOP_ORIGIN", SHOP),
        ("APP_ORIGIN", APP),
        ("FOREIGN_ORIGINS", FOREIGN),
        ("SIMULATOR_URL", &world.simulator.url()),
        ("ORGANIZATION", ORGANIZATION),
        ("SITE", "RefArch"),
        ("PUBLIC_CLIENT", PUBLIC_CLIENT),
        ("SHOPPER_LOGIN", LOGIN),
        ("SHOPPER_PASSWORD", PASSWORD),
    ];
    node_tests::run(FOLDER, file, &environment).await;
}
