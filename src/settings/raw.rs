//! The configuration file as it is written: a mirror of its tables and keys, for serde and for the
//! JSON Schema.
//!
//! Owns the spelling of every key, its default and its description; the comments on the fields below
//! are what operators read in the schema. Refuses to know what the texts mean: `parse` does. A key
//! that must be given is an `Option` marked as required, so that its absence is one finding of many
//! and not the end of reading.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{LogFormat, PolicyMode, RouteSecurity, UnknownOperations};

mod defaults;

/// Configuration of shopper-gateway.
///
/// Every key can be set by the environment too: `SHOPPER_GATEWAY__SECTION__KEY`, elements of arrays
/// by their number: `SHOPPER_GATEWAY__TENANTS__0__API`. The environment wins.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "shopper-gateway")]
pub(super) struct File {
    /// The public listener, which shoppers' applications and trusted systems call.
    #[serde(default)]
    pub(super) server: Server,
    /// The listener for operators: /metrics, /livez, /readyz, /status.
    #[serde(default)]
    pub(super) admin: Admin,
    /// The organizations that this gateway serves; at least one.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) tenants: Vec<Tenant>,
    /// Trusted systems, which may call system operations or act on behalf of shoppers.
    #[serde(default)]
    pub(super) callers: Vec<Caller>,
    /// How long sessions of shoppers live.
    #[serde(default)]
    pub(super) sessions: Sessions,
    /// Every time limit, as durations with a unit: `250ms`, `10s`, `1m 30s`.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    /// Every size limit, in bytes or with a unit (KiB, MiB, GiB).
    #[serde(default)]
    pub(super) limits: Limits,
    /// How much is asked of an organization's APIs, and what is left out first.
    #[serde(default)]
    pub(super) load: Load,
    /// How many logins may wait, and fail.
    #[serde(default)]
    pub(super) logins: Logins,
    /// What is logged, and how.
    #[serde(default)]
    pub(super) log: Log,
    /// Traces for an OpenTelemetry collector.
    #[serde(default)]
    pub(super) traces: Traces,
    /// Where sessions live.
    #[serde(default)]
    pub(super) store: Store,
    /// The public keys of SLAS and Account Manager, which verify tokens.
    #[serde(default)]
    pub(super) keys: Keys,
    /// What happens to requests that the policy refuses or does not know.
    #[serde(default)]
    pub(super) policy: Policy,
    /// Operations of the merchant's own, e.g. SCAPI custom APIs.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

/// The public listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    /// Addresses to listen on, IP and port; port 0 takes a free one.
    #[schemars(example = json!(["127.0.0.1:8080", "[::1]:8080"]))]
    pub(super) listen: List,
    /// Worker threads. Default: one for each core.
    #[schemars(range(min = 1, max = 1024), example = 4)]
    pub(super) threads: Option<usize>,
    /// TLS on every public address. Absent: plain HTTP.
    pub(super) tls: Option<Tls>,
    /// Networks of proxies in front of the gateway whose X-Forwarded-For is believed, for the limits per address. Empty:
    /// nobody's, and the address is that of the connection.
    #[schemars(example = json!(["10.0.0.0/8", "2001:db8:1::/48"]))]
    pub(super) trusted_proxies: List,
}

/// TLS on every public address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// File with the certificate chain, PEM.
    #[schemars(required, with = "String", example = &"/etc/shopper-gateway/tls/certificate.pem")]
    pub(super) certificate: Option<PathBuf>,
    /// File with the private key, PEM; refused when others can read it.
    #[schemars(required, with = "String", example = &"/etc/shopper-gateway/tls/private-key.pem")]
    pub(super) private_key: Option<PathBuf>,
    /// File with the authorities that may sign client certificates, PEM. Absent: no client
    /// certificate is asked for.
    #[schemars(with = "Option<String>", example = &"/etc/shopper-gateway/tls/client-ca.pem")]
    pub(super) client_ca: Option<PathBuf>,
}

/// The listener for operators.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Its address, IP and port; never one of the public ones. It asks for no credential, so keep it
    /// where only operators reach it.
    #[schemars(example = &"127.0.0.1:9090")]
    pub(super) listen: String,
}

