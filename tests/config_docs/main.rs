//! Generates `docs/CONFIGURATION.md` from the JSON Schema of the configuration, except for its head.
//!
//! `make docs` writes the page. Otherwise the test compares the page with the schema.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected fails")]

mod page;

use std::{env, fs, path::Path};

use shopper_gateway::config::schema;

const BASE: &str = include_str!("../../config/base.toml");
/// Ends the head, which is written by hand.
const MARK: &str = "<!-- The rest is generated from src/config/file.rs by `make docs`. -->\n\n";
/// Set by `make docs`.
const WRITE: &str = "WRITE_CONFIGURATION_PAGE";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn page_matches_schema() {
    let name = "docs/CONFIGURATION.md";
    let written = read(name);
    let (head, tables) = written.split_once(MARK).unwrap_or_else(|| panic!("{name} lacks the line {MARK}"));
    let expected = page::tables(&schema(), BASE);
    if env::var_os(WRITE).is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        return fs::write(path, format!("{head}{MARK}{expected}")).unwrap();
    }
    let first = tables.lines().zip(expected.lines()).find(|(is, should_be)| is != should_be);
    assert!(tables == expected, "{name} differs from the schema; run `make docs`. First difference: {first:#?}");
}

#[test]
fn page_has_every_key_once() {
    let sections = page::sections(&schema(), BASE);
    let mut paths: Vec<_> = sections.iter().flat_map(|section| &section.keys).map(|key| key.path.as_str()).collect();
    assert!(paths.len() > 60 && paths.contains(&"tenants.slas_clients.redirect_uri"), "{paths:?}");
    let all = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), all);
    let first: Vec<_> = sections.iter().map(|section| section.path.as_str()).take(2).collect();
    assert_eq!(first, ["server", "server.tls"], "order differs from config/base.toml");
}

#[test]
fn page_links_have_targets() {
    let page = read("docs/CONFIGURATION.md");
    let links: Vec<_> = page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.iter().any(|link| link.starts_with("OPERATIONS.md#")), "{links:?}");
    for link in links {
        let (name, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = read(&format!("docs/{name}"));
        let mut anchors = target.lines().filter(|line| line.starts_with('#')).map(|heading| {
            let words = heading.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-");
            words
                .chars()
                .filter(|character| character.is_alphanumeric() || "-_".contains(*character))
                .collect::<String>()
        });
        assert!(anchor.is_empty() || anchors.any(|heading| heading == anchor), "{link} leads nowhere");
    }
}
