//! Salesforce's services as wire contracts: what to send, and what may come back.
//!
//! Owns the shapes of requests and answers of SLAS, Account Manager and the one Shopper API call
//! that the gateway makes for itself, and whether one of them may be made just now (`guard`). Refuses to cache and to
//! choose: that is for those who call.

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
