//! The tests and modules that docs/THREAT-MODEL.md and docs/INVARIANTS.md name exist.
//!
//! Each row of the table of figures names its source: a test that `make figures` runs, or the soak test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{fs, path::Path};

/// The number of rows of the table of figures.
const FIGURES: usize = 28;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rows(document: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = document.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.split('|').skip(1).map(str::trim).collect())
}

/// The texts between backticks.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Asserts that a test or a file of tests exists: `file::test`, `file::module::test`, `file`.
fn assert_test(name: &str) {
    let (file, last) = name.rsplit_once("::").unwrap_or((name, ""));
    let source = read(&format!("tests/gateway/{}.rs", file.replace("::", "/")));
    let is_there = source.contains(&format!("fn {last}(")) || source.contains(&format!("mod {last};"));
    assert!(last.is_empty() || is_there, "{file} has no {last}");
}

#[test]
fn tests_named_in_threat_model_exist() {
    let (document, makefile) = (read("docs/THREAT-MODEL.md"), read("Makefile"));
    let mut tests = 0;
    for name in rows(&document).flat_map(|row| named(row[2]).collect::<Vec<_>>()) {
        if let Some(target) = name.strip_prefix("make ") {
            assert!(makefile.contains(&format!("\n{target}:")), "no target {target}");
        } else if name.contains('.') || name.ends_with('/') {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            assert!(root.join("src").join(name).exists() || root.join(name).exists(), "{name} is not there");
        } else {
            tests += 1;
            assert_test(name);
        }
    }
    assert!(tests > 60, "only {tests} tests are named");
}

#[test]
fn figures_are_shown_by_tests_that_run() {
    let (document, makefile) = (read("docs/THREAT-MODEL.md"), read("Makefile"));
    let acts: String =
        ["acts", "expiry", "hostile", "steady", "main"].map(|file| read(&format!("examples/soak/{file}.rs"))).concat();
    let (_, list) = makefile.split_once("FIGURE_TESTS := \\\n").unwrap();
    let (list, _) = list.split_once("\nFIGURES_PROFILE").unwrap();
    let measured: Vec<_> = list.split([' ', '\\', '\n']).filter(|name| !name.is_empty()).collect();
    let mut shown = Vec::new();
    let mut count = 0;
    for row in rows(&document).filter(|row| row[0].starts_with('R') && row.len() > 4) {
        count += 1;
        let [id, cell, figure] = [row[0], row[2], row[3]];
        assert_eq!(id, format!("R{count}"), "the rows are in order");
        let names: Vec<_> = named(cell).collect();
        assert!(!names.is_empty() && !figure.is_empty(), "{id}");
        assert!(!names.contains(&"make soak") || acts.contains(&format!("\"{id}\"")), "the soak has no {id}");
        let runs =
            names.iter().filter(|name| measured.iter().any(|test| test.trim_end_matches("::") == **name)).count();
        assert_eq!(names.contains(&"make figures"), runs > 0, "{id}: {names:?}");
        shown.extend(names);
    }
    assert_eq!(count, FIGURES);
    for test in measured {
        assert_test(test.trim_end_matches("::"));
        assert!(shown.contains(&test.trim_end_matches("::")), "no row shows {test}");
    }
}

#[test]
fn modules_and_tests_named_in_invariants_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (document, lib) = (read("docs/INVARIANTS.md"), read("src/lib.rs"));
    let (mut modules, mut tests) = (0, 0);
    for row in rows(&document).filter(|row| row.len() > 3) {
        for name in named(row[1]) {
            let top = name.split("::").next().unwrap();
            if lib.contains(&format!("pub mod {top};")) {
                modules += 1;
                let path = root.join("src").join(name.replace("::", "/"));
                assert!(path.is_dir() || path.with_extension("rs").exists(), "no module {name}");
            }
        }
        for name in named(row[2]).filter(|name| name.contains('/') || name.ends_with(".rs")) {
            tests += 1;
            let file = root.join("tests/gateway").join(name);
            assert!(file.exists() || root.join(name).exists(), "no tests {name}");
        }
    }
    assert!(modules > 40 && tests > 40, "only {modules} modules and {tests} tests are named");
}
