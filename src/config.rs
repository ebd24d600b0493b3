//! What the operator decided: the configuration as checked values of the domain.
//!
//! Owns the meaning of every key. The texts of the file are mirrored in `config/file.rs`; turning
//! them into [`Settings`] finds every error at once. Nothing here opens a connection, and nothing
//! else in the gateway reads a configuration file or an environment variable.
//!
//! A file goes through these rooms, in this order: `load` reads it, `environment` finds the keys that
//! variables mean, `layers` lays those over the file, `shape` compares the whole with the schema and
//! takes out what does not fit, `raw` mirrors the rest, `parse` gives it meaning, `secret` reads the
//! files it names. `finding` collects what is wrong; `draft` is what could be read all the same, for those who check it
//! against what is not known here.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::Method;
use ipnet::IpNet;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::types::{ClientId, OrganizationId, Scopes, SiteId, TenantId};

mod partial;
mod environment;
mod diagnostics;
mod permissions;
mod merge;
mod load;
mod validate;
mod file;
mod schema;
mod secret_files;
mod secret_text;
mod schema_check;

pub use partial::{CallerDraft, Draft, RouteDraft, TenantDraft, TlsDraft};
pub use diagnostics::{Checked, ConfigErrors, Finding};
pub use permissions::{guarded, guarded_folder};
pub use load::Loaded;
pub use validate::{is_log_level, is_loopback};
pub use schema::schema;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The public listener.
    pub server: Server,
    /// The listener for operators.
    pub admin: Admin,
    /// The organizations that this gateway serves; at least one.
    pub tenants: Vec<Tenant>,
    /// Trusted systems.
    pub callers: Vec<Caller>,
    /// How long sessions live.
    pub sessions: Sessions,
    /// Every time limit.
    pub timeouts: Timeouts,
    /// Every limit of size and number.
    pub limits: Limits,
    /// How much is asked of an organization's APIs.
    pub load: Load,
    /// How many logins may wait, and fail.
    pub logins: Logins,
    /// Logging.
    pub log: Log,
    /// Traces.
    pub traces: Traces,
    /// Where sessions live.
    pub store: Store,
    /// How long the issuers' keys are good.
    pub keys: Keys,
    /// What happens to requests that the policy refuses or does not know.
    pub policy: Policy,
    /// Operations of the merchant's own.
    pub routes: Vec<Route>,
}

/// The public listener.
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Worker threads.
    pub threads: usize,
    /// TLS on every public address, if configured.
    pub tls: Option<Tls>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Files of the TLS listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub private_key: PathBuf,
    /// Authorities that may sign client certificates, PEM; absent: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Their revocation lists, PEM; absent: revocation is not checked.
    pub client_crl: Option<PathBuf>,
}

/// The listener for operators.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address of `/metrics`, `/livez`, `/readyz`, `/status`.
    pub listen: SocketAddr,
}

/// One organization and how the gateway speaks for it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The organization, as in paths.
    pub organization: OrganizationId,
    /// The tenant, as in tokens: the organization without `f_ecom_`.
    pub tenant: TenantId,
    /// Origin of SCAPI and SLAS: scheme, host, port, no path.
    pub api: Url,
    /// Certificate authorities for `api`, PEM, instead of the system's.
    pub api_ca: Option<PathBuf>,
    /// Its sites.
    pub sites: Vec<SiteId>,
    /// The gateway's own Account Manager client, if any.
    pub account_manager: Option<AccountManager>,
    /// SLAS clients that deprecated logins and SLAS paths may use.
    pub slas_clients: Vec<SlasClient>,
    /// The private client that obtains tokens on behalf of shoppers.
    pub on_behalf_client: Option<ClientId>,
    /// Whether logins through SLAS paths become sessions.
    pub register_sessions: bool,
    /// Calls a minute that SLAS takes of it, of all gateways together.
    pub slas_requests_per_minute: u32,
}

impl Tenant {
    /// The client that acts on behalf of shoppers, if there is one.
    #[must_use]
    pub fn acting_client(&self) -> Option<&SlasClient> {
        self.slas_clients.iter().find(|client| Some(&client.id) == self.on_behalf_client.as_ref())
    }
}

