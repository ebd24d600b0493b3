//! A configuration, checked by everybody who knows something of it.
//!
//! Owns who that is: the settings find what is wrong in themselves, the policy table what does not fit it, the listener's
//! TLS what is wrong inside its files. Whoever reads a configuration reads it here, so that all report the same, at once.

use std::path::Path;

use super::policy;
use crate::{
    proxy::tls::ListenerTls,
    settings::{ConfigErrors, Draft, Finding, Loaded, Settings},
};

/// Reads a configuration file and the environment of the process. Calls nobody.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    Settings::load(path, |draft: &Draft| {
        let files = ListenerTls::check(&draft.tls).into_iter();
        let files = files.map(|error| Finding { path: error.key.to_owned(), problem: error.problem });
        files.chain(policy::check(draft)).collect()
    })
}