/// One organization and how the gateway speaks for it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tenant {
    /// The organization, as in the paths of the Shopper APIs.
    #[schemars(required, example = &"f_ecom_zzrf_001")]
    pub(super) organization_id: Option<String>,
    /// Where its Shopper APIs and SLAS are: scheme, host and port.
    #[schemars(required, example = &"https://kv7kzm78.api.commercecloud.salesforce.com")]
    pub(super) api: Option<String>,
    /// File with the certificate authorities for `api`, PEM, instead of the system's.
    #[schemars(with = "Option<String>", example = &"/etc/shopper-gateway/tls/api-ca.pem")]
    pub(super) api_ca: Option<PathBuf>,
    /// Its sites, which SLAS calls channels.
    #[schemars(required, example = json!(["RefArch", "RefArchGlobal"]))]
    pub(super) sites: Option<List>,
    /// The gateway's own client of Account Manager, whose tokens trusted systems present. Absent: the
    /// organization has no system operations.
    pub(super) account_manager: Option<AccountManager>,
    /// The SLAS clients that the deprecated logins and the SLAS paths may use.
    #[serde(default)]
    pub(super) slas_clients: Vec<SlasClient>,
    /// The private client that obtains tokens on behalf of shoppers. Default: the private client, if
    /// there is exactly one.
    #[schemars(example = &"22222222-2222-4222-8222-222222222222")]
    pub(super) on_behalf_client: Option<String>,
    /// Whether logins through the SLAS paths become sessions of the gateway.
    #[serde(default)]
    pub(super) register_sessions: bool,
    /// Requests a minute that SLAS takes of the organization; all gateways that share a store stay below it together.
    /// Default: what Salesforce documents, 24000 for a production instance (`f_ecom_…_prd`) and 500 for any other.
    #[schemars(range(min = 1, max = 1_000_000), example = 24_000)]
    pub(super) slas_requests_per_minute: Option<u32>,
}

/// The gateway's own client of Account Manager.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountManager {
    /// Where Account Manager is: scheme, host and port.
    #[serde(default = "AccountManager::url")]
    #[schemars(example = &"https://account.demandware.com")]
    pub(super) url: String,
    /// The id of the client.
    #[schemars(required, example = &"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")]
    pub(super) client_id: Option<String>,
    /// Its secret.
    #[schemars(required, example = secret_example())]
    pub(super) client_secret: Option<Secret>,
    /// The secret before, while it is being replaced: tried where Account Manager refuses `client_secret`.
    #[schemars(example = secret_example())]
    pub(super) previous_client_secret: Option<Secret>,
    /// Scopes to ask for; the scope that names the tenant is added by itself.
    #[serde(default = "AccountManager::scopes")]
    #[schemars(example = json!(["sfcc.shopper-customers.login"]))]
    pub(super) scopes: List,
}

/// A client of SLAS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SlasClient {
    /// Its id.
    #[schemars(required, example = &"11111111-1111-4111-8111-111111111111")]
    pub(super) client_id: Option<String>,
    /// Its secret. Absent: a public client.
    #[schemars(example = secret_example())]
    pub(super) client_secret: Option<Secret>,
    /// The secret before, while it is being replaced: tried where SLAS refuses `client_secret`.
    #[schemars(example = secret_example())]
    pub(super) previous_client_secret: Option<Secret>,
    /// The redirect URI registered with SLAS; sent exactly as written here.
    #[schemars(required, example = &"http://localhost:3000/callback")]
    pub(super) redirect_uri: Option<String>,
    /// Whether SLAS demands the client's credential at login too (header `x-slas-client-auth`).
    #[serde(default)]
    pub(super) strict_client_auth: bool,
    /// How often a second its shoppers may ask together, counted by each gateway for itself. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 500)]
    pub(super) requests_per_second: Option<u32>,
}

