//! [`Settings`]: the validated configuration, one type for each section.

mod callers;
mod limits;
mod log;
mod origins;
mod policy;
mod server;
mod sessions;
mod store;
mod storefronts;
mod tenants;

pub use callers::{Caller, CallerIdentity};
pub use limits::{AddressLimits, Limits, Load, Logins, NetworkLimits, SlasCalls, Timeouts};
pub use log::{Log, LogFormat, Traces};
pub use origins::AllowedOrigin;
pub use policy::{DeprecatedLogins, Policy, PolicyMode, Route, RouteSecurity, UnknownOperations};
pub use server::{Admin, Server, Tls};
pub use sessions::{Keys, Sessions};
pub use store::{RedisAddress, RedisLogin, RedisStore, RedisTls, RedisTopology, Store};
pub use storefronts::{CookieMode, Storefront};
pub use tenants::{AccountManager, SlasClient, Tenant};

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[server]`.
    pub server: Server,
    /// `[admin]`.
    pub admin: Admin,
    /// `[[tenants]]`, at least one.
    pub tenants: Vec<Tenant>,
    /// `[[callers]]`.
    pub callers: Vec<Caller>,
    /// `[sessions]`.
    pub sessions: Sessions,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[limits]`.
    pub limits: Limits,
    /// `[load]`.
    pub load: Load,
    /// `[logins]`.
    pub logins: Logins,
    /// `[log]`.
    pub log: Log,
    /// `[traces]`.
    pub traces: Traces,
    /// `[store]`.
    pub store: Store,
    /// `[keys]`.
    pub keys: Keys,
    /// `[policy]`.
    pub policy: Policy,
    /// `[[routes]]`.
    pub routes: Vec<Route>,
}
