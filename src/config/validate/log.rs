//! Validates `[log]`.

use std::time::Duration;

use super::table::Table;
use crate::config::{Log, file, secret_files::Resolver};

/// Other limits end requests that take longer.
const MAX_SLOW: Duration = Duration::from_secs(600);

pub(super) fn log(raw: file::Log, table: &mut Table<'_>) -> Log {
    if !is_log_filter(&raw.level) {
        table.error(
            "level",
            "expected off, error, warn, info, debug or trace, alone or as target=level, separated by commas",
        );
    }
    Log {
        level: raw.level,
        format: raw.format,
        audit_file: table.file("audit_file", raw.audit_file, Resolver::writable_file),
        pseudonym_key: table.encryption_key("pseudonym_key", raw.pseudonym_key),
        success_sample_rate: raw.success_sample_rate,
        slow: table.duration("slow", &raw.slow, MAX_SLOW).unwrap_or_default(),
    }
}

/// Whether a text is a log filter: levels for all targets or for single targets, separated by commas.
#[must_use]
pub fn is_log_filter(text: &str) -> bool {
    let is_word = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| level.eq_ignore_ascii_case(text))
    };
    text.split(',').all(|part| match part.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_word(level.trim()),
        None => is_word(part.trim()),
    })
}
