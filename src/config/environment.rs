//! Environment variables that override keys of the file: `SHOPPER_GATEWAY__SECTION__KEY`.
//!
//! The schema defines which keys exist, and the file how long its arrays are. Values stay strings here. `schema_check` converts
//! them if the key is a number or a boolean, so the secret "00123" stays "00123".

use std::{collections::BTreeMap, fmt};

use toml::Value;

use super::{
    diagnostics::{Diagnostics, ancestors, closest_match},
    renamed_keys::RenamedKey,
    schema::Schema,
};

/// Prefix of the variables that override keys.
pub(super) const VARIABLE_PREFIX: &str = "SHOPPER_GATEWAY__";

/// Overrides by the path of the key: `tenants[0].api`. No path is below another one.
pub(super) type Overrides<'e> = BTreeMap<String, Override<'e>>;

/// A variable and its value.
#[derive(Clone, Copy)]
pub(super) struct Override<'e> {
    pub(super) variable: &'e str,
    pub(super) text: &'e str,
}

/// Reads the overrides, and adds an error for each variable that names no key.
pub(super) fn read_overrides<'e>(
    file: &Value,
    schema: Schema<'_>,
    environment: &'e BTreeMap<String, String>,
    diagnostics: &mut Diagnostics,
) -> Overrides<'e> {
    let mut variables: Vec<(Vec<Segment>, Override<'e>)> = environment
        .iter()
        .filter_map(|(variable, text)| {
            let segments = variable.strip_prefix(VARIABLE_PREFIX)?.split("__").map(Segment::new).collect();
            Some((segments, Override { variable, text }))
        })
        .collect();
    // Parents come before their children, and element 2 before element 10, because each depends on the ones before.
    variables.sort_by(|(one, _), (other, _)| one.cmp(other));

    let mut overrides = Overrides::new();
    for (segments, set) in variables {
        let path = match resolve_path(&segments, file, schema, &overrides) {
            Ok(path) => path,
            Err(ResolveError::UnknownKey { known, at }) => {
                let message = match RenamedKey::find(&dotted(&segments)) {
                    Some(renamed) => renamed.message(&variable_of(renamed.new)),
                    None => format!("unknown key; {}", name_hint(&segments, at, &known)),
                };
                diagnostics.error(set.variable, message);
                continue;
            }
            Err(ResolveError::Gap { length }) => {
                let message = format!("leaves a gap in the array; the next index is {length}");
                diagnostics.error(set.variable, message);
                continue;
            }
            // The file has a value of the wrong type there. `schema_check` reports it.
            Err(ResolveError::WrongType) => continue,
        };
        // An operator could not see which of the two variables has precedence.
        if let Some(other) = ancestors(&path).find_map(|part| overrides.get(part)) {
            diagnostics.error(set.variable, format!("already set by {}; remove one of the two", other.variable));
            continue;
        }
        overrides.insert(path, set);
    }
    diagnostics.set_origins(overrides.iter().map(|(path, set)| (path.clone(), set.variable.to_owned())).collect());
    overrides
}

/// A part of a variable's name: an index or a key.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Number(usize),
    Key(String),
}

impl Segment {
    fn new(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Key(text.to_lowercase()), Self::Number)
    }
}

/// Formats the segment as in the name of a variable.
impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(position) => write!(f, "{position}"),
            Self::Key(key) => f.write_str(&key.to_uppercase()),
        }
    }
}

/// Why a variable names no key.
enum ResolveError<'a> {
    UnknownKey { known: Vec<&'a str>, at: usize },
    Gap { length: usize },
    WrongType,
}

/// The path of the key that the segments name.
fn resolve_path<'a>(
    segments: &[Segment],
    file: &Value,
    schema: Schema<'a>,
    overrides: &Overrides<'_>,
) -> Result<String, ResolveError<'a>> {
    let mut path = String::new();
    let mut node = schema.root();
    let mut present = Some(file);
    for (at, segment) in segments.iter().enumerate() {
        let alternatives = schema.alternatives(node);
        let in_schema = alternatives.iter().find_map(|alternative| match segment {
            Segment::Key(key) => alternative["properties"].get(key),
            Segment::Number(_) => alternative.get("items"),
        });
        let Some(below) = in_schema else {
            let properties = alternatives.iter().filter_map(|alternative| alternative["properties"].as_object());
            let known = properties.flat_map(|properties| properties.keys().map(String::as_str)).collect();
            return Err(ResolveError::UnknownKey { known, at });
        };
        // A secret or a list can be a string in the file while variables set its parts.
        if matches!(present, Some(Value::String(_))) && alternatives.iter().any(|form| form["type"] == "string") {
            present = None;
        }
        present = match (segment, present) {
            (Segment::Key(key), None | Some(Value::Table(_))) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                present.and_then(|table| table.get(key))
            }
            (Segment::Number(position), None | Some(Value::Array(_))) => {
                let length = array_length(&path, present, overrides);
                if *position > length {
                    return Err(ResolveError::Gap { length });
                }
                path.push_str(&format!("[{position}]"));
                present.and_then(|array| array.get(position))
            }
            _ => return Err(ResolveError::WrongType),
        };
        node = below;
    }
    Ok(path)
}

/// The number of elements of the array, including elements that only overrides set.
fn array_length(path: &str, array: Option<&Value>, overrides: &Overrides<'_>) -> usize {
    let mut length = array.and_then(Value::as_array).map_or(0, Vec::len);
    loop {
        let element = format!("{path}[{length}]");
        match overrides.range(element.clone()..).next() {
            Some((next, _)) if next.starts_with(&element) => length += 1,
            _ => return length,
        }
    }
}

/// The path that the segments would have in the file, outside of arrays.
fn dotted(segments: &[Segment]) -> String {
    segments.iter().map(Segment::to_string).collect::<Vec<_>>().join(".").to_lowercase()
}

/// The variable of a key outside of arrays.
fn variable_of(path: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// How to correct the name of a variable.
fn name_hint(segments: &[Segment], at: usize, known: &[&str]) -> String {
    let mut names: Vec<String> = segments.iter().map(Segment::to_string).collect();
    match closest_match(&names[at].to_lowercase(), known.iter().copied()) {
        Some(meant) => {
            names[at] = meant.to_uppercase();
            format!("did you mean {VARIABLE_PREFIX}{}?", names.join("__"))
        }
        None => "the name of a variable is the path of a key in capitals, joined by two underscores".to_owned(),
    }
}
