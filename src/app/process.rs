//! Limits of the process: how many files it may open, and that it leaves no core dump.

pub mod core_dumps;
pub mod fd_limit;
