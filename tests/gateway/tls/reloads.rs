//! The files of certificate, key and client authorities change while the process runs, and SIGHUP follows.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use reqwest::Client;
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        SupportedProtocolVersion,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use super::{
    authority::{Authority, Issued, text},
    callers::{connector, orders},
    not_after, tls,
};
use crate::{
    reload::{Load, metric},
    replica::{BINARY, Replica},
    world::{eventually, install_cryptography, products},
};

const NAME: &str = "URI:spiffe://example.com/oms";

/// The files that the configuration names.
struct Files {
    folder: tempfile::TempDir,
    certificate: PathBuf,
    private_key: PathBuf,
    client_ca: PathBuf,
}

impl Files {
    fn of(issued: &Issued, clients: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, private_key, client_ca] =
            ["server.pem", "server.key", "clients.pem"].map(|name| folder.path().join(name));
        let files = Self { folder, certificate, private_key, client_ca };
        files.put(issued);
        put(&clients.certificate, &files.client_ca);
        files
    }

    fn put(&self, issued: &Issued) {
        put(&issued.certificate, &self.certificate);
        put(&issued.private_key, &self.private_key);
    }

    fn listener(&self) -> toml::Table {
        let keys =
            [("certificate", &self.certificate), ("private_key", &self.private_key), ("client_ca", &self.client_ca)];
        keys.into_iter().map(|(key, path)| (key.to_owned(), text(path).into())).collect()
    }
}

/// Replaces a file by a rename, as certificate renewal tools do.
fn put(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).unwrap();
    fs::rename(beside, to).unwrap();
}

/// A gateway in a process of its own whose listener has these files.
struct Fixture {
    simulator: Simulator,
    replica: Replica,
    files: Arc<Files>,
}

