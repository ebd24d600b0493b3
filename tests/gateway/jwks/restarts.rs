//! Gateways that start while the issuers are down, with valid or invalid key sets persisted earlier.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use salesforce_simulator::{Effect, ResetAt};
use serde_json::{Value, json};
use shopper_gateway::{app::App, config::Settings, time::unix_now_ms};
use tempfile::TempDir;

use super::{Issuers, SERVED, UNAVAILABLE, status};
use crate::{
    redis::{Redis, in_redis},
    world::{configuration, eventually},
};

const ALL: [&str; 4] = [
    "f_ecom_zzrf_001/slas",
    "f_ecom_zzrf_001/account_manager",
    "f_ecom_zzrf_002/slas",
    "f_ecom_zzrf_002/account_manager",
];
const HOUR_MS: u64 = 3_600_000;

/// The configuration of a gateway that persists its key sets in this folder.
fn persist_in(folder: &Path) -> impl FnOnce(&mut toml::Table) {
    let keys = format!("jwks_cache_dir = \"{}\"", folder.display());
    move |config| {
        config.insert("keys".into(), keys.parse::<toml::Table>().unwrap().into());
    }
}

/// A folder in which a gateway persisted key sets. Their issuers no longer serve them.
struct PersistedKeys {
    issuers: Issuers,
    folder: TempDir,
}

impl PersistedKeys {
    async fn new() -> Self {
        let (issuers, folder) = (Issuers::start().await, tempfile::tempdir().unwrap());
        let gateway = issuers.start_ready_gateway(persist_in(folder.path())).await;
        let kept = Self { issuers, folder };
        eventually("four key sets are kept", async || kept.files().iter().all(|file| file.exists())).await;
        gateway.stop().await;
        kept.issuers.stop_serving_keys(&status(503));
        kept
    }

    fn files(&self) -> Vec<PathBuf> {
        let names = [
            "slas-f_ecom_zzrf_001",
            "account_manager-f_ecom_zzrf_001",
            "slas-f_ecom_zzrf_002",
            "account_manager-f_ecom_zzrf_002",
        ];
        names.iter().map(|name| self.folder.path().join(format!("{name}.json"))).collect()
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&fs::read(&self.files()[0]).unwrap()).unwrap()
    }

    fn write(&self, document: &Value) {
        fs::write(&self.files()[0], document.to_string()).unwrap();
    }
}

#[tokio::test]
async fn restart_during_outage_uses_keys_from_folder() {
    let kept = PersistedKeys::new().await;
    let issuers = &kept.issuers;
    for effect in [status(503), status(429), Effect::Hang, Effect::Reset { at: ResetAt::Before }] {
        issuers.simulator.clear_faults();
        issuers.stop_serving_keys(&effect);
        let gateway = issuers.start_ready_gateway(persist_in(kept.folder.path())).await;
        assert!(issuers.is_ready(&gateway).await, "{effect:?}");
        assert_eq!(issuers.present(&gateway, &issuers.shopper_token(|_| {})).await, SERVED, "{effect:?}");
    }
    // A persisted key verifies the system token: the API's 404 arrives.
    issuers.simulator.clear_faults();
    issuers.stop_serving_keys(&status(503));
    let gateway = issuers.start_ready_gateway(persist_in(kept.folder.path())).await;
    assert_eq!(issuers.present_system(&gateway, &issuers.system_token()).await, (404, None));
}

#[tokio::test]
async fn restart_during_outage_uses_keys_from_store() {
    let issuers = Issuers::start().await;
    let redis = Redis::start().await;
    let first = issuers.start_ready_gateway(|config| in_redis(config, &redis.url())).await;
    let kept = async || redis.run::<Vec<String>>(redis::cmd("KEYS").arg("test:k:*")).await;
    eventually("four key sets are kept", async || kept().await.len() == 4).await;
    first.stop().await;
    let stands = redis.dump().await;
    assert!(!stands.contains(&issuers.simulator.slas_kid()) && !stands.contains("zzrf_001"), "sealed: {stands}");

    issuers.stop_serving_keys(&Effect::Hang);
    let second = issuers.start_ready_gateway(|config| in_redis(config, &redis.url())).await;
    assert_eq!(issuers.present(&second, &issuers.shopper_token(|_| {})).await, SERVED);
    assert_eq!(issuers.present_system(&second, &issuers.system_token()).await, (404, None));

    // An attacker with write access to Redis can plant no key: neither by changing a value nor by moving it.
    let names = kept().await;
    let mut values: Vec<Vec<u8>> = Vec::new();
    for name in &names {
        values.push(redis.run(redis::cmd("GET").arg(name)).await);
    }
    for (position, name) in names.iter().enumerate() {
        let moved = &values[(position + 1) % values.len()];
        redis.run::<()>(redis::cmd("SET").arg(name).arg(moved)).await;
    }
    let third = issuers.start_gateway(|config| in_redis(config, &redis.url())).await;
    assert_eq!(issuers.missing_key_sets(&third).await, ALL);
    for (name, value) in names.iter().zip(&values) {
        let mut changed = value.clone();
        *changed.last_mut().unwrap() ^= 1;
        redis.run::<()>(redis::cmd("SET").arg(name).arg(changed)).await;
    }
    let fourth = issuers.start_gateway(|config| in_redis(config, &redis.url())).await;
    assert_eq!(issuers.missing_key_sets(&fourth).await, ALL);
    // Gateways read the store again, so that another gateway can supply keys.
    for (name, value) in names.iter().zip(&values) {
        redis.run::<()>(redis::cmd("SET").arg(name).arg(value)).await;
    }
    for gateway in [&third, &fourth] {
        eventually("it has all keys", async || issuers.missing_key_sets(gateway).await.is_empty()).await;
        assert_eq!(issuers.present(gateway, &issuers.shopper_token(|_| {})).await, SERVED);
    }
}

