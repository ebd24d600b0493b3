//! The words of `docs/LEXICON.md` are those of the code: what it names is there, what it bars is not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected fails")]

use std::{collections::BTreeSet, fs, path::Path};

const LEXICON: &str = include_str!("../docs/LEXICON.md");
const LAST_SECTION: &str = "## Words that no name";
/// What introduces a name that is chosen here.
const KEYWORDS: [&str; 6] = ["fn", "struct", "enum", "trait", "type", "mod"];

fn src(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            src(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

fn code() -> String {
    let mut code = String::new();
    src(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    code
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of types, functions and modules.
fn names(code: &str) -> BTreeSet<&str> {
    let words = code.lines().map(|line| line.split("//").next().unwrap().split_whitespace().collect::<Vec<_>>());
    let names = words.flat_map(|words| {
        words.windows(2).filter(|pair| KEYWORDS.contains(&pair[0])).map(|pair| pair[1]).collect::<Vec<_>>()
    });
    names.map(|name| name.split(|character: char| !is_word(character)).next().unwrap()).collect()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The words of a name: `slas_client` and `SlasClient` are "slas", "client".
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for character in name.chars() {
        if character == '_' || character.is_uppercase() {
            words.push(String::new());
        }
        words.last_mut().unwrap().extend(character.to_lowercase().filter(|character| *character != '_'));
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Names that traits of the proxy library demand.
const DEMANDED: [&str; 7] = [
    "get_ssl",
    "get_ssl_digest",
    "get_timing_digest",
    "get_read_pending_time",
    "get_write_pending_time",
    "get_proxy_digest",
    "get_socket_digest",
];

/// The first word of a name that the lexicon bars.
fn barred(name: &str) -> Option<String> {
    let section = LEXICON.split_once(LAST_SECTION).unwrap().1;
    let barred: Vec<String> =
        quoted(section).filter(|word| word.chars().all(char::is_alphabetic)).map(str::to_lowercase).collect();
    assert!(barred.len() > 10, "{barred:?}");
    let words = words(name);
    let product = |position: usize| position > 0 && words[position] == "manager" && words[position - 1] == "account";
    let found = (0..words.len()).find(|&position| barred.contains(&words[position]) && !product(position));
    let getter = || (name.starts_with("get_") && !DEMANDED.contains(&name)).then(|| "get_".to_owned());
    found.map(|position| words[position].clone()).or_else(getter)
}

#[test]
fn no_name_holds_a_barred_word() {
    let code = code();
    let names = names(&code);
    assert!(names.len() > 300 && names.contains("KeyRing") && names.contains("request_edits"), "{}", names.len());
    let found: Vec<_> = names.iter().filter_map(|name| Some((name, barred(name)?))).collect();
    assert!(found.is_empty(), "{found:?}; docs/LEXICON.md says which words to use");
}

#[test]
fn every_name_of_the_lexicon_is_in_the_code() {
    let code = code();
    let used: BTreeSet<&str> = code.split(|character: char| !is_word(character)).collect();
    let rows = LEXICON.split(LAST_SECTION).next().unwrap().lines().filter_map(|line| line.strip_prefix("| "));
    let mut checked = 0;
    for row in rows {
        let in_code = row.split(" | ").nth(2).unwrap_or_default();
        for name in quoted(in_code).filter(|name| !name.contains('.')) {
            assert!(used.contains(name), "{name} is nowhere in src: {row}");
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn planted_names_are_found() {
    let planted =
        "pub(super) struct TokenManager;\nfn get_token() {}\nmod path_utils;\n// fn helper()\nfn r#handle() {}";
    let names = names(planted);
    let found: Vec<_> = names.iter().filter_map(|name| barred(name)).collect();
    assert_eq!(found, ["manager", "get_", "utils"]);
    assert_eq!(barred("AccountManager"), None);
    assert_eq!(barred("account_manager_url"), None);
    assert_eq!(barred("SessionManager").as_deref(), Some("manager"));
    assert_eq!(barred("managed_handlers_of"), None, "whole words only");
}
