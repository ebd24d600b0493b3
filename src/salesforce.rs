//! Salesforce's services as wire contracts: what to send, and what may come back.
//!
//! Owns the shapes of requests and answers of SLAS, Account Manager and the one Shopper API call
//! that the gateway makes for itself. Refuses to cache, to retry and to choose: that is for those who call.

pub mod account_manager;
pub mod customers;
pub mod exchange;
pub mod pkce;
pub mod slas;
pub mod transport;
