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

mod diagnostics;
mod environment;
mod file;
mod load;
mod merge;
mod partial;
mod permissions;
mod schema;
mod schema_check;
mod secret_files;
mod secret_text;
mod settings;
mod validate;

pub use diagnostics::{CheckReport, ConfigErrors, Diagnostic};
pub use load::Loaded;
pub use partial::{PartialCaller, PartialRoute, PartialSettings, PartialTenant, PartialTls};
pub use permissions::{ensure_trusted, ensure_trusted_dir};
pub use schema::schema;
pub use settings::{
    AccountManager, AddressLimits, Admin, Caller, CallerIdentity, DeprecatedLogins, Keys, Limits, Load, Log, LogFormat,
    Logins, NetworkLimits, Policy, PolicyMode, RedisAddress, RedisLogin, RedisStore, RedisTls, RedisTopology, Route,
    RouteSecurity, Server, Sessions, Settings, SlasCalls, SlasClient, Store, Tenant, Timeouts, Tls, Traces,
    UnknownOperations,
};
pub use validate::{is_log_level, is_loopback};
