//! The tables and keys of the configuration file, for serde and for the JSON Schema.
//!
//! The doc comments of the fields are the descriptions in the schema and in docs/CONFIGURATION.md. `defaults` has the values of
//! absent keys. Strings are not parsed here: `validate` does that.
//!
//! `[policy]` needs no conversion, so its type is the one of `settings`.
//!
//! A required key is an `Option` that the schema requires. So a missing key is one of many reported errors, and does not end
//! deserialization.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{CookieMode, LogFormat, Policy, RouteSecurity};

mod defaults;
mod value_types;

/// Configuration of shopper-gateway.
///
/// Each key can also be set by an environment variable: `SHOPPER_GATEWAY__SECTION__KEY`. Elements of arrays are named
/// by their index: `SHOPPER_GATEWAY__TENANTS__0__API`. The environment overrides the file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "shopper-gateway")]
pub(super) struct File {
    /// The public listener for shopper applications and trusted systems.
    #[serde(default)]
    pub(super) server: Server,
    /// The listener for operators: `/metrics`, `/livez`, `/readyz`, `/status`.
    #[serde(default)]
    pub(super) admin: Admin,
    /// The organizations that the gateway serves. At least one is required.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) tenants: Vec<Tenant>,
    /// Trusted systems: back-office systems that call system operations or act on behalf of shoppers.
    #[serde(default)]
    pub(super) callers: Vec<Caller>,
    /// The lifetime of shopper sessions.
    #[serde(default)]
    pub(super) sessions: Sessions,
    /// Time limits. Each is greater than zero and at most 1 hour.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    /// Limits of size, number and rate. Limits per address count each IPv4 address, and each /64 network of IPv6.
    /// Clients behind `server.trusted_proxies` are counted by the address in `X-Forwarded-For`.
    #[serde(default)]
    pub(super) limits: Limits,
    /// Load shedding: the operations that are rejected first under load.
    #[serde(default)]
    pub(super) load: Load,
    /// Limits of logins. Each gateway counts failed logins for itself. 0 means no limit, except for `max_concurrent`.
    #[serde(default)]
    pub(super) logins: Logins,
    /// The format of the log, the access log and the audit log.
    #[serde(default)]
    pub(super) log: Log,
    /// Traces, exported to an OpenTelemetry collector.
    #[serde(default)]
    pub(super) traces: Traces,
    /// Where sessions are stored.
    #[serde(default)]
    pub(super) store: Store,
    /// The key sets (JWKS) of SLAS and Account Manager, which verify tokens.
    #[serde(default)]
    pub(super) keys: Keys,
    /// How the gateway treats requests that the policy rejects or does not know.
    #[serde(default)]
    pub(super) policy: Policy,
    /// Operations that the merchant adds to SCAPI, e.g. custom APIs.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

/// The public listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    /// Addresses to listen on. `[::]` also accepts IPv4 connections, unless `0.0.0.0` is listed with the same port.
    #[schemars(example = json!(["127.0.0.1:8080", "[::1]:8080"]))]
    pub(super) listen: List,
    /// Number of worker threads. Default: one per CPU core.
    #[schemars(range(min = 1, max = 1024), example = 4)]
    pub(super) threads: Option<usize>,
    /// TLS on every public address. Absent: plain HTTP (HTTP/1.1 and h2c).
    pub(super) tls: Option<Tls>,
    /// Networks of the proxies in front of the gateway, whose `X-Forwarded-For` is trusted. The client is the last
    /// address in this header that is outside of these networks. Limits per address use it. Empty: the client is the
    /// peer of the connection.
    #[schemars(example = json!(["10.0.0.0/8", "2001:db8:1::/48"]))]
    pub(super) trusted_proxies: List,
}

/// TLS on every public address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// Certificate chain, PEM. A file that other users can write causes a warning.
    #[schemars(with = "value_types::File", example = &"/etc/shopper-gateway/tls/certificate.pem")]
    pub(super) certificate: Option<PathBuf>,
    /// Private key, PEM, without a passphrase. Other users must not have access to the file (`chmod 0400`; `0440` is
    /// accepted).
    #[schemars(with = "value_types::File", example = &"/etc/shopper-gateway/tls/private-key.pem")]
    pub(super) private_key: Option<PathBuf>,
    /// CA certificates that may sign client certificates, PEM. A certificate of another CA fails the handshake. Clients
    /// without a certificate are accepted. Absent: the gateway requests no client certificate. Other users must not be
    /// able to write the file (`chmod go-w`).
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/tls/client-ca.pem")]
    pub(super) client_ca: Option<PathBuf>,
    /// Certificate revocation lists (CRLs) of the `client_ca` authorities, PEM. Each authority that issues a
    /// certificate of a client's chain needs a list. A certificate without a list fails the handshake, like a revoked
    /// one. A reload reads the file again; open connections stay open. The gateway does not enforce `nextUpdate`, but
    /// warns if it has passed. A file without a list of these authorities is an error. Absent: revocation is not
    /// checked. Other users must not be able to write the file.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/tls/client-crl.pem")]
    pub(super) client_crl: Option<PathBuf>,
}

