//! The memory of the process, which holds secrets, ends on no disk.
//!
//! Owns the two switches that forbid core dumps. The limit is what dumps to a file obey; a program to which the kernel
//! pipes dumps (`core_pattern`) may be called in spite of it, but never for a process that is not dumpable. Such a
//! process is also closed to debuggers of its own user (`prctl(2)`, `core(5)`).

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps of this process. Programs that it starts inherit the limit only.
///
/// # Errors
/// If the operating system does not let us.
pub fn disable() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn core_dumps_disabled_for_files_and_pipes() {
        disable().unwrap();
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
