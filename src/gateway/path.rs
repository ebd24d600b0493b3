//! The one reading of a request's path and of the query parameters that decide about identity.
//!
//! Owns which spellings are refused because two parties could read them differently. Knows nothing of
//! operations: whether an encoded slash may stand in a segment is for the matched template to say, so
//! it is kept here as a fact. What is accepted is forwarded exactly as it was received; the decoded
//! text exists only to decide by.
//!
//! The rule behind the list of refusals: a gate that matches one reading and an upstream that serves
//! another is no gate. So nothing is repaired or normalised, and whatever could become a dot segment,
//! a backslash or a control character after any number of further decodings is refused at once.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Why a request target has more than one reading. The text names the reason and never the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// Not in origin form.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A double or a trailing slash.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..`, in any spelling.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A backslash, in any spelling.
    #[error("the path has a backslash")]
    Backslash,
    /// A control character, in any spelling.
    #[error("the path has a control character")]
    ControlCharacter,
    /// A raw semicolon, which some servers read as the start of path parameters.
    #[error("the path has an unencoded semicolon")]
    Semicolon,
    /// A percent sign without two hexadecimal digits.
    #[error("an escape is malformed")]
    MalformedEscape,
    /// Escapes that make no UTF-8, or more bytes than the character needs.
    #[error("escaped bytes are not UTF-8")]
    NotUtf8,
    /// A raw character that RFC 3986 does not allow in a path.
    #[error("the path has a character that must be escaped")]
    ForbiddenCharacter,
    /// An escape of a character that no encoder escapes.
    #[error("a character is escaped that needs no escape")]
    NeedlessEscape,
    /// An escape where an operation's path has fixed text.
    #[error("a fixed part of the path is escaped")]
    EncodedLiteral,
    /// An encoded slash where the operation takes no free text.
    #[error("an encoded slash stands where no free text is expected")]
    EncodedSlash,
    /// Reading the encoded slashes as slashes leads to another operation.
    #[error("an encoded slash gives the path a second reading")]
    SecondReading,
    /// More than one value of a query parameter that must be single.
    #[error("a query parameter that decides about identity is repeated")]
    RepeatedParameter,
    /// An unencoded semicolon that some servers read as a separator, which gives a deciding parameter another value.
    #[error("an unencoded semicolon gives a parameter that decides about identity a second reading")]
    SecondSeparator,
}

/// One segment of a path: as it came, and as it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<'a> {
    raw: &'a str,
    decoded: Cow<'a, str>,
    has_encoded_slash: bool,
}

impl<'a> Segment<'a> {
    /// The segment as received.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The segment, percent-decoded once.
    #[must_use]
    pub fn decoded(&self) -> &str {
        &self.decoded
    }

    /// Whether a slash appears after one or more decodings.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.has_encoded_slash
    }

    /// Whether anything in it is escaped.
    #[must_use]
    pub fn is_escaped(&self) -> bool {
        self.raw != self.decoded
    }

    /// The segment as it reads after as many decodings as it takes.
    pub(super) fn settled(&self) -> String {
        String::from_utf8_lossy(&settled(self.raw)).into_owned()
    }

    fn parse(raw: &'a str) -> Result<Self, PathError> {
        let spelling = SegmentFlags::of(raw)?;
        if !spelling.escaped {
            refuse_dots(raw.as_bytes())?;
            return Ok(Self { raw, decoded: Cow::Borrowed(raw), has_encoded_slash: false });
        }
        let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| PathError::NotUtf8)?;
        let settled = settled(raw);
        refuse_hidden(&settled)?;
        if spelling.needlessly {
            return Err(PathError::NeedlessEscape);
        }
        Ok(Self { raw, decoded, has_encoded_slash: settled.contains(&b'/') })
    }
}

/// What the raw bytes of a segment tell before anything is decoded.
struct SegmentFlags {
    escaped: bool,
    needlessly: bool,
}

impl SegmentFlags {
    fn of(raw: &str) -> Result<Self, PathError> {
        let bytes = raw.as_bytes();
        let mut spelling = Self { escaped: false, needlessly: false };
        let mut position = 0;
        if bytes.is_empty() {
            return Err(PathError::EmptySegment);
        }
        while let Some(&byte) = bytes.get(position) {
            match byte {
                b'%' => {
                    let digits = (bytes.get(position + 1), bytes.get(position + 2));
                    let (Some(&high), Some(&low)) = digits else { return Err(PathError::MalformedEscape) };
                    let escaped = escape(high, low).ok_or(PathError::MalformedEscape)?;
                    spelling.escaped = true;
                    spelling.needlessly |= is_unreserved(escaped);
                    position += 2;
                }
                b';' => return Err(PathError::Semicolon),
                b'\\' => return Err(PathError::Backslash),
                0..0x20 | 0x7f => return Err(PathError::ControlCharacter),
                _ if is_unreserved(byte) || b"!$&'()*+,=:@".contains(&byte) => {}
                _ => return Err(PathError::ForbiddenCharacter),
            }
            position += 1;
        }
        Ok(spelling)
    }
}

