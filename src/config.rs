//! The configuration: a TOML file, overridden by environment variables and validated into [`Settings`].
//!
//! [`Settings::load`] runs these steps: `load` reads the file, `environment` finds the overrides, `merge` applies them to the
//! file, `schema_check` removes every value that does not fit the JSON Schema of `schema`, serde reads the rest into the types
//! of `file`, and `validate` makes `settings` of them with the help of `secret_files`.
//!
//! Each step collects its errors in `diagnostics` and continues, so one run reports every error. `partial` holds the valid
//! part of an invalid configuration, so that the caller of `load` can check certificates and operation names in the same run.
//!
//! No other module reads the configuration file or an environment variable of the gateway. No error contains a value of the
//! file, because any value may be a secret.

mod diagnostics;
mod environment;
mod file;
mod load;
mod merge;
mod origin_pattern;
mod partial;
mod permissions;
mod renamed_keys;
mod schema;
mod schema_check;
mod secret_files;
mod secret_text;
mod settings;
mod validate;

pub use diagnostics::{CheckReport, ConfigErrors, Diagnostic};
pub use load::Loaded;
pub use origin_pattern::{InvalidOrigin, OriginPattern};
use partial::PartialSlasClient;
pub use partial::{PartialCaller, PartialPolicy, PartialRoute, PartialSettings, PartialTenant, PartialTls};
pub use permissions::{ensure_trusted, ensure_trusted_dir};
pub use schema::schema;
pub use settings::{
    AccountManager, AddressLimits, Admin, AllowedOrigin, Caller, CallerIdentity, CookieMode, DeprecatedLogins, Keys,
    Limits, Load, Log, LogFormat, Logins, NetworkLimits, Policy, PolicyMode, RedisAddress, RedisLogin, RedisStore,
    RedisTls, RedisTopology, Route, RouteSecurity, Server, Sessions, Settings, SlasCalls, SlasClient, Store,
    Storefront, Tenant, Timeouts, Tls, Traces, UnknownOperations,
};
pub use validate::{is_log_filter, is_loopback};
