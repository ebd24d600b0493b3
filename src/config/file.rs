//! The configuration file as it is written: a mirror of its tables and keys, for serde and for the
//! JSON Schema.
//!
//! Owns the spelling of every key, its default and its description; the comments on the fields below
//! are what operators read in the schema. Refuses to know what the texts mean: `parse` does. A key
//! that must be given is an `Option` that the schema requires, so that its absence is one finding of many
//! and not the end of reading.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{DeprecatedLogins, LogFormat, PolicyMode, RouteSecurity, UnknownOperations};

mod defaults;
mod value_types;

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
    /// The listener for operators: `/metrics`, `/livez`, `/readyz`, `/status`.
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
    /// Every time limit; each above zero and at most 1 hour.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    /// Every limit of size and number.
    #[serde(default)]
    pub(super) limits: Limits,
    /// How much is asked of an organization's APIs, and what is left out first.
    #[serde(default)]
    pub(super) load: Load,
    /// How many logins may wait, and fail. Those that fail are counted by each gateway for itself; 0: no limit.
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
    /// Addresses to listen on. `[::]` takes IPv4 connections too, unless `0.0.0.0` is listed with the same port.
    #[schemars(example = json!(["127.0.0.1:8080", "[::1]:8080"]))]
    pub(super) listen: List,
    /// Worker threads. Default: one for each core.
    #[schemars(range(min = 1, max = 1024), example = 4)]
    pub(super) threads: Option<usize>,
    /// TLS on every public address. Absent: plain HTTP, HTTP/1.1 and h2c.
    pub(super) tls: Option<Tls>,
    /// Networks of proxies in front of the gateway whose `X-Forwarded-For` is believed, for the limits per address: the
    /// client is the last address in it that is none of theirs. Empty: nobody's, and the address is that of the
    /// connection. An IPv6 client counts with its /64.
    #[schemars(example = json!(["10.0.0.0/8", "2001:db8:1::/48"]))]
    pub(super) trusted_proxies: List,
}

/// TLS on every public address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// Certificate chain, PEM; a warning when others can write it.
    #[schemars(with = "value_types::File", example = &"/etc/shopper-gateway/tls/certificate.pem")]
    pub(super) certificate: Option<PathBuf>,
    /// Private key, PEM, without a passphrase; refused when others can read it (`chmod 0400`; `0440` will do).
    #[schemars(with = "value_types::File", example = &"/etc/shopper-gateway/tls/private-key.pem")]
    pub(super) private_key: Option<PathBuf>,
    /// Authorities that may sign client certificates, PEM. A certificate of others fails the handshake; none at all is
    /// accepted. Absent: none is asked for. Refused when others can write it (`chmod go-w`).
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/tls/client-ca.pem")]
    pub(super) client_ca: Option<PathBuf>,
    /// Revocation lists (CRLs) of these authorities, PEM, one for each that issues a certificate of a client's chain: a
    /// certificate that no list covers fails the handshake, as a revoked one does. A reload reads the file again;
    /// connections that are open stay so. The `nextUpdate` of a list is not enforced; a warning when it is over.
    /// Refused when no list is of these authorities. Absent: revocation is not checked. Refused when others can write it.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/tls/client-crl.pem")]
    pub(super) client_crl: Option<PathBuf>,
}

/// The listener for operators.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Never one of the public addresses. It asks for no credential: let only operators reach it.
    #[schemars(with = "value_types::Address", example = &"127.0.0.1:9090")]
    pub(super) listen: String,
}