/// A request's path, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath<'a> {
    raw: &'a str,
    segments: Vec<Segment<'a>>,
}

impl<'a> RequestPath<'a> {
    /// Reads the path of a request target (without its query). A bare `/` has no segments.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        let below = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if below.is_empty() {
            return Ok(Self { raw, segments: Vec::new() });
        }
        let mut segments = Vec::with_capacity(16);
        for segment in below.split('/') {
            segments.push(Segment::parse(segment)?);
        }
        Ok(Self { raw, segments })
    }

    /// The path as received.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The segments in their order.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The same path without a fixed prefix such as `/mobify/slas/private`, where it stands below it.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Option<Self> {
        let raw = self.raw.strip_prefix(prefix)?;
        let depth = prefix.matches('/').count();
        raw.starts_with('/').then(|| Self { raw, segments: self.segments.get(depth..).unwrap_or_default().to_vec() })
    }
}

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

/// Refuses what only comes to light by decoding, once or many times.
fn refuse_hidden(settled: &[u8]) -> Result<(), PathError> {
    if settled.contains(&b'\\') {
        return Err(PathError::Backslash);
    }
    if settled.iter().any(u8::is_ascii_control) || has_pair(settled, 0xc2, 0x80..0xa0) {
        return Err(PathError::ControlCharacter);
    }
    // Overlong forms of ASCII: no UTF-8, but lenient decoders read a dot or a slash in them. Other
    // bytes that are no UTF-8 may stand here: `50%ab` is a text like any other once it is escaped.
    let overlong = settled.iter().any(|byte| matches!(byte, 0xc0 | 0xc1))
        || has_pair(settled, 0xe0, 0x80..0xa0)
        || has_pair(settled, 0xf0, 0x80..0x90);
    if overlong {
        return Err(PathError::NotUtf8);
    }
    settled.split(|&byte| byte == b'/').try_for_each(refuse_dots)
}

/// Refuses `.` and `..`, with or without path parameters behind them.
fn refuse_dots(segment: &[u8]) -> Result<(), PathError> {
    let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
    if matches!(name, b"." | b"..") { Err(PathError::DotSegment) } else { Ok(()) }
}

/// The bytes that are left when decoding is repeated until nothing changes, found in one pass: an
/// escape holds no second percent sign, so the order of decoding makes no difference.
fn settled(raw: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(raw.len());
    for byte in raw.bytes() {
        bytes.push(byte);
        while let [.., b'%', high, low] = bytes[..] {
            let Some(escaped) = escape(high, low) else { break };
            bytes.truncate(bytes.len() - 3);
            bytes.push(escaped);
        }
    }
    bytes
}

/// The byte that two hexadecimal digits stand for.
fn escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn has_pair(bytes: &[u8], first: u8, second: std::ops::Range<u8>) -> bool {
    bytes.windows(2).any(|pair| pair[0] == first && second.contains(&pair[1]))
}

/// RFC 3986's unreserved characters: all that `encodeURIComponent` leaves alone, except `!*'()`, which
/// older encoders escape and which are therefore accepted in both spellings.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

