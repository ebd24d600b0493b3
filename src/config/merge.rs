//! Applies the environment to the file, with the crate `config`.
//!
//! This module hides two differences between `config` and TOML: `config` parses the name of a section as a path, and returns
//! dates as strings. Overrides stay strings. Errors of `config` may quote the file, so callers must not show them.

use config::{Config, ConfigError, File, FileFormat};
use toml::Value;

use super::{environment::Overrides, schema::Schema};

/// The table of the file with the overrides applied. `text` is the text of `file`.
pub(super) fn apply_overrides(
    text: &str,
    file: &Value,
    schema: Schema<'_>,
    overrides: &Overrides<'_>,
) -> Result<Value, ConfigError> {
    let (text, unknown) = known_sections(text, file, schema)?;
    let layers = Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
    let layers = overrides.iter().try_fold(layers, |layers, (path, set)| layers.set_override(path, set.text))?;
    let mut merged: Value = layers.build()?.try_deserialize()?;
    restore_dates(&mut merged, file, "", overrides);
    if let Value::Table(merged) = &mut merged {
        merged.extend(unknown);
    }
    Ok(merged)
}

/// The text of the sections in the schema, and the other sections, which `schema_check` rejects.
///
/// `config` parses the name of a section as a path. So `"server.threads" = 4` would set another key, and
/// `"tenants[999999999]"` would exhaust the memory. Names of sections in the schema are single words.
fn known_sections(text: &str, file: &Value, schema: Schema<'_>) -> Result<(String, toml::Table), ConfigError> {
    let sections = file.as_table().into_iter().flatten();
    let (known, unknown): (toml::Table, toml::Table) = sections
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| schema.root()["properties"].get(key).is_some());
    if unknown.is_empty() {
        return Ok((text.to_owned(), unknown));
    }
    let text = toml::to_string(&known).map_err(|error| ConfigError::Foreign(Box::new(error)))?;
    Ok((text, unknown))
}

/// Restores dates of the file, which `config` returns as strings, because a date is no valid string.
fn restore_dates(merged: &mut Value, file: &Value, path: &str, overrides: &Overrides<'_>) {
    match (merged, file) {
        (Value::Table(merged), Value::Table(file)) => {
            for (key, value) in file {
                if let Some(merged) = merged.get_mut(key) {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    restore_dates(merged, value, &path, overrides);
                }
            }
        }
        (Value::Array(merged), Value::Array(file)) => {
            for (position, (merged, value)) in merged.iter_mut().zip(file).enumerate() {
                restore_dates(merged, value, &format!("{path}[{position}]"), overrides);
            }
        }
        (merged, Value::Datetime(_)) if !overrides.contains_key(path) => *merged = file.clone(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{environment::Override, schema::schema};

    fn merged(text: &str, overrides: &[(&str, &'static str)]) -> Value {
        let schema = schema();
        let set = |text| Override { variable: "SHOPPER_GATEWAY__X", text };
        let overrides = overrides.iter().map(|(path, text)| ((*path).to_owned(), set(text))).collect();
        apply_overrides(text, &parsed(text), Schema::new(&schema), &overrides).unwrap()
    }

    fn parsed(text: &str) -> Value {
        Value::Table(text.parse().unwrap())
    }

    #[test]
    fn file_without_overrides_is_unchanged() {
        for text in [
            "",
            "tenants = []\nlog = {}\npolicy = [{}, [[]]]",
            "[server]\na = 1_000\nb = 0xFF\nc = 0o17\nd = 0b11\ne = +5\nf = -9223372036854775808\ng = 9223372036854775807",
            "[server]\na = 1.5\nb = -0.0\nc = 1e300\nd = inf\ne = -inf\nf = 6.02_2e2",
            "[server]\na = true\nb = false\nc = '00123'\nd = '1e400'\ne = 'true'\nf = ''\ng = \"\\u0000\\n\"",
            "[server]\na = 1979-05-27\nb = 07:32:00\nc = [1979-05-27T07:32:00Z, '1979-05-27T07:32:00Z']\n[[tenants]]\nd = [[1979-05-27]]",
            "[server]\nThreads = 1\nTHREADS = 2\nthreads = 3\n'a.b' = 4\n'a[0]' = 5\n'' = 6\n\"ä\\n\" = 7",
            "Server = 1\nSERVER = {}\n'' = 1\n'server.threads' = 1979-05-27\n'tenants[999999999999999]' = 2\n'log.x'.y = 3\n[server]\nthreads = 4",
        ] {
            assert_eq!(merged(text, &[]), parsed(text), "{text}");
        }
    }

    #[test]
    fn overrides_are_applied_as_strings() {
        let text = "x = 1\n[[tenants]]\nsites = [1979-05-27, 1979-05-27]\nApi = 1";
        let overrides = [
            ("server.threads", "00123"),
            ("tenants[0].sites[1]", "1979-05-27"),
            ("tenants[0].api", "true"),
            ("tenants[2].api", "1.50"),
            ("tenants[1].api", "a.b[0]"),
        ];
        let expected = "x = 1\nserver.threads = '00123'\n[[tenants]]\nsites = [1979-05-27, '1979-05-27']\nApi = 1\n\
                        api = 'true'\n[[tenants]]\napi = 'a.b[0]'\n[[tenants]]\napi = '1.50'";
        assert_eq!(merged(text, &overrides), parsed(expected));
    }
}