/// A trusted system. It proves who it is by exactly one of `account_manager_client_id`, `certificate_subject` and
/// `certificate_san`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Caller {
    /// Its name in logs and metrics: small letters, digits and hyphens.
    #[schemars(required, example = &"experience-cloud")]
    pub(super) name: Option<String>,
    /// The Account Manager client whose bearer token, or Basic credentials, it presents.
    #[schemars(example = &"bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb")]
    pub(super) account_manager_client_id: Option<String>,
    /// The subject of the client certificate it presents, in the form of RFC 4514; needs
    /// `server.tls.client_ca`.
    #[schemars(example = &"CN=oms.example.com,O=Example,C=DE")]
    pub(super) certificate_subject: Option<String>,
    /// An alternative name of the client certificate it presents: `DNS:…`, `URI:…` or `email:…`; needs
    /// `server.tls.client_ca`.
    #[schemars(example = &"URI:spiffe://example.com/oms")]
    pub(super) certificate_san: Option<String>,
    /// What it may do: `system` (call system operations), `on_behalf` (act on behalf of shoppers),
    /// `create_shoppers` (the same for shoppers of other identity providers, which creates them).
    #[schemars(required, example = json!(["system", "on_behalf"]))]
    pub(super) may: Option<List>,
    /// Organizations it may name.
    #[schemars(required, example = json!(["f_ecom_zzrf_001"]))]
    pub(super) organizations: Option<List>,
    /// Sites it may name. Absent or empty: all of those organizations.
    #[serde(default)]
    #[schemars(example = json!(["RefArch"]))]
    pub(super) sites: List,
    /// Operations it may call, `{api}.{operation}`; `*` stands for any text.
    #[schemars(required, example = json!(["orders.*", "shopper-customers.getResetPasswordToken"]))]
    pub(super) operations: Option<List>,
    /// How often a second it may ask, counted by each gateway for itself. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 50)]
    pub(super) requests_per_second: Option<u32>,
}

/// How long sessions of shoppers live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sessions {
    /// A token this close to its end is refreshed by the next request; less than the 30 minutes that
    /// tokens live.
    #[schemars(example = &"5m")]
    pub(super) refresh_ahead: String,
    /// A session ends this long after its last use.
    #[schemars(example = &"30m")]
    pub(super) idle_timeout: String,
    /// Most sessions held in memory; beyond, those longest unused are forgotten.
    #[schemars(range(min = 1, max = 100_000_000), example = 100_000)]
    pub(super) capacity: u64,
    /// Refreshes a minute that may run before anyone asks, for sessions used in the last minutes; 0: none.
    #[schemars(range(max = 6000), example = 0)]
    pub(super) proactive_per_minute: u32,
}

/// Every time limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    /// Until the first byte of an answer of a Shopper API.
    #[schemars(example = &"10s")]
    pub(super) upstream: String,
    /// Until the first byte of an answer of an Admin (system) API.
    #[schemars(example = &"60s")]
    pub(super) upstream_admin: String,
    /// Connecting to any server.
    #[schemars(example = &"3s")]
    pub(super) connect: String,
    /// One exchange with SLAS or Account Manager.
    #[schemars(example = &"3s")]
    pub(super) exchange: String,
    /// Until a client has sent its whole request head: from the beginning of its connection, TLS
    /// handshake included, and later from the head's first byte.
    #[schemars(example = &"10s")]
    pub(super) client_head: String,
    /// Until a client has sent its whole request body, where the gateway reads it; else each wait for
    /// more of it.
    #[schemars(example = &"30s")]
    pub(super) client_body: String,
    /// Until a client has taken one part of an answer, of 64 KiB at most.
    #[schemars(example = &"30s")]
    pub(super) client_write: String,
    /// How long a connection, of either side, may be without a request.
    #[schemars(example = &"60s")]
    pub(super) idle: String,
    /// How long requests in flight may take at a stop; keep it below the grace period of what stops
    /// the gateway.
    #[schemars(example = &"25s")]
    pub(super) drain: String,
}

