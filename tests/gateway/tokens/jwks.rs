//! The sources of verification keys, the times at which the gateway fetches them, and responses that never replace
//! them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, StatusCode};
use salesforce_simulator::{Effect, Fault, ResetAt, Seed};
use serde_json::json;

use super::{INVALID, forge::Forge, present};
use crate::world::{Gateway, World, eventually, install_cryptography};

fn status(code: u16, body: Option<String>) -> Effect {
    Effect::Status { code, retry_after: None, body }
}

/// A token with an unknown key id. Its verification fetches the key set.
fn of_unknown_key(world: &World) -> String {
    world.mint(|spec| spec.kid = Some("unknown".into()))
}

async fn is_ready(world: &World) -> bool {
    let readyz = world.client.get(format!("http://{}/readyz", world.gateway.admin)).send().await.unwrap();
    readyz.status() == StatusCode::OK
}

#[tokio::test]
async fn first_token_of_new_key_is_accepted() {
    let world = World::start().await;
    let first = world.mint(|_| {});
    assert_eq!(present(&world, &first).await.refusal(), (200, "none"));
    world.simulator.clear_ledger();

    // SLAS publishes its next key in advance, so no fetch is necessary.
    world.simulator.rotate_keys();
    let second = world.mint(|_| {});
    assert_eq!(present(&world, &second).await.refusal(), (200, "none"));
    assert_eq!(world.simulator.count("slas", "jwks"), 0);
    assert_eq!(present(&world, &first).await.refusal(), (200, "none"), "a token of the past key");

    // This key was not published at the last fetch: one fetch serves all waiting requests.
    world.simulator.rotate_keys();
    let third = world.mint(|_| {});
    let waiting = (0..20).map(|_| present(&world, &third));
    for answer in futures::future::join_all(waiting).await {
        assert_eq!(answer.refusal(), (200, "none"));
    }
    assert_eq!(world.simulator.count("slas", "jwks"), 1);

    // SLAS no longer publishes the first key, so its tokens are rejected, even cached ones.
    assert_eq!(present(&world, &first).await.refusal(), INVALID);
    assert_eq!(present(&world, &second).await.refusal(), (200, "none"));
    assert_eq!(world.simulator.count("slas", "jwks"), 1, "one fetch in 30 seconds");
}

