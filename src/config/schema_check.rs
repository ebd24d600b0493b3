//! Removes every key that does not fit the JSON Schema, and adds an error for each.
//!
//! Serde stops at its first error, but one run should report all of them. The remaining table always deserializes.

use serde_json::Value as Json;
use toml::Value;

use super::{
    diagnostics::{Diagnostics, closest_match},
    renamed_keys::RenamedKey,
    schema::Schema,
};

/// Removes every key of the table that does not fit the schema, and adds an error for each.
pub(super) fn check(table: &mut Value, schema: Schema<'_>, diagnostics: &mut Diagnostics) {
    Checker { schema, diagnostics }.check_value(table, schema.root(), "");
}

struct Checker<'a, 'f> {
    schema: Schema<'a>,
    diagnostics: &'f mut Diagnostics,
}

impl<'a> Checker<'a, '_> {
    /// Whether the value has a type of the schema. Keys below it that do not fit are removed.
    fn check_value(&mut self, value: &mut Value, node: &'a Json, path: &str) -> bool {
        let alternatives = self.schema.alternatives(node);
        if let Value::String(text) = value
            && self.diagnostics.is_from_environment(path)
            && let Some(converted) =
                alternatives.iter().find_map(|alternative| parse_as(text, expected_type(alternative)))
        {
            *value = converted;
        }
        let Some(alternative) = alternatives.iter().find(|alternative| is_of_type(value, expected_type(alternative)))
        else {
            let mut types: Vec<_> =
                alternatives.iter().map(|alternative| describe_type(expected_type(alternative))).collect();
            types.dedup();
            let message = format!(
                "expected {}{}, found {}",
                types.join(" or "),
                example_hint(node),
                describe_type(type_of(value))
            );
            self.diagnostics.reject(path, message);
            return false;
        };
        match value {
            Value::Table(table) => self.check_table(table, alternative, path),
            Value::Array(elements) => {
                for (position, element) in elements.iter_mut().enumerate() {
                    self.check_element(element, &alternative["items"], &format!("{path}[{position}]"));
                }
            }
            Value::Integer(number) if expected_type(alternative) == "integer" => {
                return self.check_range(*number, alternative, path);
            }
            #[allow(clippy::cast_precision_loss, reason = "the bounds are small numbers")]
            Value::Integer(number) => return self.check_number(*number as f64, alternative, path),
            Value::Float(number) => return self.check_number(*number, alternative, path),
            Value::String(text) => return self.check_choice(text, alternative, path),
            _ => {}
        }
        true
    }

    fn check_table(&mut self, table: &mut toml::Table, node: &'a Json, path: &str) {
        let Some(properties) = node["properties"].as_object() else { return };
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let present: Vec<String> = table.keys().cloned().collect();
        for key in &present {
            let fits = match (properties.get(key), table.get_mut(key)) {
                (Some(property), Some(value)) => self.check_value(value, property, &below(key)),
                _ => {
                    if let Some(renamed) = RenamedKey::find(&below(key)) {
                        self.diagnostics.reject(renamed.old, renamed.message(renamed.new));
                        table.remove(key);
                        continue;
                    }
                    let absent = properties.keys().filter(|known| !present.contains(known));
                    let meant = closest_match(key, absent.map(String::as_str));
                    let message = match meant {
                        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
                        None => {
                            let known: Vec<_> = properties.keys().map(String::as_str).collect();
                            format!("unknown key; known keys: {}", known.join(", "))
                        }
                    };
                    // A quoted key may contain any character, including line ends.
                    self.diagnostics.reject(&below(&key.escape_debug().to_string()), message);
                    if let Some(meant) = meant {
                        self.diagnostics.suppress(below(meant));
                    }
                    false
                }
            };
            if !fits {
                table.remove(key);
            }
        }
        for key in node["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if !present.iter().any(|given| given == key) {
                self.diagnostics.reject(&below(key), format!("missing; expected {}", expected_value(&properties[key])));
            }
        }
    }

    /// Replaces an element that does not fit by an empty one, so that the other elements keep their index.
    fn check_element(&mut self, element: &mut Value, node: &'a Json, path: &str) {
        if !self.check_value(element, node, path) {
            let is_table =
                self.schema.alternatives(node).iter().any(|alternative| expected_type(alternative) == "object");
            *element = if is_table { Value::Table(toml::Table::new()) } else { Value::String(String::new()) };
        }
    }

    fn check_range(&mut self, number: i64, node: &Json, path: &str) -> bool {
        let minimum = node["minimum"].as_i64().unwrap_or(i64::MIN);
        let maximum = node["maximum"].as_i64().unwrap_or(i64::MAX);
        let fits = (minimum..=maximum).contains(&number);
        if !fits {
            let message = match maximum {
                i64::MAX => format!("must be at least {minimum}"),
                _ => format!("must be between {minimum} and {maximum}"),
            };
            self.diagnostics.reject(path, message);
        }
        fits
    }

    fn check_number(&mut self, number: f64, node: &Json, path: &str) -> bool {
        let minimum = node["minimum"].as_f64().unwrap_or(f64::NEG_INFINITY);
        let maximum = node["maximum"].as_f64().unwrap_or(f64::INFINITY);
        let fits = (minimum..=maximum).contains(&number);
        if !fits {
            self.diagnostics.reject(path, format!("must be between {minimum:?} and {maximum:?}"));
        }
        fits
    }

    fn check_choice(&mut self, text: &str, node: &Json, path: &str) -> bool {
        let choices = choices(node);
        let fits = choices.is_empty() || choices.contains(&text);
        if !fits {
            let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
            let meant = closest_match(text, choices.iter().copied());
            let hint = meant.map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
            self.diagnostics.reject(path, format!("expected {}{hint}", quoted.join(" or ")));
        }
        fits
    }
}

