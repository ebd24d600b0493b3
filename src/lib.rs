//! shopper-gateway: a reverse proxy in front of the Salesforce B2C Commerce Shopper APIs.
//!
//! The modules stand on floors; each imports lower floors only, which `tests/floors.rs` checks. A request
//! goes down the floors once and comes back as a value.
//!
//! - F10 [`command`]: the command line
//! - F9 [`app`]: settings in, a running gateway out; the only place where the parts meet
//! - F8 [`proxy`], [`admin`]: the two listeners; only `proxy` writes to a client
//! - F7 [`gate`]: one request in, one decision out: the table of contents of the product
//! - F6 [`system`], [`tokens`]: trusted systems' tokens; the tokens that the gateway holds
//! - F5 [`shopper`]: who a verified shopper token speaks for
//! - F4 [`keys`]: the issuers' public keys
//! - F3 [`store`], [`telemetry`]: where sessions live, and what replicas share; logs and traces
//! - F2 [`salesforce`], [`jwt`]: wire contracts; signed tokens as text
//! - F1 [`settings`], [`metrics`], [`audit`], [`in_flight`], [`migration`], [`spans`]: configuration, counters, who did what, what a drain waits for, who is still to move, what a trace shows
//! - F0 [`names`], [`clock`], [`waiting`], [`correlation`], [`descriptors`], [`core_dumps`], [`certificates`], [`connect_failure`], [`host`]: identifiers,
//!   time, others' time, the correlation id, what the system lets the process open and what it keeps of its memory, files of certificates, why
//!   there is no connection, hosts

pub mod admin;
pub mod app;
pub mod audit;
pub mod certificates;
pub mod clock;
pub mod command;
pub mod connect_failure;
pub mod core_dumps;
pub mod correlation;
pub mod descriptors;
pub mod gate;
pub mod host;
pub mod in_flight;
pub mod jwt;
pub mod keys;
pub mod metrics;
pub mod migration;
pub mod names;
pub mod proxy;
pub mod salesforce;
pub mod settings;
pub mod shopper;
pub mod spans;
pub mod store;
pub mod system;
pub mod telemetry;
pub mod tokens;
pub mod waiting;
