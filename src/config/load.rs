//! Loads a configuration: reads the file, applies the environment, checks and validates.
//!
//! Syntax errors have a line and a column but no text of the file, because a line may contain a secret.

use std::{collections::BTreeMap, env, fs, io::ErrorKind, path::Path};

use toml::Value;

use super::{
    PartialSettings, Settings,
    diagnostics::{CheckReport, ConfigErrors, Diagnostic, Diagnostics},
    environment::{self, VARIABLE_PREFIX},
    file::File,
    merge,
    schema::{self, Schema},
    schema_check, validate,
};

/// A configuration without errors.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The validated settings.
    pub settings: Settings,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

impl Settings {
    /// Loads a configuration file with the environment of the process.
    ///
    /// `check` gets the valid part of the configuration. Its errors and warnings are reported with the others.
    ///
    /// # Errors
    ///
    /// All errors of the configuration.
    pub fn load(path: &Path, check: impl FnOnce(&PartialSettings) -> CheckReport) -> Result<Loaded, ConfigErrors> {
        let mut unreadable = Vec::new();
        let mut environment = BTreeMap::new();
        for (name, text) in env::vars_os() {
            match (name.into_string(), text.into_string()) {
                (Ok(name), Ok(text)) => {
                    environment.insert(name, text);
                }
                (Ok(path), Err(_)) if path.starts_with(VARIABLE_PREFIX) => {
                    unreadable.push(Diagnostic { path, message: "not valid UTF-8".to_owned() });
                }
                _ => {}
            }
        }
        match read_file(path).and_then(|text| load_text(path, &text, &environment, check)) {
            Ok(loaded) if unreadable.is_empty() => Ok(loaded),
            Ok(loaded) => Err(ConfigErrors { errors: unreadable, warnings: loaded.warnings }),
            Err(mut errors) => {
                errors.errors.extend(unreadable);
                Err(errors)
            }
        }
    }

    /// Loads a configuration file with the given environment.
    ///
    /// # Errors
    ///
    /// All errors of the configuration.
    pub fn load_with(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigErrors> {
        Self::from_text(path, &read_file(path)?, environment)
    }

    /// Loads a configuration from a text. `path` is only used for relative paths and in messages.
    ///
    /// # Errors
    ///
    /// All errors of the configuration.
    pub fn from_text(
        path: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigErrors> {
        load_text(path, text, &environment.into_iter().collect(), |_| CheckReport::default())
    }
}

fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    fs::read_to_string(path).map_err(|error| read_error(path, error.kind()))
}

fn load_text(
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
    check: impl FnOnce(&PartialSettings) -> CheckReport,
) -> Result<Loaded, ConfigErrors> {
    let file = Value::Table(text.parse().map_err(|error| syntax_error(path, text, &error))?);
    // The parent of a bare file name is an empty path.
    let base_dir = path.parent().filter(|base_dir| *base_dir != Path::new("")).unwrap_or(Path::new("."));
    let schema = schema::schema();
    let schema = Schema::new(&schema);
    let mut diagnostics = Diagnostics::default();
    let overrides = environment::read_overrides(&file, schema, environment, &mut diagnostics);
    // Unreachable, because the text is TOML and the schema contains each path. The error may quote the text, so it is dropped.
    let mut merged = merge::apply_overrides(text, &file, schema, &overrides)
        .map_err(|_| Diagnostic { path: "configuration".to_owned(), message: "cannot be read".to_owned() })?;
    schema_check::check(&mut merged, schema, &mut diagnostics);
    let file: File = serde_path_to_error::deserialize(merged).unwrap_or_else(|error| {
        // Unreachable as long as the schema is as strict as serde. Serde's error may quote a value, so it is dropped.
        diagnostics.error(error.path().to_string(), "cannot be read");
        File::default()
    });
    let (partial, settings) = validate::validate(file, base_dir, environment, &mut diagnostics);
    let CheckReport { errors, warnings } = check(&partial);
    for Diagnostic { path, message } in errors {
        diagnostics.error(path, message);
    }
    for Diagnostic { path, message } in warnings {
        diagnostics.warn(path, message);
    }
    let warnings = diagnostics.into_result()?;
    match settings {
        Some(settings) => Ok(Loaded { settings, warnings }),
        None => Err(Diagnostic { path: "configuration".to_owned(), message: "incomplete".to_owned() }.into()),
    }
}

fn read_error(path: &Path, kind: ErrorKind) -> ConfigErrors {
    let message = match kind {
        ErrorKind::NotFound => "no such file; set the path with `-c FILE` (config/demo.toml is an example)".to_owned(),
        ErrorKind::InvalidData => "not valid UTF-8".to_owned(),
        kind => format!("cannot be read: {kind}"),
    };
    Diagnostic { path: path.display().to_string(), message }.into()
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigErrors {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    let message = format!("invalid TOML: {}", error.message().lines().collect::<Vec<_>>().join(", "));
    Diagnostic { path: format!("{}:{line}:{column}", path.display()), message }.into()
}
