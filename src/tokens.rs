//! The tokens that the gateway itself holds.

pub mod sessions;