/// One organization and how the gateway speaks for it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tenant {
    /// The organization, as in the paths of the APIs: `f_ecom_{realm}_{instance}`.
    #[schemars(with = "value_types::Id", example = &"f_ecom_zzrf_001")]
    pub(super) organization_id: Option<String>,
    /// Where its Shopper APIs and SLAS are. A host that ends in a dot is looked up without the search domains of DNS.
    #[schemars(with = "value_types::Url", example = &"https://kv7kzm78.api.commercecloud.salesforce.com")]
    pub(super) api: Option<String>,
    /// Authorities for `api`, PEM, instead of the system's, each of them usable. Refused when others can write it (`chmod go-w`).
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/tls/api-ca.pem")]
    pub(super) api_ca: Option<PathBuf>,
    /// Its sites, which SLAS calls channels; at least one.
    #[schemars(with = "List", example = json!(["RefArch", "RefArchGlobal"]))]
    pub(super) sites: Option<List>,
    /// The Account Manager of the organization, and the gateway's own client there. Absent: no trusted system is
    /// recognised but by its certificate.
    pub(super) account_manager: Option<AccountManager>,
    /// The SLAS clients that the deprecated logins and the SLAS paths may use.
    #[serde(default)]
    pub(super) slas_clients: Vec<SlasClient>,
    /// The private client that obtains tokens on behalf of shoppers. Default: the private client, if
    /// there is exactly one.
    #[schemars(with = "Option<value_types::Id>", example = &"22222222-2222-4222-8222-222222222222")]
    pub(super) on_behalf_client: Option<String>,
    /// Whether logins through the SLAS paths become sessions of the gateway; see
    /// docs/OPERATIONS.md#slas-logins-as-sessions before turning it on or off.
    #[serde(default)]
    pub(super) register_sessions: bool,
    /// Requests a minute that SLAS takes of the organization; all gateways that share a store stay below it together.
    /// Default: what Salesforce documents, 24,000 for a production instance (`f_ecom_…_prd`) and 500 for any other.
    #[schemars(range(min = 1, max = 1_000_000), example = 24_000)]
    pub(super) slas_requests_per_minute: Option<u32>,
}

/// The gateway's own client of Account Manager.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountManager {
    /// Where it is. Its keys verify the tokens that callers present.
    #[serde(default = "AccountManager::url")]
    #[schemars(with = "value_types::Url", example = &"https://account.demandware.com")]
    pub(super) url: String,
    /// The gateway's own client, whose tokens go upstream for callers that show a certificate.
    #[schemars(with = "value_types::Id", example = &"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")]
    pub(super) client_id: Option<String>,
    /// Its secret.
    #[schemars(with = "Secret", example = secret_example())]
    pub(super) client_secret: Option<Secret>,
    /// The secret before, while it is being replaced: tried where Account Manager refuses `client_secret`.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_client_secret: Option<Secret>,
    /// Scopes to ask for, all in one token, without `SALESFORCE_COMMERCE_API:…`, which is added by itself.
    #[serde(default = "AccountManager::scopes")]
    #[schemars(example = json!(["sfcc.shopper-customers.login"]))]
    pub(super) scopes: List,
}

/// A client of SLAS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SlasClient {
    /// The id of a SLAS client that the deprecated logins and requests for SLAS may name.
    #[schemars(with = "value_types::Id", example = &"11111111-1111-4111-8111-111111111111")]
    pub(super) client_id: Option<String>,
    /// Its secret. Absent: a public client. With it, whoever reaches the gateway can use the client's logins by its id
    /// alone, unless `vouch` is false; see docs/OPERATIONS.md#slas-paths.
    #[schemars(example = secret_example())]
    pub(super) client_secret: Option<Secret>,
    /// The secret before, while it is being replaced: tried where SLAS refuses `client_secret`. Not in what is added on
    /// the SLAS paths.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_client_secret: Option<Secret>,
    /// The redirect URI registered with SLAS; sent exactly as written.
    #[schemars(required, example = &"http://localhost:3000/callback")]
    pub(super) redirect_uri: Option<String>,
    /// Whether SLAS demands `x-slas-client-auth` from it at login too; private clients only.
    #[serde(default)]
    pub(super) strict_client_auth: bool,
    /// Whether the gateway adds the client's credential to requests for SLAS that name the client and bring none, as a
    /// storefront's proxy does; private clients only. Default: true; false for the client that acts on behalf of
    /// shoppers, unless it is the only private one. See docs/OPERATIONS.md#slas-paths.
    #[schemars(example = false)]
    pub(super) vouch: Option<bool>,
    /// How often a second its shoppers may ask together; then 429 `caller_rate_limited`. Counted by each gateway for
    /// itself. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 500)]
    pub(super) requests_per_second: Option<u32>,
}

