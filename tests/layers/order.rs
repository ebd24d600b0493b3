//! Top-level modules import lower layers only, in test code too. The list of layers is in the docs of `src/lib.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    paths::{self, Source},
    sources,
};

/// The layer of each top-level module.
type Layers = BTreeMap<String, u8>;

/// Reads the layers from the lines "- L8 [`one`], [`other`]: ..." of `lib.rs`.
fn layers(lib: &str) -> Layers {
    let mut layers = Layers::new();
    for line in lib.lines() {
        let Some((layer, rest)) = line.strip_prefix("//! - L").and_then(|line| line.split_once(' ')) else { continue };
        let modules = rest.split_once("]: ").expect("a layer has a list of modules and a description").0;
        for module in modules.split(", ") {
            let module = module.trim_matches(['[', ']', '`']).to_owned();
            let earlier = layers.insert(module.clone(), layer.parse().unwrap());
            assert_eq!(earlier, None, "{module} is in two layers");
        }
    }
    layers
}

/// Returns the top-level modules that `lib.rs` declares.
fn modules(lib: &str) -> Vec<&str> {
    lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')).collect()
}

/// Returns a line for each import of a file that is not of a lower layer.
fn violations(source: &Source, layers: &Layers) -> BTreeSet<String> {
    let file = &source.file;
    let own = file.trim_start_matches("src/").split(['/', '.']).next().unwrap();
    let mut found = BTreeSet::new();
    for named in paths::named_in(source) {
        let Some(path) = named.path_from_root() else { continue };
        let name = path.first().map_or("", String::as_str);
        let place = format!("{file}:{}", named.line);
        match (layers.get(own), layers.get(name)) {
            _ if name == own => {}
            (Some(layer), Some(other)) if other < layer => {}
            (Some(layer), Some(other)) => {
                found
                    .insert(format!("{place}: {own} (L{layer}) imports {name} (L{other}), which is not a lower layer"));
            }
            (None, _) => {
                found.insert(format!("{place}: {own} has no layer in src/lib.rs"));
            }
            (_, None) => {
                found.insert(format!("{place}: {name:?} is not a module with a layer"));
            }
        }
    }
    found
}

#[test]
fn modules_of_lib_rs_have_one_layer_each() {
    let src = sources::of_src();
    let lib = &src.iter().find(|(file, _)| file == "src/lib.rs").unwrap().1;
    let layers = layers(lib);
    let mut declared = modules(lib);
    declared.sort_unstable();
    assert!(declared.len() > 10, "{declared:?}");
    assert_eq!(layers.keys().map(String::as_str).collect::<Vec<_>>(), declared, "layers and modules of src/lib.rs");
}

#[test]
fn imports_of_src_go_to_lower_layers_only() {
    let src = sources::of_src();
    let layers = layers(&src.iter().find(|(file, _)| file == "src/lib.rs").unwrap().1);
    let found: Vec<String> = paths::parsed(&src).iter().flat_map(|source| violations(source, &layers)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The violations of a planted file, in these layers: `app` 3, `gate` and `proxy` 2, `keys` 1, `names` 0.
fn planted(file: &str, text: &str) -> Vec<String> {
    let lib = "//! - L3 [`app`]: a\n//! - L2 [`gate`], [`proxy`]: b\n//! - L1 [`keys`]: c\n//! - L0 [`names`]: d\n";
    let sources = paths::parsed(&[(file.to_owned(), text.to_owned())]);
    violations(&sources[0], &layers(lib)).into_iter().collect()
}

#[test]
fn planted_import_of_a_layer_that_is_not_lower_is_found() {
    let cases = [
        ("src/keys.rs", "use crate::gate::Gate;", 1, "keys (L1) imports gate (L2)"),
        ("src/keys.rs", "use crate::app;", 1, "keys (L1) imports app (L3)"),
        ("src/keys.rs", "pub use crate::gate::Gate;", 1, "imports gate"),
        ("src/gate/path.rs", "\nfn f() { crate::proxy::tls::g(); }", 2, "gate (L2) imports proxy (L2)"),
        ("src/keys.rs", "use crate::{\n    names::{A, b::{C}},\n    gate::D,\n};", 3, "imports gate"),
        ("src/keys.rs", "use crate::{names, self_made::X};", 1, "\"self_made\" is not a module"),
        ("src/keys.rs", "use crate::*;", 1, "\"*\" is not a module"),
        ("src/keys.rs", "use crate::{self as root};", 1, "\"\" is not a module"),
        ("src/other.rs", "use crate::names::A;", 1, "other has no layer"),
        ("src/main.rs", "use crate::names::A;", 1, "main has no layer"),
        ("src/keys.rs", "use super::gate::Gate;", 1, "imports gate"),
        ("src/keys/set.rs", "use super::super::{names::A, gate::Gate};", 1, "imports gate"),
        ("src/keys/mod.rs", "use super::{names::A, gate::Gate};", 1, "imports gate"),
        ("src/keys.rs", "mod tests {\n    use super::super::app::App;\n}", 2, "imports app"),
        ("src/keys.rs", "#[cfg(test)]\nmod tests {\n    use crate::app::App;\n}", 3, "imports app"),
        ("src/keys.rs", "const A: &str = \"a\\\"b\"; use crate::gate::G; // \"", 1, "imports gate"),
        ("src/keys.rs", "const A: char = '\"'; fn f<'a>(a: &'a crate::gate::G) {}", 1, "imports gate"),
        ("src/keys.rs", "fn f() { assert_eq!(1, crate::gate::g()) }", 1, "imports gate"),
        ("src/keys.rs", "fn f() { select! {\n  x = a() => crate::gate::g(x)?, } }", 2, "imports gate"),
        ("src/keys.rs", "macro_rules! m { () => { use crate::{names::A, gate::G}; } }", 1, "imports gate"),
    ];
    for (file, text, line, words) in cases {
        let found = planted(file, text);
        let [only] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert!(only.starts_with(&format!("{file}:{line}: ")) && only.contains(words), "{text}: {only}");
    }
}

#[test]
fn imports_of_lower_layers_are_no_violation() {
    for (file, text) in [
        ("src/app.rs", "use crate::{gate::{self, Gate}, keys::KeyRing, names::A};"),
        ("src/gate/path.rs", "use crate::gate::operations::Operation; use super::refusal::Refusal;"),
        ("src/gate.rs", "mod tests {\n    use super::*;\n}"),
        ("src/keys.rs", "// crate::gate\n/* crate::gate */ const A: &str = \"crate::gate\";"),
        ("src/keys.rs", "const A: &str = r#\"say \"crate::gate\"\"#;"),
        ("src/main.rs", "use shopper_gateway::gate::Gate;"),
    ] {
        assert_eq!(planted(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn planted_module_without_a_layer_is_found() {
    let lib = "//! - L1 [`app`], [`gate`]: a\n\npub mod app;\nmod gate;\npub mod stray;\n";
    assert_eq!(layers(lib).into_iter().collect::<Vec<_>>(), [("app".to_owned(), 1), ("gate".to_owned(), 1)]);
    assert_eq!(modules(lib), ["app", "gate", "stray"]);
}