impl Fixture {
    async fn start(issued: &Issued, clients: &Authority) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let files = Arc::new(Files::of(issued, clients));
        let command = &mut Command::new(BINARY);
        command.env("RUST_LOG", "warn").stderr(Stdio::piped());
        let replica = Replica::start_by(command, &simulator.url(), |config| {
            tls(config, files.listener());
            config["tenants"][0]["account_manager"]["scopes"] = toml::Value::Array(vec!["sfcc.orders".into()]);
            let caller = config["callers"][0].as_table_mut().unwrap();
            caller.remove("account_manager_client_id");
            caller.insert("certificate_san".into(), NAME.into());
        })
        .await;
        Self { simulator, replica, files }
    }

    /// Sends SIGHUP, and waits until reloads have had this result `nth` times.
    async fn reload(&self, outcome: &str, nth: usize) {
        self.replica.signal("HUP");
        let line = format!("config_reloads_total{{outcome=\"{outcome}\"}} {nth}");
        eventually("the reload is over", async || metric(&self.replica, &line).await).await;
    }

    /// The server's certificate on a new connection.
    async fn served_certificate(&self, trusted: &Authority) -> io::Result<CertificateDer<'static>> {
        let stream = TcpStream::connect(self.replica.address).await?;
        let stream = connector(trusted, None, &TLS13).connect(name(), stream).await?;
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
    }

    async fn assert_served(&self, issued: &Issued, trusted: &Authority) {
        let shown = self.served_certificate(trusted).await.unwrap();
        assert_eq!(shown, CertificateDer::from_pem_file(&issued.certificate).unwrap());
    }

    /// The status of a system operation on a connection of its own; `None` without a response.
    async fn ask(&self, connector: &TlsConnector) -> Option<String> {
        let stream = TcpStream::connect(self.replica.address).await.unwrap();
        let mut stream = connector.connect(name(), stream).await.ok()?;
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", orders());
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // The way in which the gateway closes is not tested here.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        answer.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].to_owned())
    }

    /// The whole log, after the process has ended.
    fn take_log(mut self) -> String {
        let mut stderr = self.replica.take_stderr();
        self.replica.kill();
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        said
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

#[tokio::test]
async fn reloaded_certificate_is_used_for_new_connections_and_loses_no_request() {
    let (first, second, clients) = (Authority::new(), Authority::new(), Authority::new());
    let (old, new) = (first.server(), second.server());
    let fixture = Fixture::start(&old, &clients).await;
    fixture.assert_served(&old, &first).await;
    let url = format!("https://localhost:{}{}", fixture.replica.address.port(), products("?ids=a&siteId=RefArch"));
    let token = fixture.simulator.mint_shopper_token(ShopperTokenSpec::default());

    // A client that trusts only the first authority cannot connect again later; only its open connections serve it.
    let faithful: Vec<Client> =
        [first.trusted(), first.trusted().http1_only()].map(|client| client.build().unwrap()).into();
    let served = async |client: &Client| client.get(&url).bearer_auth(&token).send().await.unwrap().status();
    for client in &faithful {
        assert_eq!(served(client).await, 200);
    }
    // Other clients open a connection for each request, and trust both authorities.
    let trust = reqwest::Certificate::from_pem(&fs::read(&second.certificate).unwrap()).unwrap();
    let fickle = || first.trusted().tls_certs_merge([trust.clone()]).pool_max_idle_per_host(0).build().unwrap();
    let load = Load::start(fickle, &url, &token);
    load.until(20).await;
    for (nth, (shown, authority)) in [(&new, &second), (&old, &first), (&new, &second)].into_iter().enumerate() {
        fixture.files.put(shown);
        fixture.reload("ok", nth + 1).await;
        fixture.assert_served(shown, authority).await;
        load.until(20).await;
        for client in &faithful {
            assert_eq!(served(client).await, 200, "on the connection that is open");
        }
    }
    assert!(fixture.served_certificate(&first).await.is_err(), "the first is shown to nobody");
    let (sent, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
}

#[tokio::test]
async fn unusable_files_keep_current_certificate_and_are_reported() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let [old, new] = ["first", "second"].map(|name| authority.server_named(name));
    let fixture = Fixture::start(&old, &clients).await;
    let files = Arc::clone(&fixture.files);
    let noise = files.folder.path().join("noise");
    fs::write(&noise, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let cases: [(&str, &dyn Fn()); 6] = [
        ("server.tls", &|| put(&noise, &files.certificate)),
        ("do not fit together", &|| put(&new.certificate, &files.certificate)),
        ("do not fit together", &|| put(&new.private_key, &files.private_key)),
        ("server.tls.private_key", &|| fs::remove_file(&files.private_key).unwrap()),
        ("server.tls.certificate", &|| {
            fs::remove_file(&files.certificate).unwrap();
            fs::create_dir(&files.certificate).unwrap();
        }),
        ("server.tls.client_ca", &|| put(&noise, &files.client_ca)),
    ];
    for (nth, (_, spoil)) in cases.iter().enumerate() {
        spoil();
        fixture.reload("failed", nth + 1).await;
        fixture.assert_served(&old, &authority).await;
        // A file cannot be renamed to the name of a directory.
        let _ = fs::remove_dir(&files.certificate);
        files.put(&old);
        put(&clients.certificate, &files.client_ca);
    }
    files.put(&new);
    fixture.reload("ok", 1).await;
    fixture.assert_served(&new, &authority).await;

    let said = fixture.take_log();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("keeping the current one")).collect();
    assert_eq!(lines.len(), cases.len(), "{said}");
    for (line, (reason, _)) in lines.iter().zip(&cases) {
        assert!(line.contains(reason) && !line.contains("AAAA"), "{reason}: {line}");
    }
}

#[tokio::test]
async fn certificate_expiry_metric_follows_reload() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let old = authority.server_named("first");
    let fixture = Fixture::start(&old, &clients).await;
    let line = |issued: &Issued| {
        let labels = "{certificate=\"listener\",tenant=\"none\"}";
        format!("certificate_expiry_timestamp_seconds{labels} {}\n", not_after(&issued.certificate))
    };
    assert!(metric(&fixture.replica, &line(&old)).await);
    // The expiry of a certificate has no fractions of a second.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let new = authority.server_named("second");
    fixture.files.put(&new);
    fixture.reload("ok", 1).await;
    eventually("the new end is shown", async || metric(&fixture.replica, &line(&new)).await).await;
    assert!(!metric(&fixture.replica, &line(&old)).await);

    let configuration = fs::read_to_string(fixture.replica.configuration()).unwrap();
    let mut table: toml::Table = configuration.parse().unwrap();
    table["server"]["tls"].as_table_mut().unwrap().remove("client_ca");
    table["callers"][0].as_table_mut().unwrap().remove("certificate_san");
    table["callers"][0].as_table_mut().unwrap().insert("account_manager_client_id".into(), "b1".into());
    assert!(metric(&fixture.replica, "certificate=\"client_ca\"").await);
    fs::write(fixture.replica.configuration(), table.to_string()).unwrap();
    fixture.reload("ok", 2).await;
    eventually("what is configured no more is gone", async || {
        !metric(&fixture.replica, "certificate=\"client_ca\"").await
    })
    .await;
}

#[tokio::test]
async fn reloaded_client_authorities_apply_to_new_connections() {
    let (authority, before, after) = (Authority::new(), Authority::new(), Authority::new());
    let fixture = Fixture::start(&authority.server(), &before).await;
    let [of_before, of_after] = [&before, &after].map(|clients| clients.client_named("/CN=orders", NAME));
    // Clients resume TLS sessions where they can. The gateway must verify their certificates again.
    let versions: [&'static SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    let clients = versions.map(|version| {
        let client = |issued| Arc::new(connector(&authority, Some(issued), version));
        (client(&of_before), client(&of_after))
    });
    let served = Some("200".to_owned());
    for (known, unknown) in &clients {
        for _ in 0..2 {
            assert_eq!(fixture.ask(known).await, served);
            assert_eq!(fixture.ask(unknown).await, None);
        }
    }
    put(&after.certificate, &fixture.files.client_ca);
    fixture.reload("ok", 1).await;
    for (unknown, known) in &clients {
        for _ in 0..2 {
            assert_eq!(fixture.ask(unknown).await, None, "its authority is none any more");
            assert_eq!(fixture.ask(known).await, served);
        }
    }
}
