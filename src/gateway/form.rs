//! Parses the form bodies of requests for SLAS.
//!
//! A form in which two servers could read two identities is rejected. Other fields are forwarded without a check. In a form of
//! another charset than UTF-8 the fields that the gateway reads must be ASCII, which the accepted charsets encode alike.

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::gateway::{
    error::GatewayError,
    query::{Query, QueryError, decode_form},
};

/// The name of the refresh token in forms and queries.
pub(super) const REFRESH_TOKEN: &str = "refresh_token";
/// The media type of SLAS's requests (RFC 6749, appendix B).
const FORM: &str = "application/x-www-form-urlencoded";
/// The media type of the last request of a WebAuthn flow.
const JSON: &str = "application/json";
/// The charsets that contain ASCII unchanged. HTTP libraries of clients name them.
const ASCII_CHARSETS: [&str; 6] = ["utf-8", "utf8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252"];
/// All characters except RFC 3986's unreserved ones.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The format of a request's body, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum BodyFormat {
    /// A form.
    Form {
        /// Whether the charset is not UTF-8, so that the fields that the gateway reads must be ASCII.
        is_ascii_only: bool,
    },
    /// JSON.
    Json,
    /// Another media type, a compressed body, or an unknown charset.
    Other,
}

impl BodyFormat {
    /// The format that a request's header declares.
    pub(in crate::gateway) fn of(headers: &HeaderMap) -> Self {
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let text = types.next().and_then(|value| value.to_str().ok());
        let (Some(text), None, false) = (text, types.next(), headers.contains_key(CONTENT_ENCODING)) else {
            return Self::Other;
        };
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim();
        let Some(is_ascii_only) = is_ascii_only(parameters) else { return Self::Other };
        if essence.eq_ignore_ascii_case(FORM) {
            Self::Form { is_ascii_only }
        } else if essence.eq_ignore_ascii_case(JSON) && !is_ascii_only {
            Self::Json
        } else {
            Self::Other
        }
    }
}

/// Whether the parameters of a media type name another charset than UTF-8. `None` if they name an unknown one, or two.
fn is_ascii_only(parameters: &str) -> Option<bool> {
    let charsets = parameters.split(';').filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    let mut is_other = None;
    for charset in charsets {
        if !ASCII_CHARSETS.contains(&charset.as_str()) || is_other.replace(!charset.starts_with("utf")).is_some() {
            return None;
        }
    }
    Some(is_other.unwrap_or(false))
}

/// Whether the body is a form that the gateway can read.
pub(in crate::gateway) fn is_form(headers: &HeaderMap) -> bool {
    matches!(BodyFormat::of(headers), BodyFormat::Form { .. })
}

/// A form whose identifying fields have one reading.
#[derive(Debug)]
pub struct Form<'b>(Query<'b>);

impl<'b> Form<'b> {
    /// Parses a form.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] if an identifying field is repeated or malformed, or if other servers may read other fields
    /// because of a byte order mark, a NUL or a malformed name.
    pub fn parse(body: &'b [u8]) -> Result<Self, GatewayError> {
        let ambiguous = |problem: &str| GatewayError::Ambiguous(problem.to_owned());
        let text = std::str::from_utf8(body).map_err(|_| ambiguous("the form is not UTF-8"))?;
        if text.starts_with('\u{feff}') || text.contains('\0') {
            return Err(ambiguous("the form has a byte order mark or a NUL"));
        }
        let mut names = text.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        if names.any(|name| decode_form(name).is_err()) {
            return Err(ambiguous("the form has a field with a malformed name"));
        }
        Query::parse(Some(text)).map(Self).map_err(ambiguous_form)
    }

    /// The value of a field that may occur once. An empty value counts as absent.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] if the field is repeated or malformed.
    pub fn single(&self, name: &str) -> Result<Option<Cow<'_, str>>, GatewayError> {
        Ok(self.0.single(name).map_err(ambiguous_form)?.filter(|value| !value.is_empty()))
    }
}

