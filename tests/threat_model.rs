//! docs/THREAT-MODEL.md names tests; they must be there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{fs, path::Path};

/// What stands between backticks in the last column of the tables.
fn named(document: &str) -> Vec<&str> {
    let shown = document.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(3));
    shown.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/THREAT-MODEL.md")).unwrap();
    let mut tests = 0;
    for name in named(&document) {
        let (file, test) = name.split_once("::").map_or((name, None), |(file, test)| (file, Some(test)));
        if file.contains(['.', ' ']) || file == "fuzz/" {
            let path = root.join("src").join(file);
            assert!(path.exists() || file == "fuzz/" || file.starts_with("make "), "{file} is not there");
            continue;
        }
        tests += 1;
        let path = root.join("tests/gateway").join(format!("{file}.rs"));
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        if let Some(test) = test {
            let is_there = source.contains(&format!("fn {test}(")) || source.contains(&format!("mod {test};"));
            assert!(is_there, "{file} has no {test}");
        }
    }
    assert!(tests > 30, "only {tests} tests are named");
}
