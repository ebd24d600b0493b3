//! How many files and sockets this process may have open at a time.
//!
//! A system's soft limit is often 1,024, for the sake of programs from before `poll`; the hard limit is
//! what the operator means (`getrlimit(2)`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and says how many descriptors there may be; `None`: no limit.
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
