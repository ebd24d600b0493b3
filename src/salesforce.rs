//! Clients of Salesforce's services: SLAS, Account Manager, and the one Shopper API call that the gateway makes itself.
//!
//! The clients build requests and parse responses. `guard` decides whether a call may be made now. Nothing here caches tokens or
//! chooses between them.

pub mod account_manager;
pub mod customers;
pub mod error;
pub mod guard;
pub mod json;
pub mod pkce;
mod resolver;
mod response;
pub mod slas;
mod slas_errors;
pub mod transport;
