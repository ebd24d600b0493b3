//! The tokens that the gateway obtains, caches and refreshes.
//!
//! - `sessions`: shoppers' tokens, refreshed for as long as their refresh token is valid
//! - `on_behalf`: shopper tokens that trusted systems obtain (TSOB)
//! - `references`: ids in place of tokens, for browsers
//! - `system`: system tokens of Account Manager
//! - `slas_budget`, `slas_window`, `health_probe`: limits and health of SLAS, shared by all replicas
//! - `single_flight`, `polling`, `background_retry`: concurrency helpers

mod background_retry;
pub mod health_probe;
pub mod on_behalf;
mod polling;
pub mod references;
pub mod sessions;
pub mod single_flight;
pub mod slas_budget;
pub mod slas_window;
pub mod system;
