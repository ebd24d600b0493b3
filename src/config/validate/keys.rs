//! Validates `[keys]`.

use std::{path::Path, time::Duration};

use super::table::Table;
use crate::config::{Keys, ensure_trusted_dir, file};

/// A shorter outage of an issuer must not stop a shop.
const MIN_AGE: Duration = Duration::from_secs(24 * 3600);
/// A withdrawn key must not stay trusted for long while its issuer cannot be reached.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn keys(raw: &file::Keys, base_dir: &Path, table: &mut Table<'_>) -> Keys {
    let max_age = table.duration("max_age", &raw.max_age, MAX_AGE);
    if max_age.is_some_and(|age| age < MIN_AGE) {
        table.error("max_age", "must be at least 24h, so that a shorter outage of the issuer stops no request");
    }
    let jwks_cache_dir = raw.jwks_cache_dir.as_ref().map(|dir| base_dir.join(dir));
    if let Some(message) = jwks_cache_dir.as_deref().and_then(|dir| check_cache_dir(dir).err()) {
        table.error("jwks_cache_dir", message);
    }
    Keys { max_age: max_age.unwrap_or_default(), jwks_cache_dir }
}

/// Checks the directory. A missing one is accepted if its parent exists, because the start creates it.
fn check_cache_dir(dir: &Path) -> Result<(), String> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if dir.symlink_metadata().is_err() && parent.is_dir() { Ok(()) } else { ensure_trusted_dir(dir) }
}