/// The listener for operators.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Address of the listener. It must differ from the public addresses. The listener requires no authentication, so
    /// only operators should be able to reach it.
    #[schemars(with = "value_types::Address", example = &"127.0.0.1:9090")]
    pub(super) listen: String,
}

/// One organization, and the gateway's credentials for it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tenant {
    /// Organization id, as in the paths of the APIs: `f_ecom_{realm}_{instance}`.
    #[schemars(with = "value_types::Id", example = &"f_ecom_zzrf_001")]
    pub(super) organization_id: Option<String>,
    /// Origin of the Shopper APIs and SLAS. A host name that ends with a dot is resolved without the DNS search
    /// domains.
    #[schemars(with = "value_types::Url", example = &"https://kv7kzm78.api.commercecloud.salesforce.com")]
    pub(super) api: Option<String>,
    /// CA certificates for `api`, PEM, instead of the system's. Each certificate in the file must be valid. Other users
    /// must not be able to write the file (`chmod go-w`).
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/tls/api-ca.pem")]
    pub(super) api_ca: Option<PathBuf>,
    /// Site ids, which SLAS calls channel ids. At least one is required.
    #[schemars(with = "List", example = json!(["RefArch", "RefArchGlobal"]))]
    pub(super) sites: Option<List>,
    /// The organization's Account Manager, and the gateway's client there. Absent: trusted systems can authenticate
    /// only with client certificates.
    pub(super) account_manager: Option<AccountManager>,
    /// The SLAS clients that deprecated logins and requests on the SLAS paths may use.
    #[serde(default)]
    pub(super) slas_clients: Vec<SlasClient>,
    /// Web pages that may call the gateway from another origin than the gateway's (CORS). Absent: no browser on another
    /// origin can use the gateway; an empty list says that this is intended. See docs/BROWSERS.md.
    pub(super) origins: Option<Vec<Origin>>,
    /// Storefronts whose sessions are in cookies: one table for each site. Absent: the gateway reads and writes no session
    /// cookies.
    #[serde(default)]
    pub(super) storefronts: Vec<Storefront>,
    /// The private SLAS client that obtains tokens on behalf of shoppers. Default: the private client in
    /// `slas_clients`, if there is exactly one.
    #[schemars(with = "Option<value_types::Id>", example = &"22222222-2222-4222-8222-222222222222")]
    pub(super) on_behalf_client: Option<String>,
    /// Whether logins on the SLAS paths become sessions of the gateway. Read docs/OPERATIONS.md#slas-logins-as-sessions
    /// before you change it.
    #[serde(default)]
    pub(super) register_sessions: bool,
    /// SLAS's rate limit of the organization, in requests per minute. All gateways with the same store stay below it
    /// together. Default: the limit that Salesforce documents, 24,000 for a production instance (`f_ecom_…_prd`) and
    /// 500 for others.
    #[schemars(range(min = 1, max = 1_000_000), example = 24_000)]
    pub(super) slas_requests_per_minute: Option<u32>,
}

/// The gateway's own client of Account Manager.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountManager {
    /// Origin of Account Manager. Its key set verifies the tokens of trusted systems.
    #[serde(default = "AccountManager::url")]
    #[schemars(with = "value_types::Url", example = &"https://account.demandware.com")]
    pub(super) url: String,
    /// Id of the gateway's own client. The gateway sends its token upstream for callers that authenticate with a
    /// certificate.
    #[schemars(with = "value_types::Id", example = &"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")]
    pub(super) client_id: Option<String>,
    /// Secret of the client.
    #[schemars(with = "Secret", example = secret_example())]
    pub(super) client_secret: Option<Secret>,
    /// The old secret during a rotation. The gateway tries it if Account Manager rejects `client_secret`.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_client_secret: Option<Secret>,
    /// Scopes that the gateway requests, all in one token. The gateway adds `SALESFORCE_COMMERCE_API:…` itself.
    #[serde(default = "AccountManager::scopes")]
    #[schemars(example = json!(["sfcc.shopper-customers.login"]))]
    pub(super) scopes: List,
}

