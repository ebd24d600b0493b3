//! The gateway from outside: real sockets and a simulated Salesforce, without mocks.
//!
//! All tests are one binary, so that it links once. Each test starts its own gateway and simulator on free ports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod node_tests;
mod redis;
mod replica;
mod scale;
mod world;

mod abuse;
mod address_limits;
mod admin;
mod audit;
mod browser;
mod caller_secret_guessing;
mod callers;
mod configured_limits;
mod correlation;
mod cors;
mod error_responses;
mod faults;
mod fleet;
mod floods;
mod forwarding;
mod framing;
mod guests;
mod http1;
mod http2;
mod idle_connections;
mod jwks;
mod limits;
mod login_encodings;
mod logins;
mod logouts;
mod memory;
mod metrics;
mod on_behalf;
mod operations;
mod outages;
mod paths;
mod process;
mod races;
mod registered_sessions;
mod reload;
mod resource_exhaustion;
mod sdk;
mod secrets;
mod sessions;
mod slas;
mod slas_errors;
mod slas_rate_limits;
mod slow_clients;
mod smuggling;
mod status;
mod store;
mod store_connections;
mod store_keyspace;
mod store_outages;
mod storefront_servers;
mod storefronts;
mod streaming;
mod tls;
mod tokens;
mod trusted_system_tokens;
