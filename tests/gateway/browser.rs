//! Web pages in Chromium that use the gateway: Salesforce's SDKs, unmodified, at other origins than the gateway's, and at its own
//! with sessions in cookies.
//!
//! Each file in `tests/browser` runs with its own gateway and simulator. Chromium knows them by fixed names below `localhost`
//! (`tests/browser/browser.mjs`), so that SLAS can know the redirect URI before the gateway has an address.

use salesforce_simulator::Seed;
use serde_json::json;

use crate::{
    node_tests,
    tls::authority::{Authority, text},
    world::{LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");

const GATEWAY: &str = "http://gateway.shop.localhost";
/// Of the gateway's site: `shop.localhost` is a registrable domain.
const SHOP: &str = "http://www.shop.localhost";
/// Of another site.
const APP: &str = "http://app.localhost";
/// Where the storefronts with sessions in cookies are, behind a server that forwards to the gateway.
const STOREFRONTS: &str = "https://www.shop.localhost";
/// The same without TLS, as on a developer's machine.
const PLAIN_STOREFRONTS: &str = "http://dev.localhost";
/// A site whose pages a server renders with Salesforce's SDK, with reference cookies.
const RENDERED: &str = "rendered";
/// Allowed origins of the storefronts' site, without and with the authority of the cookies.
const READER: &str = "https://reader.shop.localhost";
const ACTOR: &str = "https://actor.shop.localhost";
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

#[tokio::test]
async fn sdks_with_sessions_in_cookies_work_in_pages_of_the_own_origin() {
    run_with_cookies("cookies.test.mjs").await;
}

#[tokio::test]
async fn tabs_with_one_session_refresh_at_once_and_stay_logged_in() {
    run_with_cookies("tabs.test.mjs").await;
}

#[tokio::test]
async fn scripts_of_pages_with_sessions_in_cookies_can_read_no_token() {
    run_with_cookies("secrets.test.mjs").await;
}

#[tokio::test]
async fn pages_of_foreign_origins_cannot_use_sessions_in_cookies() {
    run_with_cookies("foreign.test.mjs").await;
}

/// Runs one file of tests with pages of other origins, in a world of its own.
async fn run(file: &str) {
    let redirect_uri = format!("{GATEWAY}/callback");
    let seed = seed_with(&[&redirect_uri]);
    let world = World::with_seed(seed, |config| {
        for tenant in config["tenants"].as_array_mut().unwrap() {
            let clients = tenant["slas_clients"].as_array_mut().unwrap();
            clients[0].as_table_mut().unwrap().insert("redirect_uri".into(), redirect_uri.clone().into());
        }
        let origins = format!("[[origins]]\norigin = '{SHOP}'\n[[origins]]\norigin = '{APP}'");
        extend_tenant(config, &origins);
    })
    .await;
    run_in(&world, file, &[]).await;
}

/// Runs one file of tests with storefronts whose sessions are in cookies, in a world of its own.
async fn run_with_cookies(file: &str) {
    let mut seed = seed_with(&[&format!("{STOREFRONTS}/callback"), &format!("{PLAIN_STOREFRONTS}/callback")]);
    let mut keys = String::from("sites = []\n");
    let mut entries = Vec::new();
    for (cookies, client) in [
        ("pwa-kit", PRIVATE_CLIENT),
        ("pwa-kit", PUBLIC_CLIENT),
        ("reference", PRIVATE_CLIENT),
        ("reference", PUBLIC_CLIENT),
    ] {
        let is_private = client == PRIVATE_CLIENT;
        let site = format!("{}-{cookies}", if is_private { "private" } else { "public" });
        keys += &format!("[[storefronts]]\nsite = '{site}'\nclient_id = '{client}'\ncookies = '{cookies}'\n");
        entries.push(json!({
            "siteId": site, "clientId": client, "isPrivate": is_private, "isReference": cookies == "reference",
        }));
        seed.organizations[0].sites.push(site);
    }
    let rendered = json!({ "siteId": RENDERED, "clientId": PRIVATE_CLIENT, "isPrivate": true, "isReference": true });
    keys += &format!("[[storefronts]]\nsite = '{RENDERED}'\nclient_id = '{PRIVATE_CLIENT}'\n");
    keys += "cookies = 'reference'\nhost_prefix = false\n";
    seed.organizations[0].sites.push(RENDERED.into());
    keys += &format!("[[origins]]\norigin = '{READER}'\n[[origins]]\norigin = '{ACTOR}'\ncredentials = true\n");
    let sites = seed.organizations[0].sites.clone();
    let world = World::with_seed(seed, |config| {
        extend_tenant(config, &keys);
        config["tenants"][0]["sites"] = sites.into();
        // All tabs have one address.
        config.extend("limits = { slas_calls_per_address = 0 }".parse::<toml::Table>().unwrap());
    })
    .await;
    world.simulator.set(|behaviour| behaviour.session_cookie_domain = Some(".salesforce.example".into()));
    let authority = Authority::new();
    let certificate = authority.server_for("edge", "DNS:*.shop.localhost, DNS:*.localhost");
    let storefronts = json!({
        "origin": STOREFRONTS, "plainOrigin": PLAIN_STOREFRONTS, "storefronts": entries, "rendered": rendered,
        "readerOrigin": READER, "actorOrigin": ACTOR,
    });
    let environment = [
        ("STOREFRONTS", &*storefronts.to_string()),
        ("EDGE_CERTIFICATE", text(&certificate.certificate)),
        ("EDGE_KEY", text(&certificate.private_key)),
    ];
    run_in(&world, file, &environment).await;
}

/// A simulator whose SLAS clients have more redirect URIs.
fn seed_with(redirect_uris: &[&str]) -> Seed {
    let mut seed = Seed::default();
    for client in &mut seed.slas_clients {
        client.redirect_uris.extend(redirect_uris.iter().map(|&uri| uri.to_owned()));
    }
    seed
}

/// Adds keys to the configuration of the first tenant.
fn extend_tenant(config: &mut toml::Table, keys: &str) {
    let tenant = config["tenants"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
    tenant.extend(keys.parse::<toml::Table>().unwrap());
}

/// Runs one file of tests.
async fn run_in(world: &World, file: &str, more: &[(&str, &str)]) {
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
    node_tests::run(FOLDER, file, &[&environment, more].concat()).await;
}