/// A client of SLAS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SlasClient {
    /// Client id, as in deprecated logins and requests for SLAS.
    #[schemars(with = "value_types::Id", example = &"11111111-1111-4111-8111-111111111111")]
    pub(super) client_id: Option<String>,
    /// Secret of the client. Absent: a public client. With a secret, anyone who reaches the gateway can log in with the
    /// client id alone, unless `vouch` is false. See docs/OPERATIONS.md#slas-paths.
    #[schemars(example = secret_example())]
    pub(super) client_secret: Option<Secret>,
    /// The old secret during a rotation. The gateway tries it if SLAS rejects `client_secret`, except for requests on
    /// the SLAS paths.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_client_secret: Option<Secret>,
    /// The redirect URI registered with SLAS. The gateway sends it exactly as written.
    #[schemars(required, example = &"http://localhost:3000/callback")]
    pub(super) redirect_uri: Option<String>,
    /// Whether SLAS requires `x-slas-client-auth` from this client at login too. For private clients only.
    #[serde(default)]
    pub(super) strict_client_auth: bool,
    /// Whether the gateway adds the client's credential to SLAS requests that name the client and have no credential,
    /// as a storefront's proxy does. For private clients only. Default: true. For the client that acts on behalf of
    /// shoppers, the default is false, unless it is the only private client. See docs/OPERATIONS.md#slas-paths.
    #[schemars(example = false)]
    pub(super) vouch: Option<bool>,
    /// Rate limit of all shoppers of this client together, in requests per second. Further requests get 429
    /// `caller_rate_limited`. Each gateway counts for itself. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 500)]
    pub(super) requests_per_second: Option<u32>,
}

/// Web pages that may call the gateway from another origin (CORS). The first entry that allows the origin and the site of
/// a request applies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    /// Origin of the pages, exactly as the browser's `location.origin` shows it: scheme, host and port.
    /// `https://*.shop.example` allows one label below a host, and `http://localhost:*` any port of the browser's own
    /// machine. `*` and `null` are not possible.
    #[schemars(required, example = &"https://www.shop.example")]
    pub(super) origin: Option<String>,
    /// Sites for which the pages may call, by the `siteId` or `channel_id` of a request. Requests without a site are
    /// allowed. Empty: all sites of the tenant.
    #[serde(default)]
    #[schemars(example = json!(["RefArch"]))]
    pub(super) sites: List,
    /// Whether the browser sends cookies, and pages may read the responses to such requests.
    #[serde(default)]
    #[schemars(example = false)]
    pub(super) credentials: bool,
    /// How long a browser may cache the answer to a preflight. At most 24 hours; Chromium keeps it for 2 hours.
    #[serde(default = "Origin::max_age")]
    #[schemars(with = "value_types::Duration", example = &"2h")]
    pub(super) max_age: String,
    /// Names of request headers that the pages may send, in addition to those of Salesforce's SDKs and to names that
    /// begin with `c_`.
    #[serde(default)]
    #[schemars(example = json!(["x-experiment"]))]
    pub(super) headers: List,
    /// Whether pages of a public network may call the gateway at an address of a private one.
    #[serde(default)]
    #[schemars(example = false)]
    pub(super) private_network: bool,
}

/// A storefront whose sessions are in cookies that the page cannot read (`HttpOnly`). Its paths begin with `/mobify/slas/private`,
/// `/mobify/slas/public` and `/mobify/proxy`, as in PWA Kit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Storefront {
    /// Site of the storefront, as in its header `x-site-id`. One of the tenant's `sites`, and each in one table only.
    #[schemars(with = "value_types::Id", example = &"RefArch")]
    pub(super) site: Option<String>,
    /// SLAS client of the storefront, one of `slas_clients`. Token responses of other clients set no cookies.
    #[schemars(with = "value_types::Id", example = &"22222222-2222-4222-8222-222222222222")]
    pub(super) client_id: Option<String>,
    /// Values of the session cookies.
    #[serde(default)]
    pub(super) cookies: CookieMode,
    /// Domain of the cookies. Every host below the domain receives the cookies, and can set its own in their place. Absent
    /// or empty: the cookies belong to the storefront's host alone.
    #[schemars(example = &"shop.example")]
    pub(super) cookie_domain: Option<String>,
    /// Whether the names of the session cookies begin with `__Host-`, so that no other host can set them. For
    /// `cookies = "reference"` without `cookie_domain` only. Default: true there. A storefront that renders pages on
    /// a server with PWA Kit needs false, because PWA Kit looks for names without a prefix.
    #[schemars(example = false)]
    pub(super) host_prefix: Option<bool>,
    /// How long the refresh cookie of a guest lives. At most 30 days. Default: as long as SLAS's refresh token.
    #[schemars(with = "Option<value_types::Duration>", example = &"30d")]
    pub(super) refresh_guest: Option<String>,
    /// How long the refresh cookie of a registered shopper lives. At most 90 days. Default: as long as SLAS's refresh
    /// token.
    #[schemars(with = "Option<value_types::Duration>", example = &"90d")]
    pub(super) refresh_registered: Option<String>,
    /// Origins of tools that show the storefront in a frame, in addition to Salesforce's Storefront Preview. Cookies in
    /// such a frame are sent across sites, partitioned by the tool.
    #[serde(default)]
    #[schemars(example = json!(["https://preview.shop.example"]))]
    pub(super) preview_origins: List,
    /// Path before `/mobify`, as `envBasePath` of PWA Kit: `/` and one segment. Other paths of the gateway must not begin
    /// so. Absent or empty: none.
    #[schemars(example = &"/shop")]
    pub(super) base_path: Option<String>,
}

