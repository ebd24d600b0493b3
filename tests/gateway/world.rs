//! A gateway in front of a simulated Salesforce, both in this process, on free ports.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};
use serde_json::Value;
use shopper_gateway::{
    app::{App, AppError, Reloader, StopReason},
    config::Settings,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

pub const ORGANIZATION: &str = "f_ecom_zzrf_001";
pub const OTHER_ORGANIZATION: &str = "f_ecom_zzrf_002";
pub const PUBLIC_CLIENT: &str = "11111111-1111-4111-8111-111111111111";
pub const PRIVATE_CLIENT: &str = "22222222-2222-4222-8222-222222222222";
pub const STRICT_CLIENT: &str = "33333333-3333-4333-8333-333333333333";
pub const CALLER_CLIENT: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
pub const LOGIN: &str = "shopper@example.com";
pub const PASSWORD: &str = "Passw0rd!shopper";

/// Header fields that a response may have. Any other field is a leak.
const ALLOWED_ANSWER_FIELDS: [&str; 26] = [
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "correlation-id",
    "date",
    "deprecation",
    "link",
    "location",
    "retry-after",
    "sfdc_load",
    "sfdc_load_status",
    "sunset",
    "www-authenticate",
    "x-correlation-id",
    "x-on-behalf-of-usid",
    "x-shopper-gateway-error",
    "x-ratelimit-1m-limit",
    "x-ratelimit-1m-remaining",
    "x-ratelimit-1m-reset",
    "x-ratelimit-5m-limit",
    "x-ratelimit-5m-remaining",
    "x-ratelimit-5m-reset",
    "transfer-encoding",
];

/// The same, where a tenant allows origins.
const ALLOWED_CORS_FIELDS: [&str; 10] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
    "referrer-policy",
    "vary",
    "x-content-type-options",
];

/// Gateway, simulator and a client.
pub struct World {
    pub simulator: Simulator,
    pub gateway: Gateway,
    pub client: Client,
}

/// A running gateway.
pub struct Gateway {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    reloader: Arc<Reloader>,
    table: toml::Table,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    folder: tempfile::TempDir,
}

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The token in the header of a deprecated login's response.
    pub fn token(&self) -> String {
        let value = self.header("authorization").unwrap_or_else(|| panic!("no token in {self:?}"));
        value.strip_prefix("Bearer ").unwrap().to_owned()
    }

    /// Status and error code of the gateway's error response.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status.as_u16(), self.header("x-shopper-gateway-error").unwrap_or("none"))
    }
}

