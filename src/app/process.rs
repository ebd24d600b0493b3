//! Limits of the process: open files and core dumps.

pub mod core_dumps;
pub mod fd_limit;
