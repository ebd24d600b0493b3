//! `[log]`: what is logged, how, and where the audit log goes.

use super::{store::key, value::Keys};
use crate::settings::{Log, finding::Findings, raw, secret::Surroundings};

pub(super) fn log(raw: raw::Log, surroundings: &Surroundings<'_>, findings: &mut Findings) -> Option<Log> {
    let audit_file = match raw.audit_file {
        Some(file) => surroundings.writable("log.audit_file", &file, findings).map(Some),
        None => Some(None),
    };
    let pseudonym_key = match raw.pseudonym_key {
        Some(secret) => key("log.pseudonym_key", secret, surroundings, findings).map(Some),
        None => Some(None),
    };
    let mut keys = Keys::new("log", findings);
    let is_level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| level.eq_ignore_ascii_case(text))
    };
    let is_directive = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level.trim()),
        None => is_level(part.trim()),
    };
    if !raw.level.split(',').all(is_directive) {
        keys.error(
            "level",
            "expected off, error, warn, info, debug or trace, alone or as target=level, separated by commas",
        );
        return None;
    }
    Some(Log { level: raw.level, format: raw.format, audit_file: audit_file?, pseudonym_key: pseudonym_key? })
}
