//! What is wrong, or doubtful, with a configuration.
//!
//! Owns the collection of findings: where, what, and what to write instead. Refuses to know values:
//! a text handed in here is shown to people, so nobody may put a secret, or what might be one, into it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Which environment variable set which key: path to variable.
pub(super) type Origins = BTreeMap<String, String>;

/// One thing that is wrong or doubtful, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key, e.g. `tenants[0].slas_clients[1].redirect_uri`; or the file with line and column; or
    /// the environment variable.
    pub path: String,
    /// What is wrong, and what would be right. Never a value.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What others than this floor found in a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// What must be mended.
    pub errors: Vec<Finding>,
    /// What should be looked at.
    pub warnings: Vec<Finding>,
}

/// Everything that is wrong with a configuration, and the warnings besides.
///
/// Shown with one line for each: `error: {path}: {problem}`, then `warning: {path}: {problem}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// What must be mended; never empty when it comes from this module.
    pub errors: Vec<Finding>,
    /// What should be looked at.
    pub warnings: Vec<Finding>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.iter().map(|finding| ("error", finding));
        let warnings = self.warnings.iter().map(|finding| ("warning", finding));
        for (position, (kind, finding)) in errors.chain(warnings).enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{kind}: {finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The findings while a configuration is being read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    closed: BTreeSet<String>,
    origins: Origins,
}

impl Findings {
    /// Tells which keys came from which environment variable, so that findings can name it.
    pub(super) fn set_origins(&mut self, origins: Origins) {
        self.origins = origins;
    }

    /// Whether exactly this key was set by an environment variable.
    pub(super) fn is_from_environment(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// Notes an error, unless this key was closed by an earlier one.
    pub(super) fn error(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        let path = path.into();
        if lineage(&path).any(|part| self.closed.contains(part)) {
            return;
        }
        let problem = self.with_origin(&path, problem.into());
        self.errors.push(Finding { path, problem });
    }

    /// Notes an error after which nothing more is said of this key and those below it: its value is
    /// not even of the right kind, and was taken out.
    pub(super) fn close(&mut self, path: &str, problem: impl Into<String>) {
        self.error(path, problem);
        self.closed.insert(path.to_owned());
    }

    /// Says nothing more of this key: an error elsewhere explains it.
    pub(super) fn silence(&mut self, path: String) {
        self.closed.insert(path);
    }

    /// Whether there is an error at this key or below it; what else it leads to need not be said.
    pub(super) fn is_flawed(&self, path: &str) -> bool {
        self.errors.iter().any(|error| lineage(&error.path).any(|part| part == path))
    }

    /// Notes a warning.
    pub(super) fn warn(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        let path = path.into();
        let problem = self.with_origin(&path, problem.into());
        self.warnings.push(Finding { path, problem });
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(&mut self, path: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.error(path, "missing");
        }
        value
    }

    /// All errors, if there is one, and otherwise the warnings.
    pub(super) fn finish(mut self) -> Result<Vec<Finding>, ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        self.errors.sort_by(|one, other| one.path.cmp(&other.path));
        Err(ConfigErrors { errors: self.errors, warnings: self.warnings })
    }

    fn with_origin(&self, path: &str, problem: String) -> String {
        match lineage(path).find_map(|part| self.origins.get(part)) {
            Some(variable) => format!("{problem} (set by {variable})"),
            None => problem,
        }
    }
}

impl From<Finding> for ConfigErrors {
    fn from(finding: Finding) -> Self {
        Self { errors: vec![finding], warnings: Vec::new() }
    }
}

/// A path and everything above it: `a[0].b`, `a[0]`, `a`.
pub(super) fn lineage(path: &str) -> impl Iterator<Item = &str> {
    let above = path.char_indices().rev().filter(|(_, character)| matches!(character, '.' | '['));
    std::iter::once(path).chain(above.map(|(end, _)| &path[..end]))
}

/// The candidate that the word was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many insertions, deletions, replacements and swaps of neighbours lie between two words.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognised() {
        let keys = ["listen", "threads", "tls", "organization_id"];
        for (typed, meant) in
            [("thraeds", "threads"), ("thread", "threads"), ("listne", "listen"), ("organization", "organization_id")]
        {
            assert_eq!(nearest(typed, keys.into_iter()), Some(meant), "{typed}");
        }
        assert_eq!(nearest("colour", keys.into_iter()), None);
        assert_eq!(nearest("", keys.into_iter()), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_closed_key_hides_what_is_below_it_and_nothing_else() {
        let mut findings = Findings::default();
        findings.close("tenants[1]", "not a table");
        findings.error("tenants[1].api", "hidden");
        findings.error("tenants[1]", "hidden");
        findings.error("tenants[10].api", "seen");
        findings.error("tenants", "seen");
        let paths: Vec<_> = findings.finish().unwrap_err().errors.into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["tenants", "tenants[10].api", "tenants[1]"]);
    }

    #[test]
    fn the_variable_that_set_a_key_is_named() {
        let mut findings = Findings::default();
        findings.set_origins([("server.listen".to_owned(), "SHOPPER_GATEWAY__SERVER__LISTEN".to_owned())].into());
        findings.error("server.listen[1]", "not an address");
        findings.error("server.threads", "too many");
        assert_eq!(
            findings.finish().unwrap_err().to_string(),
            "error: server.listen[1]: not an address (set by SHOPPER_GATEWAY__SERVER__LISTEN)\n\
             error: server.threads: too many"
        );
    }
}
