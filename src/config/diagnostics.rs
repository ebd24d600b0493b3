//! Collects the errors and warnings of a configuration.
//!
//! A message never contains a value of the configuration, because any value may be a secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use strsim::osa_distance;

/// Which environment variable set which key: path to variable.
pub(super) type Origins = BTreeMap<String, String>;

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The key, e.g. `tenants[0].slas_clients[1].redirect_uri`, or the file with line and column, or the environment variable.
    pub path: String,
    /// The problem, and what to do. Never a value.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The result of a check by another module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Problems that prevent a start.
    pub errors: Vec<Diagnostic>,
    /// Problems that do not prevent a start.
    pub warnings: Vec<Diagnostic>,
}

impl Diagnostic {
    /// Creates a diagnostic of a key.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// All errors of a configuration, and its warnings.
///
/// Displayed as one line each: `error: {path}: {message}`, then `warning: {path}: {message}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Problems that prevent a start. Never empty if this module made it.
    pub errors: Vec<Diagnostic>,
    /// Problems that do not prevent a start.
    pub warnings: Vec<Diagnostic>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.iter().map(|diagnostic| ("error", diagnostic));
        let warnings = self.warnings.iter().map(|diagnostic| ("warning", diagnostic));
        for (position, (kind, diagnostic)) in errors.chain(warnings).enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{kind}: {diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The diagnostics of a configuration that is being loaded.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    suppressed: BTreeSet<String>,
    origins: Origins,
}

impl Diagnostics {
    /// Sets which keys come from environment variables, so that messages can name the variable.
    pub(super) fn set_origins(&mut self, origins: Origins) {
        self.origins = origins;
    }

    /// Whether an environment variable set exactly this key.
    pub(super) fn is_from_environment(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// Adds an error, unless the key or a parent of it is suppressed.
    pub(super) fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let path = path.into();
        if ancestors(&path).any(|part| self.suppressed.contains(part)) {
            return;
        }
        let message = self.with_variable(&path, message.into());
        self.errors.push(Diagnostic { path, message });
    }

    /// Adds an error and suppresses further errors of this key and of the keys below it. For values that are removed before
    /// validation.
    pub(super) fn reject(&mut self, path: &str, message: impl Into<String>) {
        self.error(path, message);
        self.suppressed.insert(path.to_owned());
    }

    /// Suppresses errors of this key and of the keys below it, because another error explains them.
    pub(super) fn suppress(&mut self, path: String) {
        self.suppressed.insert(path);
    }

    /// Whether there is an error of this key or of a key below it.
    pub(super) fn has_errors(&self, path: &str) -> bool {
        self.errors.iter().any(|error| ancestors(&error.path).any(|part| part == path))
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let path = path.into();
        let message = self.with_variable(&path, message.into());
        self.warnings.push(Diagnostic { path, message });
    }

    /// The warnings, in the order in which they were added.
    ///
    /// # Errors
    /// All errors, sorted by key, and the warnings, if there is an error.
    pub(super) fn into_result(mut self) -> Result<Vec<Diagnostic>, ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        self.errors.sort_by(|one, other| one.path.cmp(&other.path));
        Err(ConfigErrors { errors: self.errors, warnings: self.warnings })
    }

    fn with_variable(&self, path: &str, message: String) -> String {
        match ancestors(path).find_map(|part| self.origins.get(part)) {
            Some(variable) => format!("{message} (set by {variable})"),
            None => message,
        }
    }
}

impl From<Diagnostic> for ConfigErrors {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { errors: vec![diagnostic], warnings: Vec::new() }
    }
}

/// A path and its parents: `a[0].b`, `a[0]`, `a`.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let above = path.char_indices().rev().filter(|(_, character)| matches!(character, '.' | '['));
    std::iter::once(path).chain(above.map(|(end, _)| &path[..end]))
}

/// The candidate with the smallest edit distance to the word, if it is small enough to be a typing error.
pub(super) fn closest_match<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .map(|candidate| (osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_match_finds_typing_errors() {
        let keys = ["listen", "threads", "tls", "organization_id"];
        for (typed, meant) in
            [("thraeds", "threads"), ("thread", "threads"), ("listne", "listen"), ("organization", "organization_id")]
        {
            assert_eq!(closest_match(typed, keys.into_iter()), Some(meant), "{typed}");
        }
        assert_eq!(closest_match("colour", keys.into_iter()), None);
        assert_eq!(closest_match("", keys.into_iter()), None);
        assert_eq!(closest_match("ba", ["ab"].into_iter()), Some("ab"), "swapped letters count once");
    }

    #[test]
    fn rejected_key_suppresses_errors_below_it_only() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.reject("tenants[1]", "not a table");
        diagnostics.error("tenants[1].api", "hidden");
        diagnostics.error("tenants[1]", "hidden");
        diagnostics.error("tenants[10].api", "seen");
        diagnostics.error("tenants", "seen");
        let paths: Vec<_> =
            diagnostics.into_result().unwrap_err().errors.into_iter().map(|diagnostic| diagnostic.path).collect();
        assert_eq!(paths, ["tenants", "tenants[10].api", "tenants[1]"]);
    }

    #[test]
    fn error_names_variable_that_set_the_key() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.set_origins([("server.listen".to_owned(), "SHOPPER_GATEWAY__SERVER__LISTEN".to_owned())].into());
        diagnostics.error("server.listen[1]", "not an address");
        diagnostics.error("server.threads", "too many");
        assert_eq!(
            diagnostics.into_result().unwrap_err().to_string(),
            "error: server.listen[1]: not an address (set by SHOPPER_GATEWAY__SERVER__LISTEN)\n\
             error: server.threads: too many"
        );
    }
}
