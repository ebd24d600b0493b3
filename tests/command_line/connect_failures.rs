//! Failed connections: each cause has its own wording in `check --online`, in both logs and in the metrics.
//!
//! The wording is the same for the gateway's own calls and for forwarded requests.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
};

use reqwest::Client;
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    DEMO,
    certificate_files::Files,
    run,
    serving::{Serving, eventually},
    text,
};

const JWKS: &str = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/jwks";
/// A fatal alert, `protocol_version` (RFC 8446, 6), as a server without TLS 1.2 sends it.
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

/// The kind of server that listens.
#[derive(Clone, Copy)]
enum Server {
    Nothing,
    /// Accepts connections and sends nothing.
    Silent,
    Closes,
    /// Responds to any request with these bytes.
    Says(&'static [u8]),
    /// Completes the TLS handshake with the certificate of this name, and closes.
    Tls(&'static str),
}

impl Server {
    fn start(self, files: &Files) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tls = match self {
            Self::Nothing => return address,
            Self::Tls(name) => Some(server_config(files, name)),
            _ => None,
        };
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                match self {
                    Self::Nothing | Self::Closes => {}
                    Self::Silent => held.push(stream),
                    Self::Says(bytes) => answer(stream, bytes),
                    Self::Tls(_) => shake_hands(stream, tls.clone().unwrap()),
                }
            }
        });
        address
    }
}

fn answer(mut stream: TcpStream, bytes: &[u8]) {
    // The client may have closed the connection.
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 4096]);
}

fn shake_hands(mut stream: TcpStream, config: Arc<ServerConfig>) {
    let mut tls = ServerConnection::new(config).unwrap();
    while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
}