/// The gateway's own system client.
#[derive(Debug, Clone)]
pub struct AccountManager {
    /// Origin of Account Manager.
    pub url: Url,
    /// Its client id.
    pub client_id: ClientId,
    /// Its secret.
    pub client_secret: SecretString,
    /// The secret before, while it is being replaced.
    pub previous_client_secret: Option<SecretString>,
    /// Scopes to ask for, without the tenant's own.
    pub scopes: Scopes,
}

/// A client of SLAS.
#[derive(Debug, Clone)]
pub struct SlasClient {
    /// Its id.
    pub id: ClientId,
    /// Its secret; absent for a public client.
    pub secret: Option<SecretString>,
    /// The secret before, while it is being replaced.
    pub previous_secret: Option<SecretString>,
    /// The redirect URI registered with SLAS, sent exactly as written.
    pub redirect_uri: String,
    /// Whether SLAS demands `x-slas-client-auth` from it.
    pub strict_client_auth: bool,
    /// Whether the gateway adds its credential to requests for SLAS that name the client and bring none.
    pub vouch: bool,
    /// How often a second its shoppers may ask together; `None`: no limit.
    pub requests_per_second: Option<u32>,
}

/// A trusted system.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name in logs and metrics.
    pub name: String,
    /// What it presents.
    pub identity: CallerIdentity,
    /// May call system operations.
    pub may_system: bool,
    /// May act on behalf of shoppers.
    pub may_on_behalf: bool,
    /// May act on behalf of shoppers of other identity providers, which creates them.
    pub may_create_shoppers: bool,
    /// Organizations it may name.
    pub organizations: Vec<OrganizationId>,
    /// Sites it may name; empty: all of the organization's.
    pub sites: Vec<SiteId>,
    /// Globs over operation names.
    pub operations: Vec<String>,
    /// How often a second it may ask; `None`: no limit.
    pub requests_per_second: Option<u32>,
}

/// How a trusted system proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerIdentity {
    /// By a token or the credentials of this Account Manager client.
    AccountManagerClient(ClientId),
    /// By a client certificate with this subject (RFC 4514).
    CertificateSubject(String),
    /// By a client certificate with this among its alternative names: `DNS:…`, `URI:…`, `email:…`.
    CertificateSan(String),
}

/// How long sessions live.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// A token this close to its end is refreshed on the next request.
    pub refresh_ahead: Duration,
    /// A session ends this long after its last use.
    pub idle_timeout: Duration,
    /// Most sessions held in memory.
    pub capacity: u64,
    /// Refreshes a minute that may run before anyone asks, for sessions in use; 0: none.
    pub proactive_per_minute: u32,
}

/// Every time limit.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// One answer of a Shopper API, first byte.
    pub upstream: Duration,
    /// One answer of an Admin (system) API, first byte.
    pub upstream_admin: Duration,
    /// Connecting to any server.
    pub connect: Duration,
    /// One exchange with SLAS or Account Manager.
    pub exchange: Duration,
    /// A client's whole request head; on a new connection from its beginning.
    pub client_head: Duration,
    /// Each wait for more of a request body that is forwarded while it arrives, and the time before
    /// [`Limits::body_rate`] counts.
    pub client_body: Duration,
    /// A client's whole request body, where the gateway reads it before it decides.
    pub held_body: Duration,
    /// A client taking one part of an answer.
    pub client_write: Duration,
    /// A connection, of either side, without a request.
    pub idle: Duration,
    /// Requests in flight at a stop.
    pub drain: Duration,
}

/// Every limit of size and number.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Request body, bytes, unless the operation says more.
    pub body: usize,
    /// Least rate of a request body, bytes a second.
    pub body_rate: usize,
    /// Request head, bytes.
    pub head: usize,
    /// Request header fields.
    pub fields: usize,
    /// Request target, bytes.
    pub target: usize,
    /// Connections of clients open at a time.
    pub connections: usize,
    /// Requests under way at a time.
    pub requests: usize,
    /// Requests at a time whose body the gateway has not read to its end.
    pub incomplete_requests: usize,
    /// Bytes of request bodies in memory at a time.
    pub held_bodies: usize,
    /// What one client address may have, outside of `networks`.
    pub per_address: AddressLimits,
    /// Networks whose addresses have limits of their own, the longest prefix first.
    pub networks: Vec<NetworkLimits>,
}