/// Every size limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Request body, unless the operation says more.
    #[schemars(example = &"1MiB")]
    pub(super) body: Size,
    /// Least rate of a request body, a second, once it has taken longer than timeouts.client_body.
    #[schemars(example = &"1KiB")]
    pub(super) body_rate: Size,
    /// Request head: request line and header fields.
    #[schemars(example = &"64KiB")]
    pub(super) head: Size,
    /// Number of request header fields.
    #[schemars(range(min = 1, max = 256), example = 100)]
    pub(super) fields: usize,
    /// Request target: path and query.
    #[schemars(example = &"8KiB")]
    pub(super) target: Size,
    /// Connections of clients open at a time; further ones are closed at once. Each takes a file
    /// descriptor, and one more while its request is forwarded.
    #[schemars(range(min = 1, max = 1_000_000), example = 10_000)]
    pub(super) connections: usize,
    /// Of these from one address; 0: no limit. Behind a load balancer all connections are its own.
    #[schemars(range(max = 1_000_000), example = 100)]
    pub(super) connections_per_address: usize,
}

/// How much is asked of an organization's APIs, and what is left out first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Load {
    /// Operations that are left out first while Salesforce says that it is under load, or the seats run short:
    /// `{api}.{operation}`, `*` stands for any text. Never baskets, orders and SLAS.
    #[schemars(example = json!(["shopper-search.*", "shopper-products.*", "shopper-seo.*"]))]
    pub(super) low_priority: List,
    /// Requests of one organization that are upstream at a time.
    #[schemars(range(min = 1, max = 1_000_000), example = 2000)]
    pub(super) concurrency: usize,
    /// How long a request may wait to be one of them.
    #[schemars(example = &"100ms")]
    pub(super) queue: String,
}

/// How many logins may wait, and fail. Those that fail are counted by each gateway for itself; 0: no limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Logins {
    /// Deprecated logins of one organization that are under way at a time; further ones are refused at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 256)]
    pub(super) waiting: usize,
    /// Logins a minute of one client address that may fail; see server.trusted_proxies.
    #[schemars(range(max = 1_000_000), example = 60)]
    pub(super) failed_per_address: u32,
    /// Logins a minute with one login id from one address that may fail.
    #[schemars(range(max = 1_000_000), example = 5)]
    pub(super) failed_per_address_and_login: u32,
    /// Logins a minute with one login id, from everywhere, that may fail. Whoever can fail so often keeps its owner out.
    #[schemars(range(max = 1_000_000), example = 100)]
    pub(super) failed_per_login: u32,
}

/// Logging.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, alone or as `target=level`, separated by
    /// commas. The environment variable RUST_LOG wins.
    #[schemars(example = &"info", example = &"info,shopper_gateway=debug")]
    pub(super) level: String,
    /// How log lines look.
    #[schemars(example = &"json")]
    pub(super) format: LogFormat,
    /// File that the audit log is added to. Absent: among the other lines, on standard error.
    #[schemars(with = "Option<String>", example = &"/var/log/shopper-gateway/audit.jsonl")]
    pub(super) audit_file: Option<PathBuf>,
    /// Makes the pseudonyms of shoppers in the audit log: 32 bytes in base64 (`openssl rand -base64 32`), the same for
    /// all replicas. Absent: a random one for each process.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) pseudonym_key: Option<Secret>,
    /// Of successful requests, one in so many gets a line in the access log; refusals and failures all do.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(super) one_success_in: u32,
}

/// Traces for an OpenTelemetry collector.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Traces {
    /// Where the collector takes OTLP over HTTP; `/v1/traces` is added. Absent: no traces are made.
    #[schemars(example = &"http://127.0.0.1:4318")]
    pub(super) endpoint: Option<String>,
    /// Of the traces that begin here, one in so many is exported; whoever hands one over has decided about it.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(super) one_in: u32,
}

