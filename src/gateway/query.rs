//! The one reading of the query parameters that decide about identity.
//!
//! [`Query::parse`] rejects a query in which two readers could see two identities. Other parameters are between the client and
//! Salesforce.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::path::{PathError, escape};

/// The query parameters of which two values would let two parties see two identities.
const SINGLE: [&str; 3] = ["siteId", "clientId", "client_id"];

/// A parameter that the gateway reads in the path: a query must not give it another value by a semicolon.
const ORGANIZATION: &str = "organizationId";

/// A request's query, read once. Only the parameters asked for are looked at strictly: what else a
/// caller sends is between the caller and Salesforce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    raw: &'a str,
    single: [Option<Cow<'a, str>>; SINGLE.len()],
}

impl<'a> Query<'a> {
    /// Reads the query of a request target (without its question mark), if it has one. Refuses a
    /// second value of `siteId`, `clientId` or `client_id`, and one that cannot be read.
    pub fn parse(raw: Option<&'a str>) -> Result<Self, PathError> {
        let raw = raw.unwrap_or_default();
        let mut single = [None, None, None];
        for pair in raw.split('&') {
            for (name, found) in SINGLE.iter().zip(&mut single) {
                let Some(value) = value_of(pair, name)? else { continue };
                if found.replace(value).is_some() {
                    return Err(PathError::RepeatedParameter);
                }
            }
        }
        if raw.contains(';') {
            SINGLE.iter().chain([&ORGANIZATION]).try_for_each(|name| refuse_second_separator(raw, name))?;
        }
        Ok(Self { raw, single })
    }

    /// The value of a parameter that may stand at most once.
    pub fn single(&self, name: &str) -> Result<Option<Cow<'_, str>>, PathError> {
        if let Some(position) = SINGLE.iter().position(|single| *single == name) {
            return Ok(self.single.get(position).cloned().flatten());
        }
        refuse_second_separator(self.raw, name)?;
        let mut found = None;
        for pair in self.raw.split('&') {
            let Some(value) = value_of(pair, name)? else { continue };
            if found.replace(value).is_some() {
                return Err(PathError::RepeatedParameter);
            }
        }
        Ok(found)
    }
}

/// Refuses a query in which splitting at `;` as well as at `&`, as older servers do, gives a parameter another value. Any other
/// semicolon is between the caller and Salesforce.
fn refuse_second_separator(raw: &str, name: &str) -> Result<(), PathError> {
    if !raw.contains(';') {
        return Ok(());
    }
    let read = |separators: &[char]| {
        let values = raw.split(separators).filter_map(|pair| value_of(pair, name).transpose());
        values.collect::<Result<Vec<_>, _>>()
    };
    if read(&['&'])? == read(&['&', ';'])? { Ok(()) } else { Err(PathError::SecondSeparator) }
}

/// The value of `name=value`, when the pair is of that name in any spelling.
fn value_of<'a>(pair: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, PathError> {
    let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
    if own != name {
        if !own.contains(['%', '+']) {
            return Ok(None);
        }
        let resembling = percent_decode_str(own).decode_utf8_lossy().contains(name);
        match form_decoded(own) {
            Ok(decoded) if decoded == name => {}
            Err(ambiguity) if resembling => return Err(ambiguity),
            _ => return Ok(None),
        }
    }
    form_decoded(value).map(Some)
}

/// A name or value of a query, with `+` for a space.
pub(super) fn form_decoded(text: &str) -> Result<Cow<'_, str>, PathError> {
    let mut rest = text.as_bytes();
    while let Some(position) = rest.iter().position(|&byte| byte == b'%') {
        let (Some(&high), Some(&low)) = (rest.get(position + 1), rest.get(position + 2)) else {
            return Err(PathError::MalformedEscape);
        };
        escape(high, low).ok_or(PathError::MalformedEscape)?;
        rest = &rest[position + 3..];
    }
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| PathError::NotUtf8)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| PathError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(raw: &str, name: &str) -> Result<Option<String>, PathError> {
        Query::parse(Some(raw))?.single(name).map(|value| value.map(Cow::into_owned))
    }

    #[test]
    fn a_query_parameter_is_decoded_once() {
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
    fn two_identities_are_refused() {
        for raw in [
            "siteId=a&siteId=b",
            "siteId=a&siteId=a",
            "siteId=a&x=1&site%49d=b",
            "clientId=a&clientId=b",
            "client_id=a&client%5Fid=b",
            "siteId&siteId=a",
        ] {
            assert_eq!(Query::parse(Some(raw)), Err(PathError::RepeatedParameter), "{raw}");
        }
        assert_eq!(single("channel_id=a&channel_id=b", "channel_id"), Err(PathError::RepeatedParameter));
        assert_eq!(single("q=a&q=b", "siteId"), Ok(None));
    }

    #[test]
    fn a_semicolon_is_refused_only_where_it_gives_a_deciding_parameter_another_value() {
        for raw in [
            "x=1;siteId=b&siteId=a",
            "siteId=a;b",
            "siteId=a;x=1",
            "x=1;siteId=a",
            "x=;client%5Fid=a",
            "x=1;organizationId=a",
            "organizationId=a;b",
        ] {
            assert_eq!(Query::parse(Some(raw)), Err(PathError::SecondSeparator), "{raw}");
        }
        for raw in ["refine=a=b;c=d&siteId=a", "siteId=a&x=;", ";&siteId=a", "siteId=a&x=1;site=b", "x=%3BsiteId=b"] {
            assert!(Query::parse(Some(raw)).is_ok(), "{raw}");
        }
        assert_eq!(single("x=1;channel_id=a", "channel_id"), Err(PathError::SecondSeparator));
        assert_eq!(single("x=1;channel_id=a", "hint"), Ok(None));
    }

    #[test]
    fn an_identity_that_cannot_be_read_is_refused() {
        for raw in ["siteId=%", "siteId=%4", "clientId=a%zz", "client_id=%4+", "siteId%=a", "siteId%zz=a"] {
            assert_eq!(Query::parse(Some(raw)), Err(PathError::MalformedEscape), "{raw}");
        }
        for raw in ["siteId=%FF", "siteId%FF=a"] {
            assert_eq!(Query::parse(Some(raw)), Err(PathError::NotUtf8), "{raw}");
        }
        for raw in ["q=%", "q=%FF", "q%zz=a", "%FF=a"] {
            assert!(Query::parse(Some(raw)).is_ok(), "{raw}");
        }
    }
}