/// What one client address (IPv6: one /64) may have. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections open at a time.
    pub connections: Option<usize>,
    /// Requests under way at a time on its HTTP/2 connections.
    pub requests: Option<usize>,
    /// Requests at a time whose body the gateway has not read to its end.
    pub incomplete_requests: Option<usize>,
    /// Bytes of request bodies in memory at a time.
    pub held_bodies: Option<usize>,
    /// Calls to SLAS a minute that its requests cause.
    pub slas_calls: Option<SlasCalls>,
    /// Deprecated guest logins a minute.
    pub guests: Option<u32>,
    /// Failed logins a minute.
    pub failed_logins: Option<u32>,
}

/// How many calls to SLAS the requests of one address may cause in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlasCalls {
    /// This many, and at most an eighth of what SLAS takes of the tenant.
    Shared(u32),
    /// This many, however few SLAS takes of the tenant.
    Exactly(u32),
}

/// The limits of the addresses of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLimits {
    /// The network.
    pub network: IpNet,
    /// What each of its addresses may have.
    pub per_address: AddressLimits,
}

/// The part of a tenant's calls to SLAS that one address may use at most, as a divisor.
const ADDRESS_SHARE: u32 = 8;

impl Limits {
    /// What this address may have; `address` is a /64's first for IPv6.
    #[must_use]
    pub fn of_address(&self, address: IpAddr) -> &AddressLimits {
        let own = self.networks.iter().find(|own| own.network.contains(&address));
        own.map_or(&self.per_address, |own| &own.per_address)
    }
}

impl SlasCalls {
    /// Calls a minute to the SLAS of a tenant of which SLAS takes `per_minute` requests in that time; at least 1.
    #[must_use]
    pub fn of_tenant(self, per_minute: u32) -> u32 {
        match self {
            Self::Shared(calls) => calls.min((per_minute / ADDRESS_SHARE).max(1)),
            Self::Exactly(calls) => calls,
        }
    }
}

/// How much is asked of an organization's APIs, and what is left out first.
#[derive(Debug, Clone)]
pub struct Load {
    /// Globs over the operations that matter least.
    pub low_priority: Vec<String>,
    /// Requests of one organization upstream at a time.
    pub concurrency: usize,
    /// How long a request may wait to be one of them.
    pub queue: Duration,
}

/// How many logins may wait, and fail; 0 is no limit, but for `waiting`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logins {
    /// Deprecated logins of one organization under way at a time.
    pub waiting: usize,
    /// Failed logins a minute of one address, outside of [`Limits::networks`].
    pub failed_per_address: u32,
    /// Failed logins a minute of one login id from one address.
    pub failed_per_address_and_login: u32,
    /// Failed logins a minute of one login id from everywhere.
    pub failed_per_login: u32,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// Filter in the syntax of `RUST_LOG`, which wins.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Where the audit log goes instead of among the other lines.
    pub audit_file: Option<PathBuf>,
    /// Makes the pseudonyms of shoppers in it: 32 bytes.
    pub pseudonym_key: Option<SecretSlice<u8>>,
    /// Of successful requests, one in so many gets a line; refusals and failures all do.
    pub one_success_in: u32,
    /// A success that takes this long gets its line too.
    pub slow: Duration,
}

/// Traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// The collector's address, without the path of traces; absent: none are made.
    pub endpoint: Option<Url>,
    /// Of the traces begun here, one in so many is exported.
    pub one_in: u32,
    /// So many requests a second may have their trace exported because their caller says so.
    pub asked_per_second: u32,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where sessions live.
#[derive(Debug, Clone, PartialEq)]
pub enum Store {
    /// In this process.
    Memory,
    /// In Redis or Valkey, shared by replicas.
    Redis(Box<RedisStore>),
}

