//! The one reading of a request's path.
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
pub(super) fn escape(high: u8, low: u8) -> Option<u8> {
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
mod tests;