/// Installs the cryptography that `main` installs in the real process.
pub fn install_cryptography() {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

impl World {
    /// A world with both tenants of the simulator, all its clients, and one caller.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut toml::Table)) -> Self {
        Self::with_seed(Seed::default(), change).await
    }

    /// The same with a simulator that knows something else.
    pub async fn with_seed(seed: Seed, change: impl FnOnce(&mut toml::Table)) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), seed).await.unwrap();
        let gateway = Gateway::start(&simulator.url(), change).await;
        let world = Self { simulator, gateway, client: Client::builder().no_proxy().build().unwrap() };
        world.ready().await;
        world
    }

    /// A request to the gateway, to be sent with [`Self::send`].
    pub fn request(&self, method: Method, target: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{target}", self.gateway.address))
    }

    pub fn get(&self, target: &str) -> RequestBuilder {
        self.request(Method::GET, target)
    }

    pub fn post(&self, target: &str) -> RequestBuilder {
        self.request(Method::POST, target)
    }

    /// Sends a request, and checks that the response has only allowed header fields.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        for name in headers.keys() {
            let is_allowed = ALLOWED_ANSWER_FIELDS.contains(&name.as_str())
                || self.gateway.has_origins() && ALLOWED_CORS_FIELDS.contains(&name.as_str())
                || self.gateway.has_storefronts() && name == "set-cookie";
            assert!(is_allowed, "the answer leaks the field {name}");
        }
        assert!(headers.contains_key("correlation-id"), "an answer without correlation-id");
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    /// The deprecated guest login.
    pub async fn guest(&self, client: &str) -> Answer {
        self.send(self.post(&login_target(client)).body(r#"{"type":"guest"}"#)).await
    }

    /// The deprecated login of a registered shopper.
    pub async fn log_in(&self, client: &str, login: &str, password: &str) -> Answer {
        let request = self.post(&login_target(client)).basic_auth(login, Some(password));
        self.send(request.body(r#"{"type":"credentials"}"#)).await
    }

    /// A guest's token that the simulator signs, without a login.
    pub fn mint(&self, change: impl FnOnce(&mut ShopperTokenSpec)) -> String {
        let mut spec = ShopperTokenSpec::default();
        change(&mut spec);
        self.simulator.mint_shopper_token(spec)
    }

    /// The requests of an operation that reached an API.
    pub fn forwarded(&self, operation: &str) -> Vec<salesforce_simulator::LedgerEntry> {
        let ledger = self.simulator.ledger();
        ledger.into_iter().filter(|entry| entry.service == "api" && entry.flow == operation).collect()
    }

    /// The token with which the latest request for an operation was forwarded.
    pub fn forwarded_token(&self, operation: &str) -> String {
        let latest = self.forwarded(operation).pop().unwrap();
        latest.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    pub async fn metrics(&self) -> String {
        self.client.get(format!("http://{}/metrics", self.gateway.admin)).send().await.unwrap().text().await.unwrap()
    }

    /// Requests without a complete response, or which are not yet counted and logged.
    pub async fn in_flight(&self) -> usize {
        let status = format!("http://{}/status", self.gateway.admin);
        let status = self.client.get(status).send().await.unwrap().text().await.unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        usize::try_from(status["requests_in_flight"].as_u64().unwrap()).unwrap()
    }

    pub async fn ready(&self) {
        eventually("the gateway is ready", async || {
            let readyz = self.client.get(format!("http://{}/readyz", self.gateway.admin)).send().await;
            readyz.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    /// Sends bytes, and returns all received bytes until the connection closes or is idle.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.gateway.address).await.unwrap();
        // The gateway may refuse before it has read all bytes.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(700), stream.read(&mut chunk)).await {
            if read == 0 {
                break;
            }
            answer.extend_from_slice(&chunk[..read]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Gateway {
    /// A gateway in front of the Salesforce at `url`.
    pub async fn start(url: &str, change: impl FnOnce(&mut toml::Table)) -> Self {
        let mut table: toml::Table = configuration(url).parse().unwrap();
        change(&mut table);
        let folder = tempfile::tempdir().unwrap();
        let app = App::build(settings(&folder, &table)).unwrap_or_else(|error| panic!("{error}"));
        let reloader = app.reloader();
        let address = app.public_addresses().next().unwrap();
        let admin = app.admin_address();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
                StopReason::Shutdown
            };
            app.run(stopped).await.unwrap();
        });
        Self { address, admin, reloader, table, stop: Some(stop), running, folder }
    }

    /// The configuration in force.
    pub fn table(&self) -> toml::Table {
        self.table.clone()
    }

    /// Whether a tenant of the configuration in force allows origins.
    fn has_origins(&self) -> bool {
        self.table["tenants"].as_array().unwrap().iter().any(|tenant| tenant.get("origins").is_some())
    }

    /// Whether a tenant of the configuration in force has storefronts.
    fn has_storefronts(&self) -> bool {
        self.table["tenants"].as_array().unwrap().iter().any(|tenant| tenant.get("storefronts").is_some())
    }

    /// Reloads a changed configuration, as SIGHUP does.
    pub fn reload(&mut self, change: impl FnOnce(&mut toml::Table)) -> Result<Vec<&'static str>, AppError> {
        let mut table = self.table.clone();
        change(&mut table);
        let reloaded = self.reloader.reload(settings(&self.folder, &table));
        if reloaded.is_ok() {
            self.table = table;
        }
        reloaded
    }

    /// Stops the gateway as SIGTERM does, and returns when it has ended.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.running).await.unwrap();
    }
}

fn settings(folder: &tempfile::TempDir, table: &toml::Table) -> Settings {
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, table.to_string()).unwrap();
    Settings::load_with(&path, []).unwrap_or_else(|errors| panic!("{errors}")).settings
}

/// Polls a condition every 10 ms, for at most 20 seconds of waits.
pub async fn eventually(description: &str, condition: impl AsyncFnMut() -> bool) {
    eventually_every(Duration::from_millis(10), description, condition).await;
}

/// Polls a condition whose check is itself a load, at an interval, for at most 20 seconds of waits.
pub async fn eventually_every(interval: Duration, description: &str, mut condition: impl AsyncFnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !condition().await {
        assert!(waited < Duration::from_secs(20), "never true: {description}");
        tokio::time::sleep(interval).await;
        waited += interval;
    }
}

/// Waits until a token has expired by its own `exp`.
pub async fn expired(token: &str) {
    wait_until(claim(token, "exp")).await;
}

/// Waits until a token is in the last quarter of its lifetime, in which the gateway refreshes it.
pub async fn refresh_due(token: &str) {
    let (issued_at, expires_at) = (claim(token, "iat"), claim(token, "exp"));
    wait_until(expires_at - (expires_at - issued_at) / 4).await;
}

/// Waits until a time in seconds since 1970.
pub async fn wait_until(time: u64) {
    let time = UNIX_EPOCH + Duration::from_secs(time);
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        tokio::time::sleep(left + Duration::from_millis(1)).await;
    }
}

pub fn claim(token: &str, name: &str) -> u64 {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()[name].as_u64().unwrap()
}

/// A change of the configuration: logins at SLAS become sessions.
pub fn register_sessions(table: &mut toml::Table) {
    for tenant in table["tenants"].as_array_mut().unwrap() {
        tenant.as_table_mut().unwrap().insert("register_sessions".into(), true.into());
    }
}

pub fn login_target(client: &str) -> String {
    customers(&format!("/customers/actions/login?siteId=RefArch&clientId={client}"))
}

/// A target of Shopper Customers.
pub fn customers(rest: &str) -> String {
    format!("/customer/shopper-customers/v1/organizations/{ORGANIZATION}{rest}")
}

/// A target of Shopper Baskets v1.
pub fn baskets(rest: &str) -> String {
    format!("/checkout/shopper-baskets/v1/organizations/{ORGANIZATION}/baskets{rest}")
}

/// A target of Shopper Products: reads that any shopper may do.
pub fn products(rest: &str) -> String {
    format!("/product/shopper-products/v1/organizations/{ORGANIZATION}/products{rest}")
}

pub fn configuration(url: &str) -> String {
    let tenant = |organization: &str, sites: &str| {
        format!(
            r#"
[[tenants]]
organization_id = "{organization}"
api = "{url}"
sites = [{sites}]
on_behalf_client = "{PRIVATE_CLIENT}"
slas_requests_per_minute = 24000
[tenants.account_manager]
url = "{url}"
client_id = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
client_secret = "account-manager-secret"
scopes = ["sfcc.shopper-customers.login"]
[[tenants.slas_clients]]
client_id = "{PUBLIC_CLIENT}"
redirect_uri = "http://localhost:3000/callback"
[[tenants.slas_clients]]
client_id = "{PRIVATE_CLIENT}"
client_secret = "private-client-secret"
redirect_uri = "http://localhost:3000/callback"
vouch = true
[[tenants.slas_clients]]
client_id = "{STRICT_CLIENT}"
client_secret = "strict-client-secret"
redirect_uri = "http://localhost:3000/callback"
strict_client_auth = true
"#
        )
    };
    format!(
        r#"
[server]
listen = ["127.0.0.1:0"]
threads = 2
[admin]
listen = "127.0.0.1:0"
[[callers]]
name = "experience-cloud"
account_manager_client_id = "{CALLER_CLIENT}"
may = ["system", "on_behalf"]
organizations = ["{ORGANIZATION}"]
operations = ["shopper-customers.*", "orders.*", "shopper-*"]
{}{}"#,
        tenant(ORGANIZATION, r#""RefArch", "RefArchGlobal""#),
        tenant(OTHER_ORGANIZATION, r#""SiteGenesis""#),
    )
}