fn server_config(files: &Files, name: &str) -> Arc<ServerConfig> {
    install_cryptography();
    let chain = vec![CertificateDer::from_pem_file(files.path(&format!("{name}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(files.path(&format!("{name}.key"))).unwrap();
    Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// Installs the cryptography that `main` installs in the real process.
fn install_cryptography() {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn client() -> Client {
    install_cryptography();
    Client::builder().no_proxy().build().unwrap()
}

/// A configuration with this API, trusted by `ca.pem` or another authority.
fn configuration(files: &Files, api: &str, authority: &str, connect: &str) -> PathBuf {
    let mut config: toml::Table = fs::read_to_string(DEMO).unwrap().parse().unwrap();
    config["server"]["listen"] = toml::Value::Array(vec!["127.0.0.1:0".into()]);
    config["admin"]["listen"] = "127.0.0.1:0".into();
    config["log"]["format"] = "json".into();
    let tenant = config["tenants"][0].as_table_mut().unwrap();
    tenant.insert("api".into(), api.into());
    tenant.insert("api_ca".into(), files.path(authority).to_str().unwrap().into());
    let timeouts = format!("connect = \"{connect}\"\nexchange = \"3s\"");
    config.insert("timeouts".into(), toml::Value::Table(timeouts.parse().unwrap()));
    let path = files.path("gateway.toml");
    fs::write(&path, config.to_string()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_failure_cause_is_in_check_log_access_log_and_metrics() {
    let files = Files::new();
    files.issue("stranger", "-extensions authority -days 400");
    files.sign("expired", "server", "-startdate 20200101000000Z -enddate 20200201000000Z");
    files.sign("future", "server", "-startdate 20900101000000Z -enddate 20900201000000Z");
    let (secure, connect) = ("https://localhost", "3s");
    for (server, host, authority, connect, cause, words) in [
        (Server::Nothing, "http://127.0.0.1", "ca.pem", connect, "refused", "the connection was refused"),
        (Server::Nothing, "http://nowhere.invalid", "ca.pem", connect, "unresolved", "cannot be resolved"),
        (Server::Silent, secure, "ca.pem", "500ms", "timed_out", "the connection timed out"),
        (Server::Closes, secure, "ca.pem", connect, "closed", "closed the connection during the TLS handshake"),
        (Server::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), secure, "ca.pem", connect, "not_tls", "does not speak TLS"),
        (
            Server::Says(&PROTOCOL_VERSION),
            secure,
            "ca.pem",
            connect,
            "no_common_protocol",
            "TLS version or cipher in common",
        ),
        (Server::Tls("server"), secure, "stranger.pem", connect, "untrusted", "not issued by a trusted authority"),
        (Server::Tls("server"), "https://127.0.0.1", "ca.pem", connect, "wrong_name", "for another name"),
        (Server::Tls("expired"), secure, "ca.pem", connect, "expired", "has expired"),
        (Server::Tls("future"), secure, "ca.pem", connect, "not_yet_valid", "not valid yet"),
        (Server::Tls("ca"), secure, "ca.pem", connect, "certificate_invalid", "cannot be used"),
    ] {
        let api = format!("{host}:{}", server.start(&files).port());
        let config = configuration(&files, &api, authority, connect);

        let shown = text(&run(&["check", "--online", "-c", config.to_str().unwrap()], &[]).stdout);
        let line = shown.lines().find(|line| line.contains(": keys of SLAS at ")).unwrap_or_else(|| panic!("{shown}"));
        let is_told = line.contains("no connection could be made") && line.contains(words);
        assert!(is_told && line.contains("; see tenants[0].api"), "{cause}: {line}");

        let serving = Serving::of(&config, []);
        let [address, admin] = ["listening", "listening for operators"].map(|message| serving.address(message));
        let client = client();
        let answer = client.get(format!("http://{address}{JWKS}")).send().await.unwrap();
        let status = if cause == "timed_out" { 504 } else { 502 };
        assert_eq!(answer.status().as_u16(), status, "{cause}");

        for service in ["slas", "api"] {
            let mut lines = Vec::new();
            eventually("the failure is logged", || {
                lines = serving.lines(|line| line["service"] == service && line["cause"] == cause);
                !lines.is_empty()
            });
            let message = lines[0]["message"].as_str().unwrap();
            assert!(lines.len() == 1 && message.starts_with("no connection: ") && message.contains(words), "{message}");
            let named = lines[0]["host"].as_str().unwrap();
            assert_eq!(format!("{}://{named}", host.split("://").next().unwrap()), api, "{cause}");
        }
        let mut accesses = Vec::new();
        eventually("the request has its line", || {
            accesses = serving.lines(|line| line["target"] == "shopper_gateway::access");
            !accesses.is_empty()
        });
        assert_eq!((&accesses[0]["cause"], accesses[0]["status"].as_u64()), (&cause.into(), Some(status.into())));

        let metrics = client.get(format!("http://{admin}/metrics")).send().await.unwrap().text().await.unwrap();
        for service in ["slas", "api"] {
            let counted = |cause: &str| {
                let series = format!("connect_failures_total{{cause=\"{cause}\",service=\"{service}\"}} ");
                let line =
                    metrics.lines().find_map(|line| line.split_once(&series)).unwrap_or_else(|| panic!("{metrics}"));
                line.1.parse::<u64>().unwrap()
            };
            assert!(counted(cause) > 0, "{service} {cause}");
            assert_eq!(counted("other"), 0, "{service} {cause}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_system_authorities_do_not_disable_the_good_ones() {
    let files = Files::new();
    let server = Server::Tls("server").start(&files);
    let config = configuration(&files, &format!("https://localhost:{}", server.port()), "ca.pem", "3s");
    let mut table: toml::Table = fs::read_to_string(&config).unwrap().parse().unwrap();
    table["tenants"][0].as_table_mut().unwrap().remove("api_ca");
    fs::write(&config, table.to_string()).unwrap();
    let good = fs::read_to_string(files.path("ca.pem")).unwrap();
    let hollow = "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n";
    fs::write(files.path("some.pem"), hollow.to_owned() + &good).unwrap();
    let [all, some] = ["ca.pem", "some.pem"].map(|name| files.path(name).to_str().unwrap().to_owned());
    for environment in [
        vec![("SSL_CERT_FILE", all.as_str())],
        vec![("SSL_CERT_FILE", some.as_str())],
        vec![("SSL_CERT_FILE", all.as_str()), ("SSL_CERT_DIR", "/nonexistent:/etc/ssl")],
    ] {
        let serving = Serving::of(&config, environment.clone());
        let address = serving.address("listening");
        // The server closes after the client has accepted its certificate.
        assert_eq!(client().get(format!("http://{address}{JWKS}")).send().await.unwrap().status().as_u16(), 502);
        let mut accesses = Vec::new();
        eventually("the request has its line", || {
            accesses = serving.lines(|line| line["target"] == "shopper_gateway::access");
            !accesses.is_empty()
        });
        assert!(accesses[0]["cause"].is_null(), "{environment:?}: {}", accesses[0]);
        assert!(serving.lines(|line| line["cause"] == "untrusted").is_empty(), "{environment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_is_logged_once_a_minute_for_any_number_of_failures() {
    let files = Files::new();
    let config = configuration(&files, "http://127.0.0.1:9", "ca.pem", "3s");
    let serving = Serving::of(&config, []);
    let address = serving.address("listening");
    let client = client();
    for _ in 0..20 {
        assert_eq!(client.get(format!("http://{address}{JWKS}")).send().await.unwrap().status().as_u16(), 502);
    }
    eventually("each request has its line", || {
        serving.lines(|line| line["target"] == "shopper_gateway::access" && line["cause"] == "refused").len() == 20
    });
    let lines = serving.lines(|line| line["service"] == "api");
    assert_eq!(lines.len(), 1, "{lines:?}");
}
