//! Parses the query parameters that identify a site, a client or an organization.
//!
//! A query in which two servers could read two identities is rejected. All other parameters are forwarded without a check.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::path::decode_escape;

/// The parameters that identify, and may occur only once.
const IDENTIFYING: [&str; 3] = ["siteId", "clientId", "client_id"];

/// The gateway reads this parameter from the path. A semicolon in the query must not give it another value.
const ORGANIZATION: &str = "organizationId";

/// The reason why a query has more than one reading. The text never contains the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A percent sign has no two hexadecimal digits after it.
    #[error("a parameter has a malformed escape")]
    MalformedEscape,
    /// Decoded bytes are not UTF-8.
    #[error("a parameter has escaped bytes that are not UTF-8")]
    NotUtf8,
    /// A parameter that may occur once occurs more than once.
    #[error("a parameter that identifies a client, site or shopper is repeated")]
    RepeatedParameter,
    /// For a server that splits the query at semicolons too, a parameter has another value.
    #[error("a semicolon gives a parameter that identifies a client, site or shopper a second value")]
    SecondSeparator,
}

/// A query whose identifying parameters have one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    raw: &'a str,
    identifying: [Option<Cow<'a, str>>; IDENTIFYING.len()],
}

impl<'a> Query<'a> {
    /// Parses the query of a request target, without its question mark.
    ///
    /// # Errors
    /// The reason why `siteId`, `clientId`, `client_id` or `organizationId` has more than one reading.
    pub fn parse(raw: Option<&'a str>) -> Result<Self, QueryError> {
        let raw = raw.unwrap_or_default();
        let mut identifying = [None, None, None];
        for pair in raw.split('&') {
            for (name, found) in IDENTIFYING.iter().zip(&mut identifying) {
                let Some(value) = value_of(pair, name)? else { continue };
                if found.replace(value).is_some() {
                    return Err(QueryError::RepeatedParameter);
                }
            }
        }
        if raw.contains(';') {
            IDENTIFYING.iter().chain([&ORGANIZATION]).try_for_each(|name| reject_second_separator(raw, name))?;
        }
        Ok(Self { raw, identifying })
    }

    /// The value of a parameter that may occur once.
    ///
    /// # Errors
    /// The reason why the parameter has more than one reading.
    pub fn single(&self, name: &str) -> Result<Option<Cow<'_, str>>, QueryError> {
        if let Some(position) = IDENTIFYING.iter().position(|identifying| *identifying == name) {
            return Ok(self.identifying.get(position).cloned().flatten());
        }
        reject_second_separator(self.raw, name)?;
        let mut found = None;
        for pair in self.raw.split('&') {
            let Some(value) = value_of(pair, name)? else { continue };
            if found.replace(value).is_some() {
                return Err(QueryError::RepeatedParameter);
            }
        }
        Ok(found)
    }
}

/// Rejects a query that gives a parameter another value when it is split at `;` as well as at `&`, as older servers do.
fn reject_second_separator(raw: &str, name: &str) -> Result<(), QueryError> {
    if !raw.contains(';') {
        return Ok(());
    }
    let values = |separators: &[char]| {
        let values = raw.split(separators).filter_map(|pair| value_of(pair, name).transpose());
        values.collect::<Result<Vec<_>, _>>()
    };
    if values(&['&'])? == values(&['&', ';'])? { Ok(()) } else { Err(QueryError::SecondSeparator) }
}

/// The value of the pair `name=value`, if the pair's decoded name is this one.
fn value_of<'a>(pair: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, QueryError> {
    let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
    if own != name {
        if !own.contains(['%', '+']) {
            return Ok(None);
        }
        let resembles_name = percent_decode_str(own).decode_utf8_lossy().contains(name);
        match decode_form(own) {
            Ok(decoded) if decoded == name => {}
            Err(error) if resembles_name => return Err(error),
            _ => return Ok(None),
        }
    }
    decode_form(value).map(Some)
}