/// Replaces the value of a field, and keeps all other bytes.
pub(in crate::gateway) fn replace_value(text: &str, name: &str, value: &str) -> String {
    let has_name = |pair: &str| Query::parse(Some(pair)).is_ok_and(|pair| matches!(pair.single(name), Ok(Some(_))));
    let pairs = text.split('&').map(|pair| match has_name(pair) {
        true => Cow::Owned(format!("{name}={}", utf8_percent_encode(value, RESERVED))),
        false => Cow::Borrowed(pair),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn ambiguous_form(error: QueryError) -> GatewayError {
    GatewayError::Ambiguous(format!("the form has more than one reading: {error}"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn body_format_follows_content_type_and_encoding() {
        let headers = |types: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in types {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            headers
        };
        assert!(is_form(&headers(&["application/x-www-form-urlencoded"])));
        assert!(is_form(&headers(&["Application/X-WWW-Form-Urlencoded ; charset=UTF-8"])));
        for types in [&[][..], &["application/json"], &["text/plain"], &[FORM, FORM], &["x, application/x-www-form"]] {
            assert!(!is_form(&headers(types)), "{types:?}");
        }
        for (parameters, format) in [
            ("charset=utf-8", BodyFormat::Form { is_ascii_only: false }),
            ("Charset=\"UTF-8\"; x=y", BodyFormat::Form { is_ascii_only: false }),
            ("charset=ISO-8859-1", BodyFormat::Form { is_ascii_only: true }),
            ("charset=utf-16", BodyFormat::Other),
            ("charset=ibm037", BodyFormat::Other),
            ("charset=", BodyFormat::Other),
            ("charset=utf-8; charset=utf-16", BodyFormat::Other),
            ("charset=utf-8; charset=utf-8", BodyFormat::Other),
        ] {
            let value = HeaderValue::from_str(&format!("{FORM}; {parameters}")).unwrap();
            assert_eq!(BodyFormat::of(&HeaderMap::from_iter([(CONTENT_TYPE, value)])), format, "{parameters}");
        }
        let mut compressed = headers(&[FORM]);
        compressed.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!is_form(&compressed));
    }

    #[test]
    fn replaced_value_changes_no_other_byte() {
        let replaced = |text| replace_value(text, "refresh_token", "a.b-c+d");
        assert_eq!(replaced("x=%zz&refresh%5Ftoken=old&y=a+b&&"), "x=%zz&refresh_token=a.b-c%2Bd&y=a+b&&");
        assert_eq!(replaced("refresh_tokens=1&a=refresh_token"), "refresh_tokens=1&a=refresh_token");
        assert_eq!(replaced("refresh_token"), "refresh_token=a.b-c%2Bd");
        assert_eq!(replaced(""), "");
    }

    #[test]
    fn identifying_field_with_a_second_reading_is_rejected() {
        let client = |body: &str| Form::parse(body.as_bytes())?.single("client_id").map(|id| id.map(Cow::into_owned));
        assert_eq!(client("a=1&client_id=x%2Dy&b"), Ok(Some("x-y".to_owned())));
        assert_eq!(client(""), Ok(None));
        assert_eq!(client("client_id="), Ok(None));
        for body in [
            "client_id=a&client_id=b",
            "client_id=a&client%5Fid=a",
            "client_id=%zz",
            "client_id=%FF",
            "x=1;client_id=a",
            "client_id=a;x=1",
            "client_id=a&x=1;client%5fid=b",
            "\u{feff}client_id=a",
            "client_id=a\0",
            "client%5id=a",
            "client%\u{ff15}Fid=a",
        ] {
            assert!(matches!(client(body), Err(GatewayError::Ambiguous(_))), "{body}");
        }
        assert!(matches!(Form::parse(b"a=\xff"), Err(GatewayError::Ambiguous(_))));
        assert_eq!(
            client("a=1;b&client_id=x"),
            Ok(Some("x".to_owned())),
            "a semicolon in another field changes no identity"
        );
    }
}
