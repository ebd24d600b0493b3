//! The tokens that the gateway itself holds.

pub mod health_probe;
pub mod on_behalf;
mod retry;
pub mod sessions;
pub mod single_flight;
pub mod slas_budget;
pub mod slas_window;
pub mod system;