/// A trusted system. It authenticates by exactly one of `account_manager_client_id`, `certificate_subject` and
/// `certificate_san`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Caller {
    /// Name in logs and metrics: 1 to 40 lowercase letters, digits and hyphens.
    #[schemars(required, example = &"experience-cloud")]
    pub(super) name: Option<String>,
    /// The Account Manager client whose bearer token or Basic credentials the caller sends. Exactly one of this,
    /// `certificate_subject` and `certificate_san` is required.
    #[schemars(with = "Option<value_types::Id>", example = &"bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb")]
    pub(super) account_manager_client_id: Option<String>,
    /// The complete subject of the caller's client certificate, in the form of RFC 4514 (the last part of the
    /// certificate first). Requires `server.tls.client_ca`.
    #[schemars(example = &"CN=oms.example.com,O=Example,C=DE")]
    pub(super) certificate_subject: Option<String>,
    /// A subject alternative name of the caller's client certificate: `DNS:…`, `URI:…` or `email:…`. Requires
    /// `server.tls.client_ca`.
    #[schemars(example = &"URI:spiffe://example.com/oms")]
    pub(super) certificate_san: Option<String>,
    /// Permissions, at least one: `system` (call system operations), `on_behalf` (act on behalf of shoppers),
    /// `create_shoppers` (the same for shoppers of other identity providers, which creates their accounts).
    #[schemars(with = "List", example = json!(["system", "on_behalf"]))]
    pub(super) may: Option<List>,
    /// Organizations that the caller may access. Each is the `organization_id` of a `[[tenants]]` entry.
    #[schemars(with = "List", example = json!(["f_ecom_zzrf_001"]))]
    pub(super) organizations: Option<List>,
    /// Sites that the caller may access. Empty: all sites of these organizations. Requests without a site are allowed
    /// in both cases.
    #[serde(default)]
    #[schemars(example = json!(["RefArch"]))]
    pub(super) sites: List,
    /// Operations that the caller may call, `{api}.{operation}`. `*` matches any text. The name of an API without its
    /// version matches all its versions. `shopper-gateway routes` lists the names.
    #[schemars(with = "List", example = json!(["orders.*", "shopper-customers.getResetPasswordToken"]))]
    pub(super) operations: Option<List>,
    /// Rate limit of the caller, in requests per second. Further requests get 429 `caller_rate_limited`. Each gateway
    /// counts for itself. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 50)]
    pub(super) requests_per_second: Option<u32>,
}

/// The lifetime of shopper sessions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sessions {
    /// How long before its expiry a token is refreshed by the next request, but not before three quarters of its
    /// lifetime. If this time is long, it is shorter for some sessions, down to half. So shoppers who log in together
    /// do not refresh together. At most 29 minutes.
    #[schemars(with = "value_types::Duration", example = &"5m")]
    pub(super) refresh_ahead: String,
    /// A session ends if it is not used for this long. At most 90 days.
    #[schemars(with = "value_types::Duration", example = &"30m")]
    pub(super) idle_timeout: String,
    /// Maximum number of sessions in memory. Beyond it, the least recently used sessions are removed within seconds.
    #[schemars(range(min = 1, max = 100_000_000), example = 100_000)]
    pub(super) capacity: u64,
    /// Maximum number of background refreshes per minute, for sessions used in the last minutes. 0: only requests
    /// refresh tokens.
    #[schemars(range(max = 6000), example = 0)]
    pub(super) background_refreshes_per_minute: u32,
}

/// Time limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    /// Wait for a Shopper API: for the start of the response, and between its parts.
    #[schemars(with = "value_types::Duration", example = &"10s")]
    pub(super) upstream: String,
    /// The same for operations that accept only system tokens.
    #[schemars(with = "value_types::Duration", example = &"60s")]
    pub(super) upstream_admin: String,
    /// Connecting to any server, including DNS resolution.
    #[schemars(with = "value_types::Duration", example = &"3s")]
    pub(super) connect: String,
    /// One call of the gateway to SLAS, Account Manager or the Shopper Customers API.
    #[schemars(with = "value_types::Duration", example = &"3s")]
    pub(super) exchange: String,
    /// Receiving a request head. On a new connection, the time starts with the connection and includes the TLS
    /// handshake. Later, it starts with the first byte of the head. After it, the connection is closed.
    #[schemars(with = "value_types::Duration", example = &"10s")]
    pub(super) client_head: String,
    /// Wait for the next part of a request body that is forwarded while it arrives. After this time,
    /// `limits.min_body_rate` applies too.
    #[schemars(with = "value_types::Duration", example = &"30s")]
    pub(super) client_body: String,
    /// Receiving the whole request body where the gateway reads it before it decides: deprecated logins, and SLAS forms
    /// that may need a client's credential.
    #[schemars(with = "value_types::Duration", example = &"10s")]
    pub(super) held_body: String,
    /// Wait for a client to accept one part of a response, at most 64 KiB. After it, the connection is closed (HTTP/2:
    /// the stream).
    #[schemars(with = "value_types::Duration", example = &"30s")]
    pub(super) client_write: String,
    /// How long a connection to a client or a server may be without a request.
    #[schemars(with = "value_types::Duration", example = &"60s")]
    pub(super) idle: String,
    /// How long requests in flight may take at shutdown. Keep it below the grace period of the process supervisor.
    #[schemars(with = "value_types::Duration", example = &"25s")]
    pub(super) drain: String,
}

