//! `docs/CONFIGURATION.md` names every key with its variable and its default, and no key that is none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected fails")]

use std::collections::BTreeMap;

use serde_json::Value;
use shopper_gateway::settings::schema;

const PAGE: &str = include_str!("../docs/CONFIGURATION.md");

/// A key of the schema: its variable without the prefix, and its default.
#[derive(Debug)]
struct Key {
    variable: String,
    default: Option<Value>,
    is_needed: bool,
}

/// All keys below a node, by their path without numbers of elements.
fn keys(schema: &Value, node: &Value, path: &str, key: Key, found: &mut BTreeMap<String, Key>) {
    let resolved = match node["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => node,
    };
    if resolved["items"].is_object() {
        let variable = format!("{}__0", key.variable);
        return keys(schema, &resolved["items"], path, Key { variable, ..key }, found);
    }
    let Some(properties) = resolved["properties"].as_object() else {
        found.insert(path.to_owned(), key);
        return;
    };
    let needed = resolved["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let join =
        |above: &str, by: &str, name: &str| if above.is_empty() { name.to_owned() } else { [above, by, name].concat() };
    for (name, property) in properties {
        let below = Key {
            variable: join(&key.variable, "__", &name.to_uppercase()),
            default: property.get("default").cloned(),
            is_needed: needed.iter().any(|needed| needed == name),
        };
        keys(schema, property, &join(path, ".", name), below, found);
    }
}

fn expected() -> BTreeMap<String, Key> {
    let schema = schema();
    let mut found = BTreeMap::new();
    let root = Key { variable: String::new(), default: None, is_needed: false };
    keys(&schema, &schema, "", root, &mut found);
    assert!(found.len() > 50 && found.contains_key("tenants.slas_clients.redirect_uri"), "{found:?}");
    found
}

/// The rows of the tables: key, variable, type, default, meaning.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_end_matches(" |").split(" | ").collect();
        assert_eq!(cells.len(), 5, "{line}");
        (cells[0].split('`').next().unwrap(), cells)
    });
    rows.collect()
}

#[test]
fn every_key_has_its_row_and_no_other_has() {
    let (expected, rows) = (expected(), rows());
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), expected.keys().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn variables_and_defaults_are_those_of_the_schema() {
    let rows = rows();
    for (path, key) in expected() {
        let cells = &rows[path.as_str()];
        assert_eq!(cells[1], format!("`{}`", key.variable), "variable of {path}");
        let default = match key.default {
            _ if key.is_needed => "**needed**".to_owned(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(Value::Array(elements)) if elements.is_empty() => "empty".to_owned(),
            Some(value) => format!("`{value}`"),
            None if path == "server.threads" => "one for each core".to_owned(),
            None => "—".to_owned(),
        };
        assert_eq!(cells[3], default, "default of {path}");
    }
}
