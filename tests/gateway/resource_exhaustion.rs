//! The machine runs out of file descriptors or disk space, or the reader of the log is gone.
//!
//! Each test runs the real process. A shortage stops no request that needs none of the resource, and keeps no processor
//! busy. Soon after its end the gateway works as before.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};
use serde_json::Value;

use crate::{
    replica::{BINARY, Replica},
    scale::{figure, ms},
    world::{PUBLIC_CLIENT, eventually, install_cryptography, login_target, products},
};

/// Requests whose log lines exceed the capacity of a pipe.
const CONNECTIONS: usize = 1500;

async fn simulator() -> Simulator {
    install_cryptography();
    salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap()
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
}

/// The gateway, started by a shell that first runs a command.
fn gateway_after(words: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{words}; exec \"$0\" \"$@\""), BINARY]).env("RUST_LOG", "info");
    command
}

fn logging_to(config: &mut toml::Table, audit_file: &Path) {
    let log = format!("audit_file = \"{}\"", audit_file.display());
    config.insert("log".into(), log.parse::<toml::Table>().unwrap().into());
}

async fn search(client: &Client, replica: &Replica, token: &str) -> StatusCode {
    let url = format!("http://{}{}", replica.address, products("?ids=a&siteId=RefArch"));
    // A broken connection counts as a failure of the gateway too.
    client.get(url).bearer_auth(token).send().await.map_or(StatusCode::BAD_GATEWAY, |answer| answer.status())
}

async fn guest(client: &Client, replica: &Replica) -> StatusCode {
    let url = format!("http://{}{}", replica.address, login_target(PUBLIC_CLIENT));
    client.post(url).body(r#"{"type":"guest"}"#).send().await.unwrap().status()
}

async fn metric(client: &Client, replica: &Replica, line: &str) -> bool {
    let answer = client.get(format!("http://{}/metrics", replica.admin)).send().await.unwrap();
    answer.text().await.unwrap().lines().any(|shown| shown == line)
}

/// Asserts that the process uses little processor time in two seconds.
async fn assert_idle(replica: &Replica) {
    let before = replica.processor_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = replica.processor_time() - before;
    assert!(used < Duration::from_millis(700), "it is busy with nothing: {used:?} in two seconds");
}

#[tokio::test]
async fn unread_log_does_not_delay_requests() {
    let simulator = simulator().await;
    let command = &mut gateway_after(":");
    let mut replica = Replica::start_by(command.stderr(Stdio::piped()), &simulator.url(), |_| {}).await;
    let (client, token) = (client(), simulator.mint_shopper_token(ShopperTokenSpec::default()));
    for _ in 0..CONNECTIONS {
        assert_eq!(search(&client, &replica, &token).await, 200);
    }
    assert_idle(&replica).await;
    figure("R20", format!("nobody reads the log: 0 of {CONNECTIONS} requests failed, 0 lines lost"));
    let lost = r#"shopper_gateway_log_lines_dropped_total{log="log"} 0"#;
    assert!(metric(&client, &replica, lost).await, "so many can wait");
    // Now a reader empties the pipe.
    let stderr = replica.take_stderr();
    let reading = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(stderr).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        lines.filter(|line| line["operation"] == "shopper-products.getProducts").count()
    });
    replica.terminate();
    assert_eq!(replica.wait().await, Some(0));
    assert_eq!(reading.await.unwrap(), CONNECTIONS, "each request has its line");
}

#[tokio::test]
async fn unread_log_does_not_delay_stop() {
    let simulator = simulator().await;
    let command = &mut gateway_after(":");
    let mut replica = Replica::start_by(command.stderr(Stdio::piped()), &simulator.url(), |_| {}).await;
    let (client, token) = (client(), simulator.mint_shopper_token(ShopperTokenSpec::default()));
    for _ in 0..CONNECTIONS {
        assert_eq!(search(&client, &replica, &token).await, 200);
    }
    let _unread = replica.take_stderr();
    replica.terminate();
    assert_eq!(replica.wait().await, Some(0));
}