/// A trusted system. It proves who it is by exactly one of `account_manager_client_id`, `certificate_subject` and
/// `certificate_san`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Caller {
    /// Its name in logs and metrics: 1 to 40 small letters, digits and hyphens.
    #[schemars(required, example = &"experience-cloud")]
    pub(super) name: Option<String>,
    /// The Account Manager client whose bearer token, or Basic credentials, the caller presents. Exactly one of this,
    /// `certificate_subject` and `certificate_san`.
    #[schemars(with = "Option<value_types::Id>", example = &"bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb")]
    pub(super) account_manager_client_id: Option<String>,
    /// The whole subject of the client certificate it presents, in the form of RFC 4514 (the last part of the
    /// certificate first); needs `server.tls.client_ca`.
    #[schemars(example = &"CN=oms.example.com,O=Example,C=DE")]
    pub(super) certificate_subject: Option<String>,
    /// One alternative name of the client certificate it presents: `DNS:…`, `URI:…` or `email:…`; needs
    /// `server.tls.client_ca`.
    #[schemars(example = &"URI:spiffe://example.com/oms")]
    pub(super) certificate_san: Option<String>,
    /// At least one of `system` (call system operations), `on_behalf` (act on behalf of shoppers), `create_shoppers`
    /// (the same for shoppers of other identity providers, which creates them).
    #[schemars(with = "List", example = json!(["system", "on_behalf"]))]
    pub(super) may: Option<List>,
    /// Organizations it may name, each one of `[[tenants]]`.
    #[schemars(with = "List", example = json!(["f_ecom_zzrf_001"]))]
    pub(super) organizations: Option<List>,
    /// Sites it may name. Empty: all of those organizations. What names no site may be called either way.
    #[serde(default)]
    #[schemars(example = json!(["RefArch"]))]
    pub(super) sites: List,
    /// Operations it may call, `{api}.{operation}`; `*` stands for any text, an API without its version for all its
    /// versions. `shopper-gateway routes` lists the names.
    #[schemars(with = "List", example = json!(["orders.*", "shopper-customers.getResetPasswordToken"]))]
    pub(super) operations: Option<List>,
    /// How often a second it may ask; then 429 `caller_rate_limited`. Counted by each gateway for itself. Absent: no
    /// limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 50)]
    pub(super) requests_per_second: Option<u32>,
}

/// How long sessions of shoppers live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sessions {
    /// A token this close to its end is refreshed by the next request, but never before three quarters of its life are
    /// over. Of tokens that live long, half as close for some sessions, so that shoppers who came together do not renew
    /// together. At most 29 minutes.
    #[schemars(with = "value_types::Duration", example = &"5m")]
    pub(super) refresh_ahead: String,
    /// A session ends this long after its last use. At most 90 days.
    #[schemars(with = "value_types::Duration", example = &"30m")]
    pub(super) idle_timeout: String,
    /// Most sessions held in memory; beyond, those longest unused are forgotten within seconds.
    #[schemars(range(min = 1, max = 100_000_000), example = 100_000)]
    pub(super) capacity: u64,
    /// Refreshes a minute that may run before anyone asks, for sessions used in the last minutes; 0: none.
    #[schemars(range(max = 6000), example = 0)]
    pub(super) background_refreshes_per_minute: u32,
}

/// Every time limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    /// Each wait for the answer of a Shopper API: for its beginning, and between its parts.
    #[schemars(with = "value_types::Duration", example = &"10s")]
    pub(super) upstream: String,
    /// The same where an operation accepts nothing but system tokens.
    #[schemars(with = "value_types::Duration", example = &"60s")]
    pub(super) upstream_admin: String,
    /// Connecting to any server, and resolving its name.
    #[schemars(with = "value_types::Duration", example = &"3s")]
    pub(super) connect: String,
    /// One call of the gateway to SLAS, Account Manager or the Shopper Customers API.
    #[schemars(with = "value_types::Duration", example = &"3s")]
    pub(super) exchange: String,
    /// A client's whole request head: on a new connection from its beginning, TLS handshake included, later from the
    /// head's first byte. Then the connection is closed.
    #[schemars(with = "value_types::Duration", example = &"10s")]
    pub(super) client_head: String,
    /// Each wait for more of a client's body that is forwarded while it arrives, and the time after which
    /// `limits.min_body_rate` counts.
    #[schemars(with = "value_types::Duration", example = &"30s")]
    pub(super) client_body: String,
    /// A client's whole body, where the gateway reads it before it decides: deprecated logins, and forms for SLAS that
    /// may lack a client's credential.
    #[schemars(with = "value_types::Duration", example = &"10s")]
    pub(super) held_body: String,
    /// A client taking one part of an answer, of 64 KiB at most. Then the connection is closed (HTTP/2: the stream).
    #[schemars(with = "value_types::Duration", example = &"30s")]
    pub(super) client_write: String,
    /// How long a connection, of either side, may be without a request.
    #[schemars(with = "value_types::Duration", example = &"60s")]
    pub(super) idle: String,
    /// What requests in flight may take at a stop. Keep it below the grace period of what stops the gateway.
    #[schemars(with = "value_types::Duration", example = &"25s")]
    pub(super) drain: String,
}

