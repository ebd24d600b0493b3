//! The source files of the library.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns all files of `src/` with their texts, by their paths from the package's root.
///
/// # Panics
/// If a file cannot be read, or if few files are found: a test that reads nothing would always pass.
pub(crate) fn of_src() -> Vec<(String, String)> {
    let mut found = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 100, "only {} files in src", found.len());
    found
}

fn below(folder: &Path, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}
