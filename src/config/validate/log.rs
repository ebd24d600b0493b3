//! Validates `[log]`.

use std::time::Duration;

use super::{store::decode_key, table::TableValidator};
use crate::config::{Log, diagnostics::Diagnostics, file, secret_files::Resolver};

/// Other limits end requests that take longer.
const MAX_SLOW: Duration = Duration::from_secs(600);

pub(super) fn log(raw: file::Log, resolver: &Resolver<'_>, diagnostics: &mut Diagnostics) -> Option<Log> {
    let audit_file = match raw.audit_file {
        Some(file) => resolver.writable_file("log.audit_file", &file, diagnostics).map(Some),
        None => Some(None),
    };
    let pseudonym_key = match raw.pseudonym_key {
        Some(secret) => decode_key("log.pseudonym_key", secret, resolver, diagnostics).map(Some),
        None => Some(None),
    };
    let mut table = TableValidator::new("log", diagnostics);
    let slow = table.duration("slow", &raw.slow, MAX_SLOW);
    if !is_log_filter(&raw.level) {
        table.error(
            "level",
            "expected off, error, warn, info, debug or trace, alone or as target=level, separated by commas",
        );
        return None;
    }
    Some(Log {
        level: raw.level,
        format: raw.format,
        audit_file: audit_file?,
        pseudonym_key: pseudonym_key?,
        success_sample_rate: raw.success_sample_rate,
        slow: slow?,
    })
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