/// Limits of size, number and rate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Size of a request body, unless the operation allows more. At most 1 GiB.
    #[schemars(example = &"1MiB")]
    pub(super) body: Size,
    /// Minimum rate of a request body, in bytes per second. A body may take `timeouts.client_body`, and one second more
    /// for each amount of this size that has arrived.
    #[schemars(example = &"1KiB")]
    pub(super) min_body_rate: Size,
    /// Size of a request head: URI and header fields. At most 1 MiB.
    #[schemars(example = &"64KiB")]
    pub(super) max_header_bytes: Size,
    /// Number of header fields of a request.
    #[schemars(range(min = 1, max = 256), example = 100)]
    pub(super) max_headers: usize,
    /// Size of a request URI: path and query. At most `limits.max_header_bytes`.
    #[schemars(example = &"8KiB")]
    pub(super) max_uri_bytes: Size,
    /// Maximum number of open client connections. Further connections are closed at once. A connection uses a file
    /// descriptor, and a second one while its request is forwarded. The gateway raises its own limit of descriptors as
    /// far as the system allows, and warns if that is not enough.
    #[schemars(range(min = 1, max = 1_000_000), example = 10_000)]
    pub(super) connections: usize,
    /// Maximum number of open connections of one client address. 0: no limit. Default: 1,000. The limit does not apply
    /// to `server.trusted_proxies`, so list your load balancer there.
    #[schemars(range(max = 1_000_000), example = 1000)]
    pub(super) connections_per_address: Option<usize>,
    /// Maximum number of concurrent requests, including those whose response the client has not read to its end.
    /// Further requests get 503 `overloaded`.
    #[schemars(range(min = 1, max = 1_000_000), example = 10_000)]
    pub(super) requests: usize,
    /// Maximum number of concurrent requests of one client address over HTTP/2. Further requests get 429
    /// `caller_rate_limited`. 0: no limit. The limit does not apply to connections of `server.trusted_proxies`. An
    /// HTTP/1.1 connection has one request at a time, so `connections_per_address` limits these.
    #[schemars(range(max = 1_000_000), example = 1000)]
    pub(super) requests_per_address: usize,
    /// Maximum number of concurrent requests with an incomplete body. Further requests get 503 `overloaded`. An HTTP/2
    /// connection may have 16 of them, unless `server.trusted_proxies` contains its peer.
    #[schemars(range(min = 1, max = 1_000_000), example = 4096)]
    pub(super) incomplete_requests: usize,
    /// Maximum number of requests with an incomplete body of one client address. Further requests get 429
    /// `caller_rate_limited`. 0: no limit. If half of `incomplete_requests` is in use, one address may use an eighth of
    /// the rest.
    #[schemars(range(max = 1_000_000), example = 256)]
    pub(super) incomplete_requests_per_address: usize,
    /// Maximum memory for request bodies: bodies that the gateway reads before it decides, and the first 64 KiB of
    /// other bodies, which a retry needs. Further requests get 503 `overloaded`.
    #[schemars(example = &"64MiB")]
    pub(super) held_bodies: Size,
    /// Maximum memory for request bodies of one client address. Further requests get 429 `caller_rate_limited`.
    #[schemars(example = &"8MiB")]
    pub(super) held_bodies_per_address: Size,
    /// Maximum number of SLAS calls per minute that requests of one client address cause: deprecated logins, and
    /// requests on the SLAS paths. Further requests get 429 `caller_rate_limited`. At one gateway, an address never
    /// gets more than an eighth of the tenant's `slas_requests_per_minute`. 0: no limit. Calls for trusted systems do
    /// not count, nor do session refreshes. Each gateway counts for itself.
    #[schemars(range(max = 1_000_000), example = 600)]
    pub(super) slas_calls_per_address: u32,
    /// Maximum number of concurrent requests to the APIs of one organization. A request counts only while the API works
    /// on it: not while the client sends the body or reads the response.
    #[schemars(range(min = 1, max = 1_000_000), example = 2000)]
    pub(super) max_concurrent_requests: usize,
    /// How long a request waits if `max_concurrent_requests` is reached. Then it gets 503 `overloaded`. If these waits
    /// keep failing, requests are rejected without a wait. At most 1 minute.
    #[schemars(with = "value_types::Duration", example = &"100ms")]
    pub(super) queue_timeout: String,
    /// Limits for each address of one network, instead of the limits above, e.g. for a storefront's servers. If several
    /// networks contain an address, the longest prefix applies. An absent key keeps the limit above, unless
    /// `storefront_server` is set. 0 means no limit.
    pub(super) networks: Vec<Network>,
}