#[tokio::test]
async fn audit_lines_are_kept_until_pipe_is_read() {
    let simulator = simulator().await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("audit");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // The pipe is opened for reading and writing, so that opening does not block.
    let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let replica = Replica::start(&simulator.url(), |config| logging_to(config, &pipe)).await;
    let client = client();
    for _ in 0..CONNECTIONS / 5 {
        assert_eq!(guest(&client, &replica).await, 200);
    }
    let reading = tokio::task::spawn_blocking(move || {
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        while text.iter().filter(|byte| **byte == b'\n').count() < CONNECTIONS / 5 {
            let read = reader.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..read]);
        }
        String::from_utf8(text).unwrap()
    });
    let text = tokio::time::timeout(Duration::from_secs(20), reading).await.expect("no line is lost").unwrap();
    for line in text.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["event"], "login", "{line}");
    }
    assert!(metric(&client, &replica, r#"shopper_gateway_log_lines_dropped_total{log="audit"} 0"#).await);
}

#[tokio::test]
async fn full_disk_does_not_stop_logins_and_audit_lines_are_written_later() {
    let simulator = simulator().await;
    let folder = tempfile::tempdir().unwrap();
    let (audit, keys) = (folder.path().join("audit.jsonl"), folder.path().join("keys"));
    // The size limit for files makes each write fail, as on a full disk.
    let command = &mut gateway_after("trap '' XFSZ; ulimit -S -f 0");
    let mut replica = Replica::start_by(command.stderr(Stdio::piped()), &simulator.url(), |config| {
        logging_to(config, &audit);
        let folder = format!("jwks_cache_dir = \"{}\"", keys.display());
        config.insert("keys".into(), folder.parse::<toml::Table>().unwrap().into());
    })
    .await;
    let client = client();
    for _ in 0..20 {
        assert_eq!(guest(&client, &replica).await, 200);
    }
    assert_idle(&replica).await;
    assert_eq!(std::fs::read_to_string(&audit).unwrap(), "");

    let process = Pid::from_raw(replica.id().try_into().unwrap());
    prlimit(process, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    let back = Instant::now();
    eventually("every line is written", async || std::fs::read_to_string(&audit).unwrap().lines().count() == 20).await;
    figure("R20", format!("full disk: 0 of 20 logins failed, every line written {} after its end", ms(back.elapsed())));
    for line in std::fs::read_to_string(&audit).unwrap().lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["event"], "login", "{line}");
    }
    // The next fetched key set is persisted again. SLAS publishes one key in advance.
    simulator.rotate_keys();
    simulator.rotate_keys();
    let token = simulator.mint_shopper_token(ShopperTokenSpec::default());
    eventually("the new key is known", async || search(&client, &replica, &token).await == 200).await;
    eventually("keys are kept", async || {
        std::fs::read_dir(&keys).unwrap().any(|file| !file.unwrap().file_name().to_str().unwrap().starts_with('.'))
    })
    .await;

    let stderr = replica.take_stderr();
    replica.kill();
    let said = BufReader::new(stderr).lines().map(Result::unwrap).collect::<Vec<_>>();
    let count = |words: &str| said.iter().filter(|line| line.contains(words)).count();
    assert_eq!((count("log write failed"), count("log writes resumed")), (1, 1), "{said:#?}");
}

#[tokio::test]
async fn exhausted_descriptors_stop_service_only_while_exhausted() {
    let simulator = simulator().await;
    let replica = Replica::start_by(&mut gateway_after("ulimit -n 64"), &simulator.url(), |_| {}).await;
    let (client, token) = (client(), simulator.mint_shopper_token(ShopperTokenSpec::default()));
    assert_eq!(search(&client, &replica, &token).await, 200);
    let connections: Vec<_> = (0..120).map(|_| TcpStream::connect(replica.address).unwrap()).collect();
    assert_idle(&replica).await;
    drop(connections);
    let (back, fresh) = (Instant::now(), self::client());
    eventually("requests are served again", async || search(&client, &replica, &token).await == 200).await;
    assert_eq!(search(&fresh, &replica, &token).await, 200, "on a new connection too");
    figure("R20", format!("64 descriptors, 120 connections: served again {} after their end", ms(back.elapsed())));
    assert!(metric(&fresh, &replica, "shopper_gateway_ready 1").await);
}

#[tokio::test]
async fn core_dumps_are_disabled() {
    let simulator = simulator().await;
    let replica =
        Replica::start_by(&mut gateway_after("ulimit -S -c unlimited || true"), &simulator.url(), |_| {}).await;
    let limits = replica.proc("limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
}