#[cfg(test)]
mod tests {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    /// What JavaScript's `encodeURIComponent` escapes.
    const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'!')
        .remove(b'~')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');

    fn refusal(raw: &str) -> Option<PathError> {
        RequestPath::parse(raw).err()
    }

    fn decoded(raw: &str) -> Vec<String> {
        RequestPath::parse(raw).unwrap().segments().iter().map(|segment| segment.decoded().to_owned()).collect()
    }

    #[test]
    fn a_path_is_its_segments() {
        assert_eq!(decoded("/"), Vec::<String>::new());
        assert_eq!(decoded("/a/b.c/~d_e-f"), ["a", "b.c", "~d_e-f"]);
        assert_eq!(decoded("/.well-known/..a/..."), [".well-known", "..a", "..."]);
        assert_eq!(decoded("/a$&+,=:@b"), ["a$&+,=:@b"]);
    }

    #[test]
    fn nothing_is_allocated_for_a_segment_without_escapes() {
        let path = RequestPath::parse("/a/b").unwrap();
        assert!(path.segments().iter().all(|segment| matches!(segment.decoded, Cow::Borrowed(_))));
    }

    #[test]
    fn what_encoders_escape_is_read() {
        assert_eq!(decoded("/100%25"), ["100%"]);
        assert_eq!(decoded("/a%2Cb%3Bc%20d"), ["a,b;c d"]);
        assert_eq!(decoded("/%C3%84rzte%40home"), ["Ärzte@home"]);
        assert_eq!(decoded("/a+b"), ["a+b"]);
        assert_eq!(decoded("/!*'()"), decoded("/%21%2A%27%28%29"));
        assert_eq!(decoded("/50%25ab%25"), ["50%ab%"]);
        assert_eq!(decoded("/a%252Cb"), ["a%2Cb"]);
    }

    #[test]
    fn an_encoded_slash_is_told_at_any_depth() {
        for (raw, has) in [("/a%2Fb", true), ("/a%2fb", true), ("/a%252Fb", true), ("/a%25252fb", true), ("/ab", false)]
        {
            assert_eq!(RequestPath::parse(raw).unwrap().segments()[0].has_encoded_slash(), has, "{raw}");
        }
    }

    #[test]
    fn every_second_spelling_is_refused() {
        use PathError::*;
        for (raw, reason) in [
            ("", NotAbsolute),
            ("a/b", NotAbsolute),
            ("*", NotAbsolute),
            ("http://host/a", NotAbsolute),
            ("//", EmptySegment),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a/", EmptySegment),
            ("/.", DotSegment),
            ("/a/..", DotSegment),
            ("/a/../b", DotSegment),
            ("/%2e", DotSegment),
            ("/%2E%2e/a", DotSegment),
            ("/.%2e", DotSegment),
            ("/%252e%252e", DotSegment),
            ("/%25252E.", DotSegment),
            ("/%%32%65", MalformedEscape),
            ("/%25%32%65", DotSegment),
            ("/a%2F..%2Fb", DotSegment),
            ("/a%252f..", DotSegment),
            ("/a%2F%252e%2e", DotSegment),
            ("/..%3Bx", DotSegment),
            ("/..%253Bx/a", DotSegment),
            ("/a\\b", Backslash),
            ("/a%5Cb", Backslash),
            ("/a%5cb", Backslash),
            ("/a%255Cb", Backslash),
            ("/a%25255cb", Backslash),
            ("/a%00", ControlCharacter),
            ("/a%0d%0ab", ControlCharacter),
            ("/a%1F", ControlCharacter),
            ("/a%7F", ControlCharacter),
            ("/a%C2%85", ControlCharacter),
            ("/a%2500", ControlCharacter),
            ("/a%25C2%259F", ControlCharacter),
            ("/a\tb", ControlCharacter),
            ("/a\u{7f}b", ControlCharacter),
            ("/a;b", Semicolon),
            ("/..;/b", Semicolon),
            ("/%", MalformedEscape),
            ("/%4", MalformedEscape),
            ("/%zz", MalformedEscape),
            ("/%u002e", MalformedEscape),
            ("/%+1", MalformedEscape),
            ("/%FF", NotUtf8),
            ("/%C0%AE", NotUtf8),
            ("/%ED%A0%80", NotUtf8),
            ("/%25C0%25AE", NotUtf8),
            ("/%25E0%2580%25AF", NotUtf8),
            ("/%25F0%2580%2580%25AF", NotUtf8),
            ("/a b", ForbiddenCharacter),
            ("/a\"b", ForbiddenCharacter),
            ("/a<b", ForbiddenCharacter),
            ("/a[b]", ForbiddenCharacter),
            ("/a{b}", ForbiddenCharacter),
            ("/a|b", ForbiddenCharacter),
            ("/a^b", ForbiddenCharacter),
            ("/a`b", ForbiddenCharacter),
            ("/a?b", ForbiddenCharacter),
            ("/a#b", ForbiddenCharacter),
            ("/ä", ForbiddenCharacter),
            ("/a\u{85}", ForbiddenCharacter),
            ("/%41", NeedlessEscape),
            ("/a%2Db", NeedlessEscape),
            ("/a%2e", NeedlessEscape),
            ("/%7Ea", NeedlessEscape),
            ("/%5F", NeedlessEscape),
            ("/%39", NeedlessEscape),
        ] {
            assert_eq!(refusal(raw), Some(reason), "{raw:?}");
        }
    }

    #[test]
    fn a_reason_never_repeats_the_path() {
        let reason = refusal("/s3cret%zz").unwrap().to_string();
        assert!(!reason.contains("s3cret"), "{reason}");
    }

    #[test]
    fn a_prefix_can_be_taken_away() {
        let path = RequestPath::parse("/mobify/slas/private/a/b%20c").unwrap();
        let below = path.below("/mobify/slas/private").unwrap();
        assert_eq!(below, RequestPath::parse("/a/b%20c").unwrap());
        for raw in ["/mobify/slas/privatea/b", "/mobify/slas/private", "/a"] {
            assert_eq!(RequestPath::parse(raw).unwrap().below("/mobify/slas/private"), None, "{raw}");
        }
    }

    #[test]
    fn repeated_decoding_takes_time_in_proportion_to_the_path() {
        let raw = format!("/%{}41", "25".repeat(500_000));
        assert_eq!(RequestPath::parse(&raw).unwrap().segments()[0].settled(), "A");
    }

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

    /// Texts in which the critical characters meet each other often.
    fn nasty() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/a", ".", "..", "%", "%2", "%2e", "%2E", "%25", "25", "2e", "2f", "%2F", "%5c", "5C", "%3B",
            ";", "\\", "%00", "%C2", "%85", "%C0", "AE", "%C3%A4", "ä", "a", "%41", "%20", "+", "=", "&", "siteId",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Decodes again and again, leniently, the slow way.
    fn all_readings(raw: &str) -> Vec<Vec<u8>> {
        let mut readings = vec![raw.as_bytes().to_vec()];
        loop {
            let last = &readings[readings.len() - 1];
            let next: Vec<u8> = percent_encoding::percent_decode(last).collect();
            if next == *last {
                return readings;
            }
            readings.push(next);
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(path in any::<String>(), query in any::<String>()) {
            let _ = RequestPath::parse(&path);
            let _ = RequestPath::parse(&format!("/{path}"));
            let _ = Query::parse(Some(&query)).map(|query| query.single("x").map(|_| ()));
        }

        #[test]
        fn reading_nasty_texts_never_panics(text in nasty()) {
            let _ = RequestPath::parse(&text);
            let _ = Query::parse(Some(&text)).map(|query| query.single("x").map(|_| ()));
        }

        #[test]
        fn settling_is_decoding_until_nothing_changes(text in nasty()) {
            prop_assert_eq!(settled(&text), all_readings(&text).pop().unwrap());
        }

        #[test]
        fn nothing_dangerous_comes_to_light_later(text in nasty()) {
            let text = format!("/{text}");
            if let Ok(path) = RequestPath::parse(&text) {
                for segment in path.segments() {
                    for reading in all_readings(segment.raw()) {
                        prop_assert!(!reading.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'));
                        prop_assert!(!reading.windows(2).any(|pair| pair[0] == 0xc2 && (0x80..0xa0).contains(&pair[1])));
                        for piece in reading.split(|byte| *byte == b'/') {
                            prop_assert!(piece != b"." && piece != b"..");
                        }
                    }
                }
            }
        }

        #[test]
        fn the_canonical_form_reads_the_same(text in nasty()) {
            let text = format!("/{text}");
            if let Ok(path) = RequestPath::parse(&text) {
                let canonical = |path: &RequestPath<'_>| -> String {
                    let encoded = |segment: &Segment<'_>| utf8_percent_encode(segment.decoded(), COMPONENT).to_string();
                    format!("/{}", path.segments().iter().map(encoded).collect::<Vec<_>>().join("/"))
                };
                let once = canonical(&path);
                let again = RequestPath::parse(&once).unwrap();
                let texts = |path: &RequestPath<'_>| -> Vec<(String, bool)> {
                    path.segments().iter().map(|own| (own.decoded().to_owned(), own.has_encoded_slash())).collect()
                };
                prop_assert_eq!(texts(&path), texts(&again));
                prop_assert_eq!(&canonical(&again), &once);
            }
        }

        #[test]
        fn whatever_an_sdk_encodes_is_read_back_or_dangerous(text in "\\PC{1,20}") {
            let raw = format!("/{}", utf8_percent_encode(&text, COMPONENT));
            match RequestPath::parse(&raw) {
                Ok(path) => prop_assert_eq!(path.segments()[0].decoded(), text),
                Err(reason) => prop_assert!(
                    matches!(reason, PathError::DotSegment | PathError::Backslash | PathError::ControlCharacter | PathError::NotUtf8),
                    "{:?} {:?}", reason, text
                ),
            }
        }
    }
}