#[tokio::test]
async fn invalid_key_set_never_replaces_a_valid_one() {
    let world = World::start().await;
    let jwks = world.simulator.slas_jwks();
    let (good, other_kid) = (jwks["keys"][0].clone(), jwks["keys"][1]["kid"].clone());
    let with = |name: &str, value: serde_json::Value| {
        let mut key = good.clone();
        key[name] = value;
        status(200, Some(json!({"keys": [key]}).to_string()))
    };
    let text = jwks.to_string();
    world.simulator.set(|behaviour| behaviour.jwks_requests_per_minute = 1000);
    let secret = json!({"kty": "oct", "kid": good["kid"], "k": URL_SAFE_NO_PAD.encode([1; 32]), "alg": "HS256"});
    for (what, effect) in [
        ("500", status(500, None)),
        ("429", status(429, Some("{}".into()))),
        ("404", status(404, Some(text.clone()))),
        ("redirect", status(302, Some(text.clone()))),
        ("nothing", status(200, None)),
        ("an empty set", status(200, Some(r#"{"keys":[]}"#.into()))),
        ("no set", status(200, Some("{}".into()))),
        ("a list", status(200, Some("[]".into()))),
        ("a page", Effect::Garbage { html: true }),
        ("noise", Effect::Garbage { html: false }),
        ("half a set", status(200, Some(text[..text.len() / 2].to_owned()))),
        ("an answer that breaks off", Effect::Truncate),
        ("a reset", Effect::Reset { at: ResetAt::MidBody }),
        ("20 MB", Effect::HugeBody { bytes: 20 * 1024 * 1024 }),
        ("a shared secret", status(200, Some(json!({"keys": [secret]}).to_string()))),
        ("a key for encryption", with("use", "enc".into())),
        ("a key of another algorithm", with("alg", "ES384".into())),
        ("a key of another curve", with("crv", "P-384".into())),
        ("a key of another type", with("kty", "RSA".into())),
        ("a key id that stands twice", {
            let mut twin = jwks["keys"][1].clone();
            twin["kid"] = good["kid"].clone();
            status(200, Some(json!({"keys": [good, twin]}).to_string()))
        }),
    ] {
        // A new gateway, because each one fetches at most once in 30 seconds.
        let gateway = Gateway::start(&world.simulator.url(), |_| {}).await;
        let world = SecondGateway { world: &world, gateway };
        eventually("the gateway is ready", async || world.is_ready().await).await;
        world.world.simulator.inject(Fault::on("slas", effect).flow("jwks"));
        assert_eq!(world.present(&of_unknown_key(world.world)).await, (503, Some("keys_unavailable".into())), "{what}");
        world.world.simulator.clear_faults();
        assert_eq!(world.present(&world.world.mint(|_| {})).await, (200, None), "{what}");
        let of_the_other = world.world.mint(|spec| spec.kid = other_kid.as_str().map(str::to_owned));
        assert_eq!(world.present(&of_the_other).await, (200, None), "{what}");
        assert!(world.is_ready().await, "{what}");
    }
}

/// A second gateway in front of a world's simulator.
struct SecondGateway<'w> {
    world: &'w World,
    gateway: Gateway,
}

impl SecondGateway<'_> {
    async fn present(&self, token: &str) -> (u16, Option<String>) {
        let target = crate::world::products("?ids=a&siteId=RefArch");
        let request = self.world.client.get(format!("http://{}{target}", self.gateway.address)).bearer_auth(token);
        let answer = request.send().await.unwrap();
        let code = answer.headers().get("x-shopper-gateway-error").map(|code| code.to_str().unwrap().to_owned());
        (answer.status().as_u16(), code)
    }

    async fn is_ready(&self) -> bool {
        let readyz = self.world.client.get(format!("http://{}/readyz", self.gateway.admin)).send().await;
        readyz.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }
}

#[tokio::test]
async fn unknown_key_is_fetched_once_while_slas_is_down() {
    let world = World::start().await;
    world.simulator.clear_ledger();
    world.simulator.inject(Fault::on("slas", status(503, None)).flow("jwks"));
    for _ in 0..10 {
        let answer = present(&world, &of_unknown_key(&world)).await;
        assert_eq!(answer.refusal(), (503, "keys_unavailable"));
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    assert_eq!(world.simulator.count("slas", "jwks"), 1);
    assert_eq!(present(&world, &world.mint(|_| {})).await.refusal(), (200, "none"));
}

#[tokio::test]
async fn gateway_starts_while_slas_is_down_and_is_ready_after_recovery() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    simulator.inject(Fault::on("slas", status(503, None)));
    let gateway = Gateway::start(&simulator.url(), |_| {}).await;
    let world = World { simulator, gateway, client: Client::builder().no_proxy().build().unwrap() };
    let livez = format!("http://{}/livez", world.gateway.admin);
    eventually("the gateway is alive", async || world.client.get(&livez).send().await.is_ok()).await;

    let token = world.mint(|_| {});
    for _ in 0..3 {
        assert!(!is_ready(&world).await);
        let answer = present(&world, &token).await;
        assert_eq!(answer.refusal(), (503, "keys_unavailable"));
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert!(answer.header("www-authenticate").is_none());
    }
    // Errors that need no key are reported.
    assert_eq!(present(&world, &Forge::with_foreign_key(&world).header_with("a", 1.into())).await.refusal(), INVALID);
    let missing = world.send(world.get(&crate::world::products("?ids=a&siteId=RefArch"))).await;
    assert_eq!(missing.refusal(), (401, "token_missing"));
    assert!(world.forwarded(super::PRODUCTS).is_empty());

    world.simulator.clear_faults();
    eventually("the gateway is ready", async || is_ready(&world).await).await;
    assert_eq!(present(&world, &token).await.refusal(), (200, "none"));
}

#[tokio::test]
async fn gateway_stops_while_slas_is_down() {
    install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    simulator.inject(Fault::on("slas", Effect::Hang));
    let gateway = Gateway::start(&simulator.url(), |_| {}).await;
    eventually("it asks for keys", async || simulator.count("slas", "jwks") > 0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn unknown_key_is_fetched_for_its_organization_only() {
    let world = World::start().await;
    world.simulator.clear_ledger();
    assert_eq!(present(&world, &of_unknown_key(&world)).await.refusal(), INVALID);
    let asked: Vec<String> = world.simulator.ledger().into_iter().map(|entry| entry.path).collect();
    assert_eq!(asked, ["/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/jwks"]);
}
