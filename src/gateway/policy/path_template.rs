//! The path templates of operations: `/fixed/{parameter}/…`.

use std::collections::HashSet;

/// Maximum segments of a template, which bounds the cost of a lookup. Published paths have far fewer.
const MAX_SEGMENTS: usize = 32;

/// A parameter of an operation's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The name, for example `organizationId`.
    pub name: String,
    /// The position of its segment, from 0.
    pub position: usize,
    /// Whether merchants or shoppers choose the value freely, so that it may contain a slash.
    pub free_text: bool,
}

/// An error of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// The template does not have the form `/a/{b}`.
    #[error("the path must start with a slash, and must not have an empty segment or a slash at the end")]
    Form,
    /// The template has too many segments.
    #[error("the path has more than {MAX_SEGMENTS} segments")]
    TooLong,
    /// A fixed segment has other characters, or is a dot segment.
    #[error(
        "a fixed segment of the path may contain only letters, digits and -._~!$&'()*+,=:@, and must not be a dot segment"
    )]
    Literal,
    /// A parameter does not have the form `{name}`.
    #[error("a parameter of the path must be a whole segment, with a name of letters, digits and _")]
    Parameter,
    /// Two parameters have the same name.
    #[error("two parameters of the path have the same name")]
    Repeated,
    /// `free_text` names a parameter that the path does not have.
    #[error("free_text names a parameter that is not in the path")]
    NoSuchParameter,
}

/// A parsed template.
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
    /// Parses a template. `free_text`: the names of the parameters of free text.
    pub(super) fn parse(text: &'t str, free_text: &[String]) -> Result<Self, InvalidTemplate> {
        let mut template = Self { parts: Vec::new(), parameters: Vec::new() };
        let relative = text.strip_prefix('/').ok_or(InvalidTemplate::Form)?;
        for (position, segment) in relative.split('/').enumerate() {
            if position >= MAX_SEGMENTS {
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
                template.parts.push(Part::Literal(parse_literal(segment)?));
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

fn parse_literal(segment: &str) -> Result<&str, InvalidTemplate> {
    if segment.is_empty() {
        return Err(InvalidTemplate::Form);
    }
    if segment.contains(['{', '}']) {
        return Err(InvalidTemplate::Parameter);
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte);
    if segment == "." || segment == ".." || !segment.bytes().all(is_allowed) {
        return Err(InvalidTemplate::Literal);
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_of_a_template_has_its_position() {
        let template = Template::parse("/a/{b}/c/{d}", &["d".to_owned()]).unwrap();
        assert_eq!(template.parts, [Part::Literal("a"), Part::Parameter, Part::Literal("c"), Part::Parameter]);
        let parameter = |name: &str, position, free_text| Parameter { name: name.to_owned(), position, free_text };
        assert_eq!(template.parameters, [parameter("b", 1, false), parameter("d", 3, true)]);
    }

    #[test]
    fn template_that_no_request_could_match_is_invalid() {
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
        let long = "/a".repeat(MAX_SEGMENTS + 1);
        assert_eq!(Template::parse(&long, &[]).unwrap_err(), InvalidTemplate::TooLong);
        assert_eq!(Template::parse("/{a}", &["b".to_owned()]).unwrap_err(), InvalidTemplate::NoSuchParameter);
    }
}
