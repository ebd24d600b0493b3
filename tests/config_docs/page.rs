//! Generates the tables of `docs/CONFIGURATION.md` from the JSON Schema of the configuration.
//!
//! All texts come from the schema, i.e. from the doc comments and defaults of `src/config/file.rs`. The order is that of
//! `config/base.toml`, because a schema has no order.

use serde_json::Value;

/// A table of the configuration, e.g. `[server]` or `[[tenants]]`.
#[derive(Debug)]
pub(super) struct Section {
    /// `tenants.slas_clients`.
    pub(super) path: String,
    is_array: bool,
    description: String,
    pub(super) keys: Vec<Key>,
}

/// A key of a section.
#[derive(Debug)]
pub(super) struct Key {
    /// `tenants.slas_clients.client_id`.
    pub(super) path: String,
    /// `TENANTS__0__SLAS_CLIENTS__0__CLIENT_ID`.
    variable: String,
    value_type: String,
    default: String,
    meaning: String,
}

/// The page without its head.
pub(super) fn tables(schema: &Value, base: &str) -> String {
    let mut page = String::from("## Value types\n\n");
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let is_table = definition["properties"].is_object();
        if !is_table && choices(definition).is_empty() {
            page += &format!("- **{}**: {}\n", type_name(name), description(definition));
        }
    }
    page += "\n## Keys\n";
    for section in sections(schema, base) {
        let brackets = if section.is_array { ("[[", "]]") } else { ("[", "]") };
        page += &format!("\n### `{}{}{}`\n\n{}\n\n", brackets.0, section.path, brackets.1, section.description);
        page += "| key | variable | type | default | description |\n|---|---|---|---|---|\n";
        for Key { path, variable, value_type, default, meaning } in section.keys {
            page += &format!("| `{path}` | `{variable}` | {value_type} | {default} | {meaning} |\n");
        }
    }
    page
}

/// The sections and their keys, in the order of `config/base.toml`.
pub(super) fn sections(schema: &Value, base: &str) -> Vec<Section> {
    let mut found = Vec::new();
    let root = Section { path: String::new(), is_array: false, description: String::new(), keys: Vec::new() };
    collect(schema, schema, root, "", &mut found);
    let order = order(base);
    let place = |path: &str| order.iter().position(|known| known == path).unwrap_or(order.len());
    for section in &mut found {
        section.keys.sort_by_key(|key| place(&key.path));
    }
    found.sort_by_key(|section| place(&section.path));
    found
}

/// The paths of all sections and keys in the order of `config/base.toml`, including examples.
fn order(base: &str) -> Vec<String> {
    let mut section = String::new();
    let mut order = Vec::new();
    for line in base.lines().map(|line| line.trim_start_matches(['#', ' '])) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            order.push(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ") {
            order.push(format!("{section}.{key}"));
        }
    }
    order
}

/// Adds a section and the sections below it.
fn collect(schema: &Value, table: &Value, mut section: Section, variable: &str, found: &mut Vec<Section>) {
    let required = table["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let join =
        |above: &str, by: &str, name: &str| if above.is_empty() { name.to_owned() } else { [above, by, name].concat() };
    for (name, property) in table["properties"].as_object().unwrap() {
        let path = join(&section.path, ".", name);
        let mut variable = join(variable, "__", &name.to_uppercase());
        let is_array = property["items"].is_object();
        let below = resolved(schema, if is_array { &property["items"] } else { property });
        if below["properties"].is_object() {
            if is_array {
                variable += "__0";
            }
            let section = Section { path, is_array, description: description(property), keys: Vec::new() };
            collect(schema, below, section, &variable, found);
        } else {
            let required = required.iter().any(|required| required == name);
            section.keys.push(key(property, below, path, variable, required));
        }
    }
    if !section.path.is_empty() {
        found.push(section);
    }
}

fn key(property: &Value, resolved: &Value, path: String, variable: String, required: bool) -> Key {
    let value_type = type_of(property, resolved);
    let default = match &property["default"] {
        _ if required => "**required**".to_owned(),
        Value::Null => "—".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(elements) if elements.is_empty() => "empty".to_owned(),
        value => format!("`{value}`"),
    };
    let mut meaning = description(property);
    for (choice, description) in choices(resolved) {
        meaning += &format!(" `{choice}`: {description}");
    }
    if let Some(range) = range(property) {
        meaning += &format!(" {range}");
    }
    // Secrets, numbers and enumerations need no example.
    let shows_example = !["secret", "integer", "number"].contains(&value_type.as_str()) && choices(resolved).is_empty();
    if let Some(example) = property["examples"].get(0).filter(|_| shows_example && !default.starts_with('`')) {
        let example = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
        meaning += &format!(" E.g. `{example}`.");
    }
    Key { path, variable, value_type, default, meaning }
}

/// The type of a value in one word, or the values of an enumeration.
fn type_of(property: &Value, resolved: &Value) -> String {
    let choices: Vec<_> = choices(resolved).iter().map(|(choice, _)| format!("`{choice}`")).collect();
    match (property["$ref"].as_str(), property["type"].as_str()) {
        _ if !choices.is_empty() => choices.join(" or "),
        (Some(reference), _) => type_name(reference.rsplit('/').next().unwrap()),
        (None, Some("string")) => "string".to_owned(),
        (None, Some("boolean")) => "boolean".to_owned(),
        (None, Some(other)) => other.to_owned(),
        (None, None) => panic!("{property} has no type"),
    }
}

/// The name of a type on the page: `duration` for `Duration`, `URL` for `URL`.
fn type_name(name: &str) -> String {
    if name.chars().all(char::is_uppercase) { name.to_owned() } else { name.to_lowercase() }
}

/// The values of an enumeration with their descriptions.
fn choices(node: &Value) -> Vec<(&str, String)> {
    let choices = node["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    choices.iter().filter_map(|choice| Some((choice["const"].as_str()?, description(choice)))).collect()
}

fn range(property: &Value) -> Option<String> {
    if let (Some(least), Some(most)) = (property["minimum"].as_f64(), property["maximum"].as_f64())
        && property["type"] == "number"
    {
        return Some(format!("{least:?} to {most:?}."));
    }
    let most = grouped(property["maximum"].as_u64()?);
    match property["minimum"].as_u64() {
        None | Some(0) => Some(format!("At most {most}.")),
        Some(least) => Some(format!("{} to {most}.", grouped(least))),
    }
}

/// `1000000` as `1,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The description as one line. `docs/PAGE.md#section` becomes a link.
fn description(node: &Value) -> String {
    let text = node["description"].as_str().unwrap_or_else(|| panic!("{node} has no description"));
    let words = text.split_whitespace().map(|word| match word.strip_prefix("docs/") {
        Some(rest) => {
            let target = rest.trim_end_matches([',', '.', ';', ':']);
            let (page, end) = (target.split('#').next().unwrap(), &rest[target.len()..]);
            format!("[{page}]({target}){end}")
        }
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn resolved<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => node,
    }
}
