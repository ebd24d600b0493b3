//! Raises the limit of open files and sockets.
//!
//! The soft limit is often 1,024, for programs that use `select`. The hard limit is what the operator has configured
//! (`getrlimit(2)`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit and returns the limit in effect; `None`: unlimited.
#[must_use]
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}
