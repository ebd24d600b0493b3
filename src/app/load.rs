//! A configuration, checked by everybody who knows something of it.
//!
//! Owns who that is: the settings find what is wrong in themselves, the policy table what does not fit it, [`files`](super::files)
//! what is wrong inside the files of certificates and keys. Whoever reads a configuration reads it here, so that all report the
//! same, at once.

use std::path::Path;

use super::{files, policy};
use crate::config::{ConfigErrors, Draft, Loaded, Settings};

/// Reads a configuration file and the environment of the process. Calls nobody.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    Settings::load(path, |draft: &Draft| {
        let mut checked = files::check(draft);
        checked.errors.extend(policy::check(draft));
        checked
    })
}
