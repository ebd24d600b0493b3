//! The JSON Schema of the configuration file, generated from the types of `file`.
//!
//! Editors use the schema, and so do `environment`, `merge` and `schema_check`. So the schema cannot differ from what the
//! gateway accepts.

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::file::File;

/// The JSON Schema (draft 2020-12) of the configuration file.
#[must_use]
pub fn schema() -> Json {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>().to_value();
    remove_null(&mut schema);
    for (name, definition) in schema["$defs"].as_object_mut().into_iter().flatten() {
        definition["title"] = Json::from(title_of(name));
    }
    schema
}

/// The name of a type as a title: `AccountManager` becomes `Account manager`, `URL` stays.
fn title_of(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars() {
        if words.ends_with(|before: char| before.is_ascii_lowercase()) && character.is_ascii_uppercase() {
            words.push(' ');
            words.push(character.to_ascii_lowercase());
        } else {
            words.push(character);
        }
    }
    words
}

/// Removes null from types and defaults, because TOML has no null: an optional key is absent instead.
fn remove_null(schema: &mut Json) {
    match schema {
        Json::Object(object) => {
            object.retain(|key, value| key != "default" || !value.is_null());
            if let Some(Json::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Json::Array(alternatives)) = object.get_mut("anyOf") {
                alternatives.retain(|alternative| alternative.get("type") != Some(&Json::from("null")));
                if let [Json::Object(only)] = alternatives.as_slice() {
                    let only: serde_json::Map<String, Json> = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(remove_null);
        }
        Json::Array(values) => values.iter_mut().for_each(remove_null),
        _ => {}
    }
}

/// Looks up nodes of the schema.
#[derive(Clone, Copy)]
pub(super) struct Schema<'a> {
    root: &'a Json,
}

impl<'a> Schema<'a> {
    pub(super) fn new(root: &'a Json) -> Self {
        Self { root }
    }

    pub(super) fn root(self) -> &'a Json {
        self.root
    }

    /// The alternative schemas of a node, with references resolved.
    pub(super) fn alternatives(self, node: &'a Json) -> Vec<&'a Json> {
        let node = self.resolved(node);
        match node["anyOf"].as_array() {
            Some(alternatives) => alternatives.iter().map(|alternative| self.resolved(alternative)).collect(),
            None => vec![node],
        }
    }

    fn resolved(self, node: &'a Json) -> &'a Json {
        match node["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            Some(pointer) => self.root.pointer(pointer).unwrap_or(&Json::Null),
            None => node,
        }
    }
}
