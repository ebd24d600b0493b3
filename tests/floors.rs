//! The house rules of `src/` that no compiler checks: floors, the place of the proxy library, and the
//! place where failure statuses are chosen.
//!
//! The floors are read from the `//!` lines of `src/lib.rs`. A scanner that finds nothing would pass
//! for ever, so the last tests plant violations and see them found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that meets the unexpected fails")]

mod sources;

use std::{collections::BTreeMap, fs, path::Path};

/// Where the proxy library may be named: the binary, the composition root, the two listeners.
const PINGORA_ROOMS: [&str; 4] = ["main", "app", "server", "admin"];
/// Where a failure status may stand in code: the one place that chooses them, the operators' listener,
/// and the wire contracts, which read the statuses that Salesforce sends.
const STATUS_ROOMS: [&str; 4] = ["src/gateway/reply.rs", "src/admin.rs", "src/admin/", "src/salesforce/"];
/// Statuses of 1xx, 2xx and 3xx; every other constant of `StatusCode` is a failure.
const NO_FAILURES: [&str; 8] =
    ["CONTINUE", "SWITCHING_PROTOCOLS", "OK", "CREATED", "ACCEPTED", "NO_CONTENT", "FOUND", "SEE_OTHER"];

type Floors = BTreeMap<String, u8>;

/// The floors of `lib.rs`: its lines "- L8 [`app`], [`other`]: …".
fn floors(lib: &str) -> Floors {
    let mut floors = Floors::new();
    for line in lib.lines() {
        let Some((floor, rest)) = line.strip_prefix("//! - L").and_then(|line| line.split_once(' ')) else { continue };
        let modules = rest.split_once("]: ").expect("a floor has a list of modules and says what they are").0;
        for module in modules.split(", ") {
            let module = module.trim_matches(['[', ']', '`']).to_owned();
            let earlier = floors.insert(module.clone(), floor.parse().unwrap());
            assert_eq!(earlier, None, "{module} stands on two floors");
        }
    }
    floors
}

/// The top-level modules that `lib.rs` declares.
fn modules(lib: &str) -> Vec<&str> {
    lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')).collect()
}

/// The top-level module that a file belongs to: `gate` for `src/gate.rs` and for all below `src/gate/`.
fn module_of(file: &str) -> &str {
    file.trim_start_matches("src/").split(['/', '.']).next().unwrap()
}

/// The code with comments, strings and characters blanked out; line ends and lengths stay.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let begins_word = !code.ends_with(is_word);
        let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r').map(|rest| rest.trim_start_matches('#'));
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(open) = raw.filter(|raw| begins_word && raw.starts_with('"')) {
            let opening = rest.len() - open.len() + 1;
            let close = format!("\"{}", "#".repeat(rest[..opening].matches('#').count()));
            rest[opening..].find(&close).map_or(rest.len(), |end| opening + end + close.len())
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().map(|blanked| if blanked == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether a quotation mark begins a character and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars().skip(1);
    characters.next() == Some('\\') || characters.next() == Some('\'')
}

/// The length of a literal that may hold escapes, its two quotation marks included.
fn quoted(rest: &str, mark: char) -> usize {
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|&(_, character)| {
        let ends = character == mark && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |(position, _)| position + 1)
}

/// What stands behind each occurrence of a path's beginning, such as `crate::`, with its line.
fn after<'c>(code: &'c str, prefix: &'c str) -> impl Iterator<Item = (usize, &'c str)> {
    let whole_word = |&(at, _): &(usize, &str)| !code[..at].ends_with(is_word);
    code.match_indices(prefix).filter(whole_word).map(move |(at, _)| {
        let line = code[..at].matches('\n').count() + 1;
        (line, code[at + prefix.len()..].trim_start())
    })
}