/// Every limit of size and number. Those per address count a client by its address, IPv6 by its /64. Clients behind
/// `server.trusted_proxies` are counted by the address that the proxy names, and have no limit of connections.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Request body, unless the operation allows more. At most 1 GiB.
    #[schemars(example = &"1MiB")]
    pub(super) body: Size,
    /// Least rate of a request body, a second: a body may take `timeouts.client_body`, and a second more for each of
    /// these that have arrived.
    #[schemars(example = &"1KiB")]
    pub(super) min_body_rate: Size,
    /// Request head: target and header fields. At most 1 MiB.
    #[schemars(example = &"64KiB")]
    pub(super) max_header_bytes: Size,
    /// Number of request header fields.
    #[schemars(range(min = 1, max = 256), example = 100)]
    pub(super) max_headers: usize,
    /// Request target: path and query. Not more than `limits.max_header_bytes`.
    #[schemars(example = &"8KiB")]
    pub(super) max_uri_bytes: Size,
    /// Connections of clients open at a time; further ones are closed at once. Each takes a file descriptor, and one
    /// more while its request is forwarded: the gateway raises its own limit as far as the system lets it, and warns
    /// where that is not enough.
    #[schemars(range(min = 1, max = 1_000_000), example = 10_000)]
    pub(super) connections: usize,
    /// Of these from one client address; 0: no limit. Default: 1,000. A load balancer in front of the gateway opens all
    /// connections from a few addresses: name it in `server.trusted_proxies`, which this limit leaves out.
    #[schemars(range(max = 1_000_000), example = 1000)]
    pub(super) connections_per_address: Option<usize>,
    /// Requests under way at a time, answers that clients have not taken included; further ones get 503 `overloaded`.
    #[schemars(range(min = 1, max = 1_000_000), example = 10_000)]
    pub(super) requests: usize,
    /// Of these from one client address over HTTP/2; further ones get 429 `caller_rate_limited`. 0: no limit. Connections of
    /// `server.trusted_proxies` are left out. In HTTP/1.1 a connection has one request, so `connections_per_address` is the limit.
    #[schemars(range(max = 1_000_000), example = 1000)]
    pub(super) requests_per_address: usize,
    /// Requests at a time whose body has not arrived to its end; further ones get 503 `overloaded`. An HTTP/2 connection
    /// may have 16 of them, unless it is of `server.trusted_proxies`.
    #[schemars(range(min = 1, max = 1_000_000), example = 4096)]
    pub(super) incomplete_requests: usize,
    /// Of these from one client address; further ones get 429 `caller_rate_limited`. 0: no limit. Once half of
    /// `incomplete_requests` is taken, an address may have an eighth of what is free, so that a few do not take all.
    #[schemars(range(max = 1_000_000), example = 256)]
    pub(super) incomplete_requests_per_address: usize,
    /// Bytes of request bodies in memory at a time: bodies that the gateway reads before it decides, and the first 64 KiB
    /// of others, which can be sent again. A request beyond gets 503 `overloaded`.
    #[schemars(example = &"64MiB")]
    pub(super) held_bodies: Size,
    /// Of these from one client address; a request beyond gets 429 `caller_rate_limited`.
    #[schemars(example = &"8MiB")]
    pub(super) held_bodies_per_address: Size,
    /// Calls to SLAS a minute that requests of one client address may cause: deprecated logins, and requests on SLAS's
    /// paths; further ones get 429 `caller_rate_limited`. At one gateway an address never gets more than an eighth of
    /// the tenant's `slas_requests_per_minute`. 0: no limit. Calls for trusted systems, and refreshes of sessions that a request
    /// needs, do not count. Counted by each gateway for itself.
    #[schemars(range(max = 1_000_000), example = 600)]
    pub(super) slas_calls_per_address: u32,
    /// Maximum concurrent requests to the APIs of one organization. A request counts only while the API works on it: not while
    /// the client sends the body or reads the response.
    #[schemars(range(min = 1, max = 1_000_000), example = 2000)]
    pub(super) max_concurrent_requests: usize,
    /// How long a request waits when `max_concurrent_requests` is reached; then 503 `overloaded`. While these waits keep
    /// failing, requests are rejected without waiting. At most 1 minute.
    #[schemars(with = "value_types::Duration", example = &"100ms")]
    pub(super) queue_timeout: String,
    /// Networks whose addresses have limits of their own, e.g. a storefront's servers or a company's offices.
    pub(super) networks: Vec<Network>,
}

