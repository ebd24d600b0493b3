//! Keys that have been renamed: a configuration with an old key gets an error that names the new one.
//!
//! The table covers keys outside of arrays only, because it is searched by the whole path.

/// A key that has been renamed.
#[derive(Debug)]
pub(super) struct RenamedKey {
    /// The path that is no longer accepted: `section.key`.
    pub(super) old: &'static str,
    /// The path to write instead.
    pub(super) new: &'static str,
    /// How to convert the value, where its meaning has changed.
    conversion: Option<&'static str>,
}

const AS_SHARE: Option<&str> = Some("the value is now a share from 0.0 to 1.0: \"1 in 20\" is 0.05");

const RENAMED_KEYS: [RenamedKey; 12] = [
    RenamedKey::new("sessions.proactive_per_minute", "sessions.background_refreshes_per_minute", None),
    RenamedKey::new("log.one_success_in", "log.success_sample_rate", AS_SHARE),
    RenamedKey::new("traces.one_in", "traces.sample_ratio", AS_SHARE),
    RenamedKey::new("traces.asked_per_second", "traces.parent_sampled_per_second", None),
    RenamedKey::new("logins.waiting", "logins.max_concurrent", None),
    RenamedKey::new("load.queue", "limits.queue_timeout", None),
    RenamedKey::new("load.concurrency", "limits.max_concurrent_requests", None),
    RenamedKey::new("limits.body_rate", "limits.min_body_rate", None),
    RenamedKey::new("limits.fields", "limits.max_headers", None),
    RenamedKey::new("limits.head", "limits.max_header_bytes", None),
    RenamedKey::new("limits.target", "limits.max_uri_bytes", None),
    RenamedKey::new("keys.folder", "keys.jwks_cache_dir", None),
];

impl RenamedKey {
    const fn new(old: &'static str, new: &'static str, conversion: Option<&'static str>) -> Self {
        Self { old, new, conversion }
    }

    /// The renamed key whose old path this is.
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        RENAMED_KEYS.iter().find(|renamed| renamed.old == path)
    }

    /// The error message; `new` is the new key in the notation of the old one.
    pub(super) fn message(&self, new: &str) -> String {
        match self.conversion {
            Some(conversion) => format!("renamed to {new}; {conversion}"),
            None => format!("renamed to {new}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::schema;

    #[test]
    fn renamed_key_is_in_schema_by_new_path_only() {
        let schema = schema();
        let exists = |path: &str| {
            let (section, key) = path.split_once('.').unwrap();
            let reference = schema["properties"][section]["$ref"].as_str().unwrap();
            schema.pointer(reference.trim_start_matches('#')).unwrap()["properties"].get(key).is_some()
        };
        for renamed in &RENAMED_KEYS {
            assert!(exists(renamed.new) && !exists(renamed.old), "{renamed:?}");
        }
    }
}