#[tokio::test]
async fn restart_during_outage_without_persistence_has_no_keys() {
    let issuers = Issuers::start().await;
    issuers.start_ready_gateway(|_| {}).await.stop().await;
    issuers.stop_serving_keys(&status(503));
    let gateway = issuers.start_gateway(|_| {}).await;
    assert_eq!(issuers.missing_key_sets(&gateway).await, ALL);
    assert_eq!(issuers.present(&gateway, &issuers.shopper_token(|_| {})).await, UNAVAILABLE);
    assert_eq!(issuers.present_system(&gateway, &issuers.system_token()).await, UNAVAILABLE);
}

#[tokio::test]
async fn key_file_that_is_old_or_of_another_issuer_is_rejected() {
    let kept = PersistedKeys::new().await;
    let genuine = kept.document();
    let with = |name: &str, value: Value| {
        let mut document = genuine.clone();
        document[name] = value;
        document
    };
    let algorithm = {
        let mut document = genuine.clone();
        document["keys"] = json!([kept.issuers.simulator.account_manager_jwks()["keys"][0]]);
        document
    };
    let now = unix_now_ms();
    for (what, document) in [
        ("another tenant's", with("tenant", "f_ecom_zzrf_002".into())),
        ("another address's", with("address", "https://evil.example/jwks".into())),
        ("another issuer's", with("issuer", "account_manager".into())),
        ("another format", with("format", 2.into())),
        ("too old", with("read_at", (now - 72 * HOUR_MS).into())),
        ("from the future", with("read_at", (now + 3 * HOUR_MS).into())),
        ("without keys", with("keys", json!([]))),
        ("with another algorithm's key", algorithm),
        ("nothing", Value::Null),
    ] {
        kept.write(&document);
        let gateway = kept.issuers.start_gateway(persist_in(kept.folder.path())).await;
        let expected = &ALL[..1];
        eventually("the others are restored", async || kept.issuers.missing_key_sets(&gateway).await == expected).await;
        assert_eq!(kept.issuers.present(&gateway, &kept.issuers.shopper_token(|_| {})).await, UNAVAILABLE, "{what}");
    }
    let text = genuine.to_string();
    fs::write(&kept.files()[0], &text[..text.len() / 2]).unwrap();
    let gateway = kept.issuers.start_gateway(persist_in(kept.folder.path())).await;
    eventually("the others are restored", async || kept.issuers.missing_key_sets(&gateway).await == ALL[..1]).await;

    kept.write(&genuine);
    let gateway = kept.issuers.start_ready_gateway(persist_in(kept.folder.path())).await;
    assert_eq!(
        kept.issuers.present(&gateway, &kept.issuers.shopper_token(|_| {})).await,
        SERVED,
        "the genuine one is taken"
    );
}

#[tokio::test]
async fn key_file_writable_by_others_is_rejected() {
    let kept = PersistedKeys::new().await;
    fs::set_permissions(&kept.files()[0], Permissions::from_mode(0o666)).unwrap();
    let gateway = kept.issuers.start_gateway(persist_in(kept.folder.path())).await;
    eventually("the others are restored", async || kept.issuers.missing_key_sets(&gateway).await == ALL[..1]).await;
    assert_eq!(kept.issuers.present(&gateway, &kept.issuers.shopper_token(|_| {})).await, UNAVAILABLE);
}

#[tokio::test]
async fn key_folder_writable_by_others_prevents_start() {
    let folder = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let mut table: toml::Table = configuration("http://127.0.0.1:1").parse().unwrap();
    persist_in(folder.path())(&mut table);
    let path = place.path().join("gateway.toml");
    fs::write(&path, table.to_string()).unwrap();
    let settings = Settings::load_with(&path, []).unwrap().settings;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let refused = Settings::load_with(&path, []).unwrap_err().to_string();
    assert!(refused.contains("keys.jwks_cache_dir") && refused.contains("chmod go-w"), "{refused}");
    crate::world::install_cryptography();
    let refused = App::build(settings).unwrap_err().to_string();
    assert!(refused.starts_with("keys.jwks_cache_dir: ") && refused.contains("(mode 0777)"), "{refused}");
}

#[tokio::test]
async fn expired_key_set_rejects_tokens_verified_before() {
    let kept = PersistedKeys::new().await;
    let mut document = kept.document();
    document["read_at"] = (unix_now_ms() - 72 * HOUR_MS + 4000).into();
    kept.write(&document);
    let issuers = &kept.issuers;
    let gateway = issuers.start_ready_gateway(persist_in(kept.folder.path())).await;
    let token = issuers.shopper_token(|_| {});
    assert_eq!(issuers.present(&gateway, &token).await, SERVED);
    let age = "shopper_gateway_jwks_age_seconds{issuer=\"slas\",tenant=\"f_ecom_zzrf_001\"}";
    assert!(issuers.metric(&gateway, age).await.unwrap() >= 72.0 * 3600.0 - 5.0, "restored keys do not become fresh");
    eventually("they are too old", async || issuers.present(&gateway, &token).await == UNAVAILABLE).await;
    assert_eq!(issuers.missing_key_sets(&gateway).await, ALL[..1]);
    assert!(!issuers.is_ready(&gateway).await);
    issuers.simulator.clear_faults();
    eventually("there are new ones", async || issuers.present(&gateway, &token).await == SERVED).await;
}
