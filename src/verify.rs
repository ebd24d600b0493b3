//! Verification of access tokens: shoppers' tokens of SLAS, and trusted systems' tokens of Account Manager.

pub mod isb;
pub mod shopper;
pub mod system;
