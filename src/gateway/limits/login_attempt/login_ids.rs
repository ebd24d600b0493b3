//! The login ids that a request for SLAS names.
//!
//! One-time codes and messages are for the shopper of `user_id` or `login_id`. Some operations also take the address or number
//! that receives the message. The gateway reads all of them wherever SLAS might: in the query, in a form and in JSON. It only
//! counts them: they grant nothing, and the gateway neither stores nor forwards what it read.

use std::{borrow::Cow, fmt};

use http::request::Parts;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use crate::gateway::{
    error::GatewayError,
    form::{BodyFormat, Form},
    query::Query,
};

/// Fields with a login id, or with the recipient of a message.
const FIELDS: [&str; 5] = ["user_id", "login_id", "username", "email", "phone_number"];

/// Returns all login ids in the query and the body of a request.
///
/// # Errors
/// [`GatewayError::RequestInvalid`] for a body that is neither a form nor JSON in UTF-8; [`GatewayError::Ambiguous`] for a field
/// with two values, or one that cannot be read.
pub(super) fn in_request(head: &Parts, body: &[u8]) -> Result<Vec<String>, GatewayError> {
    let query = Query::parse(head.uri.query())?;
    let body = Body::read(BodyFormat::of(&head.headers), body)?;
    let mut named = Vec::new();
    for field in FIELDS {
        let in_query = query.single(field)?.filter(|value| !value.is_empty());
        match (in_query, body.single(field)?) {
            (Some(query), Some(body)) if query != body => {
                return Err(GatewayError::Ambiguous(format!(
                    "the query and the body have different values of {field}"
                )));
            }
            (query, body) => named.extend(query.or(body).map(Cow::into_owned)),
        }
    }
    Ok(named)
}

/// The fields of a body.
enum Body<'b> {
    Empty,
    Form { form: Form<'b>, is_ascii_only: bool },
    Json(Fields),
}

impl<'b> Body<'b> {
    fn read(media: BodyFormat, body: &'b [u8]) -> Result<Self, GatewayError> {
        match media {
            _ if body.is_empty() => Ok(Self::Empty),
            BodyFormat::Form { is_ascii_only } => Form::parse(body).map(|form| Self::Form { form, is_ascii_only }),
            BodyFormat::Json => {
                // JSON is UTF-8 (RFC 8259, 8.1).
                let fields = std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str(text).ok());
                fields.map(Self::Json).ok_or_else(|| {
                    GatewayError::RequestInvalid(
                        "The body must be one JSON object, with each field at most once.".into(),
                    )
                })
            }
            BodyFormat::Other => Err(GatewayError::RequestInvalid(
                "The body must be application/x-www-form-urlencoded or application/json, in UTF-8 and not packed."
                    .into(),
            )),
        }
    }

    fn single(&self, field: &str) -> Result<Option<Cow<'_, str>>, GatewayError> {
        match self {
            Self::Empty => Ok(None),
            Self::Form { form, is_ascii_only } => {
                let value = form.single(field)?;
                if *is_ascii_only && value.as_ref().is_some_and(|value| !value.is_ascii()) {
                    return Err(GatewayError::Ambiguous(format!("send the form as UTF-8: {field} is not ASCII")));
                }
                Ok(value)
            }
            Self::Json(Fields(fields)) => {
                let value = fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str());
                Ok(value.filter(|value| !value.is_empty()).map(Cow::Borrowed))
            }
        }
    }
}