/// Decodes a name or a value, with `+` as a space.
pub(super) fn decode_form(text: &str) -> Result<Cow<'_, str>, QueryError> {
    let mut rest = text.as_bytes();
    while let Some(position) = rest.iter().position(|&byte| byte == b'%') {
        let (Some(&high), Some(&low)) = (rest.get(position + 1), rest.get(position + 2)) else {
            return Err(QueryError::MalformedEscape);
        };
        decode_escape(high, low).ok_or(QueryError::MalformedEscape)?;
        rest = &rest[position + 3..];
    }
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| QueryError::NotUtf8)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| QueryError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(raw: &str, name: &str) -> Result<Option<String>, QueryError> {
        Query::parse(Some(raw))?.single(name).map(|value| value.map(Cow::into_owned))
    }

    #[test]
    fn parameter_with_escapes_is_decoded_once() {
        for (raw, value) in [
            ("siteId=RefArch", Some("RefArch")),
            ("a=b&siteId=RefArch&c=%zz", Some("RefArch")),
            ("siteId=Ref+Arch%2B%2525", Some("Ref Arch+%25")),
            ("site%49d=RefArch", Some("RefArch")),
            ("siteId", Some("")),
            ("siteId=a=b", Some("a=b")),
            ("siteid=RefArch&SITEID=b&xsiteId=c", None),
            ("", None),
        ] {
            assert_eq!(single(raw, "siteId"), Ok(value.map(str::to_owned)), "{raw}");
        }
        assert_eq!(single("client_id=a&clientId=b", "client_id"), Ok(Some("a".to_owned())));
        assert_eq!(single("client_id=a&clientId=b", "clientId"), Ok(Some("b".to_owned())));
        assert_eq!(single("x=1&channel_id=a%20b", "channel_id"), Ok(Some("a b".to_owned())));
        assert_eq!(Query::parse(None).unwrap().single("siteId"), Ok(None));
    }

    #[test]
    fn repeated_identifying_parameter_is_rejected() {
        for raw in [
            "siteId=a&siteId=b",
            "siteId=a&siteId=a",
            "siteId=a&x=1&site%49d=b",
            "clientId=a&clientId=b",
            "client_id=a&client%5Fid=b",
            "siteId&siteId=a",
        ] {
            assert_eq!(Query::parse(Some(raw)), Err(QueryError::RepeatedParameter), "{raw}");
        }
        assert_eq!(single("channel_id=a&channel_id=b", "channel_id"), Err(QueryError::RepeatedParameter));
        assert_eq!(single("q=a&q=b", "siteId"), Ok(None));
    }

    #[test]
    fn semicolon_that_changes_an_identifying_parameter_is_rejected() {
        for raw in [
            "x=1;siteId=b&siteId=a",
            "siteId=a;b",
            "siteId=a;x=1",
            "x=1;siteId=a",
            "x=;client%5Fid=a",
            "x=1;organizationId=a",
            "organizationId=a;b",
        ] {
            assert_eq!(Query::parse(Some(raw)), Err(QueryError::SecondSeparator), "{raw}");
        }
        for raw in ["refine=a=b;c=d&siteId=a", "siteId=a&x=;", ";&siteId=a", "siteId=a&x=1;site=b", "x=%3BsiteId=b"] {
            assert!(Query::parse(Some(raw)).is_ok(), "{raw}");
        }
        assert_eq!(single("x=1;channel_id=a", "channel_id"), Err(QueryError::SecondSeparator));
        assert_eq!(single("x=1;channel_id=a", "hint"), Ok(None));
    }

    #[test]
    fn malformed_identifying_parameter_is_rejected() {
        for raw in ["siteId=%", "siteId=%4", "clientId=a%zz", "client_id=%4+", "siteId%=a", "siteId%zz=a"] {
            assert_eq!(Query::parse(Some(raw)), Err(QueryError::MalformedEscape), "{raw}");
        }
        for raw in ["siteId=%FF", "siteId%FF=a"] {
            assert_eq!(Query::parse(Some(raw)), Err(QueryError::NotUtf8), "{raw}");
        }
        for raw in ["q=%", "q=%FF", "q%zz=a", "%FF=a"] {
            assert!(Query::parse(Some(raw)).is_ok(), "{raw}");
        }
    }
}
