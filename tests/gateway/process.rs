//! The gateway as a process: signals of operators and scripts, log rotation, listeners, the first log line.

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use reqwest::Client;
use salesforce_simulator::{Effect, Fault, Seed, Simulator};

use crate::{
    replica::{BINARY, Replica},
    world::{PUBLIC_CLIENT, eventually, install_cryptography, login_target},
};

async fn simulator() -> Simulator {
    install_cryptography();
    salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap()
}

/// A gateway whose log is read line by line.
async fn logged(simulator: &Simulator, change: impl FnOnce(&mut toml::Table)) -> (Replica, Receiver<String>) {
    let mut command = Command::new(BINARY);
    command.env("RUST_LOG", "info").stderr(Stdio::piped());
    let mut replica = Replica::start_by(&mut command, &simulator.url(), change).await;
    let log = lines_of(replica.take_stderr());
    (replica, log)
}

/// The lines of a process's output.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, read) = channel();
    let output = BufReader::new(output);
    thread::spawn(move || output.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
    read
}

/// Waits for a line with all of these in it.
fn line(log: &Receiver<String>, parts: &[&str]) -> String {
    loop {
        let line = log.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no line with {parts:?}"));
        if parts.iter().all(|part| line.contains(part)) {
            return line;
        }
    }
}

async fn guest(client: &Client, address: SocketAddr) -> u16 {
    let url = format!("http://{address}{}", login_target(PUBLIC_CLIENT));
    client.post(url).body(r#"{"type":"guest"}"#).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn unknown_signals_are_logged_and_ignored() {
    let simulator = simulator().await;
    let (mut replica, log) = logged(&simulator, |_| {}).await;
    for signal in ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT"] {
        replica.signal(signal);
        line(&log, &["signal ignored", &format!("SIG{signal}")]);
    }
    for harmless in ["PIPE", "WINCH", "CHLD", "URG", "CONT"] {
        replica.signal(harmless);
    }
    assert_eq!(guest(&Client::builder().no_proxy().build().unwrap(), replica.address).await, 200);
    replica.terminate();
    assert_eq!(replica.wait().await, Some(0));
}

/// The old process of a restart may be an earlier version: the variable and the line are an interface between versions.
#[tokio::test]
async fn new_process_tells_an_earlier_version_that_it_is_ready() {
    let simulator = simulator().await;
    let mut command = Command::new(BINARY);
    command.env("SHOPPER_GATEWAY_TELL_READY", "1");
    let mut replica = Replica::start_by(&mut command, &simulator.url(), |_| {}).await;
    let output = lines_of(replica.take_stdout());
    assert_eq!(output.recv_timeout(Duration::from_secs(20)).as_deref(), Ok("ready"));
}

#[tokio::test]
async fn second_interrupt_ends_process_with_request_in_flight() {
    let simulator = simulator().await;
    let (mut replica, log) = logged(&simulator, |config| {
        config.insert("timeouts".into(), "drain = \"10m\"\nexchange = \"10m\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let (address, client) = (replica.address, Client::builder().no_proxy().build().unwrap());
    simulator.inject(Fault::on("slas", Effect::Hang));
    simulator.clear_ledger();
    let url = format!("http://{address}{}", login_target(PUBLIC_CLIENT));
    let hanging = tokio::spawn(client.post(url).body(r#"{"type":"guest"}"#).send());
    eventually("the login has reached SLAS", async || simulator.ledger().iter().any(|entry| entry.service == "slas"))
        .await;
    replica.signal("INT");
    line(&log, &["stopping"]);
    replica.signal("INT");
    assert_eq!(replica.wait().await, Some(1));
    line(&log, &["interrupted again"]);
    hanging.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn audit_file_is_reopened_on_sighup_after_log_rotation() {
    let simulator = simulator().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
    let path = file.to_str().unwrap().to_owned();
    let (replica, log) = logged(&simulator, |config| {
        config.insert("log".into(), toml::Table::from_iter([("audit_file".to_owned(), path.into())]).into());
    })
    .await;
    let lines = |file| std::fs::read_to_string(file).map_or(0, |text| text.matches(r#""event":"login""#).count());
    let client = Client::builder().no_proxy().build().unwrap();
    assert_eq!(guest(&client, replica.address).await, 200);
    eventually("the login has its line", async || lines(&file) == 1).await;
    std::fs::rename(&file, &rotated).unwrap();
    replica.signal("HUP");
    line(&log, &["configuration reloaded"]);
    assert_eq!(guest(&client, replica.address).await, 200);
    eventually("the second login has its line in a new file", async || lines(&file) == 1).await;
    assert_eq!(lines(&rotated), 1);
}

/// Whether the address accepts connections.
async fn is_listening(address: &str) -> bool {
    Client::builder().no_proxy().build().unwrap().get(format!("http://{address}/")).send().await.is_ok()
}

#[tokio::test]
async fn wildcard_addresses_share_a_port_and_ipv6_alone_serves_both() {
    let simulator = simulator().await;
    for both in [true, false] {
        let port = TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
        let listen = if both { format!("\"0.0.0.0:{port}\", \"[::]:{port}\"") } else { format!("\"[::]:{port}\"") };
        let (_replica, log) = logged(&simulator, |config| {
            let server = format!("listen = [{listen}]\nthreads = 1").parse::<toml::Table>().unwrap();
            config.insert("server".into(), server.into());
        })
        .await;
        if both {
            line(&log, &["IPv6 only", "0.0.0.0 has its own listener"]);
        }
        assert!(
            is_listening(&format!("127.0.0.1:{port}")).await && is_listening(&format!("[::1]:{port}")).await,
            "{listen}"
        );
    }
}

#[tokio::test]
async fn start_logs_version_configuration_store_and_mode() {
    let simulator = simulator().await;
    let (replica, log) = logged(&simulator, |config| {
        config.insert("policy".into(), "mode = \"report\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let path = replica.configuration();
    line(&log, &["starting", env!("CARGO_PKG_VERSION"), path.to_str().unwrap(), "memory", "report"]);
    line(&log, &["listening", &replica.address.to_string()]);
}
