//! The layer of the environment: `SHOPPER_GATEWAY__SECTION__KEY` over the file.
//!
//! Owns the spelling of the variables. Refuses to guess kinds: a value is laid down as the text it
//! is, and only a key that asks for a number or a truth value gets it converted (see `shape`), so the
//! secret "00123" stays "00123".

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::Value as Json;
use toml::Value;

use super::{
    finding::{Findings, Origins, nearest},
    schema::Schema,
};

/// What the names of the gateway's own variables begin with.
pub(super) const PREFIX: &str = "SHOPPER_GATEWAY__";

/// Lays every variable of the gateway over the table, and tells the findings which key came from where.
pub(super) fn overlay(
    mut table: Value,
    schema: Schema<'_>,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Value {
    let mut variables: Vec<(Vec<&str>, &str, &str)> = environment
        .iter()
        .filter_map(|(name, text)| {
            Some((name.strip_prefix(PREFIX)?.split("__").collect(), name.as_str(), text.as_str()))
        })
        .collect();
    // Element 2 before element 10: each must find its predecessor in place.
    variables.sort_by(|(one, ..), (other, ..)| by_segments(one, other));

    let mut origins = Origins::new();
    for (segments, variable, text) in variables {
        let mut path = String::new();
        match place(schema, schema.root(), Some(&table), &segments, text, &mut path) {
            Ok(changed) => {
                table = changed;
                origins.insert(path, variable.to_owned());
            }
            Err(Misplaced::Unknown { known, at }) => {
                let hint = match nearest(&segments[at].to_lowercase(), known.into_iter()) {
                    Some(meant) => {
                        let mut segments: Vec<String> = segments.iter().map(|&part| part.to_owned()).collect();
                        segments[at] = meant.to_uppercase();
                        format!("did you mean {PREFIX}{}?", segments.join("__"))
                    }
                    None => "the names are those of the file, in capitals, joined by two underscores".to_owned(),
                };
                findings.error(variable, format!("no such key; {hint}"));
            }
            Err(Misplaced::Gap { length }) => {
                findings.error(variable, format!("leaves a gap: the next element of this array has number {length}"));
            }
            // What the file has there is of the wrong kind; that is reported when shapes are checked.
            Err(Misplaced::Shape) => {}
        }
    }
    findings.set_origins(origins);
    table
}

/// Why a variable could not be laid down.
enum Misplaced<'a> {
    Unknown { known: Vec<&'a str>, at: usize },
    Gap { length: usize },
    Shape,
}

/// The value of `node` after the text was put to where the segments point.
fn place<'a>(
    schema: Schema<'a>,
    node: &'a Json,
    current: Option<&Value>,
    segments: &[&str],
    text: &str,
    path: &mut String,
) -> Result<Value, Misplaced<'a>> {
    let Some((segment, rest)) = segments.split_first() else { return Ok(Value::String(text.to_owned())) };
    let key = segment.to_lowercase();
    let alternatives = schema.alternatives(node);
    // A secret or a list may be a text in the file and be set by its parts here.
    let replaceable = matches!(current, None | Some(Value::String(_)));
    for alternative in &alternatives {
        if let Some(property) = alternative["properties"].get(&key) {
            let mut table = match current {
                Some(Value::Table(table)) => table.clone(),
                _ if replaceable => toml::Table::new(),
                _ => return Err(Misplaced::Shape),
            };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&key);
            let value = place(schema, property, table.get(&key), rest, text, path).map_err(Misplaced::deeper)?;
            table.insert(key, value);
            return Ok(Value::Table(table));
        }
        if let (Ok(position), Some(element)) = (key.parse::<usize>(), alternative.get("items")) {
            let mut elements = match current {
                Some(Value::Array(elements)) => elements.clone(),
                _ if replaceable => Vec::new(),
                _ => return Err(Misplaced::Shape),
            };
            if position > elements.len() {
                return Err(Misplaced::Gap { length: elements.len() });
            }
            path.push_str(&format!("[{position}]"));
            let value = place(schema, element, elements.get(position), rest, text, path).map_err(Misplaced::deeper)?;
            if position < elements.len() {
                elements[position] = value;
            } else {
                elements.push(value);
            }
            return Ok(Value::Array(elements));
        }
    }
    let known = alternatives
        .iter()
        .filter_map(|alternative| alternative["properties"].as_object())
        .flat_map(|properties| properties.keys().map(String::as_str))
        .collect();
    Err(Misplaced::Unknown { known, at: 0 })
}

impl Misplaced<'_> {
    fn deeper(self) -> Self {
        match self {
            Self::Unknown { known, at } => Self::Unknown { known, at: at + 1 },
            other => other,
        }
    }
}

fn by_segments(one: &[&str], other: &[&str]) -> Ordering {
    let order = |(a, b): (&&str, &&str)| match (a.parse::<usize>(), b.parse::<usize>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    };
    let different = one.iter().zip(other).map(order).find(|order| order.is_ne());
    different.unwrap_or_else(|| one.len().cmp(&other.len()))
}