/// Limits for each address of one network, instead of the limits for all addresses. An absent key keeps the limit for
/// all addresses, unless `storefront_server` is set. 0 means no limit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    /// The network, or a single address. An IPv6 prefix is at most /64.
    #[schemars(required, example = &"203.0.113.0/24")]
    pub(super) network: Option<String>,
    /// Whether these are a storefront's servers, which send the requests of many shoppers from their own addresses. Then
    /// the defaults of the limits below are larger: half of `limits.incomplete_requests` and of `limits.held_bodies`,
    /// half of the tenant's `slas_requests_per_minute`, 3,000 failed logins per minute, and no limit for connections,
    /// requests, guest logins and the failed logins of one login id, which `logins.failed_per_login` still limits.
    #[serde(default)]
    pub(super) storefront_server: bool,
    /// The header in which these addresses name the client's address, e.g. a storefront's server the shopper's. Such a
    /// request counts for the named address. Without a readable address, with two, or with a loopback address, it counts
    /// for the address of this network. The servers must replace the header if a client sends it. For
    /// `X-Forwarded-For`, use `server.trusted_proxies`.
    #[schemars(example = &"X-Client-IP")]
    pub(super) client_address_header: Option<String>,
    /// Replaces `limits.connections_per_address`.
    #[schemars(range(max = 1_000_000), example = 5000)]
    pub(super) connections_per_address: Option<usize>,
    /// Replaces `limits.requests_per_address`.
    #[schemars(range(max = 1_000_000), example = 5000)]
    pub(super) requests_per_address: Option<usize>,
    /// Replaces `limits.incomplete_requests_per_address`.
    #[schemars(range(max = 1_000_000), example = 2000)]
    pub(super) incomplete_requests_per_address: Option<usize>,
    /// Replaces `limits.held_bodies_per_address`.
    #[schemars(example = &"32MiB")]
    pub(super) held_bodies_per_address: Option<Size>,
    /// Replaces `limits.slas_calls_per_address`, and may exceed an eighth of the tenant's `slas_requests_per_minute`.
    #[schemars(range(max = 1_000_000), example = 10_000)]
    pub(super) slas_calls_per_address: Option<u32>,
    /// Replaces `logins.guests_per_address`.
    #[schemars(range(max = 1_000_000), example = 5000)]
    pub(super) guests_per_address: Option<u32>,
    /// Replaces `logins.failed_per_address`.
    #[schemars(range(max = 1_000_000), example = 600)]
    pub(super) failed_per_address: Option<u32>,
    /// Replaces `logins.failed_per_address_and_login`.
    #[schemars(range(max = 1_000_000), example = 50)]
    pub(super) failed_per_address_and_login: Option<u32>,
}

/// Load shedding.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Load {
    /// Operations that are rejected first, with 503 `overloaded`. A growing share is rejected while Salesforce reports
    /// load, and if less than a quarter of `limits.max_concurrent_requests` is free. Patterns are as in
    /// `callers.operations`. Baskets, orders and SLAS are never rejected this way, even if listed. Load shedding is
    /// active in report mode too.
    #[schemars(example = json!(["shopper-search.*", "shopper-products.*", "shopper-seo.*"]))]
    pub(super) low_priority: List,
}

/// Limits of logins. Each gateway counts failed logins for itself. 0 means no limit, except for `max_concurrent`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Logins {
    /// Maximum number of concurrent logins of one organization, deprecated and on behalf of shoppers. Further logins
    /// get 503 `overloaded` at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 256)]
    pub(super) max_concurrent: usize,
    /// Maximum number of failed logins per minute of one client address. Further logins get 429 `caller_rate_limited`.
    /// Successful logins do not count. A request that makes SLAS send a message always counts. Behind a load balancer,
    /// set `server.trusted_proxies`, and list a storefront's servers in `limits.networks`. Otherwise all their clients
    /// count as one.
    #[schemars(range(max = 1_000_000), example = 60)]
    pub(super) failed_per_address: u32,
    /// Maximum number of guest logins per minute of one client address: deprecated ones, and those on SLAS's paths whose
    /// sessions the gateway keeps. Further logins get 429 `caller_rate_limited`. Each of them creates a session and
    /// causes one or two SLAS calls.
    #[schemars(range(max = 1_000_000), example = 300)]
    pub(super) guests_per_address: u32,
    /// The same as `failed_per_address`, for one login id from one address. Passwords, one-time codes and messages are
    /// counted separately. All spellings of a login id count together: upper case, compatibility characters and
    /// invisible characters make no difference.
    #[schemars(range(max = 1_000_000), example = 5)]
    pub(super) failed_per_address_and_login: u32,
    /// The same as `failed_per_address`, for one login id from all addresses. A low value lets an attacker lock a
    /// shopper out.
    #[schemars(range(max = 1_000_000), example = 100)]
    pub(super) failed_per_login: u32,
}

