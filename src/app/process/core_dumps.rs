//! Disables core dumps, because the memory of the process holds secrets.
//!
//! Two switches are needed. The resource limit stops dumps to files. If the kernel pipes dumps to a program (`core_pattern`), it
//! ignores the limit, but never dumps a process that is not dumpable. Such a process also rejects debuggers of its own user
//! (`prctl(2)`, `core(5)`).

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Disables core dumps of this process. Child processes inherit the limit only.
///
/// # Errors
/// Returns the I/O error if the operating system rejects the change.
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
    fn core_dumps_are_disabled_for_files_and_pipes() {
        disable().unwrap();
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
