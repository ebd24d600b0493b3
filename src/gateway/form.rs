//! A form of a request for SLAS, read for the few fields that decide.
//!
//! Owns what counts as a form and that a deciding field stands in it once. The rest of a form is
//! between the caller and SLAS. A form in another charset than UTF-8 is read only where its deciding fields are ASCII, which
//! every charset in use by forms spells alike.

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::gateway::{
    error::GatewayError,
    path::PathError,
    query::{Query, form_decoded},
};

/// The field of a refresh token in forms and queries.
pub(super) const REFRESH_TOKEN: &str = "refresh_token";
/// The media type of SLAS's requests (RFC 6749, appendix B).
const FORM: &str = "application/x-www-form-urlencoded";
/// The media type of the WebAuthn operations that finish.
const JSON: &str = "application/json";

/// Charsets in which ASCII is ASCII, so that a client whose HTTP library names one of them is served.
const ASCII_CHARSETS: [&str; 6] = ["utf-8", "utf8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252"];

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a body is, as far as the gateway reads bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Media {
    /// A form in UTF-8, or whose deciding fields must be ASCII.
    Form {
        /// Whether the charset is another than UTF-8.
        is_ascii_only: bool,
    },
    /// JSON.
    Json,
    /// Anything else, packed or in an unknown charset.
    Other,
}

impl Media {
    /// What the header says of the body.
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

/// Whether the parameters of a content type name another charset than UTF-8; `None` for one in which ASCII may be spelled
/// otherwise, or for two.
fn is_ascii_only(parameters: &str) -> Option<bool> {
    let named = parameters.split(';').filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    let mut is_other = None;
    for charset in named {
        if !ASCII_CHARSETS.contains(&charset.as_str()) || is_other.replace(!charset.starts_with("utf")).is_some() {
            return None;
        }
    }
    Some(is_other.unwrap_or(false))
}

/// Whether a body is a form that can be read as it is.
pub(in crate::gateway) fn is_form(headers: &HeaderMap) -> bool {
    matches!(Media::of(headers), Media::Form { .. })
}

/// A form with one reading.
#[derive(Debug)]
pub struct Form<'b>(Query<'b>);

impl<'b> Form<'b> {
    /// Reads a form.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] if a field that decides about identity is there twice or cannot be read, or if another reader
    /// may see other fields: a byte order mark, a NUL, or the name of a field that cannot be decoded.
    pub fn read(body: &'b [u8]) -> Result<Self, GatewayError> {
        let ambiguous = |why: &str| GatewayError::Ambiguous(why.to_owned());
        let text = std::str::from_utf8(body).map_err(|_| ambiguous("the form is not UTF-8"))?;
        if text.starts_with('\u{feff}') || text.contains('\0') {
            return Err(ambiguous("the form has a byte order mark or a NUL"));
        }
        let mut names = text.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        if names.any(|name| form_decoded(name).is_err()) {
            return Err(ambiguous("the name of a field of the form cannot be read"));
        }
        Query::parse(Some(text)).map(Self).map_err(refusal)
    }

    /// A field that may stand once; an empty one counts as absent.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] if it is there twice or cannot be read.
    pub fn single(&self, name: &str) -> Result<Option<Cow<'_, str>>, GatewayError> {
        Ok(self.0.single(name).map_err(refusal)?.filter(|value| !value.is_empty()))
    }
}

/// The form with another value in a field that stands in it, and all else byte for byte.
pub(in crate::gateway) fn replaced(text: &str, name: &str, value: &str) -> String {
    let is_it = |pair: &str| Query::parse(Some(pair)).is_ok_and(|pair| matches!(pair.single(name), Ok(Some(_))));
    let pairs = text.split('&').map(|pair| match is_it(pair) {
        true => Cow::Owned(format!("{name}={}", utf8_percent_encode(value, RESERVED))),
        false => Cow::Borrowed(pair),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn refusal(ambiguity: PathError) -> GatewayError {
    GatewayError::Ambiguous(match ambiguity {
        PathError::RepeatedParameter => "a field of the form that decides about identity is repeated".to_owned(),
        other => format!("the form cannot be read: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_says_that_it_is_one() {
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
        for (parameters, media) in [
            ("charset=utf-8", Media::Form { is_ascii_only: false }),
            ("Charset=\"UTF-8\"; x=y", Media::Form { is_ascii_only: false }),
            ("charset=ISO-8859-1", Media::Form { is_ascii_only: true }),
            ("charset=utf-16", Media::Other),
            ("charset=ibm037", Media::Other),
            ("charset=", Media::Other),
            ("charset=utf-8; charset=utf-16", Media::Other),
            ("charset=utf-8; charset=utf-8", Media::Other),
        ] {
            let value = HeaderValue::from_str(&format!("{FORM}; {parameters}")).unwrap();
            assert_eq!(Media::of(&HeaderMap::from_iter([(CONTENT_TYPE, value)])), media, "{parameters}");
        }
        let mut packed = headers(&[FORM]);
        packed.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!is_form(&packed));
    }

    #[test]
    fn one_field_is_replaced_and_nothing_else() {
        let swapped = |text| replaced(text, "refresh_token", "a.b-c+d");
        assert_eq!(swapped("x=%zz&refresh%5Ftoken=old&y=a+b&&"), "x=%zz&refresh_token=a.b-c%2Bd&y=a+b&&");
        assert_eq!(swapped("refresh_tokens=1&a=refresh_token"), "refresh_tokens=1&a=refresh_token");
        assert_eq!(swapped("refresh_token"), "refresh_token=a.b-c%2Bd");
        assert_eq!(swapped(""), "");
    }

    #[test]
    fn a_deciding_field_stands_once() {
        let client = |body: &str| Form::read(body.as_bytes())?.single("client_id").map(|id| id.map(Cow::into_owned));
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
        assert!(matches!(Form::read(b"a=\xff"), Err(GatewayError::Ambiguous(_))));
        assert_eq!(client("a=1;b&client_id=x"), Ok(Some("x".to_owned())), "a semicolon elsewhere is nobody's");
    }
}
