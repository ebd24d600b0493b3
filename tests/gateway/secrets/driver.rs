//! A process at log level TRACE, all its visible output, and all secrets that pass through it.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
};

use reqwest::{Client, Method, RequestBuilder, header::HeaderMap, redirect::Policy};
use salesforce_simulator::{LedgerEntry, Seed, Simulator};

use super::search::Secrets;
use crate::{
    callers::CALLER_SECRET,
    cors::with_origins,
    redis::{KEY, OTHER_KEY, Redis, in_redis},
    replica::{BINARY, Replica},
    tls::authority::{Authority, text},
    world::{LOGIN, PASSWORD, install_cryptography, register_sessions},
};

pub const CERTIFICATE_SUBJECT: &str = "/CN=orders";
pub const WRONG: &str = "Wr0ng&guess=42";
pub const NEW_PASSWORD: &str = "N3w/passw0rd+%";
/// 32 bytes in base64.
const PSEUDONYM_KEY: &str = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=";

/// The secrets of a response that belong to its recipient.
#[derive(Clone, Copy, PartialEq)]
pub enum ResponseSecrets {
    Nothing,
    /// A token, in the answer's Authorization.
    Token,
    /// All of SLAS's response: tokens in the body, a code in the Location.
    All,
}

pub struct Driver {
    pub simulator: Simulator,
    pub redis: Redis,
    pub replica: Replica,
    pub client: Client,
    /// The same client with a trusted system's certificate.
    pub certified: Client,
    pub secrets: Secrets,
    /// The parts of responses that no recipient may have.
    seen: Vec<u8>,
    folder: tempfile::TempDir,
    /// The certificate authorities, whose files a reload reads.
    _authorities: [Authority; 2],
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn token(&self) -> String {
        let value = self.headers.get("authorization").unwrap_or_else(|| panic!("{}: {}", self.status, self.body));
        value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    pub fn json(&self, name: &str) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        document[name].as_str().unwrap_or_default().to_owned()
    }
}