/// The [`FIELDS`] of a JSON object. Reading fails if a field occurs twice or is no string.
struct Fields(Vec<(&'static str, String)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields, A::Error> {
                let mut found: Vec<(&'static str, Option<String>)> = Vec::new();
                while let Some(name) = object.next_key::<Cow<'de, str>>()? {
                    let Some(field) = FIELDS.iter().find(|field| **field == name) else {
                        object.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if found.iter().any(|(other, _)| other == field) {
                        return Err(A::Error::duplicate_field(field));
                    }
                    found.push((field, object.next_value()?));
                }
                Ok(Fields(found.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, header::CONTENT_TYPE};
    use proptest::prelude::*;

    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn named(query: &str, content_type: &str, body: &[u8]) -> Result<Vec<String>, GatewayError> {
        let mut request = Request::builder().uri(format!("/a?{query}"));
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        in_request(&request.body(()).unwrap().into_parts().0, body)
    }

    #[test]
    fn login_id_is_read_wherever_slas_might_read_it() {
        for (query, content_type, body, expected) in [
            ("", FORM, "user_id=ada%40example.com&x=1", &["ada@example.com"][..]),
            ("", FORM, "user%5fid=ada+b", &["ada b"]),
            ("", FORM, "user_id=&login_id=ada", &["ada"]),
            ("user_id=ada", FORM, "user_id=ada&email=b%40c", &["ada", "b@c"]),
            ("user_id=ada", "", "", &["ada"]),
            ("login_id=ada", FORM, "login_id=", &["ada"]),
            ("", "application/x-www-form-urlencoded; charset=ISO-8859-1", "user_id=ada", &["ada"]),
            ("", "application/json", r#"{"credential": {"user_id": "x"}, "username": "ada", "email": null}"#, &["ada"]),
            ("", "application/json; charset=utf-8", r#"{"us\u0065r_id": "\u0061da"}"#, &["ada"]),
            ("", "", "", &[]),
        ] {
            assert_eq!(named(query, content_type, body.as_bytes()).unwrap(), expected, "{query} {body}");
        }
    }

    #[test]
    fn body_with_two_readings_or_none_is_rejected() {
        for (query, content_type, body) in [
            ("", FORM, &b"user_id=ada&user_id=bob"[..]),
            ("", FORM, b"user_id=&user_id=ada"),
            ("", FORM, b"user_id=ada&user%5Fid=ada"),
            ("", FORM, b"x=1;user_id=ada"),
            ("", FORM, b"user_id=%FF"),
            ("", FORM, b"user_id=\xff"),
            ("user_id=bob", FORM, b"user_id=ada"),
            ("user_id=bob&user_id=ada", FORM, b""),
            ("", "application/x-www-form-urlencoded; charset=ISO-8859-1", "user_id=ä".as_bytes()),
            ("", "application/x-www-form-urlencoded; charset=utf-16", b"u\0s\0e\0r\0_\0i\0d\0=\0a\0"),
            ("", FORM, b"u\0s\0e\0r\0_\0i\0d\0=\0a\0"),
            ("", "multipart/form-data; boundary=x", b"--x"),
            ("", "text/plain", b"user_id=ada"),
            ("", "", b"user_id=ada"),
            ("", "application/json", br#"{"user_id": "ada", "user_id": "bob"}"#),
            ("", "application/json", br#"{"user_id": 1}"#),
            ("", "application/json", br#"["user_id"]"#),
            ("", "application/json", b"{\"user_id\": \"ada\"} x"),
            ("", "application/json; charset=utf-16", b"{}"),
        ] {
            let error = named(query, content_type, body).unwrap_err();
            assert!(
                matches!(error, GatewayError::Ambiguous(_) | GatewayError::RequestInvalid(_)),
                "{query} {content_type} {}",
                String::from_utf8_lossy(body)
            );
        }
    }

    /// `java.net.URLDecoder.decode(text, UTF_8)`: digits of any script, an optional plus sign, unreadable bytes replaced.
    fn java_decoded(text: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '+' => bytes.push(b' '),
                '%' => {
                    let two: String = characters.by_ref().take(2).collect();
                    let two = two.strip_prefix('+').unwrap_or(&two);
                    // Java takes fullwidth digits for digits.
                    let ascii: String = two
                        .chars()
                        .map(|digit| match digit {
                            '\u{ff10}'..='\u{ff19}' => char::from(b'0' + (digit as u32 - 0xff10) as u8),
                            digit => digit,
                        })
                        .collect();
                    bytes.push(u8::from_str_radix(&ascii, 16).ok()?);
                }
                character => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The login id that a servlet's `getParameter("user_id")` returns: the first in query and form, split at `&`, or at `;` too.
    fn java_user(query: &str, form: &str, separators: &[char]) -> Option<String> {
        let pairs = query.split(separators).chain(form.split(separators));
        let mut fields = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((java_decoded(name)?, java_decoded(value)?))
        });
        fields.find(|(name, _)| name == "user_id").map(|(_, user)| user).filter(|user| !user.is_empty())
    }

    fn field() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "user_id",
            "user%5Fid",
            "user%5fid",
            "use%72_id",
            "user%\u{ff15}Fid",
            "x",
            "user_id%00",
            "USER_ID",
            "",
            "%zz",
            "login_id",
        ]);
        let value = prop::sample::select(vec![
            "ada",
            "a%64a",
            "bob",
            "",
            "%FF",
            "ad%C3%A4",
            "ad\u{e4}",
            "%zz",
            "a+b",
            "a%20b",
            "ada;x=1",
            "1;user_id=ada",
            "%+5",
            "=ada",
        ]);
        (name, value).prop_map(|(name, value)| format!("{name}={value}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn login_id_that_java_reads_is_found_or_request_rejected(
            query in prop::collection::vec(field().prop_filter("a query is ASCII", |field| field.is_ascii()), 0..3),
            form in prop::collection::vec(field(), 0..4),
        ) {
            let (query, form) = (query.join("&"), form.join("&"));
            if let Ok(named) = named(&query, FORM, form.as_bytes()) {
                for separators in [&['&'][..], &['&', ';']] {
                    if let Some(user) = java_user(&query, &form, separators) {
                        prop_assert!(named.contains(&user), "{query} {form}: {user:?} is not in {named:?}");
                    }
                }
            }
        }
    }
}
