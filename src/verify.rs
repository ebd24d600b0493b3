//! Verification of access tokens: shopper tokens of SLAS, and system tokens of Account Manager.
//!
//! - `shopper_token`: the verifier of shopper tokens
//! - `system_token`: the verifier of system tokens
//! - `cache`: the cache of verified tokens that both use
//! - `shopper`: the claims of a verified shopper token
//! - `isb`: the parser of the `isb` claim

mod cache;
pub mod isb;
pub mod shopper;
pub mod shopper_token;
pub mod system_token;

pub use self::cache::HashedToken;
