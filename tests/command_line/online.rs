//! `check --online`: what the configuration names is asked.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use salesforce_simulator::{Seed, Simulator};

use crate::{DEMO, run, serving::eventually, text};

async fn simulator() -> Simulator {
    salesforce_simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), Seed::default()).await.unwrap()
}

fn online(environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(&["check", "--online", "-c", DEMO], environment);
    let shown = text(&output.stdout) + &text(&output.stderr);
    for secret in ["account-manager-secret", "private-client-secret", "PLANTED"] {
        assert!(!shown.contains(secret), "{secret} is shown:\n{shown}");
    }
    (output.status.code(), shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_names_is_asked() {
    let simulator = simulator().await;
    let url = simulator.url();
    let api = ("SHOPPER_GATEWAY__TENANTS__0__API", url.as_str());
    let manager = ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", url.as_str());

    let (code, shown) = online(&[api, manager]);
    assert_eq!(code, Some(0), "{shown}");
    for line in [
        format!("ok      f_ecom_zzrf_001: keys of SLAS at {url}/: "),
        format!("ok      f_ecom_zzrf_001: keys of Account Manager at {url}/: "),
        "ok      f_ecom_zzrf_001: a token for the gateway's own client aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa: granted for "
            .to_owned(),
    ] {
        assert!(shown.contains(&line), "{line} not in:\n{shown}");
    }

    let secret = ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__CLIENT_SECRET", "PLANTED");
    let (code, shown) = online(&[api, manager, secret]);
    assert_eq!(code, Some(1), "{shown}");
    let line =
        "rejected with 401 Unauthorized invalid_client; see tenants[0].account_manager.client_id and client_secret";
    assert!(shown.contains(line) && shown.matches("failed  ").count() == 1, "{shown}");

    let scopes = ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__SCOPES", "sfcc.nothing-like-this");
    let (code, shown) = online(&[api, manager, scopes]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("invalid_scope; see tenants[0].account_manager.scopes"), "{shown}");

    let (code, shown) = online(&[("SHOPPER_GATEWAY__TENANTS__0__API", "http://127.0.0.1:9"), manager]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("no connection could be made") && shown.contains("; see tenants[0].api"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_store_is_asked() {
    let simulator = simulator().await;
    let url = simulator.url();
    let folder = tempfile::tempdir().unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    drop(socket);
    let mut redis = Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--requirepass", "right"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("Redis is up", || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    let asked = |address: &str| {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        online(&[
            ("SHOPPER_GATEWAY__TENANTS__0__API", url.as_str()),
            ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", url.as_str()),
            ("SHOPPER_GATEWAY__STORE__KIND", "redis"),
            ("SHOPPER_GATEWAY__STORE__URL", address),
            ("SHOPPER_GATEWAY__STORE__ENCRYPTION_KEY", key),
            // A machine under load may take longer than the usual time limit.
            ("SHOPPER_GATEWAY__STORE__TIMEOUT", "2s"),
        ])
    };
    let answers = asked(&format!("redis://:right@127.0.0.1:{port}"));
    let refuses = asked(&format!("redis://:PLANTED@127.0.0.1:{port}"));
    redis.kill().unwrap();
    redis.wait().unwrap();
    assert!(answers.0 == Some(0) && answers.1.contains("ok      session store, Redis: answers"), "{answers:?}");
    assert!(refuses.0 == Some(1) && refuses.1.contains("failed  session store, Redis: "), "{refuses:?}");
    let gone = asked(&format!("redis://:right@127.0.0.1:{port}"));
    assert!(gone.0 == Some(1) && gone.1.contains("see store.url"), "{gone:?}");
}