/// The first names of a use tree or path: `gate` of `gate::Gate`, and `a`, `b` of `{a::{x, y}, b}`.
fn first_names(tree: &str) -> Vec<(usize, &str)> {
    let Some(group) = tree.strip_prefix('{') else {
        return vec![(0, tree.split(|character| !is_word(character)).next().unwrap())];
    };
    let mut names = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let name = group[begin..at].trim_start();
                let lines = group[..at - name.len()].matches('\n').count();
                names.extend(
                    first_names(name).into_iter().map(|(_, name)| (lines, name)).filter(|name| !name.1.is_empty()),
                );
                begin = at + 1;
                if character == '}' {
                    return names;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("a use tree without its end: {tree}")
}

/// Everything in a file that is against the rules, one line each.
fn violations(file: &str, text: &str, floors: &Floors) -> Vec<String> {
    let code = code_of(text);
    let own = module_of(file);
    let mut found = Vec::new();
    // Unit tests stand at the end of a file, one module deeper.
    let tests = code.find("mod tests {").unwrap_or(code.len());
    let depth = file.matches('/').count();
    let out = ["super::".repeat(depth), "super::".repeat(depth + 1)];
    let paths = after(&code, "crate::")
        .chain(after(&code[..tests], &out[0]).filter(|_| own != "main"))
        .chain(after(&code, &out[1]))
        .flat_map(|(line, tree)| first_names(tree).into_iter().map(move |(lines, name)| (line + lines, name)));
    for (line, name) in paths.filter(|&(_, name)| name != own) {
        match (floors.get(own), floors.get(name)) {
            (Some(floor), Some(other)) if other < floor => {}
            (Some(floor), Some(other)) => {
                found.push(format!("{file}:{line}: {own} (L{floor}) names {name} (L{other}), which is no lower floor"));
            }
            (None, _) => found.push(format!("{file}:{line}: {own} has no floor in src/lib.rs")),
            (_, None) => found.push(format!("{file}:{line}: {name:?} is no module with a floor")),
        }
    }
    if !PINGORA_ROOMS.contains(&own) {
        found.extend(after(&code, "pingora::").map(|(line, _)| format!("{file}:{line}: pingora is named in {own}")));
    }
    let may_fail = STATUS_ROOMS.iter().any(|room| file.starts_with(room));
    let outside_tests = text.lines().take(text.lines().take_while(|line| !line.contains("#[cfg(test)]")).count());
    for (line, status) in after(&code, "StatusCode::").filter(|_| !may_fail) {
        let name = status.split(|character| !is_word(character)).next().unwrap();
        let is_constant = name.chars().all(|character| character.is_ascii_uppercase() || character == '_');
        let is_failure = is_constant && !NO_FAILURES.contains(&name) || matches!(name, "from_u16" | "try_from");
        let Some(source) = outside_tests.clone().nth(line - 1).filter(|_| is_failure) else { continue };
        found.push(format!("{file}:{line}: a failure status outside src/gateway/reply.rs: {}", source.trim()));
    }
    found
}

#[test]
fn every_module_has_a_floor() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let floors = floors(&lib);
    let mut declared = modules(&lib);
    declared.sort_unstable();
    assert!(declared.len() > 10, "{declared:?}");
    assert_eq!(floors.keys().map(String::as_str).collect::<Vec<_>>(), declared, "floors and modules of src/lib.rs");
}

