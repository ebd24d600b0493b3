//! `check --online` contacts the services that the configuration names. Each line of a failure names the key to change.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use salesforce_simulator::{Effect, Fault, Seed, Simulator};

use crate::{DEMO, run, serving::eventually, text};

const API: &str = "SHOPPER_GATEWAY__TENANTS__0__API";
const ACCOUNT_MANAGER: &str = "SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL";

async fn simulator() -> Simulator {
    salesforce_simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), Seed::default()).await.unwrap()
}

fn online(environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(&["check", "--online", "-c", DEMO], environment);
    let shown = text(&output.stdout) + &text(&output.stderr);
    for secret in ["account-manager-secret", "private-client-secret", "strict-client-secret", "PLANTED"] {
        assert!(!shown.contains(secret), "{secret} is shown:\n{shown}");
    }
    (output.status.code(), shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_reports_each_service_and_key_to_change() {
    let simulator = simulator().await;
    let url = simulator.url();
    let (api, manager) = ((API, url.as_str()), (ACCOUNT_MANAGER, url.as_str()));

    let (code, shown) = online(&[api, manager]);
    assert_eq!(code, Some(0), "{shown}");
    for line in [
        format!("ok      f_ecom_zzrf_001: keys of SLAS at {url}/: "),
        format!("ok      f_ecom_zzrf_001: keys of Account Manager at {url}/: "),
        "ok      f_ecom_zzrf_001: a token for the gateway's own client aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa: granted for "
            .to_owned(),
        "ok      f_ecom_zzrf_001: SLAS client 11111111-1111-4111-8111-111111111111: ".to_owned(),
        "ok      f_ecom_zzrf_001: SLAS client 22222222-2222-4222-8222-222222222222: ".to_owned(),
        "ok      f_ecom_zzrf_001: SLAS client 33333333-3333-4333-8333-333333333333: ".to_owned(),
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
    let keys = "invalid_scope; see tenants[0].organization_id and account_manager.scopes";
    assert!(shown.contains(keys), "{shown}");

    let (code, shown) = online(&[(API, "http://127.0.0.1:9"), manager]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("no connection could be made") && shown.contains("; see tenants[0].api"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_reports_why_session_store_fails() {
    let simulator = simulator().await;
    let url = simulator.url();
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    drop(socket);
    let mut redis = Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--requirepass", "right"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("Redis is up", || TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    let asked_with = |address: &str, key: &str| {
        online(&[
            (API, url.as_str()),
            (ACCOUNT_MANAGER, url.as_str()),
            ("SHOPPER_GATEWAY__STORE__KIND", "redis"),
            ("SHOPPER_GATEWAY__STORE__URL", address),
            ("SHOPPER_GATEWAY__STORE__ENCRYPTION_KEY", key),
            // A machine under load may take longer than the usual time limit.
            ("SHOPPER_GATEWAY__STORE__TIMEOUT", "2s"),
        ])
    };
    let asked = |address: &str| asked_with(address, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let command = |arguments: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port, "-a", "right"]).args(arguments).output().unwrap();
        text(&output.stdout)
    };
    let right = format!("redis://:right@127.0.0.1:{port}");
    let answers = asked(&right);
    assert_eq!(command(&["KEYS", "*"]).trim(), "", "a check leaves nothing behind");
    let refuses = asked(&format!("redis://:PLANTED@127.0.0.1:{port}"));
    let no_password = asked(&format!("redis://127.0.0.1:{port}"));
    let no_database = asked(&format!("{right}/999"));
    let no_name = asked("redis://no-such-host.invalid");
    command(&["ACL", "SETUSER", "poor", "on", ">right", "~*", "+@all", "-hincrby"]);
    let forbidden = asked(&format!("redis://poor:right@127.0.0.1:{port}"));
    // Redis holds the check value of a fleet with another key.
    let header = "\\x01abcd";
    Command::new("sh")
        .args(["-c", &format!("printf '{header}' | redis-cli -p {port} -a right -x SET shopper-gateway:key")])
        .output()
        .unwrap();
    let other_key = asked(&right);
    redis.kill().unwrap();
    redis.wait().unwrap();
    let gone = asked(&right);
    assert!(answers.0 == Some(0) && answers.1.contains("ok      session store, Redis: responds"), "{answers:?}");
    for (case, (code, shown), said) in [
        ("password", refuses, "rejects the user or the password (WRONGPASS); check the password in store.url"),
        ("no password", no_password, "requires a password (NOAUTH)"),
        ("database", no_database, "has no database with this number"),
        ("name", no_name, "has a host name that does not resolve"),
        ("right", forbidden, "HINCRBY failed: Redis does not allow the gateway's user to run a command (NOPERM)"),
        ("key", other_key, "store.encryption_key is not that of the replicas that use this store"),
        ("gone", gone, "refuses connections: no process listens at the address; check host and port in store.url"),
    ] {
        let line = shown.lines().find(|line| line.starts_with("failed  session store, Redis: ")).unwrap_or_default();
        assert!(code == Some(1) && line.contains(said), "{case}: {said} not in: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_names_key_of_failing_slas_client() {
    let simulator = simulator().await;
    let url = simulator.url();
    for (key, value, said) in [
        (
            "1__CLIENT_SECRET",
            "PLANTED",
            "401 Unauthorized invalid_client; see tenants[0].slas_clients[1].client_secret",
        ),
        (
            "2__CLIENT_SECRET",
            "PLANTED",
            "401 Unauthorized invalid_client; see tenants[0].slas_clients[2].client_secret",
        ),
        ("1__CLIENT_ID", "99999999", "; see tenants[0].slas_clients[1].client_id"),
        ("0__CLIENT_ID", "99999999", "400 Bad Request invalid_client; see tenants[0].slas_clients[0].client_id"),
        ("0__REDIRECT_URI", "http://localhost:3000/back", "; see tenants[0].slas_clients[0].client_id, redirect_uri"),
    ] {
        let key = format!("SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__{key}");
        let other = ("SHOPPER_GATEWAY__TENANTS__0__ON_BEHALF_CLIENT", "33333333-3333-4333-8333-333333333333");
        let (code, shown) = online(&[(API, &url), (ACCOUNT_MANAGER, &url), other, (&key, value)]);
        assert_eq!((code, shown.matches("failed  ").count()), (Some(1), 1), "{key}: {shown}");
        let line = shown.lines().find(|line| line.starts_with("failed  ")).unwrap();
        assert!(line.contains("SLAS client ") && line.contains(said), "{key}: {said} not in: {line}");
    }
    // The previous secret is accepted while the secret is being replaced.
    let (code, shown) = online(&[
        (API, &url),
        (ACCOUNT_MANAGER, &url),
        ("SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__1__CLIENT_SECRET", "PLANTED"),
        ("SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__1__PREVIOUS_CLIENT_SECRET", "private-client-secret"),
    ]);
    assert!(code == Some(0) && shown.contains("previous_client_secret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_requests_no_token_and_redeems_no_code() {
    let simulator = simulator().await;
    let url = simulator.url();
    assert_eq!(online(&[(API, &url), (ACCOUNT_MANAGER, &url)]).0, Some(0));
    let mut asked: Vec<_> = simulator
        .ledger()
        .into_iter()
        .filter(|entry| entry.service == "slas")
        .map(|entry| (entry.flow, entry.status.unwrap()))
        .collect();
    asked.sort();
    let asked: Vec<_> = asked.iter().map(|(flow, status)| (flow.as_str(), *status)).collect();
    let refused = ("token:refresh_token", 400);
    assert_eq!(asked, [("authorize:guest", 303), ("jwks", 200), refused, refused]);
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_names_key_of_invalid_key_set() {
    let simulator = simulator().await;
    let url = simulator.url();
    for body in ["garbage", "{\"keys\":[]}"] {
        for (service, key) in [("slas", "tenants[0].api"), ("account_manager", "tenants[0].account_manager.url")] {
            let instead = Effect::Status { code: 200, retry_after: None, body: Some(body.to_owned()) };
            simulator.inject(Fault::on(service, instead).flow("jwks"));
            let (code, shown) = online(&[(API, &url), (ACCOUNT_MANAGER, &url)]);
            let said = format!("the response has no usable key; see {key} (");
            assert!(code == Some(1) && shown.contains(&said), "{service} {body}: {shown}");
            simulator.clear_faults();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_names_wrong_organization() {
    let simulator = simulator().await;
    let url = simulator.url();
    let wrong = ("SHOPPER_GATEWAY__TENANTS__0__ORGANIZATION_ID", "f_ecom_zzzz_009");
    let callers = ("SHOPPER_GATEWAY__CALLERS__0__ORGANIZATIONS", "f_ecom_zzzz_009");
    let (code, shown) = online(&[(API, &url), (ACCOUNT_MANAGER, &url), wrong, callers]);
    assert_eq!(code, Some(1), "{shown}");
    let failed: Vec<_> = shown.lines().filter(|line| line.starts_with("failed  ")).collect();
    assert_eq!(failed.len(), 2, "{shown}");
    assert!(failed.iter().all(|line| line.contains("; see tenants[0].organization_id and ")), "{shown}");
}

/// A server that responds to each request with this status line, and passes on the received heads and bodies.
fn collector(status: &'static str) -> (SocketAddr, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|read| read > 0) {}
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap()];
            stream.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if tell.send((head, body)).is_err() {
                return;
            }
        }
    });
    (address, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn online_check_sends_empty_export_to_trace_collector() {
    let simulator = simulator().await;
    let url = simulator.url();
    let asked = |address: &str| {
        let credential = ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector=mine");
        online(&[(API, &url), (ACCOUNT_MANAGER, &url), ("SHOPPER_GATEWAY__TRACES__ENDPOINT", address), credential])
    };
    let (address, told) = collector("200 OK");
    let (code, shown) = asked(&format!("http://{address}/base/"));
    assert!(code == Some(0) && shown.contains(&format!("ok      trace collector at http://{address}/")), "{shown}");
    let (head, body) = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(head.starts_with("post /base/v1/traces http/1.1\r\n"), "{head}");
    for field in ["content-type: application/x-protobuf\r\n", "x-collector: mine\r\n"] {
        assert!(head.contains(field), "{field} not in {head}");
    }
    let sent = ExportTraceServiceRequest::decode(body.as_slice()).unwrap().resource_spans;
    assert!(sent.iter().all(|resource| resource.scope_spans.is_empty()), "{sent:?}");
    let (missing, _told) = collector("404 Not Found");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, reason) in [(missing, "404"), (gone, "the connection was refused; check host and port")] {
        let (code, shown) = asked(&format!("http://{address}"));
        let line = shown.lines().find(|line| line.starts_with("failed  trace collector at "));
        let line = line.unwrap_or_else(|| panic!("{shown}"));
        assert!(code == Some(1) && line.contains(reason) && line.contains("; see traces.endpoint"), "{line}");
    }
}
