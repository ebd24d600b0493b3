//! Observability: log, audit log, metrics, traces, and the usage of deprecated endpoints.

pub mod audit;
pub mod deprecated_usage;
pub mod log_level;
mod log_writer;
pub mod metrics;
pub mod otlp;
mod panic_hook;
pub mod setup;
pub mod spans;