#[test]
fn every_rule_of_the_house_is_kept() {
    let src = sources::of_src();
    let floors = floors(&src.iter().find(|(file, _)| file == "src/lib.rs").unwrap().1);
    let found: Vec<String> = src.iter().flat_map(|(file, text)| violations(file, text, &floors)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The violations of a planted file, on these floors: `app` 3, `gate` and `proxy` 2, `keys` 1, `names` 0.
fn planted(file: &str, text: &str) -> Vec<String> {
    let lib = "//! - L3 [`app`]: a\n//! - L2 [`gate`], [`proxy`], [`server`]: b\n//! - L1 [`keys`]: c\n//! - L0 [`names`]: d\n";
    violations(file, text, &floors(lib))
}

#[test]
fn a_planted_import_of_no_lower_floor_is_found() {
    let cases = [
        ("src/keys.rs", "use crate::gate::Gate;", 1, "keys (L1) names gate (L2)"),
        ("src/keys.rs", "use crate::app;", 1, "keys (L1) names app (L3)"),
        ("src/gate/path.rs", "\nfn f() { crate::proxy::tls::g(); }", 2, "gate (L2) names proxy (L2)"),
        ("src/keys.rs", "use crate::{\n    names::{A, b::{C}},\n    gate::D,\n};", 3, "names gate"),
        ("src/keys.rs", "use crate::{names, self_made::X};", 1, "\"self_made\" is no module"),
        ("src/keys.rs", "use crate::*;", 1, "\"\" is no module"),
        ("src/other.rs", "use crate::names::A;", 1, "other has no floor"),
        ("src/keys.rs", "use super::gate::Gate;", 1, "names gate"),
        ("src/keys/set.rs", "use super::super::{names::A, gate::Gate};", 1, "names gate"),
        ("src/keys.rs", "mod tests {\n    use super::super::app::App;\n}", 2, "names app"),
        ("src/keys.rs", "const A: &str = \"a\\\"b\"; use crate::gate::G; // \"", 1, "names gate"),
        ("src/keys.rs", "const A: char = '\"'; fn f<'a>(a: &'a crate::gate::G) {}", 1, "names gate"),
    ];
    for (file, text, line, words) in cases {
        let found = planted(file, text);
        let [only] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert!(only.starts_with(&format!("{file}:{line}: ")) && only.contains(words), "{text}: {only}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    for (file, text) in [
        ("src/app.rs", "use crate::{gate::{self, Gate}, keys::KeyRing, names::A};"),
        ("src/gate/path.rs", "use crate::gate::operations::Operation; use super::refusal::Refusal;"),
        ("src/gate.rs", "mod tests {\n    use super::*;\n}"),
        ("src/keys.rs", "// crate::gate\n/* crate::gate */ const A: &str = \"crate::gate\";"),
        ("src/keys.rs", "const A: &str = r#\"say \"crate::gate\"\"#;"),
        ("src/server/tls.rs", "use pingora::proxy::Session;"),
        ("src/keys.rs", "const CAPPED: &str = \"pingora::\"; fn is_pingora() {}"),
        ("src/gateway/reply.rs", "let status = StatusCode::FORBIDDEN;"),
        ("src/gateway/slas.rs", "let status = StatusCode::NO_CONTENT;"),
        ("src/gateway/slas.rs", "#[cfg(test)]\nmod tests { fn f() { StatusCode::CONFLICT; } }"),
    ] {
        assert_eq!(planted(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn planted_pingora_and_planted_statuses_are_found() {
    for (file, text, words) in [
        ("src/gate/path.rs", "use pingora::proxy::Session;", "pingora is named in gate"),
        ("src/keys.rs", "fn f(error: ::pingora::Error) {}", "pingora is named in keys"),
        ("src/proxy.rs", "Reply::empty(StatusCode::BAD_GATEWAY)", "a failure status"),
        ("src/gate/legacy.rs", "Reply::empty(StatusCode::UNAUTHORIZED)", "a failure status"),
        ("src/gateway/slas.rs", "StatusCode::from_u16(404)", "a failure status"),
    ] {
        let found = planted(file, text);
        assert!(found.len() == 1 && found[0].contains(words), "{file}: {text}: {found:?}");
    }
}

#[test]
fn a_module_without_a_floor_is_found() {
    let lib = "//! - L1 [`app`], [`gate`]: a\n\npub mod app;\nmod gate;\npub mod stray;\n";
    assert_eq!(floors(lib).into_iter().collect::<Vec<_>>(), [("app".to_owned(), 1), ("gate".to_owned(), 1)]);
    assert_eq!(modules(lib), ["app", "gate", "stray"]);
}