impl PartialEq for RedisStore {
    fn eq(&self, other: &Self) -> bool {
        let keys = |store: &Self| {
            let previous = store.previous_encryption_key.as_ref().map(|key| key.expose_secret().to_vec());
            (store.encryption_key.expose_secret().to_vec(), previous)
        };
        (&self.topology, &self.login, self.database, &self.tls)
            == (&other.topology, &other.login, other.database, &other.tls)
            && keys(self) == keys(other)
            && (&self.key_prefix, self.timeout) == (&other.key_prefix, other.timeout)
    }
}

/// Sessions in Redis or Valkey.
#[derive(Debug, Clone)]
pub struct RedisStore {
    /// Where it is.
    pub topology: RedisTopology,
    /// The user and password of Redis.
    pub login: RedisLogin,
    /// Database index; 0 in a cluster.
    pub database: i64,
    /// How TLS connections to Redis are made; `None`: without TLS.
    pub tls: Option<RedisTls>,
    /// Seals what is stored: 32 bytes.
    pub encryption_key: SecretSlice<u8>,
    /// The key before, while a rotation is under way: 32 bytes.
    pub previous_encryption_key: Option<SecretSlice<u8>>,
    /// Stands before every name.
    pub key_prefix: String,
    /// Longest wait for one command.
    pub timeout: Duration,
}

/// How long the issuers' public keys are good, and where they outlive the process.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The age from which a key set verifies nothing.
    pub max_age: Duration,
    /// Where key sets are kept on this machine, if anywhere.
    pub folder: Option<PathBuf>,
}

/// How Redis is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum RedisTopology {
    /// One server: `redis://`, `rediss://` or `redis+unix://`.
    Standalone(RedisAddress),
    /// A cluster, by some of its nodes.
    Cluster(Vec<RedisAddress>),
    /// The master that Sentinels name.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<RedisAddress>,
        /// The master's name.
        master: String,
        /// The user and password of the Sentinels; without them those of Redis are tried on Sentinels that want some.
        login: RedisLogin,
        /// How TLS connections to the Sentinels are made; `None`: without TLS.
        tls: Option<RedisTls>,
    },
}

/// Where one server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// A host (a name, or an address without brackets) and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// A user of Redis or of its Sentinels.
#[derive(Debug, Clone, Default)]
pub struct RedisLogin {
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Its password; `None`: no login.
    pub password: Option<SecretString>,
}

impl PartialEq for RedisLogin {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |login: &Self| login.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.username == other.username && exposed(self) == exposed(other)
    }
}

/// The files of TLS connections to Redis or its Sentinels. They are read for each new connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Authorities that may sign the server's certificate, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate chain and private key, PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// What happens to requests that the policy refuses or does not know.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether refusals are carried out.
    pub mode: PolicyMode,
    /// What happens to operations that no table knows.
    pub unknown_operations: UnknownOperations,
    /// Whether the deprecated logins are still performed.
    pub deprecated_logins: DeprecatedLogins,
}

/// Whether refusals are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Refusals are carried out.
    Enforce,
    /// Decided, counted and logged, but forwarded. Refused all the same: what has two readings or two credentials, is too
    /// large, is a SLAS path outside the allow-list, or is of no organization served here.
    Report,
}

/// What happens to operations that no table knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownOperations {
    /// 404 `operation_unknown`.
    Deny,
    /// Forwarded with a verified shopper token of the path's organization, whatever its scopes. Not for SLAS's paths, which
    /// are always an allow-list.
    Forward,
}

/// Whether the deprecated logins are still performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeprecatedLogins {
    /// Performed against SLAS.
    Allow,
    /// Counted, and refused with 403 `operation_not_allowed`, in report mode too. Sessions go on, and logouts are
    /// performed.
    Refuse,
}

/// An operation of the merchant's own.
#[derive(Debug, Clone)]
pub struct Route {
    /// `{api}.{operationId}`.
    pub name: String,
    /// Method.
    pub method: Method,
    /// Template, e.g. `/custom/loyalty/v1/organizations/{organizationId}/points/{id}`.
    pub path: String,
    /// Who may call it.
    pub security: RouteSecurity,
    /// Any one of these scopes is enough.
    pub scopes: Scopes,
}

/// Who may call a merchant's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteSecurity {
    /// A shopper.
    Shopper,
    /// A trusted system.
    System,
}