/// Limits of each address of one network, in place of those for all. Of several networks the one with the longest
/// prefix counts. What is absent is as for all; 0: no limit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    /// The network, or one address. IPv6: at most a /64.
    #[schemars(required, example = &"203.0.113.0/24")]
    pub(super) network: Option<String>,
    /// In place of `limits.connections_per_address`.
    #[schemars(range(max = 1_000_000), example = 5000)]
    pub(super) connections_per_address: Option<usize>,
    /// In place of `limits.requests_per_address`.
    #[schemars(range(max = 1_000_000), example = 5000)]
    pub(super) requests_per_address: Option<usize>,
    /// In place of `limits.incomplete_requests_per_address`.
    #[schemars(range(max = 1_000_000), example = 2000)]
    pub(super) incomplete_requests_per_address: Option<usize>,
    /// In place of `limits.held_bodies_per_address`.
    #[schemars(example = &"32MiB")]
    pub(super) held_bodies_per_address: Option<Size>,
    /// In place of `limits.slas_calls_per_address`, as many as written, whatever SLAS takes of the tenant.
    #[schemars(range(max = 1_000_000), example = 10_000)]
    pub(super) slas_calls_per_address: Option<u32>,
    /// In place of `logins.guests_per_address`.
    #[schemars(range(max = 1_000_000), example = 5000)]
    pub(super) guests_per_address: Option<u32>,
    /// In place of `logins.failed_per_address`.
    #[schemars(range(max = 1_000_000), example = 600)]
    pub(super) failed_per_address: Option<u32>,
}

/// How much is asked of an organization's APIs, and what is left out first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Load {
    /// Operations that are left out first, with 503 `overloaded`: a growing part of them while Salesforce says that it
    /// is under load, and where less than a quarter of `limits.max_concurrent_requests` is free. Globs as in `callers.operations`.
    /// Baskets, orders and SLAS never are, whatever stands here. In report mode too.
    #[schemars(example = json!(["shopper-search.*", "shopper-products.*", "shopper-seo.*"]))]
    pub(super) low_priority: List,
}

/// How many logins may wait, and fail. Those that fail are counted by each gateway for itself; 0: no limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Logins {
    /// Deprecated logins of one organization that are under way at a time; further ones get 503 `overloaded` at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 256)]
    pub(super) max_concurrent: usize,
    /// Logins a minute of one client address that may fail; then 429 `caller_rate_limited`. What succeeds does not
    /// count; a message that SLAS is asked to send always does. Behind a load balancer set `server.trusted_proxies`, or all clients are one.
    #[schemars(range(max = 1_000_000), example = 60)]
    pub(super) failed_per_address: u32,
    /// Deprecated guest logins a minute of one client address; then 429 `caller_rate_limited`. Each of them is a session
    /// more and one or two calls to SLAS.
    #[schemars(range(max = 1_000_000), example = 300)]
    pub(super) guests_per_address: u32,
    /// The same as `failed_per_address`, for one login id from one address. Passwords, one-time codes and messages count apart. All spellings of a
    /// login id are one: upper case, compatibility characters and invisible characters make no difference.
    #[schemars(range(max = 1_000_000), example = 5)]
    pub(super) failed_per_address_and_login: u32,
    /// The same as `failed_per_address`, for one login id from everywhere. Whoever can fail so often keeps its owner out.
    #[schemars(range(max = 1_000_000), example = 100)]
    pub(super) failed_per_login: u32,
}

