//! Verification of access tokens: shoppers' tokens of SLAS, and trusted systems' tokens of Account Manager.

mod cache;
pub mod isb;
pub mod shopper;
pub mod shopper_token;
pub mod system_token;

pub use self::cache::HashedToken;
