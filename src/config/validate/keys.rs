//! The section of the issuers' keys: how long they are good, and where they are kept.

use std::{path::Path, time::Duration};

use super::table::TableValidator;
use crate::config::{Keys, diagnostics::Diagnostics, ensure_trusted_dir, file, secret_files::Resolver};

/// An outage shorter than this must never be the reason that a shop is down.
const MIN_AGE: Duration = Duration::from_secs(24 * 3600);
/// A key that was withdrawn must not be trusted for ever because its issuer cannot be asked.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The keys' section of the configuration.
pub(super) fn keys(raw: &file::Keys, resolver: &Resolver<'_>, diagnostics: &mut Diagnostics) -> Option<Keys> {
    let mut table = TableValidator::new("keys", diagnostics);
    let mut max_age = table.duration("max_age", &raw.max_age, MAX_AGE);
    if max_age.is_some_and(|age| age < MIN_AGE) {
        table.error("max_age", "must be at least 24h: a shorter outage of the issuer would stop every request");
        max_age = None;
    }
    let dir = raw.jwks_cache_dir.as_ref().map(|dir| resolver.base_dir.join(dir));
    if let Some(message) = dir.as_deref().and_then(|dir| check_cache_dir(dir).err()) {
        table.error("jwks_cache_dir", message);
        return None;
    }
    Some(Keys { max_age: max_age?, jwks_cache_dir: dir })
}

/// A folder that is not there is made at the start, if that from which it hangs is there.
fn check_cache_dir(dir: &Path) -> Result<(), String> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if dir.symlink_metadata().is_err() && parent.is_dir() { Ok(()) } else { ensure_trusted_dir(dir) }
}
