//! [`Settings`]: the validated configuration, one type for each section.

mod callers;
mod limits;
mod log;
mod policy;
mod server;
mod sessions;
mod store;
mod tenants;

pub use callers::{Caller, CallerIdentity};
pub use limits::{AddressLimits, Limits, Load, Logins, NetworkLimits, SlasCalls, Timeouts};
pub use log::{Log, LogFormat, Traces};
pub use policy::{DeprecatedLogins, Policy, PolicyMode, Route, RouteSecurity, UnknownOperations};
pub use server::{Admin, Server, Tls};
pub use sessions::{Keys, Sessions};
pub use store::{RedisAddress, RedisLogin, RedisStore, RedisTls, RedisTopology, Store};
pub use tenants::{AccountManager, SlasClient, Tenant};

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