/// Logging.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, alone or as `target=level`, separated by commas. `RUST_LOG`
    /// wins. The access log is of level `info`: `warn` alone switches it off, refusals included, and
    /// `warn,shopper_gateway::access=info` keeps it. What libraries print of raw heads and paths stays off at any level.
    #[schemars(example = &"info", example = &"info,shopper_gateway=debug")]
    pub(super) level: String,
    /// How log lines look. They go to standard error.
    #[schemars(example = &"json")]
    pub(super) format: LogFormat,
    /// File that the audit log is added to, always as JSON and at any `log.level`. Absent: standard error, among the
    /// other lines, with the target `shopper_gateway::observability::audit`. SIGHUP opens it anew, for log rotation.
    #[schemars(with = "Option<value_types::File>", example = &"/var/log/shopper-gateway/audit.jsonl")]
    pub(super) audit_file: Option<PathBuf>,
    /// Makes the pseudonyms of shoppers in the audit log: 32 bytes in base64 (`openssl rand -base64 32`), the same for
    /// all replicas. Absent: a random one for each process, so that no two runs can be compared.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) pseudonym_key: Option<Secret>,
    /// Share of successful requests that are written to the access log: 0.0 (none) to 1.0 (all). Rejected requests, also in
    /// report mode, and failed requests are always written.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.01)]
    pub(super) success_sample_rate: f64,
    /// A successful request that takes this long always gets its line too. At most ten minutes.
    #[schemars(with = "value_types::Duration", example = &"1s")]
    pub(super) slow: String,
}

/// Traces for an OpenTelemetry collector.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Traces {
    /// Where the collector takes OTLP over HTTP; `/v1/traces` is added. Absent: no traces are made, and a caller's
    /// `traceparent` goes upstream as it came. A credential for the collector goes into `OTEL_EXPORTER_OTLP_HEADERS`.
    #[schemars(with = "Option<value_types::Url>", example = &"http://127.0.0.1:4318")]
    pub(super) endpoint: Option<String>,
    /// Share of the traces started by the gateway that are exported: 0.0 (none) to 1.0 (all). For a request with a
    /// `traceparent`, the sampled flag of the client decides.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.01)]
    pub(super) sample_ratio: f64,
    /// Maximum number of traces per second that are exported because the client's `traceparent` is sampled. Further requests
    /// are served without an exported trace. Any client can send a sampled `traceparent`. 0: none is exported.
    #[schemars(range(max = 1_000_000), example = 20)]
    pub(super) parent_sampled_per_second: u32,
}

/// Where sessions live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    /// The kind of store. The other keys are for `redis`.
    #[schemars(example = &"redis")]
    pub(super) kind: StoreKind,
    /// `redis://host:6379/0`, `redis+cluster://host1:6379,host2:6379`, `redis+sentinel://host1:26379,host2:26379/master/0`,
    /// each with `rediss` in place of `redis` for TLS, or `redis+unix:///run/redis/redis.sock?db=0`. An ACL user and password
    /// stand in front of the host (`?user=…&pass=…` for a socket), an IPv6 address in brackets. Needed for `redis`.
    #[schemars(with = "Option<Secret>", example = &"rediss://gateway:password@redis.internal:6379/0")]
    pub(super) url: Option<Secret>,
    /// Authorities that may sign its certificate, PEM. Absent: the system's. Refused when others can write it.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/redis-ca.pem")]
    pub(super) ca: Option<PathBuf>,
    /// The gateway's own certificate chain, PEM, for a Redis that asks for client certificates; its Sentinels are shown
    /// it too. Read anew for each connection, as are `ca` and `private_key`.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/redis-client.pem")]
    pub(super) certificate: Option<PathBuf>,
    /// The private key of `certificate`, PEM; only the gateway may read it.
    #[schemars(with = "Option<value_types::File>", example = &"/run/secrets/redis-client-key.pem")]
    pub(super) private_key: Option<PathBuf>,
    /// ACL user of the Sentinels. Absent: their default user.
    #[schemars(example = &"gateway")]
    pub(super) sentinel_username: Option<String>,
    /// Password of the Sentinels. Absent: Sentinels that want one are given the user and password of `url`.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) sentinel_password: Option<Secret>,
    /// Whether Sentinels are reached with TLS. Absent: as Redis is, by the scheme of `url`.
    #[schemars(example = &true)]
    pub(super) sentinel_tls: Option<bool>,
    /// Authorities that may sign the Sentinels' certificates, PEM. Absent: those of `ca`. Refused when others can write it.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/sentinel-ca.pem")]
    pub(super) sentinel_ca: Option<PathBuf>,
    /// Seals what is stored: 32 bytes in base64 (`openssl rand -base64 32`), the same for all replicas. Needed for
    /// `redis`.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) encryption_key: Option<Secret>,
    /// The key before, while it is being replaced: what it sealed is still read.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_encryption_key: Option<Secret>,
    /// Stands before every name in the store.
    #[schemars(example = &"shopper-gateway")]
    pub(super) key_prefix: String,
    /// Longest wait for one command.
    #[schemars(with = "value_types::Duration", example = &"50ms")]
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
    /// How long a key set is good while its issuer cannot be asked; then its tokens get 503 `keys_unavailable`. From 24
    /// hours to 30 days.
    #[schemars(with = "value_types::Duration", example = &"72h")]
    pub(super) max_age: String,
    /// Where key sets outlive the process, so that a restart during an outage of SLAS still verifies. Refused when
    /// anybody but root or the gateway's user can write in it; made with mode 0700 if only it is missing. With a store
    /// of kind `redis` they are kept there as well, sealed.
    #[schemars(with = "Option<value_types::Folder>", example = &"/var/lib/shopper-gateway/keys")]
    pub(super) jwks_cache_dir: Option<PathBuf>,
}