/// The format of the log, the access log and the audit log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, alone or as `target=level`, separated by commas. The
    /// variable `RUST_LOG` overrides it. The access log has the level `info`. So `warn` switches it off, rejections
    /// included, and `warn,shopper_gateway::access=info` keeps it. Libraries never log raw heads and paths, at any
    /// level.
    #[schemars(example = &"info", example = &"info,shopper_gateway=debug")]
    pub(super) level: String,
    /// Format of the log lines, which are written to standard error.
    #[schemars(example = &"json")]
    pub(super) format: LogFormat,
    /// File to which the audit log is appended, always as JSON and at any `log.level`. Absent: standard error, with the
    /// target `shopper_gateway::audit`. SIGHUP reopens the file, for log rotation.
    #[schemars(with = "Option<value_types::File>", example = &"/var/log/shopper-gateway/audit.jsonl")]
    pub(super) audit_file: Option<PathBuf>,
    /// Key that makes the pseudonyms of shoppers in the audit log: 32 bytes in base64 (`openssl rand -base64 32`), the
    /// same for all replicas. Absent: a random key per process, so that pseudonyms of two runs differ.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) pseudonym_key: Option<Secret>,
    /// Share of successful requests that are written to the access log: 0.0 (none) to 1.0 (all). Rejected requests,
    /// also in report mode, and failed requests are always written.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.01)]
    pub(super) success_sample_rate: f64,
    /// A successful request that takes this long is always written to the access log. At most 10 minutes.
    #[schemars(with = "value_types::Duration", example = &"1s")]
    pub(super) slow: String,
}

/// Traces, exported to an OpenTelemetry collector.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Traces {
    /// URL of the collector's OTLP over HTTP receiver. The gateway adds `/v1/traces`. Absent: the gateway makes no
    /// traces, and forwards a client's `traceparent` unchanged. The variable `OTEL_EXPORTER_OTLP_HEADERS` can hold a
    /// credential for the collector.
    #[schemars(with = "Option<value_types::Url>", example = &"http://127.0.0.1:4318")]
    pub(super) endpoint: Option<String>,
    /// Share of the traces started by the gateway that are exported: 0.0 (none) to 1.0 (all). For a request with a
    /// `traceparent`, the sampled flag of the client decides.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.01)]
    pub(super) sample_ratio: f64,
    /// Maximum number of traces per second that are exported because the client's `traceparent` is sampled. Further
    /// requests are served without an exported trace. Any client can send a sampled `traceparent`. 0: none is exported.
    #[schemars(range(max = 1_000_000), example = 20)]
    pub(super) parent_sampled_per_second: u32,
}

/// Where sessions are stored.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    /// Kind of store. The other keys are for `redis`.
    #[schemars(example = &"redis")]
    pub(super) kind: StoreKind,
    /// URL of Redis: `redis://host:6379/0`, `redis+cluster://host1:6379,host2:6379`,
    /// `redis+sentinel://host1:26379,host2:26379/master/0`, each with `rediss` instead of `redis` for TLS, or
    /// `redis+unix:///run/redis/redis.sock?db=0`. ACL user and password precede the host (for a socket:
    /// `?user=…&pass=…`). IPv6 addresses are in brackets. Required for `redis`.
    #[schemars(with = "Option<Secret>", example = &"rediss://gateway:password@redis.internal:6379/0")]
    pub(super) url: Option<Secret>,
    /// CA certificates for Redis, PEM. Absent: the system's. Other users must not be able to write the file.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/redis-ca.pem")]
    pub(super) ca: Option<PathBuf>,
    /// The gateway's client certificate chain, PEM, if Redis requires one. Sentinels receive it too. The gateway reads
    /// this file, `ca` and `private_key` again for each connection.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/redis-client.pem")]
    pub(super) certificate: Option<PathBuf>,
    /// Private key of `certificate`, PEM. Other users must not have access to the file.
    #[schemars(with = "Option<value_types::File>", example = &"/run/secrets/redis-client-key.pem")]
    pub(super) private_key: Option<PathBuf>,
    /// ACL user of the Sentinels. Absent: their default user.
    #[schemars(example = &"gateway")]
    pub(super) sentinel_username: Option<String>,
    /// Password of the Sentinels. Absent: Sentinels that require a password receive the user and password of `url`.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) sentinel_password: Option<Secret>,
    /// Whether connections to Sentinels use TLS. Absent: as connections to Redis, by the scheme of `url`.
    #[schemars(example = &true)]
    pub(super) sentinel_tls: Option<bool>,
    /// CA certificates for the Sentinels, PEM. Absent: those of `ca`. Other users must not be able to write the file.
    #[schemars(with = "Option<value_types::File>", example = &"/etc/shopper-gateway/sentinel-ca.pem")]
    pub(super) sentinel_ca: Option<PathBuf>,
    /// Key that encrypts the stored values: 32 bytes in base64 (`openssl rand -base64 32`), the same for all replicas.
    /// Required for `redis`.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) encryption_key: Option<Secret>,
    /// The old key during a rotation. It still decrypts stored values.
    #[schemars(with = "Option<Secret>", example = secret_example())]
    pub(super) previous_encryption_key: Option<Secret>,
    /// Prefix of every key in Redis.
    #[schemars(example = &"shopper-gateway")]
    pub(super) key_prefix: String,
    /// Time limit of one Redis command. At most 5 seconds.
    #[schemars(with = "value_types::Duration", example = &"50ms")]
    pub(super) timeout: String,
}

