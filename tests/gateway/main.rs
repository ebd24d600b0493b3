//! The gateway from outside: real sockets, a simulated Salesforce, nothing mocked.
//!
//! One binary, so that it links once. Each test starts its own gateway and simulator on free ports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod redis;
mod replica;
mod scale;
mod world;

mod abuse;
mod address_limits;
mod admin;
mod audit;
mod bounds;
mod budgets;
mod caller_guesses;
mod callers;
mod correlation;
mod faults;
mod fleet;
mod floods;
mod forwarding;
mod framing;
mod guests;
mod http1;
mod http2;
mod keys;
mod limits;
mod login_spellings;
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
mod refusals;
mod registered;
mod reload;
mod resting;
mod sdk;
mod secrets;
mod sessions;
mod shortages;
mod slas;
mod slas_errors;
mod slow;
mod smuggling;
mod status;
mod store;
mod store_connections;
mod store_keys;
mod store_outages;
mod streaming;
mod tls;
mod tokens;
mod trusted_tokens;