/// What happens to requests that the policy refuses or does not know.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    /// Whether refusals are carried out. Report mode lifts what tokens and policy refuse, and no bound: rates, seats, failed
    /// logins and SLAS's budget hold, and a request with two readings is refused. `check` and the start warn of it.
    #[schemars(example = &"enforce")]
    pub(super) mode: PolicyMode,
    /// What happens to operations that no table knows. `check` and the start warn of `forward`.
    #[schemars(example = &"deny")]
    pub(super) unknown_operations: UnknownOperations,
    /// Whether the deprecated logins are still performed.
    #[schemars(example = &"allow")]
    pub(super) deprecated_logins: DeprecatedLogins,
}

/// An operation of the merchant's own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// `{api}.{operation}`, in logs, metrics and `callers.operations`.
    #[schemars(required, example = &"loyalty.getPoints")]
    pub(super) name: Option<String>,
    /// `GET`, `HEAD`, `POST`, `PUT`, `PATCH` or `DELETE`.
    #[schemars(required, example = &"GET")]
    pub(super) method: Option<String>,
    /// With `{organizationId}` and other parameters as whole segments.
    #[schemars(required, example = &"/custom/loyalty/v1/organizations/{organizationId}/points/{id}")]
    pub(super) path: Option<String>,
    /// Who may call it.
    #[schemars(with = "RouteSecurity", example = &"shopper")]
    pub(super) security: Option<RouteSecurity>,
    /// Any one of these is enough; at least one.
    #[schemars(with = "List", example = json!(["c_loyalty"]))]
    pub(super) scopes: Option<List>,
}

/// Several texts: an array, or one text with commas, `"RefArch,RefArchGlobal"`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum List {
    /// One text for each element.
    Array(Vec<String>),
    /// All elements, separated by commas.
    Text(String),
}

/// Bytes as a number, or with a unit: `64KiB`, `1MiB`, `1GiB`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Size {
    /// Bytes.
    Bytes(u64),
    /// With a unit, e.g. `64KiB` or `1MiB`.
    Text(String),
}

/// `{ file = "…" }`, `{ env = "NAME" }`, or a text, which is warned of; as variables `…__CLIENT_SECRET__FILE`,
/// `…__CLIENT_SECRET__ENV` or `…__CLIENT_SECRET`. A file that others can read or its group can write is refused (`chmod
/// 0400`; `0440` will do). A byte order mark and line ends at its end are ignored; other blanks at its ends are part of the secret and
/// warned of. No error shows a value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Secret {
    /// In a file or an environment variable.
    Reference(SecretRef),
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
pub(super) struct SecretRef {
    /// A file that holds nothing else; a byte order mark and line ends at its end are ignored. Refused when others can read it, or its group can
    /// write it (`chmod 0400`; `0440` will do).
    #[schemars(with = "Option<value_types::File>", example = &"/run/secrets/account-manager")]
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
