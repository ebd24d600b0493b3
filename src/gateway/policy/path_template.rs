//! Path templates: what stands fixed in an operation's path and what is a parameter.
//!
//! Owns the grammar `/fixed/{parameter}/…`. Knows nothing of methods or of requests.

use std::collections::HashSet;

/// No published path comes near it; it bounds what a lookup may cost.
const MOST_SEGMENTS: usize = 32;

/// A parameter of an operation's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, e.g. `organizationId`.
    pub name: String,
    /// The segment it fills, counted from 0.
    pub position: usize,
    /// Whether its value is chosen freely by merchants or shoppers, so that it may hold a slash.
    pub free_text: bool,
}

/// A template that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// It is not of the form `/a/{b}`.
    #[error("the path has to start with a slash, without an empty segment or a slash at the end")]
    Form,
    /// It has more segments than any lookup should visit.
    #[error("the path has more than {MOST_SEGMENTS} segments")]
    TooLong,
    /// A fixed segment is not plain text.
    #[error("a fixed segment of the path may hold letters, digits and -._~!$&'()*+,=:@ only, and is not a dot segment")]
    Literal,
    /// A parameter is not of the form `{name}`.
    #[error("a parameter of the path has to fill its segment and be named by letters, digits and _")]
    Parameter,
    /// Two parameters have the same name.
    #[error("the parameters of the path have to be distinct")]
    Repeated,
    /// A parameter is marked as free text that the path does not have.
    #[error("a parameter marked as free text is not in the path")]
    NoSuchParameter,
}

/// A template, read.
#[derive(Debug)]
pub(super) struct Template<'t> {
    pub(super) parts: Vec<Part<'t>>,
    pub(super) parameters: Vec<Parameter>,
}

/// One segment of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Literal(&'t str),
    Parameter,
}

impl<'t> Template<'t> {
    /// Reads a template, of whose parameters some are free text.
    pub(super) fn parse(text: &'t str, free_text: &[String]) -> Result<Self, InvalidTemplate> {
        let mut template = Self { parts: Vec::new(), parameters: Vec::new() };
        let below = text.strip_prefix('/').ok_or(InvalidTemplate::Form)?;
        for (position, segment) in below.split('/').enumerate() {
            if position >= MOST_SEGMENTS {
                return Err(InvalidTemplate::TooLong);
            }
            if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    return Err(InvalidTemplate::Parameter);
                }
                let free_text = free_text.iter().any(|free| free == name);
                template.parameters.push(Parameter { name: name.to_owned(), position, free_text });
                template.parts.push(Part::Parameter);
            } else {
                template.parts.push(Part::Literal(literal(segment)?));
            }
        }
        let names: HashSet<&str> = template.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        if names.len() < template.parameters.len() {
            return Err(InvalidTemplate::Repeated);
        }
        if free_text.iter().any(|free| !names.contains(free.as_str())) {
            return Err(InvalidTemplate::NoSuchParameter);
        }
        Ok(template)
    }
}

fn literal(segment: &str) -> Result<&str, InvalidTemplate> {
    if segment.is_empty() {
        return Err(InvalidTemplate::Form);
    }
    if segment.contains(['{', '}']) {
        return Err(InvalidTemplate::Parameter);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte);
    if segment == "." || segment == ".." || !segment.bytes().all(plain) {
        return Err(InvalidTemplate::Literal);
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_know_their_place() {
        let template = Template::parse("/a/{b}/c/{d}", &["d".to_owned()]).unwrap();
        assert_eq!(template.parts, [Part::Literal("a"), Part::Parameter, Part::Literal("c"), Part::Parameter]);
        let parameter = |name: &str, position, free_text| Parameter { name: name.to_owned(), position, free_text };
        assert_eq!(template.parameters, [parameter("b", 1, false), parameter("d", 3, true)]);
    }

    #[test]
    fn what_no_request_could_match_is_refused() {
        for (text, expected) in [
            ("", InvalidTemplate::Form),
            ("/", InvalidTemplate::Form),
            ("a/b", InvalidTemplate::Form),
            ("/a//b", InvalidTemplate::Form),
            ("/a/", InvalidTemplate::Form),
            ("/a%20b", InvalidTemplate::Literal),
            ("/a;b", InvalidTemplate::Literal),
            ("/ä", InvalidTemplate::Literal),
            ("/a/../b", InvalidTemplate::Literal),
            ("/a/{b}c", InvalidTemplate::Parameter),
            ("/a/{}", InvalidTemplate::Parameter),
            ("/a/{b-c}", InvalidTemplate::Parameter),
            ("/{a}/{a}", InvalidTemplate::Repeated),
        ] {
            assert_eq!(Template::parse(text, &[]).unwrap_err(), expected, "{text}");
        }
        let long = "/a".repeat(MOST_SEGMENTS + 1);
        assert_eq!(Template::parse(&long, &[]).unwrap_err(), InvalidTemplate::TooLong);
        assert_eq!(Template::parse("/{a}", &["b".to_owned()]).unwrap_err(), InvalidTemplate::NoSuchParameter);
    }
}