/// Where sessions live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    /// The kind of store.
    #[schemars(example = &"redis")]
    pub(super) kind: StoreKind,
    /// Where Redis or Valkey is: `redis://host:6379/0`, `rediss://` for TLS, `redis+cluster://host1:6379,host2:6379`,
    /// `redis+sentinel://host1:26379,host2:26379/{master}/0`; an ACL user stands in front of the host.
    #[schemars(with = "Option<Secret>", example = &"rediss://gateway:password@redis.internal:6379/0")]
    pub(super) url: Option<Secret>,
    /// Authorities that may sign its certificate, PEM. Absent: the system's.
    #[schemars(with = "Option<String>", example = &"/etc/shopper-gateway/redis-ca.pem")]
    pub(super) ca: Option<PathBuf>,
    /// Seals what is stored: 32 bytes in base64 (`openssl rand -base64 32`), the same for all replicas.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) encryption_key: Option<Secret>,
    /// The key before, while it is being replaced: what it sealed is still read.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_encryption_key: Option<Secret>,
    /// Stands before every name in the store.
    #[schemars(example = &"shopper-gateway")]
    pub(super) key_prefix: String,
    /// Longest wait for one command.
    #[schemars(example = &"50ms")]
    pub(super) timeout: String,
}

/// The kind of store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreKind {
    /// In this process: sessions end with it, and replicas do not share them.
    #[default]
    Memory,
    /// In Redis or Valkey: sessions survive a restart, and replicas share them.
    Redis,
}

/// The public keys of SLAS and Account Manager, which verify tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Keys {
    /// How long a key set is good while its issuer cannot be asked; then its tokens are answered 503. From 24 hours to
    /// 30 days.
    #[schemars(example = &"72h")]
    pub(super) max_age: String,
    /// Folder in which key sets outlive the process, so that a restart during an outage of SLAS still verifies. Nobody
    /// but the gateway's user may write in it; made if only it is missing. With a store of kind `redis` they are kept there too.
    #[schemars(with = "Option<String>", example = &"/var/lib/shopper-gateway/keys")]
    pub(super) folder: Option<PathBuf>,
}

/// What happens to requests that the policy refuses or does not know.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    /// Whether refusals are carried out.
    #[schemars(example = &"enforce")]
    pub(super) mode: PolicyMode,
    /// What happens to operations that no table knows.
    #[schemars(example = &"deny")]
    pub(super) unknown_operations: UnknownOperations,
}

/// An operation of the merchant's own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Its name, `{api}.{operation}`, in logs, metrics and `callers`.
    #[schemars(required, example = &"loyalty.getPoints")]
    pub(super) name: Option<String>,
    /// GET, HEAD, POST, PUT, PATCH or DELETE.
    #[schemars(required, example = &"GET")]
    pub(super) method: Option<String>,
    /// Its path, with `{organizationId}` and other parameters as whole segments.
    #[schemars(required, example = &"/custom/loyalty/v1/organizations/{organizationId}/points/{id}")]
    pub(super) path: Option<String>,
    /// Who may call it.
    #[schemars(required, example = &"shopper")]
    pub(super) security: Option<RouteSecurity>,
    /// Any one of these scopes is enough.
    #[schemars(required, example = json!(["c_loyalty"]))]
    pub(super) scopes: Option<List>,
}

/// Several texts: an array, or one text that separates them by commas.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum List {
    /// One text for each element.
    Array(Vec<String>),
    /// All elements, separated by commas.
    Text(String),
}

/// A size in bytes, or with a unit.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Size {
    /// Bytes.
    Bytes(u64),
    /// With a unit, e.g. `64KiB` or `1MiB`.
    Text(String),
}

/// A secret: where it is, or itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Secret {
    /// In a file or an environment variable.
    Elsewhere(Elsewhere),
    /// The secret itself; works, but is warned of.
    Literal(
        #[serde(deserialize_with = "secret")]
        #[schemars(with = "String")]
        SecretString,
    ),
}

/// Where a secret is: exactly one of `file` and `env`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Elsewhere {
    /// A file that holds nothing else; one newline at its end is ignored. Refused when others can
    /// read it. Relative paths start at the folder of the configuration file.
    #[schemars(with = "Option<String>", example = &"/run/secrets/account-manager")]
    pub(super) file: Option<PathBuf>,
    /// The name of an environment variable.
    #[schemars(example = &"ACCOUNT_MANAGER_SECRET")]
    pub(super) env: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

fn secret_example() -> Value {
    json!({ "file": "/run/secrets/account-manager" })
}
