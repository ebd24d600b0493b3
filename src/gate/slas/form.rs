//! A form of a request for SLAS, read for the few fields that decide.
//!
//! Owns what counts as a form and that a deciding field stands in it once. The rest of a form is
//! between the caller and SLAS.

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::gate::{
    path::{Ambiguity, Query},
    refusal::Refusal,
};

/// The media type of SLAS's requests (RFC 6749, appendix B).
const FORM: &str = "application/x-www-form-urlencoded";

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Whether a body is a form that can be read as it is.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let essence = types.next().and_then(|value| value.to_str().ok()).and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(FORM))
        && types.next().is_none()
        && !headers.contains_key(CONTENT_ENCODING)
}

/// A form with one reading.
#[derive(Debug)]
pub(super) struct Form<'b>(Query<'b>);

impl<'b> Form<'b> {
    /// Reads a form.
    ///
    /// # Errors
    /// [`Refusal::Ambiguous`] if a field that decides about identity is there twice or cannot be read.
    pub(super) fn read(body: &'b [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(body).map_err(|_| Refusal::Ambiguous("the form is not UTF-8".into()))?;
        Query::parse(Some(text)).map(Self).map_err(refusal)
    }

    /// A field that may stand once; an empty one counts as absent.
    ///
    /// # Errors
    /// [`Refusal::Ambiguous`] if it is there twice or cannot be read.
    pub(super) fn single(&self, name: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
        Ok(self.0.single(name).map_err(refusal)?.filter(|value| !value.is_empty()))
    }
}

/// The form with another value in a field that stands in it, and all else byte for byte.
pub(super) fn replaced(text: &str, name: &str, value: &str) -> String {
    let is_it = |pair: &str| Query::parse(Some(pair)).is_ok_and(|pair| matches!(pair.single(name), Ok(Some(_))));
    let pairs = text.split('&').map(|pair| match is_it(pair) {
        true => Cow::Owned(format!("{name}={}", utf8_percent_encode(value, RESERVED))),
        false => Cow::Borrowed(pair),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn refusal(ambiguity: Ambiguity) -> Refusal {
    Refusal::Ambiguous(match ambiguity {
        Ambiguity::RepeatedParameter => "a field of the form that decides about identity is repeated".to_owned(),
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
        for body in ["client_id=a&client_id=b", "client_id=a&client%5Fid=a", "client_id=%zz", "client_id=%FF"] {
            assert!(matches!(client(body), Err(Refusal::Ambiguous(_))), "{body}");
        }
        assert!(matches!(Form::read(b"a=\xff"), Err(Refusal::Ambiguous(_))));
    }
}