/// The values of an enumeration; empty for other schemas.
fn choices(node: &Json) -> Vec<&str> {
    let listed = node["enum"].as_array().into_iter().flatten();
    let described = node["oneOf"].as_array().into_iter().flatten().map(|choice| &choice["const"]);
    listed.chain(described).filter_map(Json::as_str).collect()
}

/// The type in a schema without alternatives, as JSON Schema names it.
fn expected_type(node: &Json) -> &str {
    node["type"].as_str().unwrap_or("string")
}

/// Whether the value is of a type of JSON Schema. An integer is a number too.
fn is_of_type(value: &Value, type_name: &str) -> bool {
    match value {
        Value::Integer(_) | Value::Float(_) if type_name == "number" => true,
        value => type_of(value) == type_name,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Integer(_) => "integer",
        Value::Float(_) => "float",
        Value::Boolean(_) => "boolean",
        Value::Datetime(_) => "datetime",
        Value::Array(_) => "array",
        Value::Table(_) => "object",
    }
}

/// The type as TOML names it.
fn describe_type(type_name: &str) -> &'static str {
    match type_name {
        "string" => "a string",
        "integer" => "an integer",
        "boolean" => "true or false",
        "array" => "an array",
        "object" => "a table",
        "number" => "a number",
        "float" => "a number with a fraction",
        _ => "a date or time",
    }
}

/// The value of an environment variable as a number or a boolean, if the schema has this type.
fn parse_as(text: &str, type_name: &str) -> Option<Value> {
    match type_name {
        "integer" => text.trim().parse().ok().map(Value::Integer),
        "number" => text.trim().parse().ok().map(Value::Float),
        "boolean" => text.trim().parse().ok().map(Value::Boolean),
        _ => None,
    }
}

fn example_hint(node: &Json) -> String {
    match &node["examples"][0] {
        Json::Null => String::new(),
        example => format!(", e.g. {}", as_toml(example)),
    }
}

fn expected_value(node: &Json) -> String {
    match &node["examples"][0] {
        Json::Null => "a value".to_owned(),
        example => format!("e.g. {}", as_toml(example)),
    }
}

/// An example in TOML. Strings, numbers and arrays have the syntax of JSON.
fn as_toml(example: &Json) -> String {
    match example {
        Json::Object(keys) => {
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("{{ {} }}", keys.join(", "))
        }
        Json::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(Json::to_string).collect();
            format!("[{}]", elements.join(", "))
        }
        other => other.to_string(),
    }
}