/// The kind of store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreKind {
    /// Sessions are stored in the process. They end with it, and replicas do not share them.
    #[default]
    Memory,
    /// Sessions are stored in Redis or Valkey. They survive a restart, and replicas share them.
    Redis,
}

/// The key sets (JWKS) of SLAS and Account Manager, which verify tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Keys {
    /// How long a key set is valid while its issuer cannot be reached. After that, tokens of the issuer get 503
    /// `keys_unavailable`. 24 hours to 30 days.
    #[schemars(with = "value_types::Duration", example = &"72h")]
    pub(super) max_age: String,
    /// Directory in which key sets survive a restart, so that a gateway restarted during an outage of SLAS can still
    /// verify tokens. Only root and the gateway's user may be able to write in it. The gateway creates a missing
    /// directory with mode 0700, but not its parent. With a store of kind `redis`, key sets are in Redis too,
    /// encrypted.
    #[schemars(with = "Option<value_types::Directory>", example = &"/var/lib/shopper-gateway/keys")]
    pub(super) jwks_cache_dir: Option<PathBuf>,
}

/// An operation that the merchant adds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Name in logs, metrics and `callers.operations`: `{api}.{operation}`.
    #[schemars(required, example = &"loyalty.getPoints")]
    pub(super) name: Option<String>,
    /// `GET`, `HEAD`, `POST`, `PUT`, `PATCH` or `DELETE`.
    #[schemars(required, example = &"GET")]
    pub(super) method: Option<String>,
    /// Path template. Each parameter is a whole segment, and `{organizationId}` is required.
    #[schemars(required, example = &"/custom/loyalty/v1/organizations/{organizationId}/points/{id}")]
    pub(super) path: Option<String>,
    /// Which callers may use the operation.
    #[schemars(with = "RouteSecurity", example = &"shopper")]
    pub(super) security: Option<RouteSecurity>,
    /// Accepted scopes, at least one. A token with any one of them is accepted.
    #[schemars(with = "List", example = json!(["c_loyalty"]))]
    pub(super) scopes: Option<List>,
}

/// Several strings: an array, or one string with commas, `"RefArch,RefArchGlobal"`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum List {
    /// One string for each element.
    Array(Vec<String>),
    /// All elements, separated by commas.
    Text(String),
}

/// Bytes as a number, or a string with a unit: `64KiB`, `1MiB`, `1GiB`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Size {
    /// Bytes.
    Bytes(u64),
    /// A number and a unit, e.g. `64KiB` or `1MiB`.
    Text(String),
}

/// `{ file = "…" }`, `{ env = "NAME" }`, or the secret itself, which causes a warning. As variables:
/// `…__CLIENT_SECRET__FILE`, `…__CLIENT_SECRET__ENV` or `…__CLIENT_SECRET`. Other users must not have access to the
/// file, and its group must not be able to write it (`chmod 0400`; `0440` is accepted). A byte order mark and line ends
/// at the end are ignored. Other whitespace at the beginning or end is part of the secret and causes a warning. No
/// error message contains a value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Secret {
    /// A file or an environment variable that contains the secret.
    Reference(SecretRef),
    /// The secret itself. It causes a warning.
    Literal(
        #[serde(deserialize_with = "secret")]
        #[schemars(with = "String")]
        SecretString,
    ),
}

/// Where the secret is: exactly one of `file` and `env`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretRef {
    /// File that contains only the secret. A byte order mark and line ends at the end are ignored. Other users must not
    /// have access to the file, and its group must not be able to write it (`chmod 0400`; `0440` is accepted).
    #[schemars(with = "Option<value_types::File>", example = &"/run/secrets/account-manager")]
    pub(super) file: Option<PathBuf>,
    /// Name of the environment variable.
    #[schemars(example = &"ACCOUNT_MANAGER_SECRET")]
    pub(super) env: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

fn secret_example() -> Value {
    json!({ "file": "/run/secrets/account-manager" })
}