impl Driver {
    pub async fn start(format: &str) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        simulator.set(|behaviour| behaviour.enforce_windows = false);
        let redis = Redis::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (authority, clients) = (Authority::new(), Authority::new());
        let (server, caller) = (authority.server(), clients.client_named(CERTIFICATE_SUBJECT, "DNS:caller.example"));
        let mut command = Command::new(BINARY);
        command.env("RUST_LOG", "trace").stderr(Stdio::from(File::create(folder.path().join("stderr")).unwrap()));
        let replica = Replica::start_by(&mut command, &simulator.url(), |config| {
            in_redis(config, &redis.url());
            let mut listener = server.listener();
            listener.insert("client_ca".into(), text(&clients.certificate).into());
            config["server"].as_table_mut().unwrap().insert("tls".into(), listener.into());
            let log = format!(
                "format = \"{format}\"\naudit_file = \"{}\"\npseudonym_key = \"{PSEUDONYM_KEY}\"",
                folder.path().join("audit").display()
            );
            config.insert("log".into(), log.parse::<toml::Table>().unwrap().into());
            let timeouts = "exchange = '1s'\nupstream = '2s'\nupstream_admin = '2s'";
            config.insert("timeouts".into(), timeouts.parse::<toml::Table>().unwrap().into());
            // One address tries every kind of failure, so the limits are high.
            let logins = "failed_per_address = 1000\nfailed_per_address_and_login = 1000\nfailed_per_login = 1000";
            config.insert("logins".into(), logins.parse::<toml::Table>().unwrap().into());
            config["store"]["timeout"] = "500ms".into();
            config["store"].as_table_mut().unwrap().insert("previous_encryption_key".into(), OTHER_KEY.into());
            register_sessions(config);
            with_origins(config);
            let scopes = ["sfcc.orders", "sfcc.shopper-customers.login"].map(toml::Value::from);
            config["tenants"][0]["account_manager"]["scopes"] = toml::Value::Array(scopes.to_vec());
            let callers = config["callers"].as_array_mut().unwrap();
            let mut certified = callers[0].as_table().unwrap().clone();
            certified.remove("account_manager_client_id");
            certified.insert("name".into(), "certified".into());
            certified.insert("certificate_subject".into(), "CN=orders".into());
            callers.push(certified.into());
        })
        .await;
        let mut secrets = Secrets::default();
        for (name, secret) in [
            ("a secret of Account Manager", "account-manager-secret"),
            ("a private client's secret", "private-client-secret"),
            ("a strict client's secret", "strict-client-secret"),
            ("a caller's secret", CALLER_SECRET),
            ("a password", PASSWORD),
            ("a wrong password", WRONG),
            ("a new password", NEW_PASSWORD),
            ("the store's key", KEY),
            ("the store's previous key", OTHER_KEY),
            ("the key of pseudonyms", PSEUDONYM_KEY),
        ] {
            secrets.add(name, secret);
        }
        for key in [0..32, 32..64, 64..96] {
            secrets.add("a key's bytes", key.collect::<Vec<u8>>());
        }
        let pem = std::fs::read_to_string(&server.private_key).unwrap();
        for line in pem.lines().filter(|line| !line.starts_with('-')) {
            secrets.add("the private key of TLS", line);
        }
        let trusted = || authority.trusted().redirect(Policy::none());
        let client = trusted().build().unwrap();
        let certified = trusted().identity(caller.identity()).build().unwrap();
        let _authorities = [authority, clients];
        Self { simulator, redis, replica, client, certified, secrets, seen: Vec::new(), folder, _authorities }
    }

    pub fn request(&self, method: Method, target: &str) -> RequestBuilder {
        self.client.request(method, self.url(target))
    }

    pub fn get(&self, target: &str) -> RequestBuilder {
        self.request(Method::GET, target)
    }

    pub fn post(&self, target: &str) -> RequestBuilder {
        self.request(Method::POST, target)
    }

    pub fn url(&self, target: &str) -> String {
        format!("https://localhost:{}{target}", self.replica.address.port())
    }

    /// Sends a request, and records the parts of the response that no recipient may have.
    pub async fn send(&mut self, request: RequestBuilder, owns: ResponseSecrets) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        // The received part of a truncated body is searched too.
        let body = String::from_utf8_lossy(&answer.bytes().await.unwrap_or_default()).into_owned();
        for (name, value) in &headers {
            let is_own = (name == "authorization" && owns != ResponseSecrets::Nothing)
                || (name == "location" && owns == ResponseSecrets::All);
            if is_own {
                let value = value.to_str().unwrap();
                self.learn_field("an access token", value.strip_prefix("Bearer ").unwrap_or(value));
            } else {
                self.seen.extend_from_slice(format!("{name}: ").as_bytes());
                self.seen.extend_from_slice(value.as_bytes());
                self.seen.push(b'\n');
            }
        }
        if owns == ResponseSecrets::All {
            self.learn_document(&body);
        } else {
            self.seen.extend_from_slice(body.as_bytes());
            self.seen.push(b'\n');
        }
        Answer { status, headers, body }
    }

    /// Records the tokens of SLAS's response.
    fn learn_document(&mut self, body: &str) {
        let Ok(serde_json::Value::Object(document)) = serde_json::from_str(body) else { return };
        for name in ["access_token", "refresh_token", "id_token", "idp_access_token"] {
            if let Some(token) = document.get(name).and_then(serde_json::Value::as_str) {
                self.secrets.add_token(name, token);
            }
        }
    }

    fn learn_field(&mut self, name: &str, value: &str) {
        if let Some((_, query)) = value.split_once('?') {
            return self.learn_form(query);
        }
        self.secrets.add_token(name, value);
    }

    fn learn_form(&mut self, form: &str) {
        for (name, value) in url::form_urlencoded::parse(form.as_bytes()) {
            let telling = ["token", "code", "secret", "password", "verifier"];
            let is_secret = telling.iter().any(|word| name.contains(word)) && !name.contains("challenge");
            if is_secret && !value.starts_with("http") {
                self.secrets.add_token(&name, &value);
            }
        }
    }

    /// Records the secrets of all requests to Salesforce.
    pub fn learn_from_salesforce(&mut self) {
        let ledger: Vec<LedgerEntry> = self.simulator.ledger();
        for entry in &ledger {
            for field in ["authorization", "_sfdc_client_auth", "x-slas-client-auth"] {
                if let Some(value) = entry.header(field) {
                    let value = value.rsplit(' ').next().unwrap();
                    self.secrets.add_token(field, value);
                }
            }
            self.learn_form(&entry.body);
            self.learn_form(&entry.query);
        }
        for delivery in self.simulator.outbox() {
            self.secrets.add("a one-time token", &delivery.token);
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reads the pages of the operators' listener.
    pub async fn read_operator_pages(&mut self) {
        let operator = Client::builder().no_proxy().build().unwrap();
        for path in ["/metrics", "/status", "/readyz", "/livez", "/nothing"] {
            let answer = operator.get(format!("http://{}{path}", self.replica.admin)).send().await.unwrap();
            self.seen.extend_from_slice(format!("{:?}\n", answer.headers()).as_bytes());
            self.seen.extend_from_slice(&answer.bytes().await.unwrap());
        }
    }

    /// All outputs that may contain no secret, by name.
    pub async fn visible_output(&mut self) -> Vec<(&'static str, Vec<u8>)> {
        let dump = self.redis.dump().await.into_bytes();
        vec![
            ("the log", std::fs::read(self.file("stderr")).unwrap()),
            ("the audit log", std::fs::read(self.file("audit")).unwrap()),
            ("Redis", dump),
            ("answers", std::mem::take(&mut self.seen)),
        ]
    }

    /// Personal data, which the logs and Redis may not contain either.
    pub fn personal_data() -> Secrets {
        let mut persons = Secrets::default();
        persons.add("a login id", LOGIN);
        persons
    }
}
