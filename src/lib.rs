//! shopper-gateway: a reverse proxy in front of the Salesforce B2C Commerce Shopper APIs.
//!
//! The modules form layers. A module imports lower layers only, and `tests/layers` checks that. A request goes down the
//! layers once and comes back as a value.
//!
//! - L11 [`cli`]: the command line
//! - L10 [`app`]: builds a running gateway from the configuration; the only place where all parts meet
//! - L9 [`server`], [`admin`]: the two listeners; only `server` writes to a client
//! - L8 [`gateway`]: the pipeline: one request in, one decision out
//! - L7 [`tokens`]: the tokens that the gateway holds
//! - L6 [`verify`]: verification of shopper tokens and system tokens
//! - L5 [`jwks`]: the issuers' public keys
//! - L4 [`store`]: sessions, and the state that replicas share
//! - L3 [`salesforce`], [`jwt`]: Salesforce's services as a client sees them; signed tokens
//! - L2 [`observability`]: logs, metrics, traces, the audit log
//! - L1 [`config`], [`connect_failure`]: the configuration; causes of failed connections
//! - L0 [`types`], [`time`], [`correlation`], [`shutdown`], [`certificates`], [`host`], [`hex`], [`ratelimit`]: identifiers, time, correlation ids, draining, certificate files, host names, hexadecimal text, token buckets

pub mod admin;
pub mod app;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod connect_failure;
pub mod correlation;
pub mod gateway;
pub mod hex;
pub mod host;
pub mod jwks;
pub mod jwt;
pub mod observability;
pub mod ratelimit;
pub mod salesforce;
pub mod server;
pub mod shutdown;
pub mod store;
pub mod time;
pub mod tokens;
pub mod types;
pub mod verify;
